"""Examples as they are read from any source, before duplicates are removed and splits are made."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from transferlab.data.columns import Target

Content = Literal["text", "pair", "words", "image", "audio"]
"""What an example holds: a text; two texts (``text``, ``text_pair``); a list of ``words``; an ``image`` (uint8, height × width ×
channels); or ``audio`` (float32, one channel) with its ``rate`` in Hz.
"""

Modality = Literal["text", "image", "audio"]
"""What a model reads."""

Split = Literal["train", "validation", "test"]

SPLITS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
"""What a split may be called, in lower case."""


@dataclass(frozen=True)
class Examples:
    """All examples before deduplication and splitting.

    Attributes:
        name, content, target, records, about, columns, notes: as in :class:`~transferlab.data.Dataset`.
        identify: index → (id, bytes that duplicates have in common, bytes or hash of what a model reads).
        groups: of each example, the text that names its group; examples of a group are on one side of every split.
        splits: of each example, the :data:`Split` that the source has it in.
    """

    name: str
    content: Content
    target: Target
    records: Sequence[Any]
    identify: Callable[[int], tuple[str, bytes, bytes]]
    about: dict[str, str]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    splits: np.ndarray | None = None


def same_text(text: str) -> bytes:
    """Return what a text and its duplicates have in common: HTML unescaped, case and white space folded."""
    return " ".join(html.unescape(text).casefold().split()).encode()


def same_image(image: np.ndarray) -> bytes:
    """Return the hash of an image's pixels."""
    return hashlib.sha256(str(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()


class Lazy(Sequence[dict[str, Any]]):
    """``n`` records, each made when it is read."""

    def __init__(self, n: int, make: Callable[[int], dict[str, Any]]):
        self._n, self._make = n, make

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        return self._make(int(index))
