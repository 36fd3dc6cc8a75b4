"""A classifier of each token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from transferlab.bounds import NonNegative, Rate
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Head, Stage
from transferlab.models.heads.classifier import HiddenLayer, hidden_norm
from transferlab.models.heads.pooling import read_hidden
from transferlab.models.layers import ACTIVATIONS, Key, Linear, TruncatedNormal, dropout, parameter, zeros

if TYPE_CHECKING:
    from transferlab.models.backbone import Model


@dataclass(frozen=True)
class TokenClassifierConfig:
    """A classifier of each token, linear or with one hidden layer, as in transformers' ``…ForTokenClassification``.

    Attributes:
        labels: label names, in the order of the logits.
        dropout: on the hidden states, while the head trains.
        bias: whether a bias is added.
        hidden: a layer before the logits; None leaves it out.
        stddev: with which the kernel is drawn; not used by a head read from a file.

    Example:
        >>> model = tl.models.BertConfig.minilm_l6().build(tl.models.TokenClassifierConfig(("O", "B-name", "I-name")))
    """

    labels: tuple[str, ...] = field(repr=False)
    dropout: Rate = 0.0
    bias: bool = True
    hidden: HiddenLayer | None = None
    stddev: NonNegative = field(default=0.02, compare=False)

    pooling: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_fields(self, "TokenClassifierConfig")

    def build(self, features: int, *, vocabulary: int = 0, feature_stages: tuple[str, ...] = ()) -> TokenClassifier:
        """The head for hidden states of width ``features``."""
        return TokenClassifier(features, self)


class TokenClassifier(Head):
    """``logits = hidden @ kernel + bias`` at every position; kernel (features, labels). A hidden layer (``dense``, ``norm``) comes
    before it.
    """

    def __init__(self, features: int, config: TokenClassifierConfig):
        hidden = config.hidden
        first, last = (0.02, config.stddev) if hidden is None else hidden.stddevs
        width = features if hidden is None or hidden.size is None else hidden.size
        self.kernel = parameter((width, len(config.labels)), TruncatedNormal(last))
        self.bias = parameter((len(config.labels),), zeros) if config.bias else None
        self.dense = (
            None if hidden is None else Linear(features, width, bias=hidden.bias, initialiser=TruncatedNormal(first))
        )
        self.norm = None if hidden is None else hidden_norm(width, hidden)
        self.config = config

    def stages(self, model: Model) -> tuple[Stage, ...]:
        """``head``."""
        return (Stage("head", self.classify, owns=("head",), random=self.config.dropout > 0),)

    def classify(self, carry: Carry, key: Key | None) -> Carry:
        """Add ``logits`` (batch, length, labels) to the carry."""
        x = read_hidden(carry)
        if self.config.hidden is not None:
            assert self.dense is not None
            x = ACTIVATIONS[self.config.hidden.activation](self.dense(x, key))
            x = x if self.norm is None else self.norm(x)
        logits = dropout(x, self.config.dropout, key) @ self.kernel[...]
        return {**carry, "logits": logits if self.bias is None else logits + self.bias[...]}
