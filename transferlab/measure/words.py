"""Scores of a tag for each word: probabilities (words, tags) of each example against indices (words,), -1 where not scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transferlab.measure import metrics


def word_scores(probabilities: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> dict[str, float]:
    """Return ``accuracy``, ``f1_macro`` and ``cross_entropy`` (nats) over the scored words of all examples; NaN without any.

    ``f1_macro`` is the mean of F1 over the tags that some word has or is given, as scikit-learn's ``f1_score(average="macro")``.
    """
    if not len(true) or not len(tags := np.concatenate(list(true))) or not (scored := tags >= 0).any():
        return dict.fromkeys(("accuracy", "f1_macro", "cross_entropy"), float("nan"))
    p, tags = np.concatenate(list(probabilities))[scored], tags[scored]
    predicted, n = p.argmax(-1), p.shape[1]
    hits = np.bincount(tags[predicted == tags], minlength=n)
    total = np.bincount(predicted, minlength=n) + np.bincount(tags, minlength=n)
    return {
        "accuracy": metrics.accuracy(p, tags),
        "f1_macro": float((2 * hits[total > 0] / total[total > 0]).mean()),
        "cross_entropy": metrics.cross_entropy(p, tags),
    }
