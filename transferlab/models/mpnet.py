"""MPNet (Song et al. 2020): BERT's layers with one relative position bias for all layers, and no token types.

The bias is looked up by T5's buckets of distance (Raffel et al. 2020, section 2.1): exact for short distances,
logarithmic beyond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from transferlab.bounds import Count, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Token
from transferlab.models.bert import Encoder, Layer, LayerRun, check_encoder
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import Embedding, Key, TruncatedNormal, dropout
from transferlab.models.norms import LayerNorm
from transferlab.models.roberta import counted_positions
from transferlab.models.sizes import Size

PAD = 1
"""The padding token's id, fixed in transformers whatever a config says."""

BUCKETS, FURTHEST = 32, 128
"""Number of buckets, and the distance from which on all fall into the last. No config changes these."""


@dataclass(frozen=True)
class MPNetConfig:
    """Sizes and constants, under the names that Hugging Face's ``config.json`` uses.

    Attributes:
        max_position_embeddings: rows of the position table; the first two are not for tokens.
        relative_attention_num_buckets: rows of the bias table; transformers uses only the first 32.

    Example:
        >>> model = tl.models.MPNetConfig.base().build()
    """

    vocab_size: Count = 30527
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Count = 514
    initializer_range: NonNegative = 0.02
    layer_norm_eps: Positive = 1e-5
    relative_attention_num_buckets: Count = BUCKETS
    pooler: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "MPNetConfig")
        check_encoder(self, "MPNetConfig")
        if self.relative_attention_num_buckets < BUCKETS:
            raise TransferlabError(
                f"MPNetConfig: relative_attention_num_buckets is {self.relative_attention_num_buckets}; it must be at "
                f"least {BUCKETS}."
            )
        if self.max_tokens < 1:
            raise TransferlabError(
                f"MPNetConfig: max_position_embeddings {self.max_position_embeddings} must be at least {PAD + 2}."
            )

    @property
    def max_tokens(self) -> int:
        """Number of tokens of the longest text."""
        return self.max_position_embeddings - PAD - 1

    base = Size("MPNet-base, as in all-mpnet-base-v2: 12 layers, 768 wide, 109 M parameters.")

    def without_pooler(self) -> MPNetConfig:
        """The same encoder without the tanh pooler over the first token."""
        return replace(self, pooler=False)

    def build(self, head: HeadConfig | None = None) -> MPNet:
        """Return the module; nothing is allocated."""
        return MPNet(self, head)


class Embed(nnx.Module):
    """Word + position embeddings, normalised; and the table of the bias, which the layers borrow."""

    def __init__(self, config: MPNetConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.word = Embedding(config.vocab_size, config.hidden_size, initialiser=normal)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size, initialiser=normal)
        self.relative = Embedding(config.relative_attention_num_buckets, config.num_attention_heads, initialiser=normal)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob
        self.longest = config.max_tokens

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask")
        positions = inputs.get("position_ids")
        x = self.word(ids)
        x = x + self.position(counted_positions(ids, PAD, self.longest) if positions is None else positions)
        mask = jnp.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        return {"hidden": dropout(self.norm(x), self.dropout, key), "mask": mask}

    def bias(self, length: int) -> Float[Array, "heads length length"]:
        """The bias on the attention scores of each query (rows) and key (columns)."""
        return self.relative(jnp.asarray(distance_buckets(length))).transpose(2, 0, 1)


def distance_buckets(length: int) -> Int[np.ndarray, "length length"]:
    """Return the bucket of each pair of query (rows) and key (columns): the upper half for keys after the query.

    Of each half, the first 8 are for one distance each, the rest for ranges that grow up to ``FURTHEST``. Positions are
    counted in the padded text, as in transformers.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = BUCKETS // 2
    exact = half // 2
    away = np.abs(distance)
    # In float32, as in transformers: the last bit decides at the edges of a range.
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(FURTHEST / exact))
    far = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int32), half - 1)
    return (np.where(away < exact, away, far) + half * (distance > 0)).astype(np.int32)


class MPNet(Encoder):
    """MPNet. Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``position_ids``."""

    borrows = ("embed/relative",)
    first_position = PAD + 1

    def __init__(self, config: MPNetConfig, head: HeadConfig | None = None):
        embed = Embed(config)
        super().__init__(config, embed, head)
        self.embed = embed

    def run(self, layer: Layer) -> LayerRun:
        """A layer with the bias of the text's length."""

        def run(carry: Carry, key: Key | None, query_token: Token | None = None) -> Carry:
            bias = self.embed.bias(carry["hidden"].shape[1])
            # The only token that a pooling of this family reads by itself is the first.
            return layer(carry, key, query_token, bias if query_token is None else bias[:, :1])

        return run
