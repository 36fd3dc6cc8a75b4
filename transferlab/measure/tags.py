"""Scores of predicted tags."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def tag_scores(
    probabilities: Float[np.ndarray, "examples tags"], true: Bool[np.ndarray, "examples tags"]
) -> dict[str, float]:
    """Return F1 over all tags (micro) and its mean over tags (macro), average precision, exact matches and cross-entropy.

    A tag is predicted where its probability is at least a half. Average precision is the mean over the tags that some of
    the examples have, NaN where none has any. F1 of a tag that neither is nor is predicted is 0, as scikit-learn has it.
    """
    # scikit-learn takes most of a second to import, and not every process scores tags.
    from sklearn.metrics import average_precision_score

    predicted, p = probabilities >= 0.5, probabilities.astype(np.float64).clip(1e-12, 1 - 1e-12)
    # Counted here: scikit-learn takes a table of a single tag for two classes.
    hits, total = (predicted & true).sum(0), predicted.sum(0) + true.sum(0)
    some = true.any(0)
    precisions = [average_precision_score(t, q) for t, q in zip(true.T[some], p.T[some], strict=True)]
    return {
        "f1_micro": float(2 * hits.sum() / max(1, total.sum())),
        "f1_macro": float((2 * hits / np.maximum(1, total)).mean()),
        "average_precision": float(np.mean(precisions)) if precisions else float("nan"),
        "exact_match": float((predicted == true).all(1).mean()),
        "cross_entropy": float(-np.where(true, np.log(p), np.log1p(-p)).mean()),
    }
