"""ResNet's names: those of torchvision, which timm shares, and Hugging Face's (``ResNetModel``); its configs in both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from transferlab.models.heads import ClassifierConfig
from transferlab.models.resnet import ResNetConfig
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, present, present_tuples, refuse_unwritable
from transferlab.pretrained.families.images import BATCH_COUNTERS, resized_image, torchvision_transform
from transferlab.pretrained.names import NameTable
from transferlab.pretrained.rules import leaves_of, named
from transferlab.pretrained.timm import TimmConfig

Dialect = Literal["torchvision", "hf"]

_RULES: dict[Dialect, str] = {
    "torchvision": """
conv       stem/conv                                    conv1
batch_norm stem/norm                                    bn1
conv       stages/{i}/{i}/{first,second}                layer{i+1}.{i}.{conv1,conv2}
batch_norm stages/{i}/{i}/{first,second}_norm           layer{i+1}.{i}.{bn1,bn2}
pointwise  stages/{i}/{i}/{reduce,expand}               layer{i+1}.{i}.{conv1,conv3}
conv       stages/{i}/{i}/spatial                       layer{i+1}.{i}.conv2
batch_norm stages/{i}/{i}/{reduce,spatial,expand}_norm  layer{i+1}.{i}.{bn1,bn2,bn3}
pointwise  stages/{i}/{i}/shortcut                      layer{i+1}.{i}.downsample.0
batch_norm stages/{i}/{i}/shortcut_norm                 layer{i+1}.{i}.downsample.1
linear?    head                                         fc
""",
    "hf": """
conv       stem/conv                                    embedder.embedder.convolution
batch_norm stem/norm                                    embedder.embedder.normalization
conv       stages/{i}/{i}/{first,second}                encoder.stages.{i}.layers.{i}.layer.{0,1}.convolution
batch_norm stages/{i}/{i}/{first,second}_norm           encoder.stages.{i}.layers.{i}.layer.{0,1}.normalization
pointwise  stages/{i}/{i}/{reduce,expand}               encoder.stages.{i}.layers.{i}.layer.{0,2}.convolution
conv       stages/{i}/{i}/spatial                       encoder.stages.{i}.layers.{i}.layer.1.convolution
batch_norm stages/{i}/{i}/{reduce,spatial,expand}_norm  encoder.stages.{i}.layers.{i}.layer.{0,1,2}.normalization
pointwise  stages/{i}/{i}/shortcut                      encoder.stages.{i}.layers.{i}.shortcut.convolution
batch_norm stages/{i}/{i}/shortcut_norm                 encoder.stages.{i}.layers.{i}.shortcut.normalization
linear?    head                                         classifier.1
""",
}


def resnet_names(config: ResNetConfig, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the two dialects."""
    prefixes = ("resnet.",) if dialect == "hf" else ()
    return NameTable(named(_RULES[dialect], leaves_of(config)), prefixes, ignored=BATCH_COUNTERS)


_HF = (
    "num_channels", "embedding_size", "layer_type", "hidden_act", "downsample_in_first_stage", "downsample_in_bottleneck",
)  # fmt: skip


def resnet_from_hf(raw: Mapping[str, Any]) -> ResNetConfig:
    """Read Hugging Face's ``config.json``."""
    return ResNetConfig(**present(raw, _HF), **present_tuples(raw, ("hidden_sizes", "depths")))


def _to_hf(config: ResNetConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], NameTable]:
    """What Hugging Face's class cannot have is an error that names the field."""
    refuse_unwritable("resnet", config, {"groups": 1, "width_per_group": 64, "eps": 1e-5})
    raw = {
        "model_type": "resnet",
        **{name: getattr(config, name) for name in _HF},
        "hidden_sizes": list(config.hidden_sizes),
        "depths": list(config.depths),
    }
    return description("ResNet", "ImageClassification", raw, resnet_names(config, "hf"), head)


TIMM_RESNETS = r"resnet(18|26|34|50|101|152)|wide_resnet(50|101)_2|resnext50_32x4d|resnext101_(32x4d|32x8d|64x4d)"
"""Architectures of timm that are read as this family, as a regular expression; torchvision's have the same names."""


def resnet_from_timm(timm: TimmConfig) -> ResNetConfig:
    """Read timm's config; an argument that this family cannot represent is an error that names it."""
    arguments = timm.checked(("num_classes", "global_pool", "drop_path_rate"))
    config: ResNetConfig = getattr(ResNetConfig, timm.architecture)()
    return replace(config, image_size=timm.image_size, drop_path=arguments.get("drop_path_rate") or 0.0)


RESNET = Family(
    name="resnet",
    config=ResNetConfig,
    modality="image",
    inputs=("pixel_values",),
    model_types=("resnet",),
    architectures=TIMM_RESNETS,
    names=lambda config: (resnet_names(config, "torchvision"), resnet_names(config, "hf")),
    from_hf=resnet_from_hf,
    from_timm=resnet_from_timm,
    transform=torchvision_transform,
    to_hf=_to_hf,
    resized=resized_image,
    input_kernel="stem/conv/kernel",
)
