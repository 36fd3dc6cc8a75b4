"""ViT's names and configs in Hugging Face's files and timm's, and its names in open_clip's.

Hugging Face has it as ``ViTModel``, ``DeiTModel``, ``Dinov2Model``, ``CLIPVisionModel`` and ``SiglipVisionModel``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from transferlab.data.images import ImageTransform
from transferlab.errors import TransferlabError
from transferlab.fields import given_fields, given_number
from transferlab.models.heads import HeadConfig
from transferlab.models.vit import ViTConfig
from transferlab.pretrained.families.big_vision import vit_tables
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, refuse_unwritable, squares
from transferlab.pretrained.families.vit_timm import TIMM_VITS, vit_from_timm
from transferlab.pretrained.names import BUFFER, MASK_TOKEN, PRETRAINING_HEAD, NameTable, with_prefix
from transferlab.pretrained.positions import Resize, position_resize
from transferlab.pretrained.rules import leaves_of, named

Dialect = Literal["vit", "dinov2", "timm", "clip", "open_clip"]
"""Whose keys: Hugging Face's ViT and DeiT, its DINOv2, timm's, Hugging Face's CLIP and SigLIP, open_clip's."""


_BLOCKS = """
norm    layers/{i}/{attention,mlp}/norm                 blocks.{i}.{norm1,norm2}
linear  layers/{i}/attention/{query,key,value}          blocks.{i}.attn.qkv
linear  layers/{i}/attention/output                     blocks.{i}.attn.proj
linear  layers/{i}/mlp/{gate,up}                        blocks.{i}.mlp.fc1
linear  layers/{i}/mlp/{up,down}                        blocks.{i}.mlp.{fc1,fc2}
same    layers/{i}/{attention,mlp}/layer_scale          blocks.{i}.{ls1,ls2}.gamma
"""

_TIMM = f"""
conv    embed/patch                                     patch_embed.proj
row     embed/position                                  pos_embed
token   embed/{{class_token,distillation_token}}        {{cls,dist}}_token
row     embed/registers                                 reg_token
norm    embed/norm                                      norm_pre
{_BLOCKS}
token   pooler/probe                                    attn_pool.latent
linear  pooler/attention/query                          attn_pool.q
linear  pooler/attention/{{key,value}}                  attn_pool.kv
linear  pooler/attention/output                         attn_pool.proj
norm    pooler/mlp/norm                                 attn_pool.norm
linear  pooler/mlp/{{up,down}}                          attn_pool.mlp.{{fc1,fc2}}
"""

_EMBED = """
conv    embed/patch                                     embeddings.patch_embeddings.projection
row     embed/position                                  embeddings.position_embeddings
token   embed/{class_token,distillation_token}          embeddings.{cls,distillation}_token
row     embed/registers                                 embeddings.register_tokens
linear  layers/{i}/attention/{query,key,value}          encoder.layer.{i}.attention.attention.{query,key,value}
linear  layers/{i}/attention/output                     encoder.layer.{i}.attention.output.dense
norm    norm                                            layernorm
same    layers/{i}/{attention,mlp}/layer_scale          encoder.layer.{i}.{layer_scale1,layer_scale2}.lambda1
linear? pooler                                          pooler.dense
linear? head                                            classifier
"""

_VIT = f"""
norm    layers/{{i}}/{{attention,mlp}}/norm             encoder.layer.{{i}}.layernorm_{{before,after}}
linear  layers/{{i}}/mlp/{{up,down}}                    encoder.layer.{{i}}.{{intermediate,output}}.dense
{_EMBED}
"""

_DINOV2 = f"""
norm    layers/{{i}}/{{attention,mlp}}/norm             encoder.layer.{{i}}.{{norm1,norm2}}
linear  layers/{{i}}/mlp/{{up,down}}                    encoder.layer.{{i}}.mlp.{{fc1,fc2}}
{_EMBED}
"""

_DINOV2_GATED = f"""
linear  layers/{{i}}/mlp/{{gate,up}}                    encoder.layer.{{i}}.mlp.weights_in
linear  layers/{{i}}/mlp/down                           encoder.layer.{{i}}.mlp.weights_out
{_DINOV2}
"""

TOWER = {
    "clip": """
norm    layers/{i}/{attention,mlp}/norm                 encoder.layers.{i}.{layer_norm1,layer_norm2}
linear  layers/{i}/attention/{query,key,value,output}   encoder.layers.{i}.self_attn.{q,k,v,out}_proj
linear  layers/{i}/mlp/{up,down}                        encoder.layers.{i}.mlp.{fc1,fc2}
""",
    "open_clip": """
norm      layers/{i}/{attention,mlp}/norm               transformer.resblocks.{i}.{ln_1,ln_2}
attention layers/{i}/attention/{query,key,value}        transformer.resblocks.{i}.attn
linear    layers/{i}/attention/output                   transformer.resblocks.{i}.attn.out_proj
linear    layers/{i}/mlp/{up,down}                      transformer.resblocks.{i}.mlp.{c_fc,c_proj}
""",
}
"""The layers of a tower, for images or texts, as Hugging Face's CLIP and open_clip have them."""

_ATTENTION_POOLER = """
token     pooler/probe                                  head.probe
attention pooler/attention/{query,key,value}            head.attention
linear    pooler/attention/output                       head.attention.out_proj
norm      pooler/mlp/norm                               head.layernorm
linear    pooler/mlp/{up,down}                          head.mlp.{fc1,fc2}
"""

_TOWERS = {
    "clip": f"""
conv      embed/patch                                   embeddings.patch_embedding
same      embed/position                                embeddings.position_embedding.weight
same      embed/class_token                             embeddings.class_embedding
norm      embed/norm                                    pre_layrnorm
{TOWER["clip"]}
norm      norm                                          post_layernorm
{_ATTENTION_POOLER}
matrix    projection/kernel                             visual_projection.weight
""",
    "open_clip": f"""
conv      embed/patch                                   conv1
same      embed/position                                positional_embedding
same      embed/class_token                             class_embedding
norm      embed/norm                                    ln_pre
{TOWER["open_clip"]}
norm      norm                                          ln_post
{_ATTENTION_POOLER}
same      projection/kernel                             proj
""",
}


def vit_names(config: ViTConfig, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the dialects. Those of towers are without the prefix of their keys."""
    leaves = leaves_of(config)
    if dialect in ("clip", "open_clip"):
        prefixes = ("vision_model.",) if dialect == "clip" else ("visual.",)
        return NameTable(
            named(_TOWERS[dialect], leaves), prefixes, ignored=((r"(vision_model\.)?embeddings\.position_ids", BUFFER),)
        )
    ignored = [(r"(.+\.)?mask_token", MASK_TOKEN)]
    if dialect == "timm":
        text = f"norm norm {'fc_norm' if config.norm_pooled else 'norm'}\n{_TIMM}"
        if config.distillation_token and not config.pooler:
            ignored.append((r"head(_dist)?\.(weight|bias)", _TWO_HEADS))
        else:
            text += "linear? head head"
        return NameTable(named(text, leaves), ignored=tuple(ignored))
    text = _VIT if dialect == "vit" else _DINOV2_GATED if config.swiglu else _DINOV2
    ignored.append((r"decoder\.0\.(weight|bias)", PRETRAINING_HEAD))
    ignored.append((r"(cls|distillation)_classifier\.(weight|bias)", _TWO_HEADS))
    prefixes = ("dinov2_with_registers.", "dinov2.", "deit.", "vit.")
    return NameTable(named(text, leaves), prefixes, ignored=tuple(ignored))


_TWO_HEADS = "one of two heads whose mean a distilled model predicts by; a new head takes their place"


_TOWER = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "num_channels",
    "initializer_range", "layer_norm_eps",
)  # fmt: skip
_ENCODER = (*_TOWER, "hidden_dropout_prob", "attention_probs_dropout_prob", "qkv_bias")
"""Fields of Hugging Face's ``config.json`` that are called so here."""


def vit_from_hf(raw: Mapping[str, Any]) -> ViTConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    kind = raw["model_type"]
    if kind in ("clip_vision_model", "siglip_vision_model"):
        return vision_tower_from_hf(raw)
    dino = kind.startswith("dinov2")
    config = ViTConfig(layer_norm_eps=1e-6 if dino else 1e-12, patch_size=14 if kind == "dinov2" else 16)
    values = given_fields(ViTConfig, {name: raw[name] for name in _ENCODER if name in raw}) | squares(raw, config)
    if dino:
        inner = int(values.get("hidden_size", config.hidden_size) * given_number(raw, "mlp_ratio", 4.0))
        swiglu = bool(raw.get("use_swiglu_ffn"))
        # SwiGLU has three matrices: two thirds of the width, up to a multiple of 8, for as many parameters.
        values["intermediate_size"] = (int(inner * 2 / 3) + 7) // 8 * 8 if swiglu else inner
        classifies = any("ImageClassification" in name for name in raw.get("architectures") or ())
        values |= {
            "layer_scale": given_number(raw, "layerscale_value", 1.0),
            "swiglu": swiglu,
            "drop_path": given_number(raw, "drop_path_rate", 0.0),
            "pooling": "first and mean" if classifies else "first",
        }
    if kind == "dinov2_with_registers":
        registers = given_fields({"num_register_tokens": int}, raw).get("num_register_tokens", 4)
        return replace(config, registers=registers, position_rule="bicubic antialias", **values)
    if not dino:
        if raw.get("pooler_act", "tanh") != "tanh":
            raise TransferlabError(f"config.json: pooler_act '{raw['pooler_act']}' is not supported; only 'tanh'.")
        width = values.get("hidden_size", config.hidden_size)
        if (raw.get("pooler_output_size") or width) != width:
            raise TransferlabError(
                f"config.json: pooler_output_size {raw['pooler_output_size']} is not hidden_size {width}."
            )
        values["pooler"] = True
    config = replace(config, position_rule="bicubic", **values)
    return config.distilled() if kind == "deit" else config


def vision_tower_from_hf(raw: Mapping[str, Any]) -> ViTConfig:
    """Read Hugging Face's ``clip_vision_model`` or ``siglip_vision_model``, alone or next to a text tower."""
    siglip = str(raw["model_type"]).startswith("siglip")
    config = ViTConfig.siglip_b16() if siglip else ViTConfig.clip_b32()
    values = given_fields(ViTConfig, {name: raw[name] for name in _TOWER if name in raw}) | squares(raw, config)
    values["attention_probs_dropout_prob"] = given_number(raw, "attention_dropout", 0.0)
    if not siglip:
        values |= given_fields({"projection_dim": int}, raw)
    config = replace(config, **values)
    return config if raw.get("vision_use_head", True) else config.without_pooler()


def _all_names(config: ViTConfig) -> tuple[NameTable, ...]:
    dialects: tuple[Dialect, ...] = ("vit", "dinov2", "timm", "clip", "open_clip")
    return (*(vit_names(config, dialect) for dialect in dialects), *vit_tables(config))


def _adjust(config: ViTConfig, found: set[str]) -> ViTConfig:
    if config.pooler and not any(path.startswith("pooler/") for path in found):
        config = config.without_pooler()
    if "pooler/kernel" in found and not config.pooler:
        config = replace(config, pooler=True, pooling="pooler")
    return config if "projection/kernel" in found else config.without_projection()


def resized_positions_of(
    config: ViTConfig, shapes: Mapping[str, tuple[int, ...]], image_size: int
) -> tuple[ViTConfig, dict[str, Resize | None]]:
    """Return the config for another image size, and how its positions are brought there."""
    new = replace(config, image_size=image_size)
    path = "embed/position"
    return new, {path: position_resize(shapes[path], config.position_slots, new.grid, config.position_rule)}


_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def vit_transform(config: ViTConfig) -> ImageTransform:
    """Preprocessing of weights that bring none: that of CLIP's, SigLIP's or ViT's processor at Hugging Face."""
    if config.pre_norm:
        return ImageTransform(config.image_size, *_OPENAI, "bicubic", 1.0, "crop")
    half = (0.5, 0.5, 0.5)
    resize = "bicubic" if config.pooler_kind == "attention" else "bilinear"
    return ImageTransform(config.image_size, half, half, resize, 1.0, "squash")


def _modules(model_type: str) -> tuple[tuple[str, str], ...]:
    parts = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
    pairs = [(rf"\.attention\.attention\.{old}\.", f".attention.{new}.") for old, new in parts]
    pairs.append((r"\.attention\.output\.dense\.", ".attention.o_proj."))
    if model_type in ("vit", "deit"):
        pairs += [(r"\.intermediate\.dense\.", ".mlp.fc1."), (r"(\d)\.output\.dense\.", r"\1.mlp.fc2.")]
        pairs.append((r"(^|\.)encoder\.layer\.", r"\1layers."))
    return tuple(pairs)


def projection_to_hf(name: str, projection_dim: int | None) -> dict[str, Any]:
    """Return what ``config.json`` says of a tower of CLIP's with or without its map into the shared space."""
    if projection_dim is None:
        return {"architectures": [name]}
    return {"architectures": [f"{name}WithProjection"], "projection_dim": projection_dim}


def vision_tower_to_hf(config: ViTConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    """Return Hugging Face's ``config.json`` of CLIP's or SigLIP's vision tower, and the names of its leaves."""
    kind = "clip" if config.pre_norm else "siglip"
    if head is not None:
        raise TransferlabError(f"Hugging Face's {kind}_vision_model has no classifier; write the format 'orbax'.")
    like = ViTConfig.clip_b32() if kind == "clip" else ViTConfig.siglip_b16()
    fixed = (
        "hidden_dropout_prob", "qkv_bias", "class_token", "distillation_token", "registers", "position_slots", "layer_scale",
        "swiglu", "patch_bias", "pre_norm", "norm_pooled", "drop_path",
    )  # fmt: skip
    refuse_unwritable(kind, config, {name: getattr(like, name) for name in fixed})
    fields = {name: getattr(config, name) for name in (*_TOWER, "image_size", "patch_size")}
    raw: dict[str, Any] = {"model_type": f"{kind}_vision_model", **fields}
    raw["attention_dropout"] = config.attention_probs_dropout_prob
    if kind == "siglip":
        raw |= {"architectures": ["SiglipVisionModel"], "vision_use_head": config.pooler}
    else:
        raw |= projection_to_hf("CLIPVisionModel", config.projection_dim)
    return raw, with_prefix(vit_names(config, "clip"), "vision_model.", but=("projection/",))


def _to_hf(config: ViTConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    """ViT where it can hold the config, else DINOv2; CLIP's and SigLIP's towers as such; what none can is an error."""
    if config.pre_norm or config.pooler_kind == "attention":
        return vision_tower_to_hf(config, head)
    dialect: Dialect = "vit" if config.layer_scale is None and not config.registers else "dinov2"
    kind = "vit" if dialect == "vit" else "dinov2_with_registers" if config.registers else "dinov2"
    fixed: dict[str, Any] = {
        "class_token": True,
        "distillation_token": False,
        "position_slots": 1,
        "norm_pooled": False,
        "patch_bias": True,
        "projection_dim": None,
    }
    fixed |= {"swiglu": False} if dialect == "vit" else {"pooler": False}
    refuse_unwritable(kind, config, fixed)
    name = {"vit": "ViT", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}[kind]
    raw: dict[str, Any] = {
        "model_type": kind,
        **{field: getattr(config, field) for field in (*_ENCODER, "image_size", "patch_size")},
    }
    if dialect == "dinov2":
        inner = raw.pop("intermediate_size")
        raw |= {
            "use_swiglu_ffn": config.swiglu,
            "layerscale_value": config.layer_scale,
            "drop_path_rate": config.drop_path,
        }
        ratio = inner * (1.5 if config.swiglu else 1) / config.hidden_size
        raw["mlp_ratio"] = int(ratio) if ratio == int(ratio) else ratio
        if config.registers:
            raw["num_register_tokens"] = config.registers
    return description(name, "ImageClassification", raw, vit_names(config, dialect), head)


VIT = Family(
    name="vit",
    config=ViTConfig,
    modality="image",
    inputs=("pixel_values",),
    model_types=(
        "vit",
        "deit",
        "dinov2",
        "dinov2_with_registers",
        "clip_vision_model",
        "siglip_vision_model",
    ),
    architectures=TIMM_VITS,
    names=_all_names,
    from_hf=vit_from_hf,
    from_timm=vit_from_timm,
    adjust=_adjust,
    transform=vit_transform,
    head_pooling=lambda config: config.pooling,
    to_hf=_to_hf,
    modules=_modules,
    resized=resized_positions_of,
    input_kernel="embed/patch/kernel",
)
