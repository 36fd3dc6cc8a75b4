"""Heads, which turn a backbone's features into predictions; each kind is a config that builds it."""

from __future__ import annotations

from transferlab.models.heads.classifier import Classifier, ClassifierConfig, HiddenLayer, Problem
from transferlab.models.heads.embedding import Embedding, EmbeddingConfig
from transferlab.models.heads.language_model import LanguageModel, LanguageModelConfig
from transferlab.models.heads.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig
from transferlab.models.heads.pooling import Pooling, pool, read_hidden, unit_length
from transferlab.models.heads.token_classifier import TokenClassifier, TokenClassifierConfig

HeadConfig = (
    ClassifierConfig | TokenClassifierConfig | LanguageModelConfig | MaskedLanguageModelConfig | EmbeddingConfig
)
"""The heads that a model can be built with."""

BuiltHead = Classifier | TokenClassifier | LanguageModel | MaskedLanguageModel | Embedding


def build_head(
    config: HeadConfig | None, features: int, *, vocabulary: int = 0, feature_stages: tuple[str, ...] = ()
) -> BuiltHead | None:
    """Return the head of this config for hidden states of this width; None without a config.

    Args:
        config: of the head.
        features: width of the hidden states of one stage.
        vocabulary: number of tokens, for a language model.
        feature_stages: names of the stages whose features a classifier that pools ``stages`` or ``weighted stages`` reads.
    """
    if config is None:
        return None
    if config.pooling not in ("stages", "weighted stages"):
        return config.build(features, vocabulary=vocabulary)
    together = len(feature_stages) if config.pooling == "stages" else 1
    return config.build(features * together, feature_stages=feature_stages)


__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Embedding",
    "EmbeddingConfig",
    "HeadConfig",
    "HiddenLayer",
    "LanguageModel",
    "LanguageModelConfig",
    "MaskedLanguageModel",
    "MaskedLanguageModelConfig",
    "Pooling",
    "Problem",
    "TokenClassifier",
    "TokenClassifierConfig",
    "build_head",
    "pool",
    "read_hidden",
    "unit_length",
]
