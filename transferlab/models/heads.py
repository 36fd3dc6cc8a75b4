"""Heads, which turn a backbone's features into predictions. A head pools (a stage without parameters), then classifies.

Pooling is a stage of its own so that a frozen backbone's cached carry is one vector per example, not its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transferlab.bounds import NonNegative, Positive, Rate
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Head, Stage, Token, last_token
from transferlab.models.layers import ACTIVATIONS, Key, Linear, TruncatedNormal, dropout, parameter, zeros
from transferlab.models.norms import LayerNorm
from transferlab.trees import submodule

if TYPE_CHECKING:
    from transferlab.models.backbone import Model

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]
Pooling = Literal["mean", "first", "last", "first and mean", "pooler", "embedding", "stages"]


@dataclass(frozen=True)
class HiddenLayer:
    """A layer between the pooled features and the logits, as in some heads of transformers.

    Attributes:
        activation: after its linear map, which keeps the width.
        bias: whether the linear map has a bias.
        norm: eps of a LayerNorm after the activation; None leaves the norm out.
        norm_bias: whether that norm has a bias.
        dropout_before: whether the head's dropout also acts on the pooled features, not only on this layer's output.
        stddevs: with which this layer's kernel and that of the logits are drawn; not used by a head read from a file.
    """

    activation: str
    bias: bool = True
    norm: Positive | None = None
    norm_bias: bool = False
    dropout_before: bool = False
    stddevs: tuple[NonNegative, ...] = field(default=(0.02, 0.02), compare=False)

    def __post_init__(self) -> None:
        check_fields(self, "HiddenLayer")


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier over pooled features: linear, or with one hidden layer.

    Attributes:
        labels: label names, in the order of the logits.
        pooling: ``mean`` over unmasked tokens or over the image, ``first`` token, ``last`` unmasked token whichever side
            is padded, ``first and mean`` concatenated (as in DINOv2's linear evaluation), the model's own ``pooler``, its
            ``embedding`` in a space shared by images and texts, or ``stages``: the pooled features of every feature stage,
            each scaled to unit length, concatenated (in the spirit of Head2Toe, Evci et al. 2022).
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


HeadConfig = ClassifierConfig | LanguageModelConfig
"""The heads that a model can be built with."""


class Classifier(Head):
    """``logits = pooled @ kernel + bias``; kernel (features, labels). A hidden layer (``dense``, ``norm``) comes before it.

    The kernel is drawn as BERT's is (Devlin et al. 2019). Zeros would do for a probe, but MiniLM trained from scratch on
    256 tweets stayed at the majority rate with a head of zeros (.693 to .700), and reached .725 with a drawn one.
    """

    def __init__(self, features: int, config: ClassifierConfig, feature_stages: tuple[str, ...]):
        hidden = config.hidden
        first, last = (0.02, 0.02) if hidden is None else hidden.stddevs
        self.kernel = parameter((features, len(config.labels)), TruncatedNormal(last))
        self.bias = parameter((len(config.labels),), zeros) if config.bias else None
        normal = TruncatedNormal(first)
        self.dense = None if hidden is None else Linear(features, features, bias=hidden.bias, initialiser=normal)
        self.norm = None if hidden is None else _norm(features, hidden)
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

    def pool(self, model: Model, carry: Carry) -> Float[Array, "batch features"]:
        """One vector per example."""
        if self.feature_stages:
            return jnp.concatenate([unit_length(carry[f"pooled {name}"]) for name in self.feature_stages], axis=-1)
        pooled = pool(model, carry, self.config.pooling)
        return unit_length(pooled) if self.config.normalise else pooled

    def classify(self, carry: Carry, key: Key | None) -> Carry:
        """Add ``logits`` to the carry."""
        pooled = carry["pooled"]
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
        """Add ``logits`` (batch, length, vocabulary) to the carry."""
        hidden = carry["hidden"] if self.config.scale == 1.0 else carry["hidden"] * self.config.scale
        logits = submodule(model, model.table).attend(hidden) if self.kernel is None else hidden @ self.kernel[...]
        if self.bias is not None:
            logits = logits + self.bias[...]
        if self.config.soft_cap is not None:
            logits = jnp.tanh(logits / self.config.soft_cap) * self.config.soft_cap
        return {**carry, "logits": logits}


def build_head(
    config: HeadConfig | None, features: int, *, vocabulary: int = 0, feature_stages: tuple[str, ...] = ()
) -> Classifier | LanguageModel | None:
    """Return the head of this config for hidden states of this width; None without a config.

    Args:
        config: of the head.
        features: width of the hidden states of one stage.
        vocabulary: number of tokens, for a language model.
        feature_stages: names of the stages whose features a classifier that pools ``stages`` reads.
    """
    if isinstance(config, LanguageModelConfig):
        return LanguageModel(features, vocabulary, config)
    if config is None or config.pooling != "stages":
        return None if config is None else Classifier(features, config, ())
    return Classifier(features * len(feature_stages), config, feature_stages)


def _norm(features: int, hidden: HiddenLayer) -> LayerNorm | None:
    return None if hidden.norm is None else LayerNorm(features, hidden.norm, bias=hidden.norm_bias)


def pool(model: Model, carry: Carry, pooling: Pooling) -> Float[Array, "batch features"]:
    """Pool a carry: ``first`` token, ``last``, the family's ``mean``, first and mean concatenated, or what a stage pooled."""
    if pooling == "pooler":
        return carry["pooled"]
    if pooling == "embedding":
        return carry["embedding"]
    if pooling == "first":
        return read_hidden(carry)[:, 0]
    if pooling == "last":
        return jnp.take_along_axis(carry["hidden"], last_token(carry["mask"])[:, None, None], axis=1)[:, 0]
    if pooling == "first and mean":
        return jnp.concatenate([read_hidden(carry)[:, 0], model.pool_hidden(carry)], axis=-1)
    return model.pool_hidden(carry)


def read_hidden(carry: Carry) -> Float[Array, "batch length features"]:
    """The hidden states to pool: ``normal`` where a family keeps them apart from what its reference model returns."""
    return carry.get("normal", carry["hidden"])


def unit_length(x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
    """Scale each row to Euclidean length 1; a row of zeros stays."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
