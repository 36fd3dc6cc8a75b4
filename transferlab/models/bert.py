"""BERT (Devlin et al. 2019) and models of its architecture, such as MiniLM (Wang et al. 2020).

Post-norm encoder, learned positions, erf GELU, LayerNorm eps 1e-12. All sizes come from the config. Families that differ
from BERT in their embeddings (RoBERTa, DistilBERT, MPNet) build on :class:`Encoder` and :class:`Layer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from transferlab.bounds import Count, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.attention import Attention
from transferlab.models.backbone import Carry, Model, Stage, Token
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import ACTIVATIONS, Embedding, Key, Linear, TruncatedNormal, check_activation, dropout
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size


@dataclass(frozen=True)
class BertConfig:
    """Sizes and constants, under the names that Hugging Face's ``config.json`` uses.

    Example:
        >>> model = tl.models.BertConfig.minilm_l6().build()
    """

    vocab_size: Count = 30522
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Count = 512
    type_vocab_size: Count = 2
    initializer_range: NonNegative = 0.02
    layer_norm_eps: Positive = 1e-12
    pooler: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "BertConfig")
        check_encoder(self, "BertConfig")

    # fmt: off
    base = Size("BERT-base: 12 layers, 768 wide, 110 M parameters.")
    large = Size("BERT-large: 24 layers, 1024 wide, 335 M parameters.",
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    minilm_l6 = Size("MiniLM-L6-H384: 6 layers, 384 wide, 22.7 M parameters.",
        hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    # fmt: on

    def without_pooler(self) -> BertConfig:
        """The same encoder without the tanh pooler over the first token."""
        return replace(self, pooler=False)

    def build(self, head: HeadConfig | None = None) -> Bert:
        """Return the module; nothing is allocated."""
        return Bert(self, head)


@runtime_checkable
class EncoderConfig(Protocol):
    """The fields that :class:`Encoder` reads from a family's config."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def hidden_act(self) -> str: ...
    @property
    def hidden_dropout_prob(self) -> float: ...
    @property
    def attention_probs_dropout_prob(self) -> float: ...
    @property
    def initializer_range(self) -> float: ...
    @property
    def layer_norm_eps(self) -> float: ...
    @property
    def pooler(self) -> bool: ...


def check_encoder(config: EncoderConfig, where: str) -> None:
    """Raise for sizes that do not fit each other and for an unknown activation; the field is named."""
    check_activation(config.hidden_act, where, "hidden_act")
    if config.hidden_size % config.num_attention_heads:
        raise TransferlabError(
            f"{where}: hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
            f"{config.num_attention_heads}."
        )


class Embed(nnx.Module):
    """Word + position + token-type embeddings, normalised."""

    def __init__(self, config: BertConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.word = Embedding(config.vocab_size, config.hidden_size, initialiser=normal)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size, initialiser=normal)
        self.token_type = Embedding(config.type_vocab_size, config.hidden_size, initialiser=normal)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob
        self.longest = config.max_position_embeddings

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        ids = inputs["input_ids"]
        if ids.shape[1] > self.longest:
            raise TransferlabError(
                f"Texts of {ids.shape[1]} tokens are too long: this model has {self.longest} positions."
            )
        mask = inputs.get("attention_mask")
        types = inputs.get("token_type_ids")
        positions = inputs.get("position_ids")
        x = self.word(ids)
        x = x + self.position.embedding[...][: ids.shape[1]] if positions is None else x + self.position(positions)
        x = x + (self.token_type.embedding[...][0] if types is None else self.token_type(types))
        mask = jnp.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        return {"hidden": dropout(self.norm(x), self.dropout, key), "mask": mask}


class SelfAttention(Attention):
    """Attention with its residual and post-norm."""

    def __init__(self, config: EncoderConfig):
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            dropout=config.attention_probs_dropout_prob,
            initialiser=TruncatedNormal(config.initializer_range),
        )
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)


class Mlp(nnx.Module):
    """Two linear maps with an activation between them; residual and post-norm are in :class:`Layer`."""

    def __init__(self, config: EncoderConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.up = Linear(config.hidden_size, config.intermediate_size, initialiser=normal)
        self.down = Linear(config.intermediate_size, config.hidden_size, initialiser=normal)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.activation = config.hidden_act

    def __call__(
        self, x: Float[Array, "batch length features"], key: Key | None
    ) -> Float[Array, "batch length features"]:
        first, second = (None, None) if key is None else jax.random.split(key)
        return self.down(ACTIVATIONS[self.activation](self.up(x, first)), second)


class Layer(nnx.Module):
    """One encoder layer: attention, then the MLP, each with dropout, residual and LayerNorm after."""

    def __init__(self, config: EncoderConfig):
        self.attention = SelfAttention(config)
        self.mlp = Mlp(config)
        self.dropout = self.mixed_dropout = config.hidden_dropout_prob

    def __call__(
        self,
        carry: Carry,
        key: Key | None,
        query_token: Token | None = None,
        bias: Float[Array, "heads queries length"] | None = None,
    ) -> Carry:
        x, mask = carry["hidden"], carry["mask"]
        queries = x if query_token is None else query_token.of(carry, x)
        keys = [None] * 4 if key is None else jax.random.split(key, 4)
        mixed = self.attention(x, mask, keys[0], queries=queries, bias=bias)
        x = self.attention.norm(queries + dropout(mixed, self.mixed_dropout, keys[1]))
        x = self.mlp.norm(x + dropout(self.mlp(x, keys[2]), self.dropout, keys[3]))
        return {**carry, "hidden": x}


@runtime_checkable
class LayerRun(Protocol):
    """A layer, run on all tokens or on one of each text."""

    def __call__(self, carry: Carry, key: Key | None, query_token: Token | None = None) -> Carry: ...


class Encoder(Model):
    """Embeddings, post-norm layers, an optional pooler (tanh over the first token) and an optional head."""

    sequence_entries = ("hidden", "mask")
    first_position: int | None = 0
    poolings: tuple[str, ...] = ("mean", "first", "pooler", "stages")
    borrows: tuple[str, ...] = ()
    """Path prefixes of leaves that every layer uses but another stage owns."""

    def __init__(self, config: EncoderConfig, embed: nnx.Module, head: HeadConfig | None, layer: type[Layer] = Layer):
        self.config = config
        if not config.pooler:
            self.poolings = tuple(kind for kind in self.poolings if kind != "pooler")
        self.embed = embed
        self.layers = nnx.List([layer(config) for _ in range(config.num_hidden_layers)])
        normal = TruncatedNormal(config.initializer_range)
        self.pooler = Linear(config.hidden_size, config.hidden_size, initialiser=normal) if config.pooler else None
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        width = config.hidden_size * max(len(names), 1)
        self.head = None if head is None else head.build(width, vocabulary=config.vocab_size, feature_stages=names)

    def feature_stages(self) -> tuple[str, ...]:
        """The stages whose pooled hidden states describe an example."""
        return ("embed", *(f"layers/{i}" for i in range(self.config.num_hidden_layers)))

    def backbone_stages(self) -> tuple[Stage, ...]:
        noisy = self.config.hidden_dropout_prob > 0 or self.config.attention_probs_dropout_prob > 0
        stages = [Stage("embed", self.embed, owns=("embed",), random=self.config.hidden_dropout_prob > 0)]
        for i, layer in enumerate(self.layers):
            run = self.run(layer)
            stages.append(Stage(f"layers/{i}", run, (f"layers/{i}",), self.borrows, noisy, single_query=run))
        if self.pooler is not None:
            stages.append(Stage("pooler", self.pool_first, owns=("pooler",)))
        return tuple(stages)

    def run(self, layer: Layer) -> LayerRun:
        """The function that a layer's stage runs."""
        return layer

    def pooled_token(self, pooling: str) -> Token | None:
        return Token("first") if pooling == "pooler" else super().pooled_token(pooling)

    def pool_first(self, carry: Carry, key: Key | None) -> Carry:
        """Add ``pooled``: tanh of a linear map of the first token, as transformers' ``BertPooler``."""
        assert self.pooler is not None
        return {**carry, "pooled": jnp.tanh(self.pooler(carry["hidden"][:, 0], key))}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean of the hidden states over unmasked tokens, as sentence-transformers' mean pooling."""
        return masked_mean(carry["hidden"], carry["mask"])


class Bert(Encoder):
    """BERT.

    Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``token_type_ids``, ``position_ids``.
    """

    def __init__(self, config: BertConfig, head: HeadConfig | None = None):
        super().__init__(config, Embed(config), head)


def masked_mean(
    hidden: Float[Array, "batch length features"], mask: Bool[Array, "batch length"]
) -> Float[Array, "batch features"]:
    """Mean over the positions where ``mask`` is true; zeros for a row without one."""
    weights = mask.astype(hidden.dtype)
    total = jnp.einsum("blf,bl->bf", hidden, weights)
    return total / jnp.maximum(weights.sum(-1, keepdims=True), 1e-9)
