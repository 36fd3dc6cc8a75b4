"""CLIP's and SigLIP's names and configs: Hugging Face's (``CLIPModel``, ``SiglipModel``, their text models), open_clip's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from transferlab.data.images import Fit, ImageTransform
from transferlab.errors import TransferlabError, nearest
from transferlab.fields import given_fields, given_number
from transferlab.models.clip import ClipConfig, PooledToken, TextTowerConfig
from transferlab.models.heads import HeadConfig, Pooling
from transferlab.models.vit import ViTConfig
from transferlab.pretrained.families.big_vision import clip_tables
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.vit import (
    TOWER,
    projection_to_hf,
    resized_positions_of,
    vision_tower_from_hf,
    vision_tower_to_hf,
    vit_names,
    vit_transform,
)
from transferlab.pretrained.families.vit_timm import vit_from_timm
from transferlab.pretrained.names import BUFFER, SAME, Entry, Layout, NameTable, squeezed, with_prefix
from transferlab.pretrained.positions import Resize
from transferlab.pretrained.rules import leaves_of, named
from transferlab.pretrained.timm import TimmConfig, square

Dialect = Literal["clip", "open_clip"]
Choice = TypeVar("Choice")


_TEXT_TOWERS = {
    "clip": f"""
table     embed/{{word,position}}                       embeddings.{{token,position}}_embedding
{TOWER["clip"]}
norm      norm                                          final_layer_norm
matrix    projection/kernel                             text_projection.weight
""",
    "open_clip": f"""
table     embed/word                                    token_embedding
same      embed/position/embedding                      positional_embedding
{TOWER["open_clip"]}
norm      norm                                          ln_final
same      projection/kernel                             text_projection
""",
}


def text_names(config: TextTowerConfig, dialect: Dialect) -> NameTable:
    """Return the text tower's table in one of the dialects, its keys as a file of this tower alone has them."""
    text = _TEXT_TOWERS[dialect]
    if config.projection_bias:
        text = f"linear projection {'head' if dialect == 'clip' else 'text_projection'}\n{text}"
    ignored = ((r"(text_model\.)?embeddings\.position_ids", BUFFER),)
    return NameTable(named(text, leaves_of(config)), ("text_model.",), ignored=ignored)


def clip_names(config: ClipConfig) -> tuple[NameTable, ...]:
    """Return the tables of both towers: Hugging Face's, and open_clip's with the text tower inside the model or next to it, or timm's."""
    tables = [_hf_names(config)]
    trunk = [name for name in vit_names(config.vision, "timm").names if not name.path.startswith("head/")]
    text = text_names(config.text, "open_clip").names
    for vision, before in ((vit_names(config.vision, "open_clip").names, "visual."), (trunk, "visual.trunk.")):
        for inside in ("", "text."):
            tables.append(_both(NameTable(tuple(vision)), before, NameTable(text), inside, SAME))
    return tuple(tables)


def _hf_names(config: ClipConfig) -> NameTable:
    # CLIP's projections are next to the towers; SigLIP's is inside, and its scalars have an axis.
    outside = () if config.text.projection_bias else ("projection/",)
    vision, text = vit_names(config.vision, "clip"), text_names(config.text, "clip")
    layout = SAME if config.logit_bias is None else squeezed(1)
    return _both(vision, "vision_model.", text, "text_model.", layout, outside)


def _both(
    vision: NameTable, before: str, text: NameTable, inside: str, scalar: Layout, outside: tuple[str, ...] = ()
) -> NameTable:
    """Both towers' tables as one, their keys behind these prefixes but for the paths that begin with ``outside``."""
    names = [replace(n, path=f"vision/{n.path}") for n in with_prefix(vision, before, but=outside).names]
    names += [replace(n, path=f"text/{n.path}") for n in with_prefix(text, inside, but=outside).names]
    names += [Entry(path, path, scalar) for path in ("logit_scale", "logit_bias")]
    ignored = (
        (r"(text_model|vision_model)\.embeddings\.position_ids", BUFFER),
        (r"(text\.)?attn_mask", BUFFER),
    )
    return NameTable(tuple(names), ("module.",), ignored=ignored)


def clip_from_hf(raw: Mapping[str, Any]) -> ClipConfig:
    """Read Hugging Face's ``config.json`` of a ``clip`` or ``siglip``; an unsupported field is an error that names it."""
    kind = str(raw["model_type"])
    for name in raw.get("architectures") or ():
        if "Classification" in name:
            raise TransferlabError(
                f"config.json: architectures has {name}; a tower with a classifier is not supported."
            )
    parts = {}
    for part in ("vision", "text"):
        # Old files hold a second table, which transformers lets win.
        values = {**(raw.get(f"{part}_config") or {}), **(raw.get(f"{part}_config_dict") or {})}
        if values.get("model_type", f"{kind}_{part}_model") != f"{kind}_{part}_model":
            raise TransferlabError(
                f"config.json: {part}_config.model_type '{values['model_type']}' is not supported; "
                f"only '{kind}_{part}_model'."
            )
        parts[part] = values | {"model_type": f"{kind}_{part}_model"}
    vision, text = vision_tower_from_hf(parts["vision"]), text_tower_from_hf(parts["text"])
    if kind == "siglip":
        return ClipConfig(vision, text, math.log(10.0), -10.0)
    width = given_fields({"projection_dim": int}, raw).get("projection_dim", 512)
    return ClipConfig(
        replace(vision, projection_dim=width), replace(text, projection_dim=width),
        given_number(raw, "logit_scale_init_value", ClipConfig.logit_scale),
    )  # fmt: skip


_TOWER = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range",
)  # fmt: skip
"""Fields of Hugging Face's ``config.json`` that are called so here."""


def text_tower_from_hf(raw: Mapping[str, Any]) -> TextTowerConfig:
    """Read Hugging Face's ``clip_text_model`` or ``siglip_text_model``, alone or next to a vision tower."""
    siglip = str(raw["model_type"]).startswith("siglip")
    config = TextTowerConfig.siglip_base() if siglip else TextTowerConfig.clip_base()
    values = given_fields(TextTowerConfig, {name: raw[name] for name in _TOWER if name in raw})
    if siglip:
        width = given_fields({"projection_size": int}, raw).get("projection_size")
        return replace(config, **values, projection_dim=width or values.get("hidden_size", config.hidden_size))
    end = raw.get("eos_token_id", config.eos_token_id)
    if not isinstance(end, int):
        raise TransferlabError(f"config.json: eos_token_id is {end!r}; it must be one integer.")
    # transformers' rule: 2 was written by mistake, for an end token that has the highest id.
    return replace(
        config, **values, eos_token_id=end, pooled_token="highest" if end == 2 else "end",
        **({"projection_dim": config.projection_dim} | given_fields({"projection_dim": int}, raw)),
    )  # fmt: skip


def text_tower_to_hf(config: TextTowerConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    """Return Hugging Face's ``config.json`` of CLIP's or SigLIP's text tower, and the names of its leaves."""
    if head is not None:
        raise TransferlabError("Hugging Face's CLIP and SigLIP have no text classifier; write the format 'orbax'.")
    kind = "clip" if config.causal else "siglip"
    like = TextTowerConfig.clip_base() if config.causal else TextTowerConfig.siglip_base()
    if (config.pooled_token == "last", config.projection_bias) != (like.pooled_token == "last", like.projection_bias):
        raise TransferlabError(
            f"Hugging Face's {kind} cannot have pooled_token '{config.pooled_token}' and projection_bias "
            f"{config.projection_bias} together."
        )
    raw: dict[str, Any] = {"model_type": f"{kind}_text_model", **{name: getattr(config, name) for name in _TOWER}}
    names = text_names(config, "clip")
    if kind == "siglip":
        raw |= {"architectures": ["SiglipTextModel"], "projection_size": config.projection_dim or config.hidden_size}
        return raw, with_prefix(names, "text_model.")
    # By this number transformers takes the token of the highest id.
    raw["eos_token_id"] = 2 if config.pooled_token == "highest" else config.eos_token_id
    raw |= projection_to_hf("CLIPTextModel", config.projection_dim)
    return raw, with_prefix(names, "text_model.", but=("projection/",))


def clip_to_hf(config: ClipConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    """Return Hugging Face's ``config.json`` of both towers, and the names of their leaves."""
    vision, text = vision_tower_to_hf(config.vision, None)[0], text_tower_to_hf(config.text, None)[0]
    kinds = vision["model_type"].removesuffix("_vision_model"), text["model_type"].removesuffix("_text_model")
    if kinds[0] != kinds[1] or (kinds[0] == "siglip") != (config.logit_bias is not None):
        bias = "with" if config.logit_bias is not None else "without"
        raise TransferlabError(
            f"Hugging Face has no model of a vision tower of {kinds[0]} and a text tower of {kinds[1]}, {bias} a bias."
        )
    siglip = kinds[0] == "siglip"
    raw: dict[str, Any] = {"model_type": kinds[0], "architectures": ["SiglipModel" if siglip else "CLIPModel"]}
    for part, values in (("vision_config", vision), ("text_config", text)):
        raw[part] = {name: value for name, value in values.items() if name != "architectures"}
    if not siglip:
        raw |= {"projection_dim": config.text.projection_dim, "logit_scale_init_value": config.logit_scale}
    return raw, _hf_names(config)


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
    for where, values, known in (("", model, _MODEL), ("vision_cfg.", vision, _VISION), ("text_cfg.", text, _TEXT)):
        for field, value in values.items():
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


def _vision(values: Mapping[str, Any], act: str, shared: int) -> ViTConfig:
    width = values.get("width", 768)
    pools: dict[str, Pooling] = {"tok": "first", "avg": "mean"}
    pool = _choice(values.get("pool_type", "tok"), pools, "model_cfg.vision_cfg.pool_type")
    if not isinstance(values.get("layers", 12), int):
        raise TransferlabError(
            f"{OPEN_CLIP}: model_cfg.vision_cfg.layers {values['layers']} makes a ResNet; not supported."
        )
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=values.get("layers", 12),
        num_attention_heads=width // values.get("head_width", 64),
        intermediate_size=int(width * values.get("mlp_ratio", 4.0)),
        hidden_act=_act(values, act),
        layer_norm_eps=_eps(values),
        image_size=square(values.get("image_size", 224), "vision_cfg.image_size"),
        patch_size=square(values.get("patch_size", 16), "vision_cfg.patch_size"),
        patch_bias=False,
        pre_norm=not values.get("no_ln_pre"),
        pooling=pool,
        projection_dim=shared,
    )


def _trunk(values: Mapping[str, Any], shared: int) -> ViTConfig:
    """A vision tower that is timm's, without a projection of open_clip's."""
    projection = values.get("timm_proj", "linear")
    if projection not in ("none", "", None):
        raise TransferlabError(f"{OPEN_CLIP}: model_cfg.vision_cfg.timm_proj '{projection}' is not supported.")
    size = square(values.get("image_size", 224), "vision_cfg.image_size")
    config = vit_from_timm(TimmConfig(values["timm_model_name"], {"img_size": size}, {}))
    if config.hidden_size != shared:
        raise TransferlabError(f"{OPEN_CLIP}: embed_dim {shared} is not the width of {values['timm_model_name']}.")
    return config


def _text(values: Mapping[str, Any], act: str, shared: int) -> TextTowerConfig:
    pools: dict[str, PooledToken] = {"argmax": "highest", "eos": "end", "last": "last"}
    pool = _choice(values.get("pool_type", "argmax"), pools, "model_cfg.text_cfg.pool_type")
    width = values.get("width", 512)
    return TextTowerConfig(
        vocab_size=values.get("vocab_size", 49408),
        hidden_size=width,
        num_hidden_layers=values.get("layers", 12),
        num_attention_heads=values.get("heads", 8),
        intermediate_size=int(width * values.get("mlp_ratio", 4.0)),
        max_position_embeddings=values.get("context_length", 77),
        hidden_act=_act(values, act),
        layer_norm_eps=_eps(values),
        causal=not values.get("no_causal_mask"),
        pooled_token=pool,
        eos_token_id=values.get("eos_id", 2),
        projection_dim=shared,
        projection_bias=bool(values.get("proj_bias")),
    )


def _choice(value: Any, choices: Mapping[str, Choice], field: str) -> Choice:
    """What a value of ``open_clip_config.json`` is called here."""
    if value not in choices:
        raise TransferlabError(f"{OPEN_CLIP}: {field} '{value}' is not supported.{nearest(value, choices)}")
    return choices[value]


def _act(values: Mapping[str, Any], act: str) -> str:
    kwargs = values.get("act_kwargs") or {}
    if kwargs in ({}, {"approximate": "none"}):
        return act
    if kwargs == {"approximate": "tanh"} and act == "gelu":
        return "gelu_pytorch_tanh"
    raise TransferlabError(f"{OPEN_CLIP}: act_kwargs {kwargs} is not supported for {act}.")


def _eps(values: Mapping[str, Any]) -> float:
    kwargs = values.get("norm_kwargs") or {}
    if kwargs.keys() - {"eps"}:
        raise TransferlabError(f"{OPEN_CLIP}: norm_kwargs {kwargs} is not supported; only eps.")
    return float(kwargs.get("eps", 1e-5))


def open_clip_transform(raw: Mapping[str, Any], config: ClipConfig) -> ImageTransform:
    """Preprocessing of images as open_clip evaluates, by ``preprocess_cfg``."""
    values, plain = raw.get("preprocess_cfg") or {}, vit_transform(ViTConfig.clip_b32())
    fits: dict[str, Fit] = {"shortest": "crop", "squash": "squash"}
    fit = _choice(values.get("resize_mode") or "shortest", fits, "preprocess_cfg.resize_mode")
    resize = values.get("interpolation") or "bicubic"
    if resize not in ("bicubic", "bilinear"):
        raise TransferlabError(f"{OPEN_CLIP}: preprocess_cfg.interpolation '{resize}' is not 'bicubic' or 'bilinear'.")
    mean, std = tuple(values.get("mean") or plain.mean), tuple(values.get("std") or plain.std)
    if len(mean) != 3 or len(std) != 3:
        raise TransferlabError(f"{OPEN_CLIP}: preprocess_cfg mean {mean} and std {std} are not of three channels.")
    return ImageTransform(config.vision.image_size, mean, std, resize, 1.0, fit, crop_rounds=True)


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
    shapes = {path.removeprefix("vision/"): shape for path, shape in shapes.items()}
    vision, leaves = resized_positions_of(config.vision, shapes, image_size)
    return replace(config, vision=vision), {f"vision/{path}": resize for path, resize in leaves.items()}


CLIP_TEXT = Family(
    name="clip_text",
    config=TextTowerConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=("clip_text_model", "siglip_text_model"),
    names=lambda config: (text_names(config, "clip"), text_names(config, "open_clip")),
    from_hf=text_tower_from_hf,
    adjust=_adjust_text,
    head_pooling=lambda config: "pooler",
    to_hf=text_tower_to_hf,
    # The token that stands for the text goes by its id.
    vocabulary="",
    whole_length=lambda config: config.pooled_token == "last",
    no_pairs="it was trained on single captions, and its vector is that of the first token that ends a text",
)

CLIP = Family(
    name="clip",
    config=ClipConfig,
    modality="image and text",
    inputs=("pixel_values", "input_ids", "attention_mask", "position_ids"),
    model_types=("clip", "siglip"),
    names=lambda config: (*clip_names(config), *clip_tables(config)),
    from_hf=clip_from_hf,
    transform=lambda config: vit_transform(config.vision),
    resized=_resized,
    to_hf=clip_to_hf,
    vocabulary="",
    whole_length=lambda config: config.text.pooled_token == "last",
)
