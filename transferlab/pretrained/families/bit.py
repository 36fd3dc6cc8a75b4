"""BiT's names: the authors' npz files, timm's and Hugging Face's (``BitModel``); its configs in both kinds of directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from transferlab.data.images import ImageTransform
from transferlab.models.bit import BitConfig
from transferlab.models.heads import ClassifierConfig
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, present, present_tuples, refuse_others
from transferlab.pretrained.families.images import resized_image
from transferlab.pretrained.names import CONV, LINEAR, POINTWISE, SAME, Entry, NameTable, squeezed
from transferlab.pretrained.timm import TimmConfig

Dialect = Literal["authors", "timm", "hf"]


def bit_names(config: BitConfig, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the three dialects."""
    npz, hf = dialect == "authors", dialect == "hf"

    def conv(path: str, key: str) -> Entry:
        return Entry(f"{path}/kernel", f"{key}/standardized_conv2d/kernel" if npz else f"{key}.weight",
                    SAME if npz else CONV)  # fmt: skip

    def norm(path: str, key: str) -> list[Entry]:
        scale, bias = (f"{key}/group_norm/gamma", f"{key}/group_norm/beta") if npz else (f"{key}.weight", f"{key}.bias")
        return [Entry(f"{path}/scale", scale.lstrip("/")), Entry(f"{path}/bias", bias.lstrip("/"))]

    names = [conv("stem/conv", {"authors": "root_block", "timm": "stem.conv", "hf": "embedder.convolution"}[dialect])]
    for s, depth in enumerate(config.depths):
        for b in range(depth):
            here = f"stages/{s}/{b}"
            there = {
                "authors": f"block{s + 1}/unit{b + 1:02d}", "timm": f"stages.{s}.blocks.{b}",
                "hf": f"encoder.stages.{s}.layers.{b}",
            }[dialect]  # fmt: skip
            for n, part in enumerate(("reduce", "spatial", "expand")):
                unit = f"{there}/{'abc'[n]}"
                names.append(conv(f"{here}/{part}", unit if npz else f"{there}.conv{n + 1}"))
                names += norm(f"{here}/{part}_norm", unit if npz else f"{there}.norm{n + 1}")
            if b == 0:
                names.append(conv(f"{here}/shortcut", f"{there}/a/proj" if npz else f"{there}.downsample.conv"))
    names += norm("norm", "" if npz else "norm")
    head = {"authors": "head/conv2d/{}", "timm": "head.fc.{}", "hf": "classifier.1.{}"}[dialect]
    kernel, layout = ("kernel", squeezed(2)) if npz else ("weight", LINEAR if hf else POINTWISE)
    names += [Entry("head/kernel", head.format(kernel), layout), Entry("head/bias", head.format("bias"))]
    return NameTable(tuple(names), {"authors": ("resnet/",), "timm": (), "hf": ("bit.",)}[dialect])


_HF = ("num_channels", "embedding_size", "num_groups", "hidden_act")
_FIXED = {
    "layer_type": "preactivation", "global_padding": None, "embedding_dynamic_padding": False, "output_stride": 32,
    "width_factor": 1,
}  # fmt: skip


def bit_from_hf(raw: Mapping[str, Any]) -> BitConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    refuse_others(raw, _FIXED)
    sizes = present(raw, _HF) | present_tuples(raw, ("hidden_sizes", "depths"))
    return BitConfig(drop_path=float(raw.get("drop_path_rate") or 0.0), **sizes)


def _to_hf(config: BitConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], NameTable]:
    raw = {
        "model_type": "bit",
        **{name: getattr(config, name) for name in _HF},
        "hidden_sizes": list(config.hidden_sizes),
        "depths": list(config.depths),
        "drop_path_rate": config.drop_path,
    }
    return description("Bit", "ImageClassification", raw, bit_names(config, "hf"), head)


TIMM_BITS = r"resnetv2_(50x[13]|101x[13]|152x[24])_bit"
"""Architectures of timm that are read as this family, as a regular expression."""


def bit_from_timm(timm: TimmConfig) -> BitConfig:
    """Read timm's config; an argument that this family cannot represent is an error that names it."""
    given = timm.checked(("num_classes", "global_pool", "drop_path_rate"))
    found = re.match(r"resnetv2_(\d+)x(\d)", timm.architecture)
    assert found is not None
    config: BitConfig = getattr(BitConfig, f"r{found.group(1)}x1")().wide(int(found.group(2)))
    return replace(config, drop_path=given.get("drop_path_rate") or 0.0, image_size=timm.image_size)


def _transform(config: BitConfig) -> ImageTransform:
    # As the authors: pictures of any proportions to a square, values from -1 to 1.
    half = (0.5, 0.5, 0.5)
    return ImageTransform(config.image_size, half, half, "bilinear", 1.0, "squash")


BIT = Family(
    name="bit",
    config=BitConfig,
    modality="image",
    inputs=("pixel_values",),
    model_types=("bit",),
    architectures=TIMM_BITS,
    names=lambda config: tuple(bit_names(config, dialect) for dialect in ("authors", "timm", "hf")),
    from_hf=bit_from_hf,
    from_timm=bit_from_timm,
    transform=_transform,
    to_hf=_to_hf,
    resized=resized_image,
    input_kernel="stem/conv/kernel",
)
