"""ConvNeXt's names: the authors', timm's, and Hugging Face's for both versions; its configs in both kinds of directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from transferlab.data.images import ImageTransform
from transferlab.errors import TransferlabError
from transferlab.models.convnext import ConvNeXtConfig
from transferlab.models.heads import ClassifierConfig
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import (
    description,
    present,
    present_tuples,
    refuse_unwritable,
    squares,
)
from transferlab.pretrained.families.images import resized_image
from transferlab.pretrained.names import CONV, LINEAR, POINTWISE, SAME, Entry, NameTable, norm, squeezed
from transferlab.pretrained.timm import IMAGENET, TimmConfig, square

Dialect = Literal["authors", "timm", "hf"]


def convnext_names(config: ConvNeXtConfig, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the three dialects."""
    timm, hf = dialect == "timm", dialect == "hf"
    if hf:
        stem = ("embeddings.patch_embeddings", "embeddings.layernorm")
    else:
        stem = ("stem.0", "stem.1") if timm else ("downsample_layers.0.0", "downsample_layers.0.1")
    names = [*_map("stem/patch", stem[0], CONV), *norm("stem/norm", stem[1])]
    for s, depth in enumerate(config.depths):
        if s:
            halve = {
                "authors": f"downsample_layers.{s}", "timm": f"stages.{s}.downsample",
                "hf": f"encoder.stages.{s}.downsampling_layer",
            }[dialect]  # fmt: skip
            names += norm(f"downsamples/{s - 1}/norm", f"{halve}.0")
            names += _map(f"downsamples/{s - 1}/patch", f"{halve}.1", CONV)
        for b in range(depth):
            there = {
                "authors": f"stages.{s}.{b}", "timm": f"stages.{s}.blocks.{b}", "hf": f"encoder.stages.{s}.layers.{b}",
            }[dialect]  # fmt: skip
            names += _block(config, dialect, f"stages/{s}/{b}", there)
    names += norm("norm", "head.norm" if timm else "layernorm" if hf else "norm")
    names += _map("head", "head.fc" if timm else "classifier" if hf else "head", LINEAR)
    return NameTable(tuple(names), ("convnextv2.", "convnext.") if hf else ())


def _block(config: ConvNeXtConfig, dialect: Dialect, here: str, there: str) -> list[Entry]:
    timm, hf = dialect == "timm", dialect == "hf"
    up, down = ("mlp.fc1", "mlp.fc2") if timm else ("pwconv1", "pwconv2")
    layout = POINTWISE if timm and config.conv_mlp else LINEAR
    names = [
        *_map(f"{here}/depthwise", f"{there}.{'conv_dw' if timm else 'dwconv'}", CONV),
        *norm(f"{here}/norm", f"{there}.{'layernorm' if hf else 'norm'}"),
        *_map(f"{here}/up", f"{there}.{up}", layout),
        *_map(f"{here}/down", f"{there}.{down}", layout),
    ]
    if config.layer_scale_init_value is not None:
        names.append(Entry(f"{here}/layer_scale", f"{there}.{'layer_scale_parameter' if hf else 'gamma'}"))
    if config.response_norm:
        parts = ("mlp.grn.weight", "mlp.grn.bias") if timm else ("grn.weight", "grn.bias") if hf else (
            "grn.gamma", "grn.beta",
        )  # fmt: skip
        for leaf, key in zip(("scale", "bias"), parts, strict=True):
            names.append(Entry(f"{here}/response_norm/{leaf}", f"{there}.{key}", SAME if timm else squeezed(3)))
    return names


def _map(path: str, key: str, layout: Any) -> list[Entry]:
    return [Entry(f"{path}/kernel", f"{key}.weight", layout), Entry(f"{path}/bias", f"{key}.bias")]


_HF = ("num_channels", "hidden_act", "initializer_range", "layer_norm_eps")


def convnext_from_hf(raw: Mapping[str, Any]) -> ConvNeXtConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    config = ConvNeXtConfig(layer_norm_eps=1e-12)
    sizes = present(raw, _HF) | present_tuples(raw, ("hidden_sizes", "depths")) | squares(raw, config)
    config = replace(config, drop_path=float(raw.get("drop_path_rate") or 0.0), **sizes)
    if raw.get("num_stages", len(config.depths)) != len(config.depths):
        raise TransferlabError(
            f"config.json: num_stages {raw['num_stages']} is not the length of depths {config.depths}."
        )
    if raw["model_type"] == "convnextv2":
        return config.v2()
    gains = raw.get("layer_scale_init_value", 1e-6)
    return replace(config, layer_scale_init_value=gains if gains and gains > 0 else None)


def _to_hf(config: ConvNeXtConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], NameTable]:
    """What Hugging Face's classes cannot have is an error that names the field."""
    second = config.response_norm
    kind, name = ("convnextv2", "ConvNextV2") if second else ("convnext", "ConvNext")
    fixed = {"kernel_size": 7, "eps": 1e-6} | ({"layer_scale_init_value": None} if second else {})
    refuse_unwritable(kind, config, fixed)
    raw: dict[str, Any] = {
        "model_type": kind,
        **{field: getattr(config, field) for field in (*_HF, "patch_size", "image_size")},
        "hidden_sizes": list(config.hidden_sizes),
        "depths": list(config.depths),
        "num_stages": len(config.depths),
        "drop_path_rate": config.drop_path,
    }
    if not second:
        raw["layer_scale_init_value"] = config.layer_scale_init_value or 0.0
    return description(name, "ImageClassification", raw, convnext_names(config, "hf"), head)


TIMM_CONVNEXTS = r"convnext_(atto|femto|pico|nano|tiny|small|base|large|xlarge)|" + (
    r"convnextv2_(atto|femto|pico|nano|tiny|small|base|large|huge)"
)
"""Architectures of timm that are read as this family, as a regular expression."""

_READ = (
    "num_classes", "global_pool", "drop_path_rate", "depths", "dims", "ls_init_value", "kernel_sizes", "patch_size",
    "conv_mlp", "use_grn", "norm_eps",
)  # fmt: skip


def convnext_from_timm(timm: TimmConfig) -> ConvNeXtConfig:
    """Read timm's config; an argument that this family cannot represent is an error that names it."""
    given = timm.checked(_READ)
    version, _, size = timm.architecture.partition("_")
    config: ConvNeXtConfig = getattr(ConvNeXtConfig, size)()
    config = config.v2() if version == "convnextv2" else config
    eps = given.get("norm_eps") or config.eps
    return replace(
        config,
        hidden_sizes=tuple(given.get("dims") or config.hidden_sizes),
        depths=tuple(given.get("depths") or config.depths),
        patch_size=given.get("patch_size") or config.patch_size,
        kernel_size=square(given.get("kernel_sizes") or config.kernel_size, "model_args.kernel_sizes"),
        layer_scale_init_value=given.get("ls_init_value", config.layer_scale_init_value),
        response_norm=given.get("use_grn", config.response_norm),
        conv_mlp=given.get("conv_mlp", config.conv_mlp),
        drop_path=given.get("drop_path_rate") or 0.0,
        eps=eps,
        layer_norm_eps=eps,
        image_size=timm.image_size,
    )


def _transform(config: ConvNeXtConfig) -> ImageTransform:
    # As the authors evaluate below 384 pixels: the shorter side to size / .875, the centre cut.
    return ImageTransform(config.image_size, *IMAGENET, "bicubic", 0.875)


CONVNEXT = Family(
    name="convnext",
    config=ConvNeXtConfig,
    modality="image",
    inputs=("pixel_values",),
    model_types=("convnext", "convnextv2"),
    architectures=TIMM_CONVNEXTS,
    names=lambda config: tuple(convnext_names(config, dialect) for dialect in ("authors", "timm", "hf")),
    from_hf=convnext_from_hf,
    from_timm=convnext_from_timm,
    transform=_transform,
    to_hf=_to_hf,
    resized=resized_image,
    input_kernel="stem/patch/kernel",
)
