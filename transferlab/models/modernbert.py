"""ModernBERT (Warner et al. 2024): a pre-norm encoder without biases, with rotary positions and local attention.

One layer in three sees the whole text, the rest a window of it; the two kinds rotate their queries and keys at different
frequencies (Su et al. 2021). The MLP is gated (GeGLU, Shazeer 2020). The first layer has no norm before its attention, as
the embeddings are normalised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from transferlab.bounds import Count, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError, nearest
from transferlab.fields import check_fields
from transferlab.models.attention import Attention
from transferlab.models.backbone import Carry, Model, Stage, Token
from transferlab.models.bert import masked_mean
from transferlab.models.heads import HeadConfig, Pooling
from transferlab.models.layers import Embedding, Key, Linear, TruncatedNormal, check_activation, dropout, gated
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size

LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class ModernBertConfig:
    """Sizes and constants, under the names that Hugging Face's ``config.json`` uses.

    Attributes:
        layer_types: ``full_attention`` or ``sliding_attention`` for each layer; empty: full in every third, from the
            first on.
        local_attention: width of the window; a token sees half of it on each side.
        global_rope_theta, local_rope_theta: base of the rotary frequencies in the two kinds of layers.
        norm_bias, attention_bias, mlp_bias: whether these have a bias.
        attention_dropout: on the attention weights, and on its output.
        mlp_dropout: on the gated features inside the MLP.
        classifier_pooling, classifier_activation, classifier_bias: of transformers' classification head; it pools ``cls``
            or ``mean``.

    Example:
        >>> model = tl.models.ModernBertConfig.base().build()
    """

    vocab_size: Count = 50368
    hidden_size: Count = 768
    num_hidden_layers: Count = 22
    num_attention_heads: Count = 12
    intermediate_size: Count = 1152
    hidden_activation: str = "gelu"
    max_position_embeddings: Count = 8192
    initializer_range: NonNegative = 0.02
    norm_eps: Positive = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: Rate = 0.0
    layer_types: tuple[str, ...] = ()
    local_attention: Count = 128
    global_rope_theta: Positive = 160_000.0
    local_rope_theta: Positive = 10_000.0
    embedding_dropout: Rate = 0.0
    mlp_bias: bool = False
    mlp_dropout: Rate = 0.0
    classifier_pooling: str = "cls"
    classifier_bias: bool = False
    classifier_activation: str = "gelu"

    def __post_init__(self) -> None:
        where = "ModernBertConfig"
        check_fields(self, where)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise TransferlabError(
                f"{where}: hidden_size {self.hidden_size} is not an even multiple of num_attention_heads "
                f"{self.num_attention_heads}; rotary positions rotate pairs of features."
            )
        for name in ("hidden_activation", "classifier_activation"):
            check_activation(getattr(self, name), where, name)
        if self.classifier_pooling not in ("cls", "mean"):
            raise TransferlabError(
                f"{where}: classifier_pooling '{self.classifier_pooling}' is neither 'cls' nor 'mean'."
            )
        for kind in self.layer_types:
            if kind not in LAYER_TYPES:
                raise TransferlabError(f"{where}: layer_types: unknown '{kind}'.{nearest(kind, LAYER_TYPES)}")
        if len(self.kinds) != self.num_hidden_layers:
            raise TransferlabError(
                f"{where}: layer_types has {len(self.layer_types)} entries for num_hidden_layers "
                f"{self.num_hidden_layers}."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The type of each layer."""
        return self.layer_types or alternating(3, self.num_hidden_layers)

    @property
    def pooling(self) -> Pooling:
        """The pooling of transformers' classification head."""
        return "first" if self.classifier_pooling == "cls" else "mean"

    # fmt: off
    base = Size("ModernBERT-base: 22 layers, 768 wide, 149 M parameters.")
    large = Size("ModernBERT-large: 28 layers, 1024 wide, 395 M parameters.",
        hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, intermediate_size=2624)
    # fmt: on

    def build(self, head: HeadConfig | None = None) -> ModernBert:
        """Return the module; nothing is allocated."""
        return ModernBert(self, head)


def alternating(n: int, layers: int) -> tuple[str, ...]:
    """Return the type of each layer where every ``n``-th attends to the whole text."""
    return tuple(LAYER_TYPES[bool(i % n)] for i in range(layers))


class Embed(nnx.Module):
    """Word embeddings, normalised; positions enter in the layers."""

    def __init__(self, config: ModernBertConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.word = Embedding(config.vocab_size, config.hidden_size, initialiser=normal)
        self.norm = LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)
        self.dropout = config.embedding_dropout

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask")
        positions = inputs.get("position_ids")
        mask = jnp.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        carry = {"hidden": dropout(self.norm(self.word(ids)), self.dropout, key), "mask": mask}
        return carry if positions is None else {**carry, "positions": jnp.broadcast_to(positions, ids.shape)}


class SelfAttention(Attention):
    """Attention with the norm before it."""

    def __init__(self, config: ModernBertConfig, first: bool):
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            dropout=config.attention_dropout,
            bias=config.attention_bias,
            output_bias=config.attention_bias,
            initialiser=TruncatedNormal(config.initializer_range),
        )
        self.norm = None if first else LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)


class Mlp(nnx.Module):
    """``down(act(gate(x)) · up(x))``, with the norm before it."""

    def __init__(self, config: ModernBertConfig):
        normal, bias = TruncatedNormal(config.initializer_range), config.mlp_bias
        small = TruncatedNormal(config.initializer_range / math.sqrt(2.0 * config.num_hidden_layers))
        self.norm = LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)
        self.gate = Linear(config.hidden_size, config.intermediate_size, bias=bias, initialiser=normal)
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=bias, initialiser=normal)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=bias, initialiser=small)
        self.activation, self.dropout = config.hidden_activation, config.mlp_dropout

    def __call__(
        self, x: Float[Array, "batch length features"], key: Key | None
    ) -> Float[Array, "batch length features"]:
        keys = [None] * 4 if key is None else jax.random.split(key, 4)
        x = self.norm(x)
        x = gated(self.activation, self.gate(x, keys[0]), self.up(x, keys[1]))
        return self.down(dropout(x, self.dropout, keys[2]), keys[3])


class Layer(nnx.Module):
    """Attention over the whole text or a window of it, then the MLP; each is added to its input."""

    def __init__(self, config: ModernBertConfig, number: int):
        self.attention = SelfAttention(config, first=number == 0)
        self.mlp = Mlp(config)
        whole = config.kinds[number] == "full_attention"
        self.reach = None if whole else config.local_attention // 2
        self.theta = config.global_rope_theta if whole else config.local_rope_theta

    def __call__(self, carry: Carry, key: Key | None, query_token: Token | None = None) -> Carry:
        x, mask, positions = carry["hidden"], carry["mask"], carry.get("positions")
        keys = [None] * 3 if key is None else jax.random.split(key, 3)
        places = np.arange(x.shape[1])
        if self.reach is not None:
            seen = mask if mask.ndim == 3 else mask[:, None, :]
            mask = seen & (np.abs(places[:, None] - places[None, :]) <= self.reach)
        normal = x if self.attention.norm is None else self.attention.norm(x)
        queries, query_positions = normal, positions = (
            normal,
            jnp.asarray(places)[None] if positions is None else positions,
        )
        if query_token is not None:
            x, queries = query_token.of(carry, x), query_token.of(carry, normal)
            query_positions = query_token.of(carry, jnp.broadcast_to(positions, normal.shape[:2]))
            mask = query_token.of(carry, mask) if mask.ndim == 3 else mask
        rotate = rotation(query_positions, self.theta), rotation(positions, self.theta)
        mixed = self.attention(normal, mask, keys[0], queries=queries, rotate=rotate)
        x = x + dropout(mixed, self.attention.dropout, keys[1])
        return {**carry, "hidden": x + self.mlp(x, keys[2])}


def rotation(positions: Int[Array, "batch length"], theta: float) -> Callable[[Array], Array]:
    """Return the map that rotates (batch, length, heads, width) by its positions (Su et al. 2021, section 3.2).

    Feature ``i`` of the first half and of the second are a pair, rotated by ``position · theta^(-2i / width)``. Computed
    in float32.
    """

    def rotate(x: Float[Array, "batch length heads width"]) -> Float[Array, "batch length heads width"]:
        width = x.shape[-1]
        # In float32, as in transformers: in a long text the last bit of a frequency matters.
        base = np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
        angles = positions[:, :, None, None].astype(jnp.float32) * (np.float32(1.0) / base)
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)

    return rotate


class ModernBert(Model):
    """ModernBERT. Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``position_ids``."""

    sequence_entries = ("hidden", "mask", "positions")
    first_position = 0
    poolings = ("mean", "first", "stages")

    def __init__(self, config: ModernBertConfig, head: HeadConfig | None = None):
        self.config = config
        self.embed = Embed(config)
        self.layers = nnx.List([Layer(config, number) for number in range(config.num_hidden_layers)])
        self.norm = LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        self.head = (
            None
            if head is None
            else head.build(config.hidden_size * max(len(names), 1), vocabulary=config.vocab_size, feature_stages=names)
        )

    def feature_stages(self) -> tuple[str, ...]:
        """The stages whose pooled hidden states describe an example."""
        return ("embed", *(f"layers/{i}" for i in range(self.config.num_hidden_layers)), "norm")

    def backbone_stages(self) -> tuple[Stage, ...]:
        config = self.config
        noisy = config.attention_dropout > 0 or config.mlp_dropout > 0
        stages = [Stage("embed", self.embed, owns=("embed",), random=config.embedding_dropout > 0)]
        for i, layer in enumerate(self.layers):
            stages.append(Stage(f"layers/{i}", layer, owns=(f"layers/{i}",), random=noisy, single_query=layer))
        stages.append(Stage("norm", self.normalise, owns=("norm",)))
        return tuple(stages)

    def normalise(self, carry: Carry, key: Key | None) -> Carry:
        """The final norm, of every token."""
        return {**carry, "hidden": self.norm(carry["hidden"])}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean of the hidden states over unmasked tokens."""
        return masked_mean(carry["hidden"], carry["mask"])
