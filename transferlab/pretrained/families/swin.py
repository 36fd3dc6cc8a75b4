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
from transferlab.pretrained.names import CONV, LINEAR, MASK_TOKEN, PRETRAINING_HEAD, Entry, NameTable, linear, norm
from transferlab.pretrained.timm import IMAGENET, TimmConfig, square

Dialect = Literal["authors", "timm", "hf"]


def swin_names(config: SwinConfig, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the three dialects."""
    hf = dialect == "hf"
    patch, first = (
        ("embeddings.patch_embeddings.projection", "embeddings.norm")
        if hf
        else ("patch_embed.proj", "patch_embed.norm")
    )
    names = [
        Entry("stem/patch/kernel", f"{patch}.weight", CONV),
        Entry("stem/patch/bias", f"{patch}.bias"),
        *norm("stem/norm", first),
    ]
    inside = "encoder.layers" if hf else "layers"
    for s, depth in enumerate(config.depths):
        if s:
            # timm has the merging at the start of a stage, the others at the end of the one before.
            there = f"{inside}.{s if dialect == 'timm' else s - 1}.downsample"
            names += norm(f"downsamples/{s - 1}/norm", f"{there}.norm")
            names.append(Entry(f"downsamples/{s - 1}/reduce/kernel", f"{there}.reduction.weight", LINEAR))
        for b in range(depth):
            names += _block(config, hf, f"stages/{s}/{b}", f"{inside}.{s}.blocks.{b}")
    names += norm("norm", "layernorm" if hf else "norm")
    names += linear("head", {"hf": "classifier", "timm": "head.fc", "authors": "head"}[dialect])
    ignored = (
        (r"(.+\.)?(relative_position_index|attn_mask)", "follows from the sizes"),
        (r"(.+\.)?mask_token", MASK_TOKEN),
        (r"decoder\.0\.(weight|bias)", PRETRAINING_HEAD),
    )
    return NameTable(tuple(names), ("swin.",) if hf else (), ignored=ignored)


def _block(config: SwinConfig, hf: bool, here: str, there: str) -> list[Entry]:
    first, second = ("layernorm_before", "layernorm_after") if hf else ("norm1", "norm2")
    names = [*norm(f"{here}/attention/norm", f"{there}.{first}"), *norm(f"{here}/mlp/norm", f"{there}.{second}")]
    for n, part in enumerate(("query", "key", "value")):
        key, (i, of) = (f"{there}.attention.self.{part}", (0, 1)) if hf else (f"{there}.attn.qkv", (n, 3))
        names += linear(f"{here}/attention/{part}", key, i, of, bias=config.qkv_bias)
    names += linear(f"{here}/attention/output", f"{there}.{'attention.output.dense' if hf else 'attn.proj'}")
    table = f"{there}.{'attention.self' if hf else 'attn'}.relative_position_bias_table"
    names.append(Entry(f"{here}/attention/position_bias", table))
    names += linear(f"{here}/mlp/up", f"{there}.{'intermediate.dense' if hf else 'mlp.fc1'}")
    return names + linear(f"{here}/mlp/down", f"{there}.{'output.dense' if hf else 'mlp.fc2'}")


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
    given = timm.checked(_READ)
    config: SwinConfig = getattr(SwinConfig, timm.architecture.split("_")[1])()
    config = replace(
        config,
        embed_dim=given.get("embed_dim") or config.embed_dim,
        depths=(depths := tuple(given.get("depths") or config.depths)),
        num_heads=tuple(given.get("num_heads") or config.num_heads),
        window_sizes=(1,) * len(depths),
        patch_size=square(given.get("patch_size") or config.patch_size, "model_args.patch_size"),
        mlp_ratio=float(given.get("mlp_ratio", config.mlp_ratio)),
        qkv_bias=given.get("qkv_bias", config.qkv_bias),
        attention_probs_dropout_prob=given.get("attn_drop_rate") or 0.0,
        drop_path=given.get("drop_path_rate", config.drop_path),
        image_size=timm.image_size,
    )
    found = re.search(r"window(\d+)", timm.architecture)
    assert found is not None
    sides = given.get("window_size") or int(found.group(1))
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
