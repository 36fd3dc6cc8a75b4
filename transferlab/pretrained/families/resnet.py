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
from transferlab.pretrained.names import CONV, LINEAR, POINTWISE, Entry, NameTable, batch_norm
from transferlab.pretrained.timm import TimmConfig


def resnet_names(config: ResNetConfig, dialect: Literal["torchvision", "hf"]) -> NameTable:
    """Return the table for this config in one of the two dialects."""
    hf = dialect == "hf"
    stem, stem_norm = ("embedder.embedder.convolution", "embedder.embedder.normalization") if hf else ("conv1", "bn1")
    names = [Entry("stem/conv/kernel", f"{stem}.weight", CONV), *batch_norm("stem/norm", stem_norm)]
    basic = config.layer_type == "basic"
    parts = ("first", "second") if basic else ("reduce", "spatial", "expand")
    for s, stage in enumerate(config.blocks()):
        for b, block in enumerate(stage):
            here = f"stages/{s}/{b}"
            there = f"encoder.stages.{s}.layers.{b}" if hf else f"layer{s + 1}.{b}"
            for n, part in enumerate(parts):
                conv, norm = (
                    (f"layer.{n}.convolution", f"layer.{n}.normalization") if hf else (f"conv{n + 1}", f"bn{n + 1}")
                )
                layout = POINTWISE if part in ("reduce", "expand") else CONV
                names.append(Entry(f"{here}/{part}/kernel", f"{there}.{conv}.weight", layout))
                names += batch_norm(f"{here}/{part}_norm", f"{there}.{norm}")
            if block.projected:
                conv, norm = (
                    ("shortcut.convolution", "shortcut.normalization") if hf else ("downsample.0", "downsample.1")
                )
                names.append(Entry(f"{here}/shortcut/kernel", f"{there}.{conv}.weight", POINTWISE))
                names += batch_norm(f"{here}/shortcut_norm", f"{there}.{norm}")
    head = "classifier.1" if hf else "fc"
    names += [Entry("head/kernel", f"{head}.weight", LINEAR), Entry("head/bias", f"{head}.bias")]
    return NameTable(tuple(names), ("resnet.",) if hf else (), ignored=BATCH_COUNTERS)


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
    given = timm.checked(("num_classes", "global_pool", "drop_path_rate"))
    config: ResNetConfig = getattr(ResNetConfig, timm.architecture)()
    return replace(config, image_size=timm.image_size, drop_path=given.get("drop_path_rate") or 0.0)


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
