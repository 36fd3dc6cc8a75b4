"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): a tower for images, one for texts, and a shared space.

The vision tower is a :class:`~transferlab.models.vit.ViT`. The text tower is a pre-norm encoder: causal and read at the
end-of-text token in CLIP, over all tokens and read at the last position in SigLIP. All sizes come from the config.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from transferlab.bounds import Count, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.attention import Attention
from transferlab.models.backbone import Carry, Model, Stage, Token, tower_stages
from transferlab.models.heads import HeadConfig, Pooling, pool, unit_length
from transferlab.models.layers import (
    ACTIVATIONS,
    Constant,
    Embedding,
    Key,
    Linear,
    TruncatedNormal,
    check_activation,
    parameter,
)
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size
from transferlab.models.vit import ViT, ViTConfig

PooledToken = Literal["end", "highest", "last"]
"""The token whose final hidden state represents the text; see :class:`TextTowerConfig`."""


@dataclass(frozen=True)
class TextTowerConfig:
    """Sizes and constants of the text tower, under Hugging Face's names where it has one.

    Attributes:
        causal: whether a token sees only itself and those before it.
        pooled_token: the token whose final hidden state represents the text: the first ``end`` token (``eos_token_id``),
            the first with the ``highest`` id (as in OpenAI's code and in files with ``eos_token_id`` 2, where the end
            token has the highest), or the ``last`` position, padding or not.
        eos_token_id: the end token where ``pooled_token`` is ``end``.
        projection_dim: width of the space shared with images; None leaves the projection out.
        projection_bias: whether the projection has a bias; SigLIP's has.

    Example:
        >>> model = tl.models.TextTowerConfig.clip_base().build()
    """

    vocab_size: Count = 49408
    hidden_size: Count = 512
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 8
    intermediate_size: Count = 2048
    max_position_embeddings: Count = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Positive = 1e-5
    attention_dropout: Rate = 0.0
    initializer_range: NonNegative = 0.02
    causal: bool = True
    pooled_token: PooledToken = "end"
    eos_token_id: int = 49407
    projection_dim: Count | None = 512
    projection_bias: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "TextTowerConfig")
        if self.hidden_size % self.num_attention_heads:
            raise TransferlabError(
                f"TextTowerConfig: hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}."
            )
        check_activation(self.hidden_act, "TextTowerConfig", "hidden_act")

    # fmt: off
    clip_base = Size("CLIP ViT-B/32's and ViT-B/16's: 12 layers, 512 wide, 63.4 M parameters.")
    clip_large = Size("CLIP ViT-L/14's: 12 layers, 768 wide, 124 M parameters.",
        hidden_size=768, num_attention_heads=12, intermediate_size=3072, projection_dim=768)
    siglip_base = Size("SigLIP ViT-B/16's: 12 layers, 768 wide, 110 M parameters.",
        vocab_size=32000, hidden_size=768, num_attention_heads=12, intermediate_size=3072, max_position_embeddings=64,
        hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, causal=False, pooled_token="last", projection_dim=768,
        projection_bias=True)
    siglip_large = siglip_base.but("SigLIP ViT-L/16's: 24 layers, 1024 wide, 336 M parameters.",
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, projection_dim=1024)
    siglip_so400m = siglip_base.but("SigLIP SoViT-400m's: 27 layers, 1152 wide, 450 M parameters.",
        hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, intermediate_size=4304, projection_dim=1152)
    # fmt: on

    @property
    def pooling(self) -> Pooling:
        """The pooling of transformers' model: ``pooler``."""
        return "pooler"

    def without_projection(self) -> TextTowerConfig:
        """Return the same encoder without the map into the space shared with images."""
        return replace(self, projection_dim=None)

    @property
    def pooler(self) -> bool:
        """True: the tower always has one, its normalised state at one token."""
        return True

    def build(self, head: HeadConfig | None = None) -> TextTower:
        """Return the module; nothing is allocated."""
        return TextTower(self, head)


@dataclass(frozen=True)
class ClipConfig:
    """Both towers, and how their vectors become logits.

    Attributes:
        vision, text: the towers; their embeddings have the same width.
        logit_scale: initial value of the learned logarithm of the scale.
        logit_bias: initial value of a learned bias, as for SigLIP's sigmoid loss; None leaves the bias out.

    Example:
        >>> model = tl.models.ClipConfig.b32().build()
    """

    vision: ViTConfig
    text: TextTowerConfig
    logit_scale: float = math.log(1 / 0.07)
    logit_bias: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, "ClipConfig")
        widths = (
            self.vision.projection_dim or self.vision.hidden_size,
            self.text.projection_dim or self.text.hidden_size,
        )
        if widths[0] != widths[1]:
            raise TransferlabError(
                f"ClipConfig: images are embedded in {widths[0]} dimensions and texts in {widths[1]}; projection_dim must agree."
            )

    # fmt: off
    b32 = Size("CLIP ViT-B/32: 151 M parameters.", ViTConfig.clip_b32(), TextTowerConfig.clip_base())
    b16 = Size("CLIP ViT-B/16: 150 M parameters.", ViTConfig.clip_b16(), TextTowerConfig.clip_base())
    l14 = Size("CLIP ViT-L/14: 428 M parameters.", ViTConfig.clip_l14(), TextTowerConfig.clip_large())
    l14_336 = Size("CLIP ViT-L/14 at 336 px: 428 M parameters.",
        replace(ViTConfig.clip_l14(), image_size=336), TextTowerConfig.clip_large())
    siglip_b16 = Size("SigLIP ViT-B/16: 203 M parameters.",
        ViTConfig.siglip_b16(), TextTowerConfig.siglip_base(), math.log(10.0), -10.0)
    siglip_l16 = Size("SigLIP ViT-L/16 at 256 px: 652 M parameters.",
        ViTConfig.siglip_l16(), TextTowerConfig.siglip_large(), math.log(10.0), -10.0)
    siglip_so400m14 = Size("SigLIP SoViT-400m/14 at 384 px: 878 M parameters.",
        ViTConfig.siglip_so400m14(), TextTowerConfig.siglip_so400m(), math.log(10.0), -10.0)
    # fmt: on

    @property
    def max_position_embeddings(self) -> int:
        """Number of tokens of the longest text."""
        return self.text.max_position_embeddings

    @property
    def image_size(self) -> int:
        """Side of an image, in pixels."""
        return self.vision.image_size

    def towers(self) -> dict[str, ViTConfig | TextTowerConfig]:
        """The configs of the towers, by name."""
        return {"vision": self.vision, "text": self.text}

    def build(self, head: HeadConfig | None = None) -> Clip:
        """Return the module; nothing is allocated.

        Raises:
            TransferlabError: a head; a classifier goes on one of the towers.
        """
        if head is not None:
            raise TransferlabError(
                "A model of two towers takes no classifier; put it on one of them:\n"
                "  >>> config.vision.build(head)  # or config.text"
            )
        return Clip(self)


class TextEmbed(nnx.Module):
    """Word and position embeddings."""

    def __init__(self, config: TextTowerConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.word = Embedding(config.vocab_size, config.hidden_size, initialiser=normal)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size, initialiser=normal)
        self.longest, self.pooled_token, self.end = (
            config.max_position_embeddings,
            config.pooled_token,
            config.eos_token_id,
        )

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        ids = inputs["input_ids"]
        if ids.shape[1] > self.longest:
            raise TransferlabError(
                f"Texts of {ids.shape[1]} tokens are too long: this model has {self.longest} positions."
            )
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        x = self.word(ids)
        x = x + (self.position.embedding[...][: ids.shape[1]] if positions is None else self.position(positions))
        mask = jnp.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        return {"hidden": x, "mask": mask, "pooled_position": self.pooled_position(ids)}

    def pooled_position(self, ids: Int[Array, "batch length"]) -> Int[Array, " batch"]:
        """The position of the token whose hidden state represents the text."""
        if self.pooled_token == "last":
            return jnp.full(ids.shape[0], ids.shape[1] - 1, jnp.int32)
        # The first, as padding may repeat the end token; position 0 in a text without one.
        return jnp.argmax(ids if self.pooled_token == "highest" else ids == self.end, axis=1).astype(jnp.int32)


class TextAttention(Attention):
    """Attention with its pre-norm."""

    def __init__(self, config: TextTowerConfig):
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            dropout=config.attention_dropout,
            initialiser=TruncatedNormal(config.initializer_range),
        )
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)


class TextMlp(nnx.Module):
    """Two linear maps with an activation between them, and the pre-norm; the residual is in :class:`TextLayer`."""

    def __init__(self, config: TextTowerConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.up = Linear(config.hidden_size, config.intermediate_size, initialiser=normal)
        self.down = Linear(config.intermediate_size, config.hidden_size, initialiser=normal)
        self.activation = config.hidden_act

    def __call__(
        self, x: Float[Array, "batch length features"], key: Key | None
    ) -> Float[Array, "batch length features"]:
        first, second = (None, None) if key is None else jax.random.split(key)
        return self.down(ACTIVATIONS[self.activation](self.up(x, first)), second)


class TextLayer(nnx.Module):
    """One encoder layer: attention, then the MLP, each after a LayerNorm and added to its input."""

    def __init__(self, config: TextTowerConfig):
        self.attention = TextAttention(config)
        self.mlp = TextMlp(config)
        self.causal = config.causal

    def __call__(self, carry: Carry, key: Key | None, query_token: Token | None = None) -> Carry:
        x, mask = carry["hidden"], carry["mask"]
        first, second = (None, None) if key is None else jax.random.split(key)
        seen = mask
        if self.causal:
            before = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
            seen = mask[:, None, :] & before
        normal = queries = self.attention.norm(x)
        if query_token is not None:
            x, queries = query_token.of(carry, x), query_token.of(carry, normal)
            seen = query_token.of(carry, seen) if self.causal else seen
        x = x + self.attention(normal, seen, first, queries=queries)
        return {**carry, "hidden": x + self.mlp(self.mlp.norm(x), second)}


class TextTower(Model):
    """The text encoder, an optional map into the space shared with images, and an optional head.

    Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``position_ids``. ``pooled`` is the final
    hidden state at the pooled token; ``embedding`` is its projection.
    """

    inputs = ("input_ids", "attention_mask", "position_ids")
    sequence_entries = ("hidden", "mask")

    def __init__(self, config: TextTowerConfig, head: HeadConfig | None = None):
        self.config = config
        normal = TruncatedNormal(config.initializer_range)
        self.embed = TextEmbed(config)
        self.layers = nnx.List([TextLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        width, out = config.hidden_size, config.projection_dim
        self.projection = None if out is None else Linear(width, out, bias=config.projection_bias, initialiser=normal)
        self.poolings = ("pooler", "mean", *(("embedding",) if config.projection_dim else ()), "stages")
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        if head is not None and head.pooling == "embedding":
            width = config.projection_dim or width
        self.head = None if head is None else head.build(width * max(len(names), 1), feature_stages=names)

    def feature_stages(self) -> tuple[str, ...]:
        """The stages whose pooled hidden states describe an example."""
        return ("embed", *(f"layers/{i}" for i in range(self.config.num_hidden_layers)), "norm")

    def backbone_stages(self) -> tuple[Stage, ...]:
        noisy = self.config.attention_dropout > 0
        stages = [Stage("embed", self.embed, owns=("embed",))]
        for i, layer in enumerate(self.layers):
            stages.append(Stage(f"layers/{i}", layer, owns=(f"layers/{i}",), random=noisy, single_query=layer))
        stages.append(Stage("norm", self.normalise, owns=("norm",)))
        if self.projection is not None:
            stages.append(Stage("projection", self.project, owns=("projection",)))
        return tuple(stages)

    def pooled_token(self, pooling: str) -> Token | None:
        return Token("pooled") if pooling in ("pooler", "embedding") else None

    def normalise(self, carry: Carry, key: Key | None) -> Carry:
        """Apply the final norm and add ``pooled``, its output at the token that represents the text."""
        hidden = self.norm(carry["hidden"])
        pooled = jnp.take_along_axis(hidden, carry["pooled_position"][:, None, None], axis=1)[:, 0]
        return {**carry, "hidden": hidden, "pooled": pooled}

    def project(self, carry: Carry, key: Key | None) -> Carry:
        """Add ``embedding``: the text's vector in the space shared with images."""
        assert self.projection is not None
        return {**carry, "embedding": self.projection(carry["pooled"], key)}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean of the hidden states over unmasked tokens."""
        weights = carry["mask"].astype(carry["hidden"].dtype)
        total = jnp.einsum("blf,bl->bf", carry["hidden"], weights)
        return total / jnp.maximum(weights.sum(-1, keepdims=True), 1e-9)


class Clip(Model):
    """Both towers, and the logits of every image with every text.

    Inputs: those of the towers; there may be more images than texts, or fewer. Adds ``image_embedding`` and
    ``text_embedding``, both of unit length, and ``logits`` (images, texts).
    """

    inputs = (*ViT.inputs, *TextTower.inputs)

    def __init__(self, config: ClipConfig):
        self.config = config
        self.vision = config.vision.build()
        self.text = config.text.build()
        self.logit_scale = parameter((), Constant(config.logit_scale))
        self.logit_bias = None if config.logit_bias is None else parameter((), Constant(config.logit_bias))
        self.head = None

    def towers(self) -> dict[str, ViT | TextTower]:
        return {"vision": self.vision, "text": self.text}

    def backbone_stages(self) -> tuple[Stage, ...]:
        both = [stage for name, tower in self.towers().items() for stage in tower_stages(name, tower)]
        return (*both, Stage("similarity", self.compare, owns=("logit_scale", "logit_bias")))

    def compare(self, carry: Carry, key: Key | None) -> Carry:
        """Scaled cosines of all pairs, in float32."""
        image, text = (
            unit_length(embedding_of(tower, _part(carry, name)).astype(jnp.float32))
            for name, tower in self.towers().items()
        )
        logits = jnp.exp(self.logit_scale[...].astype(jnp.float32)) * (image @ text.T)
        if self.logit_bias is not None:
            logits = logits + self.logit_bias[...].astype(jnp.float32)
        return {**carry, "image_embedding": image, "text_embedding": text, "logits": logits}


def embedding_of(tower: ViT | TextTower, carry: Carry) -> Float[Array, "batch width"]:
    """Return a tower's vector of each example for comparison with the other tower's, not yet of unit length.

    It is the projection's where there is one, else the tower's own pooled vector.
    """
    return pool(tower, carry, "embedding" if "embedding" in carry else tower.config.pooling)


def _part(carry: Carry, name: str) -> Carry:
    return {k.removeprefix(f"{name}/"): v for k, v in carry.items() if k.startswith(f"{name}/")}
