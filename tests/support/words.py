"""Sentences of words with tags, as a data set."""

from __future__ import annotations

import numpy as np

import transferlab as tl
from transferlab.data.dataset import Dataset

from .checkpoints import WORDS

NAMES = ("B-bad", "B-good", "I-good", "O")


def tags_of(words: list[str]) -> list[str]:
    """Good words begin a span or go on with it; bad ones are spans of a word."""
    out: list[str] = []
    for word in words:
        before = out[-1] if out else "O"
        good = "I-good" if before in ("B-good", "I-good") else "B-good"
        out.append(good if word in ("good", "great", "fine") else "B-bad" if word in ("bad", "poor", "sad") else "O")
    return out


def tagged(n: int = 120, longest: int = 20, test_examples: int = 40) -> Dataset:
    """Random sentences of the words that the tiny checkpoints know."""
    rng = np.random.default_rng(0)
    words = [[*rng.choice(WORDS, rng.integers(2, longest)).tolist(), str(i)] for i in range(n)]
    rows = [{"words": sentence, "tags": tags_of(sentence)} for sentence in words]
    return tl.dataset(rows, words="words", target="tags", test_examples=test_examples)
