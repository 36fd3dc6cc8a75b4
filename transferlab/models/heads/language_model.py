"""Logits over the vocabulary, or likelihoods of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Positive
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Head, Stage
from transferlab.models.heads.likelihood import selected_hidden, token_likelihoods
from transferlab.models.layers import TruncatedNormal, parameter, zeros
from transferlab.trees import submodule

if TYPE_CHECKING:
    from transferlab.models.backbone import Model


@dataclass(frozen=True)
class LanguageModelConfig:
    """Logits over the vocabulary at every position.

    Attributes:
        tied: the kernel is the embedding table, which the head borrows from the stage that owns it.
        bias: whether a bias is added.
        scale: factor on the hidden states before the kernel (``d_model ** -0.5`` in T5's tied head).
        soft_cap: ``cap · tanh(logits / cap)`` (Gemma 2, section 2 of its report); None leaves the logits as they are.

    Example:
        >>> model = tl.models.GPT2Config.small().build(tl.models.LanguageModelConfig(tied=True))
    """

    tied: bool = True
    bias: bool = False
    scale: Positive = 1.0
    soft_cap: Positive | None = None

    labels: ClassVar[tuple[str, ...]] = ()
    pooling: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_fields(self, "LanguageModelConfig")

    def build(self, features: int, *, vocabulary: int = 0, feature_stages: tuple[str, ...] = ()) -> LanguageModel:
        """The head for hidden states of width ``features`` and this many tokens."""
        return LanguageModel(features, vocabulary, self)


class LanguageModel(Head):
    """``logits = hidden @ kernel``; kernel (features, vocabulary), or the embedding table where the two are tied."""

    def __init__(self, features: int, vocabulary: int, config: LanguageModelConfig):
        self.kernel = None if config.tied else parameter((features, vocabulary), TruncatedNormal(0.02))
        self.bias = parameter((vocabulary,), zeros) if config.bias else None
        self.config = config

    def stages(self, model: Model) -> tuple[Stage, ...]:
        """``head``."""
        borrows = (model.table,) if self.config.tied else ()
        return (Stage("head", lambda carry, key: self.predict(model, carry), owns=("head",), borrows=borrows),)

    def predict(self, model: Model, carry: Carry) -> Carry:
        """Add ``logits`` (batch, length, vocabulary) to the carry; where it has ``labels``, their ``log_likelihood`` (nats) and
        whether they are ``correct``, the likeliest tokens, instead.
        """
        hidden = selected_hidden(carry)
        hidden = hidden if self.config.scale == 1.0 else hidden * self.config.scale
        if "labels" not in carry:
            logits = submodule(model, model.table).attend(hidden) if self.kernel is None else hidden @ self.kernel[...]
            return {**carry, "logits": self._finished(logits)}
        kernel = output_kernel(model, self.kernel)
        likelihood, correct = token_likelihoods(hidden, carry["labels"], kernel, self._finished)
        return {**carry, "log_likelihood": likelihood, "correct": correct}

    def _finished(self, logits: Float[Array, "*tokens vocabulary"]) -> Float[Array, "*tokens vocabulary"]:
        """The logits with their bias, and capped."""
        if self.bias is not None:
            logits = logits + self.bias[...]
        if self.config.soft_cap is not None:
            logits = jnp.tanh(logits / self.config.soft_cap) * self.config.soft_cap
        return logits


def output_kernel(model: Model, kernel: nnx.Param | None) -> Float[Array, "features vocabulary"]:
    """The head's own kernel, or the embedding table where the two are tied."""
    return submodule(model, model.table).embedding[...].T if kernel is None else kernel[...]
