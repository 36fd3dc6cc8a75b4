"""Vision Transformer (Dosovitskiy et al. 2021), and what shares its architecture: DeiT (Touvron et al. 2021), DINOv2,
and the vision towers of CLIP and SigLIP.

Pre-norm encoder over square patches, learned positions, erf GELU. DINOv2 (Oquab et al. 2023) adds LayerScale, SwiGLU in
its largest size, and registers (Darcet et al. 2023). CLIP (Radford et al. 2021) adds a norm before the layers and a
projection; SigLIP (Zhai et al. 2023) pools by attention. All sizes come from the config.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, Natural, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError, nearest
from transferlab.fields import check_fields
from transferlab.models.attention import Attention
from transferlab.models.backbone import Carry, Model, Stage, Token
from transferlab.models.convolutions import Patches
from transferlab.models.heads import HeadConfig, Pooling, pool, read_hidden
from transferlab.models.layers import (
    ACTIVATIONS,
    Constant,
    Key,
    Linear,
    TruncatedNormal,
    drop_path,
    dropout,
    gated,
    parameter,
)
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size

PositionRule = Literal["bicubic", "bicubic antialias", "linear zoom"]
"""How the reference implementation brings its positions to another grid; :mod:`transferlab.pretrained.positions` holds the formulas."""


@dataclass(frozen=True)
class ViTConfig:
    """Sizes and constants, under Hugging Face's names where it has one.

    Attributes:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of the encoder.
        image_size, patch_size: pixels of a side; what is left over at the right and below is not seen.
        layer_norm_eps: 1e-6 in timm and DINOv2, 1e-12 in Hugging Face's ViT and DeiT.
        class_token, distillation_token, registers: the tokens before the patches, in this order.
        position_slots: how many of those have a position of their own, from the first on.
        layer_scale: first value of LayerScale's gains (Touvron et al. 2021b); None has none.
        swiglu: a gated MLP, ``down(silu(gate(x)) · up(x))`` (Shazeer 2020).
        patch_bias: whether the patches' map has a bias; CLIP's has none.
        pre_norm: a LayerNorm of all tokens before the first layer, as in CLIP.
        pooler: whether there is one, and ``pooler_kind`` which: ``tanh`` over a linear map of the first token, as
            Hugging Face's ``ViTModel`` has it, or ``attention`` of a learned query (the MAP head of SigLIP).
        projection_dim: width of the space shared with texts, to which the pooled vector is mapped; None has no map.
        pooling: how the reference implementation's head pools.
        norm_pooled: the final norm acts on the pooled vector and not on the tokens (timm's ``fc_norm``).
        norm_hidden: whether ``hidden`` has passed the final norm; Hugging Face's CLIP (and OpenAI's) returns it as the last
            layer left it, where timm's and open_clip's return it normalised. What pools reads normalised tokens anyway.
        drop_path: rate of stochastic depth at the last layer, rising linearly from 0.
        position_rule: how the reference implementation resizes positions.
    """

    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    initializer_range: NonNegative = 0.02
    layer_norm_eps: Positive = 1e-6
    image_size: Count = 224
    patch_size: Count = 16
    num_channels: Count = 3
    qkv_bias: bool = True
    class_token: bool = True
    distillation_token: bool = False
    registers: Natural = 0
    position_slots: Natural = 1
    layer_scale: float | None = None
    swiglu: bool = False
    patch_bias: bool = True
    pre_norm: bool = False
    pooler: bool = False
    pooler_kind: Literal["tanh", "attention"] = "tanh"
    projection_dim: Count | None = None
    pooling: Pooling = "first"
    norm_pooled: bool = False
    norm_hidden: bool = True
    drop_path: Rate = 0.0
    position_rule: PositionRule = "bicubic antialias"

    def __post_init__(self) -> None:
        check_fields(self, "ViTConfig")
        if self.hidden_size % self.num_attention_heads:
            raise TransferlabError(
                f"ViTConfig: hidden_size {self.hidden_size} is no multiple of num_attention_heads "
                f"{self.num_attention_heads}."
            )
        if self.image_size < self.patch_size:
            raise TransferlabError(
                f"ViTConfig: image_size {self.image_size} is smaller than one patch (patch_size {self.patch_size})."
            )
        if self.hidden_act not in ACTIVATIONS:
            raise TransferlabError(f"ViTConfig: unknown hidden_act.{nearest(self.hidden_act, ACTIVATIONS)}")
        if not 0 <= self.position_slots <= self.prefix:
            raise TransferlabError(
                f"ViTConfig: position_slots is {self.position_slots}; there are {self.prefix} tokens before the patches."
            )
        if self.pooler and self.pooler_kind == "tanh" and not self.class_token:
            raise TransferlabError("ViTConfig: pooler_kind 'tanh' needs the class token, and class_token is false.")
        if self.pooling not in _poolings(self):
            raise TransferlabError(
                f"ViTConfig: pooling '{self.pooling}' is not possible here.{nearest(self.pooling, _poolings(self))}"
            )

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        return self.class_token + self.distillation_token + self.registers

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    # fmt: off
    # hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, where a size gives four numbers.
    ti16 = Size("ViT-Ti/16: 12 layers, 192 wide, 5.5 M parameters.", 192, 12, 3, 768)
    s16 = Size("ViT-S/16: 12 layers, 384 wide, 21.7 M parameters.", 384, 12, 6, 1536)
    b16 = Size("ViT-B/16: 12 layers, 768 wide, 85.8 M parameters.")
    b32 = Size("ViT-B/32: 12 layers, 768 wide, 87.5 M parameters.", patch_size=32)
    l16 = Size("ViT-L/16: 24 layers, 1024 wide, 303 M parameters.", 1024, 24, 16, 4096)
    h14 = Size("ViT-H/14: 32 layers, 1280 wide, 631 M parameters.", 1280, 32, 16, 5120, patch_size=14)
    dinov2_s14 = s16.but("DINOv2 ViT-S/14, trained at 518 px: 22.1 M parameters.",
        patch_size=14, image_size=518, layer_scale=1e-5)
    dinov2_b14 = b16.but("DINOv2 ViT-B/14, trained at 518 px: 86.6 M parameters.",
        patch_size=14, image_size=518, layer_scale=1e-5)
    dinov2_l14 = l16.but("DINOv2 ViT-L/14, trained at 518 px: 304 M parameters.",
        patch_size=14, image_size=518, layer_scale=1e-5)
    dinov2_g14 = Size("DINOv2 ViT-g/14, trained at 518 px, with SwiGLU: 1.14 G parameters.",
        1536, 40, 24, 4096, patch_size=14, image_size=518, layer_scale=1e-5, swiglu=True)
    clip_b32 = Size("The vision tower of CLIP ViT-B/32: 87.8 M parameters, 0.4 M of them the projection.",
        patch_size=32, hidden_act="quick_gelu", layer_norm_eps=1e-5, patch_bias=False, pre_norm=True,
        projection_dim=512, norm_hidden=False, position_rule="bicubic")
    clip_b16 = clip_b32.but("The vision tower of CLIP ViT-B/16: 86.2 M parameters.", patch_size=16)
    clip_l14 = clip_b16.but("The vision tower of CLIP ViT-L/14: 304 M parameters.",
        1024, 24, 16, 4096, patch_size=14, projection_dim=768)
    siglip_b16 = Size("The vision tower of SigLIP ViT-B/16: 92.9 M parameters.",
        hidden_act="gelu_pytorch_tanh", class_token=False, position_slots=0, pooler=True, pooler_kind="attention",
        pooling="pooler", position_rule="bicubic")
    siglip_l16 = siglip_b16.but("The vision tower of SigLIP ViT-L/16 at 256 px: 316 M parameters.",
        1024, 24, 16, 4096, image_size=256)
    siglip_so400m14 = siglip_b16.but(
        "The vision tower of SigLIP SoViT-400m/14 (Alabdulmohsin et al. 2023) at 384 px: 428 M parameters.",
        1152, 27, 16, 4304, patch_size=14, image_size=384)
    # fmt: on

    def distilled(self) -> ViTConfig:
        """DeiT's variant of a size, with a distillation token; without it DeiT is ViT."""
        return replace(self, distillation_token=True, position_slots=2)

    def without_pooler(self) -> ViTConfig:
        """The same encoder without its pooler."""
        return replace(self, pooler=False, pooling="mean" if self.pooling == "pooler" else self.pooling)

    def without_projection(self) -> ViTConfig:
        """The same encoder without the map into the space shared with texts."""
        return replace(self, projection_dim=None)

    def build(self, head: HeadConfig | None = None) -> ViT:
        """Return the module; nothing is allocated."""
        return ViT(self, head)


def _poolings(config: ViTConfig) -> tuple[Pooling, ...]:
    """How a head may pool: not by a token that is not there, or one that the final norm does not act on."""
    first: tuple[Pooling, ...] = () if config.norm_pooled or not config.class_token else ("first", "first and mean")
    pooler: tuple[Pooling, ...] = ("pooler",) if config.pooler else ()
    shared: tuple[Pooling, ...] = ("embedding",) if config.projection_dim else ()
    return ("mean", *first, *pooler, *shared, "stages")


class Embed(nnx.Module):
    """Patches and the tokens before them, with their positions."""

    def __init__(self, config: ViTConfig):
        features, normal = config.hidden_size, TruncatedNormal(config.initializer_range)
        self.patch = Patches(
            config.num_channels, features, config.patch_size, bias=config.patch_bias, initialiser=normal
        )
        self.class_token = parameter((features,), normal) if config.class_token else None
        self.distillation_token = parameter((features,), normal) if config.distillation_token else None
        self.registers = parameter((config.registers, features), normal) if config.registers else None
        self.position = parameter((config.position_slots + config.grid**2, features), normal)
        self.norm = LayerNorm(features, config.layer_norm_eps) if config.pre_norm else None
        self.slots, self.image_size, self.dropout = config.position_slots, config.image_size, config.hidden_dropout_prob

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        pixels, size = inputs["pixel_values"], self.image_size
        if pixels.shape[1:3] != (size, size):
            raise TransferlabError(
                f"Images of {pixels.shape[1]} × {pixels.shape[2]} pixels do not fit: this model reads {size} × {size}. "
                f"source.resized({pixels.shape[1]}) brings its positions to another size."
            )
        position = self.position[...]
        patches = self.patch(pixels).reshape(len(pixels), -1, position.shape[-1]) + position[self.slots :]
        tokens = [token[...][None] for token in (self.class_token, self.distillation_token) if token is not None]
        if self.registers is not None:
            tokens.append(self.registers[...])
        if tokens:
            prefix = jnp.concatenate(tokens)
            prefix = jnp.concatenate([prefix[: self.slots] + position[: self.slots], prefix[self.slots :]])
            prefix = jnp.broadcast_to(prefix.astype(patches.dtype), (patches.shape[0], *prefix.shape))
            patches = jnp.concatenate([prefix, patches], axis=1)
        rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
        x = dropout(patches, self.dropout, key)
        return {**rest, "hidden": x if self.norm is None else self.norm(x)}


class SelfAttention(Attention):
    """Attention with its pre-norm and, where the config has it, LayerScale."""

    def __init__(self, config: ViTConfig):
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            dropout=config.attention_probs_dropout_prob,
            bias=config.qkv_bias,
            initialiser=TruncatedNormal(config.initializer_range),
        )
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layer_scale = _layer_scale(config)


class Mlp(nnx.Module):
    """Two linear maps with an activation between them, or SwiGLU's three; pre-norm and residual are the layer's."""

    def __init__(self, config: ViTConfig):
        normal, features, inner = (
            TruncatedNormal(config.initializer_range),
            config.hidden_size,
            config.intermediate_size,
        )
        self.norm = LayerNorm(features, config.layer_norm_eps)
        self.gate = Linear(features, inner, initialiser=normal) if config.swiglu else None
        self.up = Linear(features, inner, initialiser=normal)
        self.down = Linear(inner, features, initialiser=normal)
        self.layer_scale = _layer_scale(config)
        self.activation = config.hidden_act

    def __call__(self, x: Float[Array, "*batch features"], key: Key | None) -> Float[Array, "*batch features"]:
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        y = self.up(x, keys[0])
        y = ACTIVATIONS[self.activation](y) if self.gate is None else gated("silu", self.gate(x, keys[1]), y)
        return self.down(y, keys[2])


class Layer(nnx.Module):
    """One encoder layer: attention, then the MLP, each after a LayerNorm and added to what came in."""

    def __init__(self, config: ViTConfig, rate: float):
        self.attention = SelfAttention(config)
        self.mlp = Mlp(config)
        self.dropout, self.drop_path = config.hidden_dropout_prob, rate

    def __call__(self, carry: Carry, key: Key | None, query_token: Token | None = None) -> Carry:
        keys = [None] * 6 if key is None else list(jax.random.split(key, 6))
        x = carry["hidden"]
        normal = self.attention.norm(x)
        if query_token is not None:
            x = query_token.of(carry, x)
        queries = normal if query_token is None else query_token.of(carry, normal)
        y = dropout(self.attention(normal, None, keys[0], queries=queries), self.dropout, keys[1])
        x = x + drop_path(_scaled(y, self.attention.layer_scale), self.drop_path, keys[2])
        y = dropout(self.mlp(self.mlp.norm(x), keys[3]), self.dropout, keys[4])
        return {**carry, "hidden": x + drop_path(_scaled(y, self.mlp.layer_scale), self.drop_path, keys[5])}


class AttentionPooler(nnx.Module):
    """Multi-head attention pooling, MAP (Zhai et al. 2022, "Scaling vision transformers"): a learned query, then an MLP."""

    def __init__(self, config: ViTConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.probe = parameter((config.hidden_size,), normal)
        self.attention = Attention(config.hidden_size, config.num_attention_heads, dropout=0.0, initialiser=normal)
        self.mlp = Mlp(replace(config, swiglu=False, layer_scale=None))

    def __call__(self, x: Float[Array, "batch length features"], key: Key | None) -> Float[Array, "batch features"]:
        first, second = (None, None) if key is None else jax.random.split(key)
        # One query for each example, over all of its tokens.
        probe = jnp.broadcast_to(self.probe[...], (x.shape[0], 1, x.shape[-1]))
        y = self.attention(x, None, first, queries=probe)[:, 0]
        return y + self.mlp(self.mlp.norm(y), second)


class ViT(Model):
    """The encoder, an optional pooler, an optional map into the space shared with texts, and an optional head.

    Inputs: ``pixel_values`` (batch, image_size, image_size, channels), normalised.
    """

    inputs = ("pixel_values",)

    def __init__(self, config: ViTConfig, head: HeadConfig | None = None):
        self.config = config
        self.poolings = _poolings(config)
        self.embed = Embed(config)
        last = max(config.num_hidden_layers - 1, 1)
        rates = [config.drop_path * i / last for i in range(config.num_hidden_layers)]
        self.layers = nnx.List([Layer(config, rate) for rate in rates])
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.pooler = _pooler(config)
        self.projection = _projection(config)
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        width = config.hidden_size * max(len(names), 1)
        if head is not None and head.pooling == "first and mean":
            width = 2 * config.hidden_size
        elif head is not None and head.pooling == "embedding":
            width = config.projection_dim or config.hidden_size
        self.head = None if head is None else head.build(width, feature_stages=names)

    def feature_stages(self) -> tuple[str, ...]:
        """The stages whose pooled hidden states describe an example."""
        return ("embed", *(f"layers/{i}" for i in range(self.config.num_hidden_layers)), "norm")

    def backbone_stages(self) -> tuple[Stage, ...]:
        config = self.config
        noisy = config.hidden_dropout_prob > 0 or config.attention_probs_dropout_prob > 0
        stages = [Stage("embed", self.embed, owns=("embed",), random=config.hidden_dropout_prob > 0)]
        for i, layer in enumerate(self.layers):
            random = noisy or layer.drop_path > 0
            stages.append(Stage(f"layers/{i}", layer, owns=(f"layers/{i}",), random=random, single_query=layer))
        stages.append(Stage("norm", self.normalise, owns=("norm",)))
        if self.pooler is not None:
            stages.append(Stage("pooler", self.run_pooler, owns=("pooler",)))
        if self.projection is not None:
            stages.append(Stage("projection", self.project, owns=("projection",)))
        return tuple(stages)

    def pooled_token(self, pooling: str) -> Token | None:
        kind = self.config.pooling if pooling == "embedding" else pooling
        if kind == "pooler" and not isinstance(self.pooler, AttentionPooler):
            return Token("first")
        return super().pooled_token(kind)

    def normalise(self, carry: Carry, key: Key | None) -> Carry:
        """The final norm: of every token, or of the patches' mean (then ``hidden`` stays, as timm returns it).

        Where the reference implementation's ``hidden`` has not passed the norm, ``normal`` has.
        """
        if self.config.norm_pooled:
            return {**carry, "mean": self.norm(self.pool_hidden(carry))}
        return {**carry, "hidden" if self.config.norm_hidden else "normal": self.norm(carry["hidden"])}

    def run_pooler(self, carry: Carry, key: Key | None) -> Carry:
        """Add ``pooled``, as the reference implementation's pooler: by attention over the patches, or tanh of a linear map of the first token."""
        assert self.pooler is not None
        hidden = read_hidden(carry)
        if isinstance(self.pooler, AttentionPooler):
            return {**carry, "pooled": self.pooler(hidden[:, self.config.prefix :], key)}
        return {**carry, "pooled": jnp.tanh(self.pooler(hidden[:, 0], key))}

    def project(self, carry: Carry, key: Key | None) -> Carry:
        """Add ``embedding``: the one vector of an image, in the space shared with texts."""
        assert self.projection is not None
        return {**carry, "embedding": self.projection(pool(self, carry, self.config.pooling), key)}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean over the patches, as timm's ``avg``; the tokens before them do not count."""
        return carry["mean"] if "mean" in carry else read_hidden(carry)[:, self.config.prefix :].mean(1)


def _pooler(config: ViTConfig) -> Linear | AttentionPooler | None:
    if not config.pooler:
        return None
    if config.pooler_kind == "attention":
        return AttentionPooler(config)
    normal = TruncatedNormal(config.initializer_range)
    return Linear(config.hidden_size, config.hidden_size, initialiser=normal)


def _projection(config: ViTConfig) -> Linear | None:
    if config.projection_dim is None:
        return None
    normal = TruncatedNormal(config.initializer_range)
    return Linear(config.hidden_size, config.projection_dim, bias=False, initialiser=normal)


def _layer_scale(config: ViTConfig) -> nnx.Param | None:
    return None if config.layer_scale is None else parameter((config.hidden_size,), Constant(config.layer_scale))


def _scaled(x: Float[Array, "batch length features"], gains: nnx.Param | None) -> Float[Array, "batch length features"]:
    return x if gains is None else x * gains[...]
