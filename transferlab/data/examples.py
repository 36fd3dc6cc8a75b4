"""Examples as they are read from any source, before duplicates are removed and splits are made."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transferlab.data.arrays import array_of
from transferlab.data.cells import image_of, sound_of
from transferlab.data.columns import Target
from transferlab.data.images import line_for_pixels
from transferlab.data.sounds import mono, samples_in
from transferlab.data.tables import checked_text
from transferlab.errors import TransferlabError

Content = Literal["text", "pair", "words", "image", "audio", "array"]
"""What an example holds: a text; two texts (``text``, ``text_pair``); a list of ``words``; an ``image`` (uint8, height × width ×
channels); ``audio`` (float32, one channel) with its ``rate`` in Hz; or an ``array`` of numbers (float32).
"""

Modality = Literal["text", "image", "audio", "array"]
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


def as_records(
    examples: Sequence[Any], modality: Modality, words: bool = False
) -> tuple[Content, Lazy | list[dict[str, Any]]]:
    """Return (what they hold, a record for each) of examples outside a data set.

    Args:
        examples: texts, pairs of texts (tuples), lists of words; images as paths or uint8 arrays (height, width, channels); or
            sounds as paths or in memory (:func:`transferlab.data.sounds.samples_in`), whose channels are averaged; all of one
            kind. A file is read when its record is, so that those of many paths are never in memory together.
        modality: that they must be of.
        words: whether each must be a list of words; tuples and arrays of them are lists.

    Raises:
        TransferlabError: an example of another kind, or another modality, or no file; its index is named.
    """
    if words:
        lists = [_word_list(example, f"examples[{i}]", examples) for i, example in enumerate(examples)]
        return "words", [{"id": f"examples[{i}]", "words": each} for i, each in enumerate(lists)]
    kinds: dict[Content, int] = {}
    records = []
    for i, example in enumerate(examples):
        content, record = _as_record(example, f"examples[{i}]", modality)
        kinds.setdefault(content, i)
        if len(kinds) > 1:
            (first, at), (other, _) = kinds.items()
            raise TransferlabError(
                f"examples[{at}] is {_KINDS[first]}, and examples[{i}] {_KINDS[other]}; all must be of one kind."
            )
        records.append({"id": f"examples[{i}]", **record})
    return (next(iter(kinds)) if kinds else modality), Lazy(len(records), lambda i: _opened(records[i]))


def _opened(record: dict[str, Any]) -> dict[str, Any]:
    """A record with what its file holds, where it has one."""
    match record:
        case {"image": Path() as file}:
            return {**record, "image": image_of(file, str(file), None)}
        case {"audio": Path() as file}:
            samples, rate = sound_of(file, str(file))
            return {**record, "audio": mono(samples), "rate": rate}
    return record


def _word_list(example: Any, name: str, examples: Sequence[Any]) -> list[str]:
    """The words of one example."""
    if isinstance(example, str):
        single = all(isinstance(word, str) and word.split() == [word] for word in examples)
        advice = f"predictor([{list(examples[:3])}])" if single else "predictor([text.split() for text in texts])"
        raise TransferlabError(f"{name} is the text {example[:40]!r}; expected a list of words: {advice}.")
    listed = isinstance(example, (list, tuple)) or (isinstance(example, np.ndarray) and example.ndim == 1)
    if not listed or not all(isinstance(word, str) for word in example):
        raise TransferlabError(f"{name} is {repr(example)[:60]}; expected a list of words, as ['Jane', 'sleeps'].")
    if not len(example):
        raise TransferlabError(f"{name} has no words. Leave it out.")
    for number, word in enumerate(example, 1):
        if not checked_text(word, f"{name}, word {number}").strip():
            raise TransferlabError(f"{name}: word {number} is empty. Remove it.")
    return [str(word) for word in example]


_KINDS: dict[Content, str] = {
    "text": "a text",
    "pair": "a pair of texts",
    "words": "a list of words",
    "image": "an image",
    "audio": "audio",
    "array": "an array",
}


def _as_record(example: Any, name: str, modality: Modality) -> tuple[Content, dict[str, Any]]:
    if modality in ("image", "audio") and isinstance(example, (str, Path)):
        file = Path(example).expanduser()
        if not file.is_file():
            raise TransferlabError(f"{name}: there is no file '{file}'.")
        return modality, {modality: file}
    if modality == "image":
        if not isinstance(example, np.ndarray) or example.dtype != np.uint8 or example.ndim != 3 or not example.size:
            kind = f"{example.dtype} {example.shape}" if isinstance(example, np.ndarray) else repr(example)[:60]
            raise TransferlabError(
                f"{name} is {kind}; an image is a path, or a uint8 array (height, width, channels), as "
                f"transferlab.data.images.read_image(file) returns it.{line_for_pixels(example)}"
            )
        return "image", {"image": example}
    if modality == "array":
        return "array", {"array": array_of(example, name)}
    if modality == "audio":
        samples, rate = samples_in(example, name)
        return "audio", {"audio": mono(samples), "rate": rate}
    match example:
        case (str() as text, str() as other) if isinstance(example, tuple):
            return "pair", {"text": text, "text_pair": other}
        case [*words] if isinstance(example, list) and words and all(isinstance(word, str) for word in words):
            return "words", {"words": words}
    return "text", {"text": checked_text(example, name)}


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
