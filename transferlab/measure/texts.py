"""Scores of written texts against the texts that were to be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def exact_match(texts: Sequence[str], true: Sequence[str]) -> float:
    """Return the fraction of texts that are equal to the true ones but for white space; NaN without texts."""
    return _mean([float(text.split() == other.split()) for text, other in zip(texts, true, strict=True)])


def token_f1(texts: Sequence[str], true: Sequence[str]) -> float:
    """Return the mean over texts of the F1 of their words (Rajpurkar et al. 2016, section 6.1), which are separated by white space
    and compared as they are; NaN without texts.

    Example:
        >>> token_f1(["the cat sat"], ["the cat"])
        0.8
    """
    return _mean([_f1(text.split(), other.split()) for text, other in zip(texts, true, strict=True)])


def _f1(words: list[str], true: list[str]) -> float:
    common = sum((Counter(words) & Counter(true)).values())
    return 2 * common / (len(words) + len(true)) if words or true else 1.0


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values)) if values else float("nan")
