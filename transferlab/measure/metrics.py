"""Scores of predicted probabilities against labels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


def accuracy(probabilities: Float[np.ndarray, "n labels"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the fraction of examples whose most probable label is the true one; NaN without examples.

    A row with NaN counts as wrong.

    Example:
        >>> tl.measure.accuracy(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]))
        0.5
    """
    return float(_hits(probabilities, labels).mean()) if len(labels) else float("nan")


def _hits(probabilities: Float[np.ndarray, "n labels"], labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    # argmax returns the first of several NaN: a model that diverged would be right about the first class.
    return (probabilities.argmax(-1) == labels) & np.isfinite(probabilities).all(-1)


def balanced_accuracy(probabilities: Float[np.ndarray, "n labels"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the mean over the classes present in ``labels`` of their recall; NaN without examples.

    Example:
        >>> tl.measure.balanced_accuracy(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]), np.array([0, 0, 1]))
        0.5
    """
    return _balanced(_hits(probabilities, labels), labels) if len(labels) else float("nan")


def _balanced(hit: Bool[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    _, column = np.unique(labels, return_inverse=True)
    return float((np.bincount(column, hit) / np.bincount(column)).mean())


def cross_entropy(probabilities: Float[np.ndarray, "n labels"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the mean negative log-probability of the true label, in nats; probabilities are at least 1e-12.

    Example:
        >>> round(tl.measure.cross_entropy(np.array([[0.5, 0.5]]), np.array([1])), 3)
        0.693
    """
    if not len(labels):
        return float("nan")
    return float(per_example(probabilities, labels)["cross_entropy"].mean())


def scores(
    probabilities: Float[np.ndarray, "examples labels"], labels: Int[np.ndarray, " examples"]
) -> dict[str, float]:
    """Return :func:`accuracy`, :func:`balanced_accuracy` and :func:`cross_entropy` (nats), as tables show them.

    Example:
        >>> tl.measure.scores(np.array([[1.0, 0.0]]), np.array([0]))
        {'accuracy': 1.0, 'balanced_accuracy': 1.0, 'cross_entropy': -0.0}
    """
    if not len(labels):
        return dict.fromkeys(("accuracy", "balanced_accuracy", "cross_entropy"), float("nan"))
    hit = _hits(probabilities, labels)
    return {
        "accuracy": float(hit.mean()),
        "balanced_accuracy": _balanced(hit, labels),
        "cross_entropy": cross_entropy(probabilities, labels),
    }


def per_example(
    probabilities: Float[np.ndarray, "n labels"], labels: Int[np.ndarray, " n"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Return what :func:`accuracy` and :func:`cross_entropy` are means of: a hit, 0 or 1, and nats."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "accuracy": _hits(probabilities, labels).astype(np.float64),
        "cross_entropy": -np.log(np.maximum(true, 1e-12)),
    }
