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
from transferlab.pretrained.names import NameTable
from transferlab.pretrained.rules import leaves_of, named
from transferlab.pretrained.timm import TimmConfig

Dialect = Literal["authors", "timm", "hf"]


_RULES: dict[Dialect, str] = {
    "authors": """
same   stem/conv/kernel                                     root_block/standardized_conv2d/kernel
same   stages/{i}/{i}/{reduce,spatial,expand}/kernel        block{i+1}/unit{i+1:02}/{a,b,c}/standardized_conv2d/kernel
same   stages/{i}/{i}/{reduce,spatial,expand}_norm/scale    block{i+1}/unit{i+1:02}/{a,b,c}/group_norm/gamma
same   stages/{i}/{i}/{reduce,spatial,expand}_norm/bias     block{i+1}/unit{i+1:02}/{a,b,c}/group_norm/beta
same   stages/{i}/{i}/shortcut/kernel                       block{i+1}/unit{i+1:02}/a/proj/standardized_conv2d/kernel
same   norm/{scale,bias}                                    group_norm/{gamma,beta}
token? head/kernel                                          head/conv2d/kernel
same?  head/bias                                            head/conv2d/bias
""",
    "timm": """
conv       stem/conv                                    stem.conv
conv       stages/{i}/{i}/{reduce,spatial,expand}       stages.{i}.blocks.{i}.{conv1,conv2,conv3}
norm       stages/{i}/{i}/{reduce,spatial,expand}_norm  stages.{i}.blocks.{i}.{norm1,norm2,norm3}
conv       stages/{i}/{i}/shortcut                      stages.{i}.blocks.{i}.downsample.conv
norm       norm                                         norm
pointwise? head                                         head.fc
""",
    "hf": """
conv       stem/conv                                    embedder.convolution
conv       stages/{i}/{i}/{reduce,spatial,expand}       encoder.stages.{i}.layers.{i}.{conv1,conv2,conv3}
norm       stages/{i}/{i}/{reduce,spatial,expand}_norm  encoder.stages.{i}.layers.{i}.{norm1,norm2,norm3}
conv       stages/{i}/{i}/shortcut                      encoder.stages.{i}.layers.{i}.downsample.conv
norm       norm                                         norm
linear?    head                                         classifier.1
""",
}

_PREFIXES: dict[Dialect, tuple[str, ...]] = {"authors": ("resnet/",), "timm": (), "hf": ("bit.",)}


def bit_names(config: BitConfig, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the three dialects."""
    return NameTable(named(_RULES[dialect], leaves_of(config)), _PREFIXES[dialect])


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
    arguments = timm.checked(("num_classes", "global_pool", "drop_path_rate"))
    match = re.match(r"resnetv2_(\d+)x(\d)", timm.architecture)
    assert match is not None
    config: BitConfig = getattr(BitConfig, f"r{match.group(1)}x1")().wide(int(match.group(2)))
    return replace(config, drop_path=arguments.get("drop_path_rate") or 0.0, image_size=timm.image_size)


def _transform(config: BitConfig) -> ImageTransform:
    # As the authors: images of any proportions to a square, values from -1 to 1.
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
