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
from transferlab.pretrained.names import NameTable
from transferlab.pretrained.rules import leaves_of, named
from transferlab.pretrained.timm import IMAGENET, TimmConfig, square

Dialect = Literal["authors", "timm", "hf"]


_RULES: dict[Dialect, str] = {
    "authors": """
conv     stem/patch                                 downsample_layers.0.0
norm     stem/norm                                  downsample_layers.0.1
norm     downsamples/{i}/norm                       downsample_layers.{i+1}.0
conv     downsamples/{i}/patch                      downsample_layers.{i+1}.1
conv     stages/{i}/{i}/depthwise                   stages.{i}.{i}.dwconv
norm     stages/{i}/{i}/norm                        stages.{i}.{i}.norm
linear   stages/{i}/{i}/{up,down}                   stages.{i}.{i}.{pwconv1,pwconv2}
same     stages/{i}/{i}/layer_scale                 stages.{i}.{i}.gamma
channels stages/{i}/{i}/response_norm/{scale,bias}  stages.{i}.{i}.grn.{gamma,beta}
norm     norm                                       norm
linear?  head                                       head
""",
    "timm": """
conv     stem/patch                                 stem.0
norm     stem/norm                                  stem.1
norm     downsamples/{i}/norm                       stages.{i+1}.downsample.0
conv     downsamples/{i}/patch                      stages.{i+1}.downsample.1
conv     stages/{i}/{i}/depthwise                   stages.{i}.blocks.{i}.conv_dw
norm     stages/{i}/{i}/norm                        stages.{i}.blocks.{i}.norm
linear   stages/{i}/{i}/{up,down}                   stages.{i}.blocks.{i}.mlp.{fc1,fc2}
same     stages/{i}/{i}/layer_scale                 stages.{i}.blocks.{i}.gamma
norm     stages/{i}/{i}/response_norm               stages.{i}.blocks.{i}.mlp.grn
norm     norm                                       head.norm
linear?  head                                       head.fc
""",
    "hf": """
conv     stem/patch                                 embeddings.patch_embeddings
norm     stem/norm                                  embeddings.layernorm
norm     downsamples/{i}/norm                       encoder.stages.{i+1}.downsampling_layer.0
conv     downsamples/{i}/patch                      encoder.stages.{i+1}.downsampling_layer.1
conv     stages/{i}/{i}/depthwise                   encoder.stages.{i}.layers.{i}.dwconv
norm     stages/{i}/{i}/norm                        encoder.stages.{i}.layers.{i}.layernorm
linear   stages/{i}/{i}/{up,down}                   encoder.stages.{i}.layers.{i}.{pwconv1,pwconv2}
same     stages/{i}/{i}/layer_scale                 encoder.stages.{i}.layers.{i}.layer_scale_parameter
channels stages/{i}/{i}/response_norm/{scale,bias}  encoder.stages.{i}.layers.{i}.grn.{weight,bias}
norm     norm                                       layernorm
linear?  head                                       classifier
""",
}

_CONV_MLP = "pointwise stages/{i}/{i}/{up,down} stages.{i}.blocks.{i}.mlp.{fc1,fc2}\n"
"""timm's sizes whose MLP is two 1×1 convolutions."""


def convnext_names(config: ConvNeXtConfig, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the three dialects."""
    text = (_CONV_MLP if dialect == "timm" and config.conv_mlp else "") + _RULES[dialect]
    return NameTable(named(text, leaves_of(config)), ("convnextv2.", "convnext.") if dialect == "hf" else ())


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
    arguments = timm.checked(_READ)
    version, _, size = timm.architecture.partition("_")
    config: ConvNeXtConfig = getattr(ConvNeXtConfig, size)()
    config = config.v2() if version == "convnextv2" else config
    eps = arguments.get("norm_eps") or config.eps
    return replace(
        config,
        hidden_sizes=tuple(arguments.get("dims") or config.hidden_sizes),
        depths=tuple(arguments.get("depths") or config.depths),
        patch_size=arguments.get("patch_size") or config.patch_size,
        kernel_size=square(arguments.get("kernel_sizes") or config.kernel_size, "model_args.kernel_sizes"),
        layer_scale_init_value=arguments.get("ls_init_value", config.layer_scale_init_value),
        response_norm=arguments.get("use_grn", config.response_norm),
        conv_mlp=arguments.get("conv_mlp", config.conv_mlp),
        drop_path=arguments.get("drop_path_rate") or 0.0,
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
