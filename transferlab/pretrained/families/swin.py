"""Swin's names: the authors', timm's and Hugging Face's (``SwinModel``); its configs in both kinds of directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from transferlab.data.images import ImageTransform
from transferlab.errors import TransferlabError
from transferlab.models.heads import ClassifierConfig
from transferlab.models.swin import SwinConfig
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, present, present_tuples, squares
from transferlab.pretrained.families.images import resized_image
from transferlab.pretrained.names import MASK_TOKEN, PRETRAINING_HEAD, NameTable
from transferlab.pretrained.rules import leaves_of, named
from transferlab.pretrained.timm import IMAGENET, TimmConfig, square

Dialect = Literal["authors", "timm", "hf"]


_AUTHORS = """
conv   stem/patch                               patch_embed.proj
norm   stem/norm                                patch_embed.norm
norm   stages/{i}/{i}/{attention,mlp}/norm      layers.{i}.blocks.{i}.{norm1,norm2}
linear stages/{i}/{i}/attention/{query,key,value}   layers.{i}.blocks.{i}.attn.qkv
linear stages/{i}/{i}/attention/output          layers.{i}.blocks.{i}.attn.proj
same   stages/{i}/{i}/attention/position_bias   layers.{i}.blocks.{i}.attn.relative_position_bias_table
linear stages/{i}/{i}/mlp/{up,down}             layers.{i}.blocks.{i}.mlp.{fc1,fc2}
norm   norm                                     norm
"""

_RULES: dict[Dialect, str] = {
    "authors": f"""
{_AUTHORS}
norm    downsamples/{{i}}/norm                  layers.{{i}}.downsample.norm
linear  downsamples/{{i}}/reduce                layers.{{i}}.downsample.reduction
linear? head                                    head
""",
    # timm has the merging at the start of a stage, the others at the end of the one before.
    "timm": f"""
{_AUTHORS}
norm    downsamples/{{i}}/norm                  layers.{{i+1}}.downsample.norm
linear  downsamples/{{i}}/reduce                layers.{{i+1}}.downsample.reduction
linear? head                                    head.fc
""",
    "hf": """
conv    stem/patch                              embeddings.patch_embeddings.projection
norm    stem/norm                               embeddings.norm
norm    stages/{i}/{i}/{attention,mlp}/norm     encoder.layers.{i}.blocks.{i}.{layernorm_before,layernorm_after}
linear  stages/{i}/{i}/attention/{query,key,value}  encoder.layers.{i}.blocks.{i}.attention.self.{query,key,value}
linear  stages/{i}/{i}/attention/output         encoder.layers.{i}.blocks.{i}.attention.output.dense
same    stages/{i}/{i}/attention/position_bias  encoder.layers.{i}.blocks.{i}.attention.self.relative_position_bias_table
linear  stages/{i}/{i}/mlp/{up,down}            encoder.layers.{i}.blocks.{i}.{intermediate,output}.dense
norm    downsamples/{i}/norm                    encoder.layers.{i}.downsample.norm
linear  downsamples/{i}/reduce                  encoder.layers.{i}.downsample.reduction
norm    norm                                    layernorm
linear? head                                    classifier
""",
}

_IGNORED = (
    (r"(.+\.)?(relative_position_index|attn_mask)", "follows from the sizes"),
    (r"(.+\.)?mask_token", MASK_TOKEN),
    (r"decoder\.0\.(weight|bias)", PRETRAINING_HEAD),
)


def swin_names(config: SwinConfig, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the three dialects."""
    prefixes = ("swin.",) if dialect == "hf" else ()
    return NameTable(named(_RULES[dialect], leaves_of(config)), prefixes, ignored=_IGNORED)


_HF = (
    "num_channels", "embed_dim", "qkv_bias", "hidden_act", "hidden_dropout_prob", "layer_norm_eps",
    "attention_probs_dropout_prob", "initializer_range",
)  # fmt: skip


def swin_from_hf(raw: Mapping[str, Any]) -> SwinConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    if raw.get("use_absolute_embeddings"):
        raise TransferlabError("config.json: use_absolute_embeddings true is not supported.")
    default = SwinConfig()
    sizes: dict[str, Any] = present(raw, _HF) | present_tuples(raw, ("depths", "num_heads")) | squares(raw, default)
    return SwinConfig(
        **sizes,
        mlp_ratio=float(raw.get("mlp_ratio", 4.0)),
        window_sizes=(raw.get("window_size", 7),) * len(sizes.get("depths", default.depths)),
        drop_path=float(raw.get("drop_path_rate", 0.1)),
        pad_first=True,
    )


def _to_hf(config: SwinConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], NameTable]:
    """What Hugging Face's class cannot have is an error that names the field."""
    side, pixels = config.window_sizes[0], config.image_size
    if set(config.window_sizes) != {side}:
        raise TransferlabError(f"Hugging Face's swin cannot have window_sizes {config.window_sizes}, only equal ones.")
    grid = pixels // config.patch_size
    maps = [-(-grid // 2**s) for s in range(len(config.depths))]
    if not config.pad_first and (pixels % config.patch_size or any(length % side for length in maps)):
        raise TransferlabError(
            f"Hugging Face's swin cannot have pad_first False where window_sizes {config.window_sizes} do not divide the "
            f"maps of image_size {pixels}: {maps}."
        )
    raw = {
        "model_type": "swin",
        **{name: getattr(config, name) for name in (*_HF, "mlp_ratio", "image_size", "patch_size")},
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": side,
        "drop_path_rate": config.drop_path,
    }
    return description("Swin", "ImageClassification", raw, swin_names(config, "hf"), head)


TIMM_SWINS = r"swin_(tiny|small|base|large)_patch4_window(7|12)_(224|384)"
"""Architectures of timm that are read as this family, as a regular expression."""

_READ = (
    "img_size", "patch_size", "num_classes", "global_pool", "embed_dim", "depths", "num_heads", "window_size",
    "mlp_ratio", "qkv_bias", "attn_drop_rate", "drop_path_rate", "strict_img_size", "dynamic_img_size",
)  # fmt: skip


def swin_from_timm(timm: TimmConfig) -> SwinConfig:
    """Read timm's config; an argument that this family cannot represent is an error that names it."""
    arguments = timm.checked(_READ)
    config: SwinConfig = getattr(SwinConfig, timm.architecture.split("_")[1])()
    config = replace(
        config,
        embed_dim=arguments.get("embed_dim") or config.embed_dim,
        depths=(depths := tuple(arguments.get("depths") or config.depths)),
        num_heads=tuple(arguments.get("num_heads") or config.num_heads),
        window_sizes=(1,) * len(depths),
        patch_size=square(arguments.get("patch_size") or config.patch_size, "model_args.patch_size"),
        mlp_ratio=float(arguments.get("mlp_ratio", config.mlp_ratio)),
        qkv_bias=arguments.get("qkv_bias", config.qkv_bias),
        attention_probs_dropout_prob=arguments.get("attn_drop_rate") or 0.0,
        drop_path=arguments.get("drop_path_rate", config.drop_path),
        image_size=timm.image_size,
    )
    match = re.search(r"window(\d+)", timm.architecture)
    assert match is not None
    sides = arguments.get("window_size") or int(match.group(1))
    sides = (sides,) * len(depths) if isinstance(sides, int) else tuple(sides)
    # A window is no larger than the map of its stage; odd maps are filled up before they are halved.
    maps = [-(-(config.image_size // config.patch_size) // 2**s) for s in range(len(depths))]
    return replace(config, window_sizes=tuple(map(min, sides, maps)))


def _transform(config: SwinConfig) -> ImageTransform:
    # As the authors evaluate: the shorter side to size / .875 below 384 pixels, the centre cut.
    return ImageTransform(config.image_size, *IMAGENET, "bicubic", 0.875 if config.image_size < 384 else 1.0)


SWIN = Family(
    name="swin",
    config=SwinConfig,
    modality="image",
    inputs=("pixel_values",),
    model_types=("swin",),
    architectures=TIMM_SWINS,
    names=lambda config: tuple(swin_names(config, dialect) for dialect in ("authors", "timm", "hf")),
    from_hf=swin_from_hf,
    from_timm=swin_from_timm,
    transform=_transform,
    to_hf=_to_hf,
    resized=resized_image,
    input_kernel="stem/patch/kernel",
)
