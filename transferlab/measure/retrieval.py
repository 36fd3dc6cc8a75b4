"""How well vectors find their partners among all others: recall at k, mean reciprocal rank, cross-entropy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

CHUNK = 1024
"""Queries whose similarities are in memory together."""


def per_query(
    queries: Float[np.ndarray, "n features"],
    documents: Float[np.ndarray, "n features"],
    ids: Int[np.ndarray, "n 2"],
    scale: float,
) -> dict[str, Float[np.ndarray, " n"]]:
    """Return each query's ``recall_at_1``, ``recall_at_10``, ``mrr`` and ``cross_entropy`` (nats) of finding its document among
    all; a score is the mean over queries.

    Vectors are compared by the cosine of their angle. A document that is the query's own by its text is not counted against it
    (:func:`same_text`). Among documents that are equally similar the order is random: scores are means over all orders, so
    that a model which maps all texts to one vector scores as chance does.

    Args:
        queries: vectors that search.
        documents: vectors that are found; the i-th is the i-th query's.
        ids: of each query's and each document's text: equal texts have equal ids.
        scale: factor on the cosines before the softmax.
    """
    queries, documents = _unit(queries), _unit(documents)
    names = ("recall_at_1", "recall_at_10", "mrr", "cross_entropy")
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in names}
    for start in range(0, len(queries), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(queries)))
        cosines = queries[rows] @ documents.T
        own = cosines[np.arange(len(rows)), rows][:, None]
        others = ~same_text(ids[rows], ids)
        better, equal = ((others & holds).sum(1) for holds in (cosines > own, cosines == own))
        logits = np.where(others, scale * (cosines - own), -np.inf)
        chunk = (
            _within(1, better, equal),
            _within(10, better, equal),
            np.array([np.mean(1.0 / np.arange(b + 1, b + e + 2)) for b, e in zip(better, equal, strict=True)]),
            np.logaddexp(0.0, np.logaddexp.reduce(logits, axis=1)),
        )
        for name, values in zip(names, chunk, strict=True):
            parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def retrieval_scores(
    queries: Float[np.ndarray, "n features"],
    documents: Float[np.ndarray, "n features"],
    ids: Int[np.ndarray, "n 2"],
    scale: float,
) -> dict[str, float]:
    """Return the means over queries of :func:`per_query`, which takes the same arguments; NaN without queries."""
    each = per_query(queries, documents, ids, scale)
    return {name: float(values.mean()) if len(values) else float("nan") for name, values in each.items()}


def same_text(rows: Int[np.ndarray, "n 2"], columns: Int[np.ndarray, "m 2"]) -> Bool[np.ndarray, "n m"]:
    """Whether pair j is no negative of pair i: its query or its document has the text of i's, or its document that of i's query.

    Args:
        rows: ids of the two texts of each pair i.
        columns: those of each pair j.
    """
    queries, documents = columns.T
    first, second = rows[:, :1], rows[:, 1:]
    return (first == queries) | (second == documents) | (first == documents)


def _within(k: int, better: Int[np.ndarray, " n"], equal: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The probability of a rank of at most k in a random order of the document and those equal to it."""
    return np.clip((k - better) / (equal + 1), 0.0, 1.0)


def _unit(vectors: Float[np.ndarray, "n features"]) -> Float[np.ndarray, "n features"]:
    # In float64, so that a vector is as near to its copy as nothing else is.
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
