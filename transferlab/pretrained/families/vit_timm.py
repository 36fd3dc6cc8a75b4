"""timm's Vision Transformers: the config that an architecture's name and its arguments mean."""

from __future__ import annotations

import re
from typing import Any

from transferlab.errors import TransferlabError, nearest
from transferlab.fields import given_fields
from transferlab.models.heads import Pooling
from transferlab.models.vit import ViTConfig
from transferlab.pretrained.timm import TimmConfig, square

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
    arguments = {**own, **timm.arguments, **given_fields(_TYPES, timm.arguments, where="config.json: model_args")}
    pools: dict[str, Pooling] = {"token": "first", "avg": "mean", "map": "pooler"}
    pool = arguments.get("global_pool", "token")
    if pool not in pools:
        raise TransferlabError(f"config.json: global_pool '{pool}' is not supported.{nearest(str(pool), pools)}")
    norm_pooled = arguments.get("fc_norm")
    # Attention pools what the norm has acted on, and takes no other norm.
    norm_pooled = None if pool == "map" and not norm_pooled else norm_pooled
    if norm_pooled and pool != "avg":
        raise TransferlabError(f"config.json: model_args.fc_norm with global_pool '{pool}' is not supported.")
    first, distilled, registers = (
        arguments.get("class_token", True),
        "_distilled" in name,
        arguments.get("reg_tokens") or 0,
    )
    inner = int(arguments["embed_dim"] * arguments.get("mlp_ratio", 4.0))
    return ViTConfig(
        hidden_size=arguments["embed_dim"],
        num_hidden_layers=arguments["depth"],
        num_attention_heads=arguments["num_heads"],
        intermediate_size=inner // 2 if swiglu else inner,
        hidden_act=act,
        layer_norm_eps=eps,
        attention_probs_dropout_prob=arguments.get("attn_drop_rate") or 0.0,
        image_size=timm.image_size,
        patch_size=square(arguments["patch_size"], "model_args.patch_size"),
        num_channels=arguments.get("in_chans") or 3,
        qkv_bias=arguments.get("qkv_bias", True),
        class_token=first,
        distillation_token=distilled,
        registers=registers,
        position_slots=0 if arguments.get("no_embed_class") else first + distilled + registers,
        layer_scale=arguments.get("init_values"),
        swiglu=swiglu,
        patch_bias=not pre_norm,
        pre_norm=pre_norm,
        pooler=pool == "map",
        pooler_kind="attention" if pool == "map" else "tanh",
        pooling=pools[pool],
        norm_pooled=pool == "avg" if norm_pooled is None else norm_pooled,
        drop_path=arguments.get("drop_path_rate") or 0.0,
    )


def _number(architecture: str) -> int:
    match = re.search(r"patch(\d+)", architecture)
    assert match is not None
    return int(match.group(1))
