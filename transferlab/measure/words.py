"""Metrics of a tag for each word: probabilities (words, tags) of each example against indices (words,), -1 where not scored.

Spans are those of the scheme that all names have (:func:`transferlab.measure.spans.scheme_of`); :class:`transferlab.tasks.TokenLabels`
may say another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from transferlab.measure import metrics
from transferlab.measure.named import Undefined, metric
from transferlab.measure.spans import scheme_of, span_scores

Examples = Collection[np.ndarray]
"""An array (words, …) of each example, as in a :class:`~transferlab.data.ragged.Ragged`."""


def word_scores(probabilities: Examples, true: Examples) -> dict[str, float]:
    """Return :data:`accuracy`, :data:`f1_macro` and :data:`cross_entropy` over the scored words of all examples; NaN without any."""
    return {one.name: one(probabilities, true) for one in (accuracy, f1_macro, cross_entropy)}


@metric("word_tags", "seqeval: f1_score")
def span_f1(probabilities: Examples, true: Examples, names: Sequence[str]) -> float:
    """F1 of spans, which are right in type, first and last word."""
    return _spans(probabilities, true, names)["span_f1"]


@metric("word_tags", "seqeval: precision_score")
def span_precision(probabilities: Examples, true: Examples, names: Sequence[str]) -> float:
    """Fraction of the predicted spans that are right."""
    return _spans(probabilities, true, names)["span_precision"]


@metric("word_tags", "seqeval: recall_score")
def span_recall(probabilities: Examples, true: Examples, names: Sequence[str]) -> float:
    """Fraction of the true spans that are predicted."""
    return _spans(probabilities, true, names)["span_recall"]


@metric("word_tags", "scikit-learn: accuracy_score")
def accuracy(probabilities: Examples, true: Examples, names: Sequence[str]) -> float:
    """Fraction of the words whose most probable tag is right."""
    return metrics.accuracy(*_words(probabilities, true))


@metric("word_tags", "scikit-learn: f1_score(average='macro')")
def f1_macro(probabilities: Examples, true: Examples, names: Sequence[str]) -> float:
    """Mean of F1 over the tags that some word has or is given."""
    each, _, total = _f1(probabilities, true)
    return float(each[total > 0].mean())


@metric("word_tags", "scikit-learn: f1_score(average='weighted')")
def f1_weighted(probabilities: Examples, true: Examples, names: Sequence[str]) -> float:
    """Mean of F1 over tags, weighted by how many words have each."""
    each, support, _ = _f1(probabilities, true)
    return float(np.average(each, weights=support))


@metric("word_tags", "scikit-learn: balanced_accuracy_score")
def balanced_accuracy(probabilities: Examples, true: Examples, names: Sequence[str]) -> float:
    """Mean over the tags that some word has of the fraction of its words that are given it."""
    return metrics.balanced_accuracy(*_words(probabilities, true))


@metric("word_tags", "scikit-learn: log_loss", larger=False)
def cross_entropy(probabilities: Examples, true: Examples, names: Sequence[str]) -> float:
    """Mean negative log-probability of a word's tag, in nats; probabilities are at least 1e-12."""
    return metrics.cross_entropy(*_words(probabilities, true))


def named_tags(
    probabilities: Examples, true: Examples, names: Sequence[str]
) -> tuple[list[list[str]], list[list[str]]]:
    """Return the predicted and the true tags of each example's scored words."""
    guesses = [one.argmax(-1)[tags >= 0] for one, tags in zip(probabilities, true, strict=True)]
    named = dict(enumerate(names))
    predicted = [[named[i] for i in one.tolist()] for one in guesses]
    return predicted, [[named[i] for i in tags[tags >= 0].tolist()] for tags in true]


def _spans(probabilities: Examples, true: Examples, names: Sequence[str]) -> dict[str, float]:
    scheme = scheme_of(names)
    if scheme is None:
        raise Undefined("the tags mark no spans, as B-PER and I-PER do")
    return span_scores(*named_tags(probabilities, true, names), scheme)


def _words(probabilities: Examples, true: Examples) -> tuple[np.ndarray, np.ndarray]:
    tags = np.concatenate([np.zeros(0, np.int32), *true])
    if not (scored := tags >= 0).any():
        raise Undefined("no word has a tag")
    return np.concatenate(list(probabilities))[scored], tags[scored]


def _f1(probabilities: Examples, true: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each tag: F1 (0 without words), how many words have it, and how many have it plus how many are given it."""
    p, tags = _words(probabilities, true)
    predicted, n = p.argmax(-1), p.shape[1]
    support = np.bincount(tags, minlength=n)
    total = np.bincount(predicted, minlength=n) + support
    return 2 * np.bincount(tags[predicted == tags], minlength=n) / np.maximum(1, total), support, total
