"""Scores of probabilities against labels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


def accuracy(probabilities: Float[np.ndarray, "n labels"], labels: Int[np.ndarray, " n"]) -> float:
    """Share of examples whose most probable label is theirs; NaN for none. A row of NaN recognises nothing."""
    return float(_hits(probabilities, labels).mean()) if len(labels) else float("nan")


def _hits(probabilities: Float[np.ndarray, "n labels"], labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    # The largest of NaN is the first: a model that diverged would be right about the first class.
    return (probabilities.argmax(-1) == labels) & np.isfinite(probabilities).all(-1)


def balanced_accuracy(probabilities: Float[np.ndarray, "n labels"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean over the classes present in ``labels`` of the fraction recognised (recall)."""
    return _balanced(_hits(probabilities, labels), labels) if len(labels) else float("nan")


def _balanced(hit: Bool[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    _, column = np.unique(labels, return_inverse=True)
    return float((np.bincount(column, hit) / np.bincount(column)).mean())


def cross_entropy(probabilities: Float[np.ndarray, "n labels"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean negative log-probability of the true label, in nats; probabilities below 1e-12 count as that."""
    if not len(labels):
        return float("nan")
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, 1e-12)).mean())


def scores(
    probabilities: Float[np.ndarray, "examples labels"], labels: Int[np.ndarray, " examples"]
) -> dict[str, float]:
    """Return what every table shows of a test split: accuracy, balanced accuracy and cross-entropy (nats)."""
    if not len(labels):
        return dict.fromkeys(("accuracy", "balanced_accuracy", "cross_entropy"), float("nan"))
    hit = _hits(probabilities, labels)
    return {
        "accuracy": float(hit.mean()),
        "balanced_accuracy": _balanced(hit, labels),
        "cross_entropy": cross_entropy(probabilities, labels),
    }
