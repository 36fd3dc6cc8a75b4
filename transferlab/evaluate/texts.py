"""Baselines of tasks on texts: pairs found by their words, targets by the frequency of their tokens."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from transferlab.evaluate.baselines import Baseline, Predictions

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset

WORDS = 4096
"""Most words that a text is described by."""


def _nothing(task: Any, data: Dataset) -> Predictions:
    return {"embedding": np.ones((len(data.test), 2, 1), np.float32)}


def _words(task: Any, data: Dataset) -> Predictions:
    from sklearn.feature_extraction.text import TfidfVectorizer

    def sides(indices: np.ndarray) -> list[str]:
        records = [data.records[int(i)] for i in indices]
        return [text for record in records for text in (record["text"], record.get("text_pair", record["text"]))]

    vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=WORDS, token_pattern=r"\S+").fit(sides(data.train))
    sparse: Any = vectorizer.transform(sides(data.test))
    vectors = sparse.toarray().astype(np.float32)
    return {"embedding": vectors.reshape(len(data.test), 2, -1)}


def _frequent(task: Any, data: Dataset, source: Any) -> Predictions:
    feed = task.inputs(data.records, source.transform, content=data.content, ids=data.ids, sha256=data.sha256)
    counts = Counter(token for i in data.train for token in feed.target(int(i)))
    total, (likeliest, _) = sum(counts.values()), counts.most_common(1)[0]
    log_likelihood = {
        token: np.log((count + 1) / (total + source.config.vocab_size)) for token, count in counts.items()
    }
    unseen = np.log(1 / (total + source.config.vocab_size))
    targets = [feed.target(int(i)) for i in data.test]
    text = Counter(str(data.records[int(i)]["target_text"]) for i in data.train).most_common(1)[0][0]
    return {
        "log_likelihood": np.array([sum(log_likelihood.get(token, unseen) for token in target) for target in targets]),
        "tokens": np.array([len(target) for target in targets], np.float64),
        "likeliest": np.array([target.count(likeliest) for target in targets], np.float64),
        "text": np.full(len(targets), text),
    }


CHANCE = Baseline("finding texts in a random order", _nothing, "text", constant=True)
NEAREST = Baseline("the nearest text by its words, weighted by TF-IDF", _words, "text")
FREQUENT = Baseline(
    "tokens by their frequency in the training targets, writing the most frequent target", _frequent, "text",
    constant=True, of_source=True,
)  # fmt: skip
"""Add-one frequencies over the source's vocabulary."""
