"""Baselines of tagged words: the tags that each word had in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from transferlab.data.ragged import Ragged
from transferlab.evaluate.baselines import Baseline, Predictions

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset


def _majority(task: Any, data: Dataset) -> Predictions:
    return _predicted(data, {}, _counts(task, data)[1])


def _frequent(task: Any, data: Dataset) -> Predictions:
    return _predicted(data, *_counts(task, data))


def _counts(task: Any, data: Dataset) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """How often each word has each tag in the training split, and the frequencies of the tags over all words."""
    column, counts = task.column(data), dict[str, np.ndarray]()
    for i in data.train:
        for word, tag in zip(data.records[int(i)]["words"], column.values[i].tolist(), strict=True):
            if tag >= 0:
                counts.setdefault(word, np.zeros(len(column.names), np.float32))[tag] += 1
    total = sum(counts.values(), np.zeros(len(column.names), np.float32))
    return counts, total / max(1.0, total.sum())


def _predicted(data: Dataset, counts: dict[str, np.ndarray], prior: np.ndarray) -> Predictions:
    """A word's relative frequencies, of one word more than there are, whose tags are as those of all."""
    tests = [data.records[int(i)]["words"] for i in data.test]
    rows = [np.stack([counts.get(word, 0) + prior for word in words]) for words in tests]
    return {"probabilities": Ragged.of([one / one.sum(-1, keepdims=True) for one in rows])}


MAJORITY_TAG = Baseline("the most frequent tag for every word", _majority, "text", constant=True)
FREQUENT_TAG = Baseline(
    "the most frequent tag of each word, and of all words for one that training lacks", _frequent, "text"
)
