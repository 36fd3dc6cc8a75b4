"""A classifier over pooled features. It pools (a stage without parameters), then classifies.

Pooling is a stage of its own so that a frozen backbone's cached carry is one vector per example, not its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transferlab.bounds import Count, NonNegative, Positive, Rate
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Head, Stage, Token
from transferlab.models.heads.pooling import Pooling, pool, unit_length
from transferlab.models.layers import ACTIVATIONS, Key, Linear, TruncatedNormal, dropout, parameter, zeros
from transferlab.models.norms import LayerNorm

if TYPE_CHECKING:
    from transferlab.models.backbone import Model

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]


@dataclass(frozen=True)
class HiddenLayer:
    """A layer between the pooled features and the logits, as in some heads of transformers.

    Attributes:
        activation: after its linear map.
        bias: whether the linear map has a bias.
        norm: eps of a LayerNorm after the activation; None leaves the norm out.
        norm_bias: whether that norm has a bias.
        dropout_before: whether the head's dropout also acts on the pooled features, not only on this layer's output.
        stddevs: with which this layer's kernel and that of the logits are drawn; not used by a head read from a file.
        size: its width; None keeps that of the pooled features.
    """

    activation: str
    bias: bool = True
    norm: Positive | None = None
    norm_bias: bool = False
    dropout_before: bool = False
    stddevs: tuple[NonNegative, ...] = field(default=(0.02, 0.02), compare=False)
    size: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self, "HiddenLayer")


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier over pooled features: linear, or with one hidden layer.

    Attributes:
        labels: label names, in the order of the logits.
        pooling: ``mean`` over unmasked tokens or over the image, ``first`` token, ``last`` unmasked token whichever side
            is padded, ``first and mean`` concatenated (as in DINOv2's linear evaluation), the model's own ``pooler``, its
            ``embedding`` in a space shared by images and texts, ``stages``: the pooled features of every feature stage,
            each scaled to unit length, concatenated (in the spirit of Head2Toe, Evci et al. 2022), or ``weighted stages``: their
            mean, by a softmax over a learned weight of each, as transformers' audio classifiers with ``use_weighted_layer_sum``.
        normalise: scale the pooled vector to unit length (as sentence-transformers' ``Normalize``).
        dropout: on the pooled features, while the head trains.
        bias: whether a bias is added; transformers' classifiers on decoders have none.
        hidden: a layer before the logits; None leaves it out.
        problem: what the outputs mean, as transformers' ``problem_type``: logits of one label, of each label by itself, or
            numbers.

    Example:
        >>> head = tl.models.ClassifierConfig(("negative", "positive"), pooling="first")
        >>> model = tl.models.BertConfig.minilm_l6().build(head)
    """

    labels: tuple[str, ...] = field(repr=False)
    pooling: Pooling = "mean"
    normalise: bool = False
    dropout: Rate = 0.0
    bias: bool = True
    hidden: HiddenLayer | None = None
    problem: Problem = "single_label_classification"

    def __post_init__(self) -> None:
        check_fields(self, "ClassifierConfig")

    def build(self, features: int, *, vocabulary: int = 0, feature_stages: tuple[str, ...] = ()) -> Classifier:
        """The head; ``features`` is the width of what it pools, of all ``feature_stages`` together where it pools those."""
        return Classifier(features, self, feature_stages)


class Classifier(Head):
    """``logits = pooled @ kernel + bias``; kernel (features, labels). A hidden layer (``dense``, ``norm``) comes before it, and
    before that ``layer_weights`` (stages,), where it pools ``weighted stages``.

    The kernel is drawn as BERT's is (Devlin et al. 2019). Zeros would do for a probe, but MiniLM trained from scratch on
    256 tweets stayed at the majority rate with a head of zeros (.693 to .700), and reached .725 with a drawn one.
    """

    def __init__(self, features: int, config: ClassifierConfig, feature_stages: tuple[str, ...]):
        hidden = config.hidden
        first, last = (0.02, 0.02) if hidden is None else hidden.stddevs
        width = features if hidden is None or hidden.size is None else hidden.size
        self.kernel = parameter((width, len(config.labels)), TruncatedNormal(last))
        self.bias = parameter((len(config.labels),), zeros) if config.bias else None
        normal = TruncatedNormal(first)
        self.dense = None if hidden is None else Linear(features, width, bias=hidden.bias, initialiser=normal)
        self.norm = None if hidden is None else hidden_norm(width, hidden)
        weighted = config.pooling == "weighted stages"
        self.layer_weights = parameter((len(feature_stages),), zeros) if weighted else None
        self.config = config
        self.feature_stages = feature_stages

    def stages(self, model: Model) -> tuple[Stage, ...]:
        """``pool`` and ``head``."""
        return (
            Stage("pool", lambda carry, key: {"pooled": self.pool(model, carry)}),
            Stage("head", self.classify, owns=("head",), random=self.config.dropout > 0),
        )

    def reads(self, model: Model) -> Token | None:
        """The token that it pools, where it pools only one."""
        return None if self.feature_stages else model.pooled_token(self.config.pooling)

    def pool(self, model: Model, carry: Carry) -> Float[Array, "batch *features"]:
        """One vector per example; of weighted stages one for each of them."""
        if self.layer_weights is not None:
            return jnp.stack([carry[f"pooled {name}"] for name in self.feature_stages], axis=1)
        if self.feature_stages:
            return jnp.concatenate([unit_length(carry[f"pooled {name}"]) for name in self.feature_stages], axis=-1)
        pooled = pool(model, carry, self.config.pooling)
        return unit_length(pooled) if self.config.normalise else pooled

    def classify(self, carry: Carry, key: Key | None) -> Carry:
        """Add ``logits`` to the carry."""
        pooled = carry["pooled"]
        if self.layer_weights is not None:
            pooled = jnp.einsum("s,bsf->bf", jax.nn.softmax(self.layer_weights[...]), pooled)
        if self.config.hidden is not None:
            pooled = self._hidden(pooled, self.config.hidden, key)
        logits = dropout(pooled, self.config.dropout, key) @ self.kernel[...]
        return {**carry, "logits": logits if self.bias is None else logits + self.bias[...]}

    def _hidden(self, x: Float[Array, "batch features"], hidden: HiddenLayer, key: Key | None) -> Array:
        assert self.dense is not None
        first, second = (None, None) if key is None else jax.random.split(key)
        if hidden.dropout_before:
            x = dropout(x, self.config.dropout, first)
        x = ACTIVATIONS[hidden.activation](self.dense(x, second))
        return x if self.norm is None else self.norm(x)


def hidden_norm(features: int, hidden: HiddenLayer) -> LayerNorm | None:
    """The norm after a hidden layer, if it has one."""
    return None if hidden.norm is None else LayerNorm(features, hidden.norm, bias=hidden.norm_bias)
