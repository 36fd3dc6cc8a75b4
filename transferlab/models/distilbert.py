"""DistilBERT (Sanh et al. 2019): BERT's layers, half as many, without token types and without a pooler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx

from transferlab.bounds import Count, NonNegative, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields, given_fields
from transferlab.models.backbone import Carry
from transferlab.models.bert import Encoder, EncoderConfig, Layer, check_encoder
from transferlab.models.heads import ClassifierConfig
from transferlab.models.layers import Embedding, Key, TruncatedNormal, dropout
from transferlab.models.norms import LayerNorm


@dataclass(frozen=True)
class DistilBertConfig:
    """Sizes and constants, under the names that Hugging Face's ``config.json`` uses."""

    vocab_size: Count = 30522
    dim: Count = 768
    n_layers: Count = 6
    n_heads: Count = 12
    hidden_dim: Count = 3072
    activation: str = "gelu"
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    max_position_embeddings: Count = 512
    initializer_range: NonNegative = 0.02

    def __post_init__(self) -> None:
        check_fields(self, "DistilBertConfig")
        if self.dim % self.n_heads:
            raise TransferlabError(f"DistilBertConfig: dim {self.dim} is no multiple of n_heads {self.n_heads}.")
        check_encoder(self, "DistilBertConfig")

    # The names that the other encoders have for the same things.

    @property
    def hidden_size(self) -> int:
        """Width: ``dim``."""
        return self.dim

    @property
    def num_hidden_layers(self) -> int:
        """Layers: ``n_layers``."""
        return self.n_layers

    @property
    def num_attention_heads(self) -> int:
        """Heads: ``n_heads``."""
        return self.n_heads

    @property
    def intermediate_size(self) -> int:
        """Width inside the MLP: ``hidden_dim``."""
        return self.hidden_dim

    @property
    def hidden_act(self) -> str:
        """Activation of the MLP: ``activation``."""
        return self.activation

    @property
    def hidden_dropout_prob(self) -> float:
        """Rate after the embeddings and the MLP: ``dropout``."""
        return self.dropout

    @property
    def attention_probs_dropout_prob(self) -> float:
        """Rate on the attention weights: ``attention_dropout``."""
        return self.attention_dropout

    @property
    def layer_norm_eps(self) -> float:
        """1e-12, which no config says."""
        return 1e-12

    @property
    def pooler(self) -> bool:
        """It has none."""
        return False

    @classmethod
    def base(cls) -> DistilBertConfig:
        """DistilBERT-base: 6 layers, 768 wide, 66 M parameters."""
        return cls()

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> DistilBertConfig:
        """Read Hugging Face's ``config.json``. Sinusoidal positions are in the file as a table, like learned ones."""
        return cls(**given_fields(cls, config))

    def build(self, head: ClassifierConfig | None = None) -> DistilBert:
        """Return the module; nothing is allocated."""
        return DistilBert(self, head)


class Embed(nnx.Module):
    """Word + position embeddings, normalised."""

    def __init__(self, config: DistilBertConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.word = Embedding(config.vocab_size, config.dim, initialiser=normal)
        self.position = Embedding(config.max_position_embeddings, config.dim, initialiser=normal)
        self.norm = LayerNorm(config.dim, config.layer_norm_eps)
        self.dropout = config.dropout
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
    """BERT's layer; no dropout stands between attention and its residual."""

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        self.mixed_dropout = 0.0


class DistilBert(Encoder):
    """DistilBERT. Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``position_ids``."""

    poolings = ("mean", "first", "stages")

    def __init__(self, config: DistilBertConfig, head: ClassifierConfig | None = None):
        super().__init__(config, Embed(config), head, DistilLayer)
