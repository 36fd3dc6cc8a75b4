"""Scores of predicted tags."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score, f1_score


def tag_scores(
    probabilities: Float[np.ndarray, "examples tags"], true: Bool[np.ndarray, "examples tags"]
) -> dict[str, float]:
    """Return F1 over all tags (micro) and its mean over tags (macro), average precision, exact matches and cross-entropy.

    A tag is predicted where its probability is at least a half. Average precision is the mean over the tags that some of
    the examples have, NaN where none has any. F1 of a tag that neither is nor is predicted is 0, as scikit-learn has it.
    """
    predicted, p = probabilities >= 0.5, probabilities.astype(np.float64).clip(1e-12, 1 - 1e-12)
    some = true.any(0)
    precision = average_precision_score(true[:, some], p[:, some], average="macro") if some.any() else np.nan
    return {
        "f1_micro": float(f1_score(true, predicted, average="micro", zero_division=0.0)),  # pyright: ignore[reportArgumentType]
        "f1_macro": float(f1_score(true, predicted, average="macro", zero_division=0.0)),  # pyright: ignore[reportArgumentType]
        "average_precision": float(precision),
        "exact_match": float((predicted == true).all(1).mean()),
        "cross_entropy": float(-np.where(true, np.log(p), np.log1p(-p)).mean()),
    }
