"""MobileNetV2's names: torchvision's, timm's and Hugging Face's; its configs in both kinds of directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from transferlab.errors import TransferlabError
from transferlab.models.heads import ClassifierConfig
from transferlab.models.mobilenet import MobileNetV2Config
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, refuse_others
from transferlab.pretrained.families.images import BATCH_COUNTERS, resized_image, torchvision_transform
from transferlab.pretrained.names import NameTable
from transferlab.pretrained.rules import leaves_of, named
from transferlab.pretrained.timm import TimmConfig, square

Dialect = Literal["torchvision", "timm", "hf"]


# The only block of the first stage does not expand; Hugging Face has it in the stem.
_RULES: dict[Dialect, str] = {
    "torchvision": """
conv       stem/conv                                        features.0.0
batch_norm stem/norm                                        features.0.1
conv       stages/0/0/depthwise                             features.1.conv.0.0
pointwise  stages/0/0/project                               features.1.conv.1
batch_norm stages/0/0/{depthwise,project}_norm              features.1.conv.{0.1,2}
pointwise  stages/{i}/{i}/{expand,project}                  features.{n+1}.conv.{0.0,2}
conv       stages/{i}/{i}/depthwise                         features.{n+1}.conv.1.0
batch_norm stages/{i}/{i}/{expand,depthwise,project}_norm   features.{n+1}.conv.{0.1,1.1,3}
pointwise  top/conv                                         features.18.0
batch_norm top/norm                                         features.18.1
linear?    head                                             classifier.1
""",
    "timm": """
conv       stem/conv                                        conv_stem
batch_norm stem/norm                                        bn1
pointwise  stages/0/0/project                               blocks.0.0.conv_pw
batch_norm stages/0/0/{depthwise,project}_norm              blocks.0.0.{bn1,bn2}
pointwise  stages/{i}/{i}/{expand,project}                  blocks.{i}.{i}.{conv_pw,conv_pwl}
conv       stages/{i}/{i}/depthwise                         blocks.{i}.{i}.conv_dw
batch_norm stages/{i}/{i}/{expand,depthwise,project}_norm   blocks.{i}.{i}.{bn1,bn2,bn3}
pointwise  top/conv                                         conv_head
batch_norm top/norm                                         bn2
linear?    head                                             classifier
""",
    "hf": """
conv       stem/conv                                        conv_stem.first_conv.convolution
batch_norm stem/norm                                        conv_stem.first_conv.normalization
conv       stages/0/0/depthwise                             conv_stem.conv_3x3.convolution
pointwise  stages/0/0/project                               conv_stem.reduce_1x1.convolution
batch_norm stages/0/0/{depthwise,project}_norm              conv_stem.{conv_3x3,reduce_1x1}.normalization
pointwise  stages/{i}/{i}/{expand,project}                  layer.{n-1}.{expand_1x1,reduce_1x1}.convolution
conv       stages/{i}/{i}/depthwise                         layer.{n-1}.conv_3x3.convolution
batch_norm stages/{i}/{i}/{expand,depthwise,project}_norm   layer.{n-1}.{expand_1x1,conv_3x3,reduce_1x1}.normalization
pointwise  top/conv                                         conv_1x1.convolution
batch_norm top/norm                                         conv_1x1.normalization
linear?    head                                             classifier
""",
}


def mobilenet_names(config: MobileNetV2Config, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the three dialects."""
    prefixes = ("mobilenet_v2.",) if dialect == "hf" else ()
    return NameTable(named(_RULES[dialect], leaves_of(config)), prefixes, ignored=BATCH_COUNTERS)


_FIXED = {
    "depth_divisible_by": 8, "min_depth": 8, "expand_ratio": 6, "output_stride": 32,
    "first_layer_is_expansion": True, "finegrained_output": True, "hidden_act": "relu6",
}  # fmt: skip


def mobilenet_from_hf(raw: Mapping[str, Any]) -> MobileNetV2Config:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    refuse_others(raw, _FIXED)
    config = MobileNetV2Config(
        depth_multiplier=float(raw.get("depth_multiplier", 1.0)),
        padding="same" if raw.get("tf_padding", True) else "symmetric",
        eps=raw.get("layer_norm_eps", 1e-3),
        image_size=square(raw.get("image_size", 224), "image_size"),
        num_channels=raw.get("num_channels", 3),
    )
    return _checked(config)


def _checked(config: MobileNetV2Config) -> MobileNetV2Config:
    """Hugging Face's first block is part of its stem and never has a residual; torchvision's has one at such widths."""
    if config.filters(32) == config.filters(16):
        raise TransferlabError(
            f"Hugging Face's mobilenet_v2 cannot have depth_multiplier {config.depth_multiplier}: its first block has no "
            "residual where 32 and 16 filters come down to equally many."
        )
    return config


def _to_hf(config: MobileNetV2Config, head: ClassifierConfig | None) -> tuple[dict[str, Any], NameTable]:
    _checked(config)
    raw = {
        "model_type": "mobilenet_v2",
        "depth_multiplier": config.depth_multiplier,
        "tf_padding": config.padding == "same",
        "layer_norm_eps": config.eps,
        "image_size": config.image_size,
        "num_channels": config.num_channels,
        "classifier_dropout_prob": 0.2 if head is None else head.dropout,
    }
    return description("MobileNetV2", "ImageClassification", raw, mobilenet_names(config, "hf"), head)


TIMM_MOBILENETS = r"mobilenetv2_(035|050|075|100|140)"
"""Architectures of timm that are read as this family, as a regular expression."""


def mobilenet_from_timm(timm: TimmConfig) -> MobileNetV2Config:
    """Read timm's config; an argument that this family cannot represent is an error that names it."""
    arguments = timm.checked(("num_classes", "global_pool", "drop_rate", "drop_path_rate"))
    width = int(timm.architecture.rpartition("_")[2]) / 100
    return MobileNetV2Config(width, drop_path=arguments.get("drop_path_rate") or 0.0, image_size=timm.image_size)


MOBILENET = Family(
    name="mobilenet",
    config=MobileNetV2Config,
    modality="image",
    inputs=("pixel_values",),
    model_types=("mobilenet_v2",),
    architectures=TIMM_MOBILENETS,
    names=lambda config: tuple(mobilenet_names(config, dialect) for dialect in ("torchvision", "timm", "hf")),
    from_hf=mobilenet_from_hf,
    from_timm=mobilenet_from_timm,
    transform=torchvision_transform,
    to_hf=_to_hf,
    head_dropout=lambda raw: raw.get("classifier_dropout_prob", 0.8) if raw.get("model_type") else 0.0,
    resized=resized_image,
    input_kernel="stem/conv/kernel",
)
