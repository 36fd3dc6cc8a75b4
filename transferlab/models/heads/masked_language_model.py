"""The head of masked language models: a transform of each token, then its likelihood over the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Array, Float

from transferlab.bounds import NonNegative, Positive
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Head, Stage
from transferlab.models.heads.language_model import output_kernel
from transferlab.models.heads.likelihood import selected_hidden, token_likelihoods
from transferlab.models.layers import ACTIVATIONS, Key, Linear, TruncatedNormal, check_activation, parameter, zeros
from transferlab.models.norms import LayerNorm

if TYPE_CHECKING:
    from transferlab.models.backbone import Model


@dataclass(frozen=True)
class MaskedLanguageModelConfig:
    """``norm(activation(dense(hidden))) @ kernel + bias``, as in transformers' ``…ForMaskedLM`` (Devlin et al. 2019, section 3.1).

    Attributes:
        activation: after the linear map, which keeps the width.
        norm: eps of the LayerNorm after it.
        tied: the kernel is the embedding table, which the head borrows from the stage that owns it.
        bias: whether the logits have a bias.
        dense_bias, norm_bias: whether the linear map and the norm have one.
        stddev: with which kernels are drawn; not used by a head read from a file.

    Example:
        >>> model = tl.models.BertConfig.base().build(tl.models.MaskedLanguageModelConfig())
    """

    activation: str = "gelu"
    norm: Positive = 1e-12
    tied: bool = True
    bias: bool = True
    dense_bias: bool = True
    norm_bias: bool = True
    stddev: NonNegative = field(default=0.02, compare=False)

    labels: ClassVar[tuple[str, ...]] = ()
    pooling: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_fields(self, "MaskedLanguageModelConfig")
        check_activation(self.activation, "MaskedLanguageModelConfig", "activation")

    def build(self, features: int, *, vocabulary: int = 0, feature_stages: tuple[str, ...] = ()) -> MaskedLanguageModel:
        """The head for hidden states of width ``features`` and this many tokens."""
        return MaskedLanguageModel(features, vocabulary, self)


class MaskedLanguageModel(Head):
    """Logits at every position; with ``labels`` in the carry, their likelihoods at the ``selected`` positions alone."""

    def __init__(self, features: int, vocabulary: int, config: MaskedLanguageModelConfig):
        normal = TruncatedNormal(config.stddev)
        self.dense = Linear(features, features, bias=config.dense_bias, initialiser=normal)
        self.norm = LayerNorm(features, config.norm, bias=config.norm_bias)
        self.kernel = None if config.tied else parameter((features, vocabulary), normal)
        self.bias = parameter((vocabulary,), zeros) if config.bias else None
        self.config = config

    def stages(self, model: Model) -> tuple[Stage, ...]:
        """``head``."""
        borrows = (model.table,) if self.config.tied else ()
        return (Stage("head", lambda carry, key: self.predict(model, carry, key), owns=("head",), borrows=borrows),)

    def predict(self, model: Model, carry: Carry, key: Key | None) -> Carry:
        """Add ``logits`` (batch, length, vocabulary) to the carry, or ``log_likelihood`` and ``correct`` of its ``labels``."""
        hidden = selected_hidden(carry)
        transformed = self.norm(ACTIVATIONS[self.config.activation](self.dense(hidden, key)))
        kernel = output_kernel(model, self.kernel)
        if "labels" not in carry:
            return {**carry, "logits": self._biased(transformed @ kernel)}
        likelihood, correct = token_likelihoods(transformed, carry["labels"], kernel, self._biased)
        return {**carry, "log_likelihood": likelihood, "correct": correct}

    def _biased(self, logits: Float[Array, "*tokens vocabulary"]) -> Float[Array, "*tokens vocabulary"]:
        return logits if self.bias is None else logits + self.bias[...]
