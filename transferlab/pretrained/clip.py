"""CLIP's and SigLIP's names and configs: Hugging Face's (``CLIPModel``, ``SiglipModel``, their text models), open_clip's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from transferlab.data.images import Fit, ImageTransform
from transferlab.errors import TransferlabError, nearest
from transferlab.models.clip import ClipConfig, PooledToken, TextTowerConfig
from transferlab.models.heads import Pooling
from transferlab.models.vit import ViTConfig
from transferlab.pretrained.big_vision import clip_tables
from transferlab.pretrained.family import Family, unread
from transferlab.pretrained.names import LINEAR, Name, Names, squeezed
from transferlab.pretrained.positions import Resize, position_resize
from transferlab.pretrained.timm import TimmConfig, square
from transferlab.pretrained.vit import (
    linear,
    norm,
    tower_layer,
    vision_tower_from_hf,
    vit_from_timm,
    vit_names,
    vit_transform,
)

Dialect = Literal["clip", "open_clip"]


def text_names(config: TextTowerConfig, dialect: Dialect) -> Names:
    """Return the text tower's table in one of the dialects, its keys as they stand in a file of this tower alone."""
    ours = dialect == "clip"
    word, position = (
        ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
        if ours
        else ("token_embedding.weight", "positional_embedding")
    )
    names = [Name("embed/word/embedding", word), Name("embed/position/embedding", position)]
    for i in range(config.num_hidden_layers):
        names += tower_layer(i, dialect)
    names += norm("norm", "final_layer_norm" if ours else "ln_final")
    if config.projection_bias:
        names += linear("projection", "head" if ours else "text_projection")
    elif ours:
        names.append(Name("projection/kernel", "text_projection.weight", LINEAR))
    else:
        names.append(Name("projection/kernel", "text_projection"))
    ignored = ((r"(text_model\.)?embeddings\.position_ids", "a constant buffer, no parameter"),)
    return Names(tuple(names), ("text_model.",), ignored=ignored)


def clip_names(config: ClipConfig) -> tuple[Names, ...]:
    """Return the tables of both towers: Hugging Face's, and open_clip's with the text tower inside or beside, or timm's."""
    ignored = (
        (r"(text_model|vision_model)\.embeddings\.position_ids", "a constant buffer, no parameter"),
        (r"(text\.)?attn_mask", "a constant buffer, no parameter"),
    )
    vision, text = vit_names(config.vision, "clip").names, text_names(config.text, "clip").names
    tables = [
        _both(
            [replace(n, key=_beside("vision_model", n.key)) for n in vision],
            [replace(n, key=_beside("text_model", n.key)) for n in text],
        )
    ]
    for vision, before in (
        (vit_names(config.vision, "open_clip").names, "visual."),
        (vit_names(config.vision, "timm").names, "visual.trunk."),
    ):
        for inside in ("", "text."):
            tables.append(
                _both(
                    [replace(n, key=before + n.key) for n in vision if not n.path.startswith("head/")],
                    [replace(n, key=inside + n.key) for n in text_names(config.text, "open_clip").names],
                )
            )
    return tuple(Names(tuple(names), ("module.",), ignored=ignored) for names in tables)


def _beside(tower: str, key: str) -> str:
    """Hugging Face's projections stand beside the towers that they follow; all else stands inside."""
    return key if key in ("visual_projection.weight", "text_projection.weight") else f"{tower}.{key}"


def _both(vision: list[Name], text: list[Name]) -> list[Name]:
    # SigLIP's scalars have an axis at Hugging Face; a scalar without one is read all the same.
    joint = [Name(path, path, squeezed(1)) for path in ("logit_scale", "logit_bias")]
    vision = [replace(name, path=f"vision/{name.path}") for name in vision]
    return [*vision, *(replace(name, path=f"text/{name.path}") for name in text), *joint]


def clip_from_hf(raw: Mapping[str, Any]) -> ClipConfig:
    """Read Hugging Face's ``config.json`` of a ``clip`` or ``siglip``; an unsupported field is an error that names it."""
    kind = str(raw["model_type"])
    for name in raw.get("architectures") or ():
        if "Classification" in name:
            raise TransferlabError(f"config.json: architectures has {name}, a tower with a classifier; not supported.")
    parts = {}
    for part in ("vision", "text"):
        # Old files hold a second table, which the origin lets win.
        given = {**(raw.get(f"{part}_config") or {}), **(raw.get(f"{part}_config_dict") or {})}
        if given.get("model_type", f"{kind}_{part}_model") != f"{kind}_{part}_model":
            raise TransferlabError(
                f"config.json: {part}_config.model_type '{given['model_type']}' is not supported; "
                f"only '{kind}_{part}_model'."
            )
        parts[part] = given | {"model_type": f"{kind}_{part}_model"}
    vision, text = vision_tower_from_hf(parts["vision"]), text_tower_from_hf(parts["text"])
    if kind == "siglip":
        return ClipConfig(vision, text, math.log(10.0), -10.0)
    width = raw.get("projection_dim") or 512
    scale = raw.get("logit_scale_init_value")
    return ClipConfig(
        replace(vision, projection_dim=width), replace(text, projection_dim=width),
        ClipConfig.logit_scale if scale is None else float(scale),
    )  # fmt: skip


def text_tower_from_hf(raw: Mapping[str, Any]) -> TextTowerConfig:
    """Read Hugging Face's ``clip_text_model`` or ``siglip_text_model``, alone or beside a vision tower."""
    siglip = str(raw["model_type"]).startswith("siglip")
    config = TextTowerConfig.siglip_base() if siglip else TextTowerConfig.clip_base()
    plain = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range",
    )  # fmt: skip
    given = {name: raw[name] for name in plain if raw.get(name) is not None}
    if siglip:
        width = given.get("hidden_size", config.hidden_size)
        return replace(config, **given, projection_dim=raw.get("projection_size") or width)
    end = raw.get("eos_token_id", config.eos_token_id)
    if not isinstance(end, int):
        raise TransferlabError(f"config.json: eos_token_id {end!r} is not one number.")
    # The origin's rule: 2 was written by mistake, for an end token that has the highest id.
    return replace(
        config, **given, eos_token_id=end, pooled_token="highest" if end == 2 else "end",
        projection_dim=raw.get("projection_dim") or config.projection_dim,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------
# open_clip

OPEN_CLIP = "open_clip_config.json"
"""The file that marks open_clip's directories."""

_VISION = (
    "image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "pool_type", "act_kwargs", "norm_kwargs",
    "no_ln_pre", "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_drop", "timm_drop_path",
    "patch_dropout", "output_tokens",
)  # fmt: skip
_TEXT = (
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask", "pool_type", "proj_bias",
    "eos_id", "pad_id", "act_kwargs", "norm_kwargs", "hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode",
    "output_tokens",
)  # fmt: skip
_MODEL = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias")


def clip_from_open_clip(raw: Mapping[str, Any]) -> ClipConfig:
    """Read ``open_clip_config.json``; a field that this family cannot represent is an error that names it."""
    model = raw.get("model_cfg") or {}
    vision, text = model.get("vision_cfg") or {}, model.get("text_cfg") or {}
    for where, given, known in (("", model, _MODEL), ("vision_cfg.", vision, _VISION), ("text_cfg.", text, _TEXT)):
        for field, value in given.items():
            # What is false, zero or absent is open_clip's default of all others.
            if field not in known and value not in (None, False, 0, "", "default", "learnable", "linear"):
                raise TransferlabError(
                    f"{OPEN_CLIP}: model_cfg.{where}{field} {value!r} is not supported.{nearest(field, known)}"
                )
    act = "quick_gelu" if model.get("quick_gelu") else "gelu"
    shared = model.get("embed_dim", 512)
    return ClipConfig(
        _trunk(vision, shared) if vision.get("timm_model_name") else _vision(vision, act, shared),
        _text(text, act, shared),
        float(model.get("init_logit_scale") or ClipConfig.logit_scale),
        None if model.get("init_logit_bias") is None else float(model["init_logit_bias"]),
    )


def _vision(given: Mapping[str, Any], act: str, shared: int) -> ViTConfig:
    width = given.get("width", 768)
    pools: dict[str, Pooling] = {"tok": "first", "avg": "mean"}
    pool = given.get("pool_type", "tok")
    if pool not in pools:
        raise TransferlabError(
            f"{OPEN_CLIP}: model_cfg.vision_cfg.pool_type '{pool}' is not supported.{nearest(pool, pools)}"
        )
    if not isinstance(given.get("layers", 12), int):
        raise TransferlabError(
            f"{OPEN_CLIP}: model_cfg.vision_cfg.layers {given['layers']} makes a ResNet; not supported."
        )
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=given.get("layers", 12),
        num_attention_heads=width // given.get("head_width", 64),
        intermediate_size=int(width * given.get("mlp_ratio", 4.0)),
        hidden_act=_act(given, act),
        layer_norm_eps=_eps(given),
        image_size=square(given.get("image_size", 224), "vision_cfg.image_size"),
        patch_size=square(given.get("patch_size", 16), "vision_cfg.patch_size"),
        patch_bias=False,
        pre_norm=not given.get("no_ln_pre"),
        pooling=pools[pool],
        projection_dim=shared,
    )


def _trunk(given: Mapping[str, Any], shared: int) -> ViTConfig:
    """A vision tower that is timm's, without a projection of open_clip's."""
    projection = given.get("timm_proj", "linear")
    if projection not in ("none", "", None):
        raise TransferlabError(f"{OPEN_CLIP}: model_cfg.vision_cfg.timm_proj '{projection}' is not supported.")
    size = square(given.get("image_size", 224), "vision_cfg.image_size")
    config = vit_from_timm(TimmConfig(given["timm_model_name"], {"img_size": size}, {}))
    if config.hidden_size != shared:
        raise TransferlabError(f"{OPEN_CLIP}: embed_dim {shared} is not the width of {given['timm_model_name']}.")
    return config


def _text(given: Mapping[str, Any], act: str, shared: int) -> TextTowerConfig:
    pools: dict[str, PooledToken] = {"argmax": "highest", "eos": "end", "last": "last"}
    pool = given.get("pool_type", "argmax")
    if pool not in pools:
        raise TransferlabError(
            f"{OPEN_CLIP}: model_cfg.text_cfg.pool_type '{pool}' is not supported.{nearest(pool, pools)}"
        )
    width = given.get("width", 512)
    return TextTowerConfig(
        vocab_size=given.get("vocab_size", 49408),
        hidden_size=width,
        num_hidden_layers=given.get("layers", 12),
        num_attention_heads=given.get("heads", 8),
        intermediate_size=int(width * given.get("mlp_ratio", 4.0)),
        max_position_embeddings=given.get("context_length", 77),
        hidden_act=_act(given, act),
        layer_norm_eps=_eps(given),
        causal=not given.get("no_causal_mask"),
        pooled_token=pools[pool],
        eos_token_id=given.get("eos_id", 2),
        projection_dim=shared,
        projection_bias=bool(given.get("proj_bias")),
    )


def _act(given: Mapping[str, Any], act: str) -> str:
    kwargs = given.get("act_kwargs") or {}
    if kwargs in ({}, {"approximate": "none"}):
        return act
    if kwargs == {"approximate": "tanh"} and act == "gelu":
        return "gelu_pytorch_tanh"
    raise TransferlabError(f"{OPEN_CLIP}: act_kwargs {kwargs} is not supported for {act}.")


def _eps(given: Mapping[str, Any]) -> float:
    kwargs = given.get("norm_kwargs") or {}
    if kwargs.keys() - {"eps"}:
        raise TransferlabError(f"{OPEN_CLIP}: norm_kwargs {kwargs} is not supported; only eps.")
    return float(kwargs.get("eps", 1e-5))


def open_clip_transform(raw: Mapping[str, Any], config: ClipConfig) -> ImageTransform:
    """Preprocessing of images as open_clip evaluates, by ``preprocess_cfg``."""
    given, plain = raw.get("preprocess_cfg") or {}, vit_transform(ViTConfig.clip_b32())
    fits: dict[str, Fit] = {"shortest": "crop", "squash": "squash"}
    mode, resize = given.get("resize_mode") or "shortest", given.get("interpolation") or "bicubic"
    if mode not in fits:
        raise TransferlabError(
            f"{OPEN_CLIP}: preprocess_cfg.resize_mode '{mode}' is not supported.{nearest(mode, fits)}"
        )
    if resize not in ("bicubic", "bilinear"):
        raise TransferlabError(f"{OPEN_CLIP}: preprocess_cfg.interpolation '{resize}' is not 'bicubic' or 'bilinear'.")
    mean, std = tuple(given.get("mean") or plain.mean), tuple(given.get("std") or plain.std)
    if len(mean) != 3 or len(std) != 3:
        raise TransferlabError(f"{OPEN_CLIP}: preprocess_cfg mean {mean} and std {std} are not of three channels.")
    return ImageTransform(config.vision.image_size, mean, std, resize, 1.0, fits[mode])


def open_clip_weights(directory: Path) -> Path:
    """Return the weight file of an open_clip directory."""
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"):
        if (directory / name).exists():
            return directory / name
    there = sorted(p.name for p in directory.iterdir())
    raise TransferlabError(
        f"{directory}: no weights; expected open_clip_model.safetensors or open_clip_pytorch_model.bin. There is: {there}."
    )


# ---------------------------------------------------------------------------------------------------------------


def _adjust_text(config: TextTowerConfig, found: set[str]) -> TextTowerConfig:
    return config if "projection/kernel" in found else config.without_projection()


def _resized(
    config: ClipConfig, shapes: Mapping[str, tuple[int, ...]], image_size: int
) -> tuple[ClipConfig, dict[str, Resize | None]]:
    vision = replace(config.vision, image_size=image_size)
    path = "vision/embed/position"
    resize = position_resize(shapes[path], vision.position_slots, vision.grid, vision.position_rule)
    return replace(config, vision=vision), {path: resize}


CLIP_TEXT = Family(
    name="clip_text",
    config=TextTowerConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "token_type_ids", "position_ids"),
    model_types=("clip_text_model", "siglip_text_model"),
    architectures="",
    names=lambda config: (text_names(config, "clip"), text_names(config, "open_clip")),
    from_hf=text_tower_from_hf,
    from_timm=unread,
    adjust=_adjust_text,
    transform=lambda config: None,
    head_pooling=lambda config: "pooler",
    whole_length=lambda config: config.pooled_token == "last",
)

CLIP = Family(
    name="clip",
    config=ClipConfig,
    modality="image and text",
    inputs=("pixel_values", "input_ids", "attention_mask", "token_type_ids", "position_ids"),
    model_types=("clip", "siglip"),
    architectures="",
    names=lambda config: (*clip_names(config), *clip_tables(config)),
    from_hf=clip_from_hf,
    from_timm=unread,
    adjust=lambda config, found: config,
    transform=lambda config: vit_transform(config.vision),
    resized=_resized,
    whole_length=lambda config: config.text.pooled_token == "last",
)
