"""ViT's names and configs in Hugging Face's files and timm's, and its names in open_clip's.

Hugging Face has it as ``ViTModel``, ``DeiTModel``, ``Dinov2Model``, ``CLIPVisionModel`` and ``SiglipVisionModel``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from transferlab.data.images import ImageTransform
from transferlab.errors import TransferlabError, nearest
from transferlab.fields import given_fields, given_number
from transferlab.models.heads import HeadConfig, Pooling
from transferlab.models.vit import ViTConfig
from transferlab.pretrained.big_vision import vit_tables
from transferlab.pretrained.family import Family
from transferlab.pretrained.names import BUFFER, Names, with_prefix
from transferlab.pretrained.positions import Resize, position_resize
from transferlab.pretrained.rules import leaves_of, named
from transferlab.pretrained.timm import TimmConfig, square

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


def vit_names(config: ViTConfig, dialect: Dialect) -> Names:
    """Return the table for this config in one of the dialects. Those of towers are without what stands before their keys."""
    leaves = leaves_of(config)
    if dialect in ("clip", "open_clip"):
        prefixes = ("vision_model.",) if dialect == "clip" else ("visual.",)
        return Names(
            named(_TOWERS[dialect], leaves), prefixes, ignored=((r"(vision_model\.)?embeddings\.position_ids", BUFFER),)
        )
    ignored = [(r"(.+\.)?mask_token", "for masked pre-training, no part of the encoder")]
    if dialect == "timm":
        text = f"norm norm {'fc_norm' if config.norm_pooled else 'norm'}\n{_TIMM}"
        if config.distillation_token and not config.pooler:
            ignored.append((r"head(_dist)?\.(weight|bias)", _TWO_HEADS))
        else:
            text += "linear? head head"
        return Names(named(text, leaves), ignored=tuple(ignored))
    text = _VIT if dialect == "vit" else _DINOV2_GATED if config.swiglu else _DINOV2
    ignored.append((r"decoder\.0\.(weight|bias)", "the pre-training head, no part of the encoder"))
    ignored.append((r"(cls|distillation)_classifier\.(weight|bias)", _TWO_HEADS))
    prefixes = ("dinov2_with_registers.", "dinov2.", "deit.", "vit.")
    return Names(named(text, leaves), prefixes, ignored=tuple(ignored))


_TWO_HEADS = "one of two heads whose mean a distilled model answers by; a new head takes their place"


def vit_from_hf(raw: Mapping[str, Any]) -> ViTConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    kind = raw["model_type"]
    if kind in ("clip_vision_model", "siglip_vision_model"):
        return vision_tower_from_hf(raw)
    dino = kind.startswith("dinov2")
    config = ViTConfig(layer_norm_eps=1e-6 if dino else 1e-12, patch_size=14 if kind == "dinov2" else 16)
    plain = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "num_channels",
        "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps", "qkv_bias",
    )  # fmt: skip
    given = given_fields(ViTConfig, {name: raw[name] for name in plain if name in raw})
    for name in ("image_size", "patch_size"):
        given[name] = square(raw.get(name) or getattr(config, name), name)
    if dino:
        inner = int(given.get("hidden_size", config.hidden_size) * given_number(raw, "mlp_ratio", 4.0))
        swiglu = bool(raw.get("use_swiglu_ffn"))
        # SwiGLU has three matrices: two thirds of the width, up to a multiple of 8, for as many parameters.
        given["intermediate_size"] = (int(inner * 2 / 3) + 7) // 8 * 8 if swiglu else inner
        classifies = any("ImageClassification" in name for name in raw.get("architectures") or ())
        given |= {
            "layer_scale": given_number(raw, "layerscale_value", 1.0),
            "swiglu": swiglu,
            "drop_path": given_number(raw, "drop_path_rate", 0.0),
            "pooling": "first and mean" if classifies else "first",
        }
    if kind == "dinov2_with_registers":
        registers = given_fields({"num_register_tokens": int}, raw).get("num_register_tokens", 4)
        return replace(config, registers=registers, position_rule="bicubic antialias", **given)
    if not dino:
        if raw.get("pooler_act", "tanh") != "tanh":
            raise TransferlabError(f"config.json: pooler_act '{raw['pooler_act']}' is not supported; only 'tanh'.")
        width = given.get("hidden_size", config.hidden_size)
        if (raw.get("pooler_output_size") or width) != width:
            raise TransferlabError(
                f"config.json: pooler_output_size {raw['pooler_output_size']} is not hidden_size {width}."
            )
        given["pooler"] = True
    config = replace(config, position_rule="bicubic", **given)
    return config.distilled() if kind == "deit" else config


def vision_tower_from_hf(raw: Mapping[str, Any]) -> ViTConfig:
    """Read Hugging Face's ``clip_vision_model`` or ``siglip_vision_model``, alone or beside a text tower."""
    siglip = str(raw["model_type"]).startswith("siglip")
    config = ViTConfig.siglip_b16() if siglip else ViTConfig.clip_b32()
    plain = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "num_channels",
        "initializer_range", "layer_norm_eps",
    )  # fmt: skip
    given = given_fields(ViTConfig, {name: raw[name] for name in plain if name in raw})
    given["attention_probs_dropout_prob"] = given_number(raw, "attention_dropout", 0.0)
    for name in ("image_size", "patch_size"):
        given[name] = square(raw.get(name) or getattr(config, name), name)
    if not siglip:
        given |= given_fields({"projection_dim": int}, raw)
    config = replace(config, **given)
    return config if raw.get("vision_use_head", True) else config.without_pooler()


_SIZES = {
    "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16),
    "giant": (1536, 40, 24), "so400m": (1152, 27, 16), "giantopt": (1536, 40, 16),
}  # fmt: skip
"""timm's sizes: width, layers, heads. Its only giant that is read is DINOv2's; giantopt is SigLIP 2's."""

TIMM_VITS = (
    r"vit_(tiny|small|base|large|huge)_patch(8|14|16|32)(_\d+)?|"
    r"vit_(small|base|large|giant)_patch14_(reg4_)?dinov2|"
    r"vit_(base|large|huge)_patch(14|16|32)_clip_(quickgelu_)?\d+|"
    r"vit_(base|large|so400m|giantopt)_patch(14|16|32)_siglip_(gap_)?\d+|"
    r"deit_(tiny|small|base)_(distilled_)?patch16_\d+|"
    r"deit3_(small|base|large|huge)_patch1[46]_\d+"
)
"""Architectures of timm that are read as this family, as a regular expression."""

_TANH_SIGLIPS = r"giantopt|so400m_patch16|patch32_siglip|large_patch16_siglip_(gap_)?512"
"""The sizes that came with SigLIP 2, whose GELU timm approximates; the older it computes by erf."""

_ARGUMENTS = (
    "img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads", "mlp_ratio",
    "qkv_bias", "init_values", "class_token", "no_embed_class", "reg_tokens", "fc_norm", "drop_path_rate",
    "attn_drop_rate", "dynamic_img_size", "weight_init", "fix_init",
)  # fmt: skip


_TYPES = {
    "embed_dim": int, "depth": int, "num_heads": int, "mlp_ratio": float, "qkv_bias": bool, "init_values": float,
    "class_token": bool, "no_embed_class": bool, "reg_tokens": int, "fc_norm": bool, "in_chans": int,
    "drop_path_rate": float, "attn_drop_rate": float, "global_pool": str,
}  # fmt: skip


def vit_from_timm(timm: TimmConfig) -> ViTConfig:
    """Read timm's config; an argument that this family cannot represent is an error that names it."""
    name = timm.architecture
    swiglu = name.startswith("vit_giant_")
    width, layers, heads = _SIZES[name.split("_")[1]]
    own: dict[str, Any] = {"embed_dim": width, "depth": layers, "num_heads": heads, "patch_size": _number(name)}
    if "dinov2" in name:
        own["init_values"] = 1e-5
    if swiglu:
        own["mlp_ratio"] = 2.66667 * 2
    if "reg4" in name:
        own |= {"reg_tokens": 4, "no_embed_class": True}
    act, eps, pre_norm = "gelu", 1e-6, "_clip_" in name
    if pre_norm:
        act, eps = "quick_gelu" if "quickgelu" in name else "gelu", 1e-5
    if "_siglip_" in name:
        own |= {"class_token": False, "global_pool": "avg" if "_gap_" in name else "map", "fc_norm": False}
        act = "gelu_pytorch_tanh" if re.search(_TANH_SIGLIPS, name) else "gelu"
    if "so400m" in name:
        own["mlp_ratio"] = 3.7362
    if name.startswith("deit3"):
        own |= {"init_values": 1e-6, "no_embed_class": True}
    for key, value in timm.arguments.items():
        # What is false, zero or absent is timm's default of all arguments but these.
        if key not in _ARGUMENTS and value not in (None, False, 0, "", "learn"):
            raise TransferlabError(
                f"config.json: model_args.{key} {value!r} is not supported.{nearest(key, _ARGUMENTS)}"
            )
    given = {**own, **timm.arguments, **given_fields(_TYPES, timm.arguments, where="config.json: model_args")}
    pools: dict[str, Pooling] = {"token": "first", "avg": "mean", "map": "pooler"}
    pool = given.get("global_pool", "token")
    if pool not in pools:
        raise TransferlabError(f"config.json: global_pool '{pool}' is not supported.{nearest(str(pool), pools)}")
    norm_pooled = given.get("fc_norm")
    # Attention pools what the norm has acted on, and takes no other norm.
    norm_pooled = None if pool == "map" and not norm_pooled else norm_pooled
    if norm_pooled and pool != "avg":
        raise TransferlabError(f"config.json: model_args.fc_norm with global_pool '{pool}' is not supported.")
    first, distilled, registers = given.get("class_token", True), "_distilled" in name, given.get("reg_tokens") or 0
    inner = int(given["embed_dim"] * given.get("mlp_ratio", 4.0))
    return ViTConfig(
        hidden_size=given["embed_dim"],
        num_hidden_layers=given["depth"],
        num_attention_heads=given["num_heads"],
        intermediate_size=inner // 2 if swiglu else inner,
        hidden_act=act,
        layer_norm_eps=eps,
        attention_probs_dropout_prob=given.get("attn_drop_rate") or 0.0,
        image_size=timm.image_size,
        patch_size=square(given["patch_size"], "model_args.patch_size"),
        num_channels=given.get("in_chans") or 3,
        qkv_bias=given.get("qkv_bias", True),
        class_token=first,
        distillation_token=distilled,
        registers=registers,
        position_slots=0 if given.get("no_embed_class") else first + distilled + registers,
        layer_scale=given.get("init_values"),
        swiglu=swiglu,
        patch_bias=not pre_norm,
        pre_norm=pre_norm,
        pooler=pool == "map",
        pooler_kind="attention" if pool == "map" else "tanh",
        pooling=pools[pool],
        norm_pooled=pool == "avg" if norm_pooled is None else norm_pooled,
        drop_path=given.get("drop_path_rate") or 0.0,
    )


def _number(architecture: str) -> int:
    found = re.search(r"patch(\d+)", architecture)
    assert found is not None
    return int(found.group(1))


def _all_names(config: ViTConfig) -> tuple[Names, ...]:
    dialects: tuple[Dialect, ...] = ("vit", "dinov2", "timm", "clip", "open_clip")
    return (*(vit_names(config, dialect) for dialect in dialects), *vit_tables(config))


def _adjust(config: ViTConfig, found: set[str]) -> ViTConfig:
    if config.pooler and not any(path.startswith("pooler/") for path in found):
        config = config.without_pooler()
    if "pooler/kernel" in found and not config.pooler:
        config = replace(config, pooler=True, pooling="pooler")
    return config if "projection/kernel" in found else config.without_projection()


def _resized(
    config: ViTConfig, shapes: Mapping[str, tuple[int, ...]], image_size: int
) -> tuple[ViTConfig, dict[str, Resize | None]]:
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


def vision_tower_to_hf(config: ViTConfig, head: HeadConfig | None) -> tuple[dict[str, Any], Names]:
    """Return Hugging Face's ``config.json`` of CLIP's or SigLIP's vision tower, and the names of its leaves."""
    kind = "clip" if config.pre_norm else "siglip"
    if head is not None:
        raise TransferlabError(f"Hugging Face's {kind}_vision_model has no classifier; write the format 'orbax'.")
    like = ViTConfig.clip_b32() if kind == "clip" else ViTConfig.siglip_b16()
    for name in (
        "hidden_dropout_prob", "qkv_bias", "class_token", "distillation_token", "registers", "position_slots", "layer_scale",
        "swiglu", "patch_bias", "pre_norm", "norm_pooled", "drop_path",
    ):  # fmt: skip
        if getattr(config, name) != getattr(like, name):
            raise TransferlabError(
                f"Hugging Face's {kind} cannot have {name} {getattr(config, name)!r}, only {getattr(like, name)!r}."
            )
    plain = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "num_channels",
        "initializer_range", "layer_norm_eps", "image_size", "patch_size",
    )  # fmt: skip
    raw: dict[str, Any] = {"model_type": f"{kind}_vision_model", **{name: getattr(config, name) for name in plain}}
    raw["attention_dropout"] = config.attention_probs_dropout_prob
    if kind == "siglip":
        raw |= {"architectures": ["SiglipVisionModel"], "vision_use_head": config.pooler}
    else:
        projected = config.projection_dim is not None
        raw["architectures"] = ["CLIPVisionModelWithProjection" if projected else "CLIPVisionModel"]
        raw |= {"projection_dim": config.projection_dim} if projected else {}
    return raw, with_prefix(vit_names(config, "clip"), "vision_model.", but=("projection/",))


def _to_hf(config: ViTConfig, head: HeadConfig | None) -> tuple[dict[str, Any], Names]:
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
    for name, value in fixed.items():
        if getattr(config, name) != value:
            raise TransferlabError(
                f"Hugging Face's {kind} cannot have {name} {getattr(config, name)!r}, only {value!r}."
            )
    plain = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "hidden_dropout_prob", "image_size",
        "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps", "patch_size", "num_channels", "qkv_bias",
    )  # fmt: skip
    name = {"vit": "ViT", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}[kind]
    raw: dict[str, Any] = {
        "architectures": [f"{name}{'Model' if head is None else 'ForImageClassification'}"],
        "model_type": kind,
        **{field: getattr(config, field) for field in plain},
    }
    if dialect == "vit":
        raw["intermediate_size"] = config.intermediate_size
    else:
        inner = config.intermediate_size
        raw |= {
            "use_swiglu_ffn": config.swiglu,
            "layerscale_value": config.layer_scale,
            "drop_path_rate": config.drop_path,
        }
        ratio = inner * (1.5 if config.swiglu else 1) / config.hidden_size
        raw["mlp_ratio"] = int(ratio) if ratio == int(ratio) else ratio
        if config.registers:
            raw["num_register_tokens"] = config.registers
    names = vit_names(config, dialect)
    return raw, names if head is None else with_prefix(names, f"{kind}.", but=("head/",))


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
    resized=_resized,
    input_kernel="embed/patch/kernel",
)
