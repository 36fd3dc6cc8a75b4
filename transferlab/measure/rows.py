"""Scores of each class, tag or column, and the confusion matrix: what a report shows next to the numbers of :mod:`named`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from transferlab.measure.named import metrics_by_kind

Row = dict[str, Any]


def score_rows(
    predicted: Float[np.ndarray, "examples outputs"],
    true: Shaped[np.ndarray, "examples *outputs"],
    kind: str,
    names: Sequence[str],
) -> list[Row]:
    """Return a row for each output, with its ``name``; none for a kind of target without such rows.

    Of classes and tags: ``precision``, ``recall``, ``f1`` and ``support`` (examples that have it), as scikit-learn's
    ``precision_recall_fscore_support`` with NaN where one is not defined. Of numbers: every metric, of that column alone.
    """
    if kind == "numbers":
        return [
            {"name": name, **{metric.name: metric(p[:, None], t[:, None], [name]) for metric in metrics_by_kind()[kind].values()}}
            for name, p, t in zip(names, predicted.T, true.T, strict=True)
        ]  # fmt: skip
    if kind not in ("classes", "tags"):
        return []
    every = np.arange(len(names))
    chosen = predicted >= 0.5 if kind == "tags" else predicted.argmax(-1)[:, None] == every
    has = true if kind == "tags" else true[:, None] == every
    hits, predictions, support = (chosen & has).sum(0), chosen.sum(0), has.sum(0)
    columns = {
        "precision": _ratio(hits, predictions),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, predictions + support),
        "support": support,
    }
    return [{"name": name, **{k: v[i].item() for k, v in columns.items()}} for i, name in enumerate(names)]


def confusion_matrix(
    probabilities: Float[np.ndarray, "examples labels"], labels: Int[np.ndarray, " examples"]
) -> Int[np.ndarray, "labels labels"]:
    """Return how many examples of each true label (row) have each label as their most probable one (column)."""
    n = probabilities.shape[1]
    return np.bincount(labels * n + probabilities.argmax(-1), minlength=n * n).reshape(n, n)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
