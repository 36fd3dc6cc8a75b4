"""RoBERTa (Liu et al. 2019) and models of its architecture: XLM-R (Conneau et al. 2020), CamemBERT (Martin et al. 2020).

BERT's layers. Positions are counted over the tokens that are not padding, and begin after the padding token's id.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from transferlab.bounds import Count, Natural, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry
from transferlab.models.bert import Encoder, check_encoder
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import Embedding, Key, TruncatedNormal, dropout
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size


@dataclass(frozen=True)
class RobertaConfig:
    """Sizes and constants, under the names that Hugging Face's ``config.json`` uses.

    Attributes:
        max_position_embeddings: rows of the position table; the first ``pad_token_id + 1`` are not for tokens.
        pad_token_id: the padding token, at which no position is counted.

    Example:
        >>> model = tl.models.RobertaConfig.base().build()
    """

    vocab_size: Count = 50265
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Count = 514
    type_vocab_size: Count = 1
    initializer_range: NonNegative = 0.02
    layer_norm_eps: Positive = 1e-5
    pad_token_id: Natural = 1
    pooler: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "RobertaConfig")
        check_encoder(self, "RobertaConfig")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise TransferlabError(
                f"RobertaConfig: pad_token_id {self.pad_token_id} is not below vocab_size {self.vocab_size}."
            )
        if self.max_tokens < 1:
            raise TransferlabError(
                f"RobertaConfig: max_position_embeddings {self.max_position_embeddings} leaves no row for tokens after "
                f"pad_token_id {self.pad_token_id}; it must be at least {self.pad_token_id + 2}."
            )

    @property
    def max_tokens(self) -> int:
        """Number of tokens of the longest text."""
        return self.max_position_embeddings - self.pad_token_id - 1

    # fmt: off
    base = Size("RoBERTa-base: 12 layers, 768 wide, 125 M parameters.")
    large = Size("RoBERTa-large: 24 layers, 1024 wide, 355 M parameters.",
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    xlm_base = base.but("XLM-R base: RoBERTa-base with 250002 tokens of 100 languages, 278 M parameters.",
        vocab_size=250002)
    xlm_large = large.but("XLM-R large: RoBERTa-large with 250002 tokens of 100 languages, 560 M parameters.",
        vocab_size=250002)
    # fmt: on

    def without_pooler(self) -> RobertaConfig:
        """The same encoder without the tanh pooler over the first token."""
        return replace(self, pooler=False)

    def build(self, head: HeadConfig | None = None) -> Roberta:
        """Return the module; nothing is allocated."""
        return Roberta(self, head)


class Embed(nnx.Module):
    """Word + position + token-type embeddings, normalised."""

    def __init__(self, config: RobertaConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.word = Embedding(config.vocab_size, config.hidden_size, initialiser=normal)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size, initialiser=normal)
        self.token_type = Embedding(config.type_vocab_size, config.hidden_size, initialiser=normal)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob
        self.pad, self.longest = config.pad_token_id, config.max_tokens

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask")
        types = inputs.get("token_type_ids")
        positions = inputs.get("position_ids")
        x = self.word(ids)
        x = x + self.position(counted_positions(ids, self.pad, self.longest) if positions is None else positions)
        x = x + (self.token_type.embedding[...][0] if types is None else self.token_type(types))
        mask = jnp.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        return {"hidden": dropout(self.norm(x), self.dropout, key), "mask": mask}


def counted_positions(ids: Int[Array, "batch length"], pad: int, longest: int) -> Int[Array, "batch length"]:
    """Return positions ``pad + 1, pad + 2, …`` for the tokens that are not ``pad``, and ``pad`` for those that are.

    They depend only on the ids, whatever the mask says, as in transformers.
    """
    if ids.shape[1] > longest:
        raise TransferlabError(f"Texts of {ids.shape[1]} tokens are too long: this model has {longest} positions.")
    real = (ids != pad).astype(ids.dtype)
    return jnp.cumsum(real, axis=1) * real + pad


class Roberta(Encoder):
    """RoBERTa.

    Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``token_type_ids``, ``position_ids``.
    """

    def __init__(self, config: RobertaConfig, head: HeadConfig | None = None):
        super().__init__(config, Embed(config), head)
        self.first_position = config.pad_token_id + 1
