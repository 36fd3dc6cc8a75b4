"""DistilBERT (Sanh et al. 2019): BERT's layers, half as many, without token types and without a pooler."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx

from transferlab.bounds import Count, NonNegative, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry
from transferlab.models.bert import Encoder, EncoderConfig, Layer, check_encoder
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import Embedding, Key, TruncatedNormal, dropout
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size


@dataclass(frozen=True)
class DistilBertConfig:
    """Sizes and constants, under the names that BERT's config has for them.

    Example:
        >>> model = tl.models.DistilBertConfig.base().build()
    """

    vocab_size: Count = 30522
    hidden_size: Count = 768
    num_hidden_layers: Count = 6
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Count = 512
    initializer_range: NonNegative = 0.02

    def __post_init__(self) -> None:
        check_fields(self, "DistilBertConfig")
        check_encoder(self, "DistilBertConfig")

    @property
    def layer_norm_eps(self) -> float:
        """1e-12, which no config file states."""
        return 1e-12

    @property
    def pooler(self) -> bool:
        """False: it has none."""
        return False

    base = Size("DistilBERT-base: 6 layers, 768 wide, 66 M parameters.")

    def build(self, head: HeadConfig | None = None) -> DistilBert:
        """Return the module; nothing is allocated."""
        return DistilBert(self, head)


class Embed(nnx.Module):
    """Word + position embeddings, normalised."""

    def __init__(self, config: DistilBertConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.word = Embedding(config.vocab_size, config.hidden_size, initialiser=normal)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size, initialiser=normal)
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
        positions = inputs.get("position_ids")
        x = self.word(ids)
        x = x + self.position.embedding[...][: ids.shape[1]] if positions is None else x + self.position(positions)
        mask = jnp.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        return {"hidden": dropout(self.norm(x), self.dropout, key), "mask": mask}


class DistilLayer(Layer):
    """BERT's layer without dropout between attention and its residual."""

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        self.mixed_dropout = 0.0


class DistilBert(Encoder):
    """DistilBERT. Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``position_ids``."""

    poolings = ("mean", "first", "stages")

    def __init__(self, config: DistilBertConfig, head: HeadConfig | None = None):
        super().__init__(config, Embed(config), head, DistilLayer)
