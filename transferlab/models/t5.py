"""T5 (Raffel et al. 2020), T5 v1.1, Flan-T5 and mT5: an encoder and a decoder in one chain of stages.

Pre-norm with RMSNorm, no biases. Instead of positions there is a bias on the attention scores by bucketed distance, which
each tower's first layer owns and the rest borrow. Scores are not divided by the square root of the width: the initialiser
compensates for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from transferlab.bounds import Count, Natural, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError, nearest
from transferlab.fields import check_fields
from transferlab.models.attention import attend
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.bert import masked_mean
from transferlab.models.heads import HeadConfig, LanguageModelConfig, build_head
from transferlab.models.layers import ACTIVATIONS, Embedding, Key, Linear, Normal, dropout, gated
from transferlab.models.norms import RMSNorm
from transferlab.models.sizes import Size

_GATES = {"gated-gelu": "gelu_new", "gated-silu": "silu", "gated-relu": "relu"}
"""The gated ``gelu`` of transformers' T5 is the tanh approximation."""


_V1_1: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False}
"""What version 1.1 of a size has: a gated MLP, and a head of its own, unscaled."""


@dataclass(frozen=True)
class T5Config:
    """Sizes and constants, under the names that Hugging Face's ``config.json`` uses.

    Attributes:
        d_model: width between the layers.
        d_kv: width of one head; ``num_heads · d_kv`` need not be ``d_model``.
        d_ff: width inside the MLP.
        num_layers: of the encoder.
        num_decoder_layers: of the decoder; 0 builds only the encoder.
        feed_forward_proj: an activation (``relu``), or a gated one (``gated-gelu``: ``down(gelu(gate(x)) · up(x))``).
        scale_decoder_outputs: scale the decoder's output by ``d_model ** -0.5`` before a language model's head (T5 1.0).
        decoder_start_token_id: the token with which the decoder starts a text.

    Example:
        >>> config = tl.models.T5Config.v1_1_small()
        >>> model = config.build(config.language_model(tied=False))
    """

    vocab_size: Count = 32128
    d_model: Count = 512
    d_kv: Count = 64
    d_ff: Count = 2048
    num_layers: Count = 6
    num_decoder_layers: Natural = 6
    num_heads: Count = 8
    relative_attention_num_buckets: Count = 32
    relative_attention_max_distance: Count = 128
    dropout_rate: Rate = 0.1
    layer_norm_epsilon: Positive = 1e-6
    initializer_factor: NonNegative = 1.0
    feed_forward_proj: str = "relu"
    scale_decoder_outputs: bool = True
    decoder_start_token_id: Natural = 0
    pad_token_id: Natural = 0

    def __post_init__(self) -> None:
        check_fields(self, "T5Config")
        known = (*_GATES, *ACTIVATIONS)
        if self.feed_forward_proj not in known:
            raise TransferlabError(
                f"T5Config: unknown feed_forward_proj '{self.feed_forward_proj}'.{nearest(self.feed_forward_proj, known)}"
            )
        if self.relative_attention_num_buckets < 4 or self.relative_attention_num_buckets % 2:
            raise TransferlabError(
                f"T5Config: relative_attention_num_buckets is {self.relative_attention_num_buckets}; "
                f"it must be even and at least 4."
            )
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise TransferlabError(
                f"T5Config: relative_attention_max_distance {self.relative_attention_max_distance} is not above the "
                f"{self.relative_attention_num_buckets // 2} distances that have a bucket of their own."
            )

    @property
    def pooler(self) -> bool:
        """False: T5 has none."""
        return False

    # fmt: off
    small = Size("T5-small: 6 and 6 layers, 512 wide, 60.5 M parameters.")
    base = Size("T5-base: 12 and 12 layers, 768 wide, 223 M parameters.",
        d_model=768, d_ff=3072, num_layers=12, num_decoder_layers=12, num_heads=12)
    large = Size("T5-large: 24 and 24 layers, 1024 wide, 738 M parameters.",
        d_model=1024, d_ff=4096, num_layers=24, num_decoder_layers=24, num_heads=16)
    v1_1_small = Size("T5 v1.1 small and Flan-T5 small: 8 and 8 layers, 512 wide, 77.0 M parameters.",
        d_ff=1024, num_layers=8, num_decoder_layers=8, num_heads=6, **_V1_1)
    v1_1_base = base.but("T5 v1.1 base and Flan-T5 base: 12 and 12 layers, 768 wide, 248 M parameters.",
        d_ff=2048, **_V1_1)
    v1_1_large = large.but("T5 v1.1 large and Flan-T5 large: 24 and 24 layers, 1024 wide, 783 M parameters.",
        d_ff=2816, **_V1_1)
    v1_1_xl = large.but("T5 v1.1 XL and Flan-T5 XL: 24 and 24 layers, 2048 wide, 2.85 G parameters.",
        d_model=2048, d_ff=5120, num_heads=32, **_V1_1)
    v1_1_xxl = large.but("T5 v1.1 XXL and Flan-T5 XXL: 24 and 24 layers, 4096 wide, 11.1 G parameters.",
        d_model=4096, d_ff=10240, num_heads=64, **_V1_1)
    # fmt: on

    def v1_1(self) -> T5Config:
        """Version 1.1 of a size: a gated MLP, and an untied, unscaled head."""
        return replace(self, **_V1_1)

    def language_model(self, tied: bool) -> LanguageModelConfig:
        """Return the head that predicts tokens: tied to the embedding table (T5 1.0), or with its own kernel (1.1)."""
        return LanguageModelConfig(tied, scale=self.d_model**-0.5 if self.scale_decoder_outputs else 1.0)

    def encoder_only(self) -> T5Config:
        """Return the config of the encoder alone, as transformers' ``T5EncoderModel``."""
        return replace(self, num_decoder_layers=0)

    def build(self, head: HeadConfig | None = None) -> T5:
        """Return the module; nothing is allocated."""
        return T5(self, head)


class Attention(nnx.Module):
    """Multi-head attention without biases and without a scale; from ``x`` to itself, or to another tower's states.

    The first self-attention of a tower owns ``relative``, the bias by bucket of distance and head.
    """

    def __init__(self, config: T5Config, relative: bool = False):
        inner, factor = config.num_heads * config.d_kv, config.initializer_factor
        wide, narrow = Normal(factor * config.d_model**-0.5), Normal(factor * inner**-0.5)
        shrunk = Normal(factor * (config.d_model * config.d_kv) ** -0.5)
        self.query = Linear(config.d_model, inner, bias=False, initialiser=shrunk)
        self.key = Linear(config.d_model, inner, bias=False, initialiser=wide)
        self.value = Linear(config.d_model, inner, bias=False, initialiser=wide)
        self.output = Linear(inner, config.d_model, bias=False, initialiser=narrow)
        buckets = config.relative_attention_num_buckets
        self.relative = Embedding(buckets, config.num_heads, initialiser=wide) if relative else None
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.heads, self.dropout = config.num_heads, config.dropout_rate

    def __call__(
        self,
        x: Float[Array, "batch queries features"],
        states: Float[Array, "batch keys features"],
        mask: Bool[Array, "batch #queries keys"],
        bias: Float[Array, "heads queries keys"] | None,
        key: Key | None,
    ) -> Float[Array, "batch queries features"]:
        """Attend over the states where ``mask`` is true; a row whose mask is all false attends evenly."""
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        query, key_, value = (
            project(tokens, k).reshape(*tokens.shape[:2], self.heads, -1)
            for project, tokens, k in zip((self.query, self.key, self.value), (x, states, states), keys, strict=False)
        )
        mixed = attend(query, key_, value, scale=1.0, mask=mask, bias=bias, rate=self.dropout, random=keys[3])
        return self.output(mixed, keys[4])


class Mlp(nnx.Module):
    """Two linear maps with an activation between them, or three where one is a gate."""

    def __init__(self, config: T5Config):
        up = Normal(config.initializer_factor * config.d_model**-0.5)
        down = Normal(config.initializer_factor * config.d_ff**-0.5)
        gated = config.feed_forward_proj in _GATES
        self.gate = Linear(config.d_model, config.d_ff, bias=False, initialiser=up) if gated else None
        self.up = Linear(config.d_model, config.d_ff, bias=False, initialiser=up)
        self.down = Linear(config.d_ff, config.d_model, bias=False, initialiser=down)
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.activation = _GATES.get(config.feed_forward_proj, config.feed_forward_proj)
        self.dropout = config.dropout_rate

    def __call__(
        self, x: Float[Array, "batch length features"], key: Key | None
    ) -> Float[Array, "batch length features"]:
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        y, act = self.up(x, keys[0]), self.activation
        y = ACTIVATIONS[act](y) if self.gate is None else gated(act, self.gate(x, keys[1]), y)
        return self.down(dropout(y, self.dropout, keys[2]), keys[3])


class Layer(nnx.Module):
    """One layer: self-attention, in the decoder attention to the encoder, and the MLP; each pre-norm and residual."""

    def __init__(self, config: T5Config, relative: bool, decoder: bool):
        self.attention = Attention(config, relative)
        self.cross_attention = Attention(config) if decoder else None
        self.mlp = Mlp(config)
        self.dropout = config.dropout_rate

    def __call__(self, carry: Carry, bias: Float[Array, "heads queries keys"], key: Key | None) -> Carry:
        keys = [None] * 6 if key is None else list(jax.random.split(key, 6))
        x = carry["hidden"]
        y = self.attention.norm(x)
        if self.cross_attention is None:
            x = x + dropout(self.attention(y, y, carry["mask"][:, None], bias, keys[0]), self.dropout, keys[1])
        else:
            mask = carry["decoder_mask"][:, None] & jnp.tri(x.shape[1], dtype=bool)
            x = x + dropout(self.attention(y, y, mask, bias, keys[0]), self.dropout, keys[1])
            y, mask = self.cross_attention.norm(x), carry["mask"][:, None]
            x = x + dropout(self.cross_attention(y, carry["encoded"], mask, None, keys[2]), self.dropout, keys[3])
        x = x + dropout(self.mlp(self.mlp.norm(x), keys[4]), self.dropout, keys[5])
        return {**carry, "hidden": x}


class Embed(nnx.Module):
    """The embedding table, which both towers and a tied head read."""

    def __init__(self, config: T5Config):
        self.word = Embedding(config.vocab_size, config.d_model, initialiser=Normal(config.initializer_factor))
        self.dropout = config.dropout_rate

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        """Return the encoder's first carry; the decoder's inputs stay in it."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        mask = jnp.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        ahead = {name: inputs[name] for name in ("decoder_input_ids", "decoder_attention_mask") if name in inputs}
        return {"hidden": dropout(self.word(ids), self.dropout, key), "mask": mask, **ahead}


class Tower(nnx.Module):
    """Layers and the norm after them."""

    def __init__(self, config: T5Config, layers: int, *, decoder: bool):
        self.layers = nnx.List([Layer(config, i == 0, decoder) for i in range(layers)])
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.config, self.decoder = config, decoder

    def bias(self, length: int) -> Float[Array, "heads queries keys"]:
        """The position bias of every layer, from the table of the first."""
        table = self.layers[0].attention.relative
        assert table is not None
        return table(jnp.asarray(relative_buckets(self.config, length, not self.decoder))).transpose(2, 0, 1)

    def layer(self, layer: Layer, carry: Carry, key: Key | None) -> Carry:
        """Run one of the layers."""
        return layer(carry, self.bias(carry["hidden"].shape[1]), key)

    def normalise(self, carry: Carry, key: Key | None) -> Carry:
        """The final norm, with dropout after it."""
        return {**carry, "hidden": dropout(self.norm(carry["hidden"]), self.config.dropout_rate, key)}

    def stages(self, name: str) -> list[Stage]:
        """The stages after the embedding."""
        random, table = self.config.dropout_rate > 0, f"{name}/layers/0/attention/relative"
        stages = []
        for i, layer in enumerate(self.layers):
            path = f"{name}/layers/{i}"
            borrows = (table,) if i else ()
            stages.append(Stage(path, partial(self.layer, layer), owns=(path,), borrows=borrows, random=random))
        return [*stages, Stage(f"{name}/norm", self.normalise, owns=(f"{name}/norm",), random=random)]


class Encoder(Tower):
    """The tower that reads; it owns the embedding table."""

    def __init__(self, config: T5Config):
        super().__init__(config, config.num_layers, decoder=False)
        self.embed = Embed(config)


class T5(Model):
    """Encoder and decoder with the head of a language model; or the encoder with an optional head for labels.

    Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``; with a decoder also ``decoder_input_ids``
    (batch, target length; see :func:`shift_right`) and, optionally, ``decoder_attention_mask``. The last carry holds the
    decoder's states as ``hidden`` and the encoder's as ``encoded``.
    """

    sequence_entries = ("hidden", "mask")
    poolings = ("mean", "first", "stages")
    table = "encoder/embed/word"

    def __init__(self, config: T5Config, head: HeadConfig | None = None):
        if head is not None and not isinstance(head, LanguageModelConfig) and config.num_decoder_layers:
            raise TransferlabError(
                "T5 with its decoder generates text. To predict labels, use its encoder:\n  >>> source = source.encoder()"
            )
        if isinstance(head, LanguageModelConfig) and not config.num_decoder_layers:
            raise TransferlabError("T5's encoder alone cannot generate text: num_decoder_layers is 0.")
        self.config = config
        self.encoder = Encoder(config)
        layers = config.num_decoder_layers
        self.decoder = Tower(config, layers, decoder=True) if layers else None
        self.head = build_head(head, config.d_model, vocabulary=config.vocab_size, feature_stages=self.feature_stages())

    def feature_stages(self) -> tuple[str, ...]:
        """The stages whose pooled hidden states describe an example: the encoder's."""
        layers = (f"encoder/layers/{i}" for i in range(self.config.num_layers))
        return ("encoder/embed", *layers, "encoder/norm")

    def backbone_stages(self) -> tuple[Stage, ...]:
        table, random = "encoder/embed", self.config.dropout_rate > 0
        stages = [Stage(table, self.encoder.embed, owns=(table,), random=random), *self.encoder.stages("encoder")]
        if self.decoder is not None:
            stages.append(Stage("decoder/embed", self.embed_target, borrows=(table,), random=random, takes_inputs=True))
            stages += self.decoder.stages("decoder")
        return tuple(stages)

    def embed_target(self, carry: Carry, key: Key | None) -> Carry:
        """From the encoder's last carry to the decoder's first; ``labels`` without decoder inputs are these, shifted."""
        if "labels" in carry and "decoder_input_ids" not in carry:
            carry = {**carry, "decoder_input_ids": shift_right(carry["labels"], self.config)}
        if "decoder_input_ids" not in carry:
            raise TransferlabError(
                "T5 with its decoder needs 'decoder_input_ids'. To run only the encoder:\n  >>> source = source.encoder()"
            )
        ids, mask = carry["decoder_input_ids"], carry.get("decoder_attention_mask")
        mask = jnp.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        hidden = dropout(self.encoder.embed.word(ids), self.config.dropout_rate, key)
        return {"hidden": hidden, "decoder_mask": mask, "encoded": carry["hidden"], "mask": carry["mask"]}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean of the encoder's states over unmasked tokens, as Sentence-T5 (Ni et al. 2022)."""
        return masked_mean(carry.get("encoded", carry["hidden"]), carry["mask"])


def relative_buckets(config: T5Config, length: int, bidirectional: bool) -> Int[np.ndarray, "length length"]:
    """Return the bucket of each pair (query, key): one for each short distance, then wider ones up to the largest.

    In the encoder, half of the buckets are for keys that come after; in the decoder, those all fall into bucket 0.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    buckets, offset = config.relative_attention_num_buckets, 0
    if bidirectional:
        buckets //= 2
        offset = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    # In float32, as in transformers: the last bit decides at the border of two buckets.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(config.relative_attention_max_distance / exact)) * np.float32(buckets - exact)
    wide = np.minimum(exact + ratio.astype(np.int64), buckets - 1)
    return offset + np.where(distance < exact, distance, wide)


def shift_right(labels: Int[Array, "batch length"], config: T5Config) -> Int[Array, "batch length"]:
    """Return the ``decoder_input_ids`` that predict these labels: shifted right by one, with padding for negative ones
    (ignored).

    Example:
        >>> tl.models.shift_right(jnp.array([[7, 1, -100]]), tl.models.T5Config.small())
        Array([[0, 7, 1]], dtype=int32)
    """
    start = jnp.full((labels.shape[0], 1), config.decoder_start_token_id, labels.dtype)
    shifted = jnp.concatenate([start, labels[:, :-1]], axis=1)
    return jnp.where(shifted < 0, config.pad_token_id, shifted)
