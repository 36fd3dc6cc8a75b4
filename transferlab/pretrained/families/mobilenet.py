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
from transferlab.pretrained.names import CONV, LINEAR, POINTWISE, Entry, NameTable, batch_norm
from transferlab.pretrained.timm import TimmConfig, square

Dialect = Literal["torchvision", "timm", "hf"]


def mobilenet_names(config: MobileNetV2Config, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the three dialects."""
    keys = {"torchvision": _torchvision, "timm": _timm, "hf": _hf}[dialect](config)
    names = []
    for path, (conv, norm) in keys.items():
        layout = CONV if path.endswith(("stem/conv", "depthwise")) else POINTWISE
        names.append(Entry(f"{path}/kernel", f"{conv}.weight", layout))
        # A block's norms are named after the convolution before them.
        names += batch_norm(path.replace("/conv", "/norm") if path.endswith("/conv") else f"{path}_norm", norm)
    head = "classifier.1" if dialect == "torchvision" else "classifier"
    names += [Entry("head/kernel", f"{head}.weight", LINEAR), Entry("head/bias", f"{head}.bias")]
    return NameTable(tuple(names), ("mobilenet_v2.",) if dialect == "hf" else (), ignored=BATCH_COUNTERS)


Keys = dict[str, tuple[str, str]]
"""Path of a convolution → the keys of it and of its norm."""


def _torchvision(config: MobileNetV2Config) -> Keys:
    keys, number = {"stem/conv": ("features.0.0", "features.0.1")}, 1
    for s, stage in enumerate(config.blocks()):
        for b, block in enumerate(stage):
            there, parts = f"features.{number}.conv", _parts(block.expansion)
            for n, part in enumerate(parts):
                # The last convolution stands beside its norm, the others in a pair with theirs.
                last = n == len(parts) - 1
                keys[f"stages/{s}/{b}/{part}"] = (
                    (f"{there}.{n}", f"{there}.{n + 1}") if last else (f"{there}.{n}.0", f"{there}.{n}.1")
                )
            number += 1
    return {**keys, "top/conv": (f"features.{number}.0", f"features.{number}.1")}


def _timm(config: MobileNetV2Config) -> Keys:
    keys = {"stem/conv": ("conv_stem", "bn1")}
    for s, stage in enumerate(config.blocks()):
        for b, block in enumerate(stage):
            # timm calls a block's only pointwise convolution `conv_pw`.
            convs = ("conv_dw", "conv_pw") if block.expansion == 1 else ("conv_pw", "conv_dw", "conv_pwl")
            for n, (part, conv) in enumerate(zip(_parts(block.expansion), convs, strict=True), 1):
                keys[f"stages/{s}/{b}/{part}"] = (f"blocks.{s}.{b}.{conv}", f"blocks.{s}.{b}.bn{n}")
    return {**keys, "top/conv": ("conv_head", "bn2")}


def _hf(config: MobileNetV2Config) -> Keys:
    def pair(key: str) -> tuple[str, str]:
        return f"{key}.convolution", f"{key}.normalization"

    convs, number = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}, 0
    keys = {"stem/conv": pair("conv_stem.first_conv")}
    for s, stage in enumerate(config.blocks()):
        for b, block in enumerate(stage):
            # The first block is part of its stem.
            first = (s, b) == (0, 0)
            for part in _parts(block.expansion):
                there = "conv_stem" if first else f"layer.{number}"
                keys[f"stages/{s}/{b}/{part}"] = pair(f"{there}.{convs[part]}")
            number += not first
    return {**keys, "top/conv": pair("conv_1x1")}


def _parts(expansion: int) -> tuple[str, ...]:
    return ("depthwise", "project") if expansion == 1 else ("expand", "depthwise", "project")


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
    given = timm.checked(("num_classes", "global_pool", "drop_rate", "drop_path_rate"))
    width = int(timm.architecture.rpartition("_")[2]) / 100
    return MobileNetV2Config(width, drop_path=given.get("drop_path_rate") or 0.0, image_size=timm.image_size)


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
