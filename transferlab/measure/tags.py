"""Metrics of tags: probabilities (examples, tags) against booleans (examples, tags)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from transferlab.measure.named import Undefined, metric

Probabilities = Float[np.ndarray, "examples tags"]
Tags = Bool[np.ndarray, "examples tags"]


def tag_scores(probabilities: Probabilities, true: Tags) -> dict[str, float]:
    """Return :data:`f1_micro`, :data:`f1_macro`, :data:`average_precision`, :data:`exact_match` and :data:`cross_entropy`."""
    chosen = (f1_micro, f1_macro, average_precision, exact_match, cross_entropy)
    return {one.name: one(probabilities, true) for one in chosen}


@metric("tags", "scikit-learn: f1_score(average='micro')")
def f1_micro(probabilities: Probabilities, true: Tags, names: Sequence[str]) -> float:
    """F1 over all decisions; a tag is predicted where its probability is at least a half."""
    hits, total = _counts(probabilities, true)
    return float(2 * hits.sum() / max(1, total.sum()))


@metric("tags", "scikit-learn: f1_score(average='macro')")
def f1_macro(probabilities: Probabilities, true: Tags, names: Sequence[str]) -> float:
    """Mean over all tags of F1, which is 0 of a tag that neither is nor is predicted."""
    hits, total = _counts(probabilities, true)
    return float((2 * hits / np.maximum(1, total)).mean())


@metric("tags", "scikit-learn: f1_score(average='weighted')")
def f1_weighted(probabilities: Probabilities, true: Tags, names: Sequence[str]) -> float:
    """Mean over tags of F1, weighted by how many examples have each."""
    if not true.any():
        raise Undefined("no example has a tag")
    hits, total = _counts(probabilities, true)
    return float(np.average(2 * hits / np.maximum(1, total), weights=true.sum(0)))


@metric("tags", "scikit-learn: average_precision_score(average='macro')")
def average_precision(probabilities: Probabilities, true: Tags, names: Sequence[str]) -> float:
    """Mean of average precision over the tags that some example has."""
    from sklearn.metrics import average_precision_score

    if not (some := true.any(0)).any():
        raise Undefined("no example has a tag")
    return _mean(average_precision_score, probabilities, true, some)


@metric("tags", "scikit-learn: roc_auc_score(average='macro')")
def auroc_macro(probabilities: Probabilities, true: Tags, names: Sequence[str]) -> float:
    """Mean of the area under the ROC curve over the tags that some examples have and some have not."""
    from sklearn.metrics import roc_auc_score

    if not (both := true.any(0) & ~true.all(0)).any():
        raise Undefined("each tag is in all examples or in none")
    return _mean(roc_auc_score, probabilities, true, both)


@metric("tags", "scikit-learn: accuracy_score")
def exact_match(probabilities: Probabilities, true: Tags, names: Sequence[str]) -> float:
    """Fraction of examples whose tags are all right."""
    return float(((probabilities >= 0.5) == true).all(1).mean())


@metric("tags", "scikit-learn: hamming_loss", larger=False)
def hamming(probabilities: Probabilities, true: Tags, names: Sequence[str]) -> float:
    """Fraction of wrong decisions, over examples and tags."""
    return float(((probabilities >= 0.5) != true).mean())


@metric("tags", "scikit-learn: brier_score_loss; Brier 1950", larger=False)
def brier(probabilities: Probabilities, true: Tags, names: Sequence[str]) -> float:
    """Mean squared difference of probability and truth, over examples and tags."""
    return float(((probabilities.astype(np.float64) - true) ** 2).mean())


@metric("tags", "scikit-learn: log_loss", larger=False)
def cross_entropy(probabilities: Probabilities, true: Tags, names: Sequence[str]) -> float:
    """Mean negative log-probability of each decision, in nats; probabilities are at least 1e-12 from 0 and 1."""
    p = probabilities.astype(np.float64).clip(1e-12, 1 - 1e-12)
    return float(-np.where(true, np.log(p), np.log1p(-p)).mean())


def _counts(probabilities: Probabilities, true: Tags) -> tuple[np.ndarray, np.ndarray]:
    """Of each tag: how often it was rightly predicted, and how often it was predicted plus how often it was true."""
    # Counted here: scikit-learn takes a table of a single tag for two classes.
    predicted = probabilities >= 0.5
    return (predicted & true).sum(0), predicted.sum(0) + true.sum(0)


def _mean(ranking: Callable[..., float], probabilities: Probabilities, true: Tags, columns: Any) -> float:
    return float(np.mean([ranking(t, p) for t, p in zip(true.T[columns], probabilities.T[columns], strict=True)]))
