"""Sources of examples: a registered data set, a table or a folder, all read as :class:`Examples`."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transferlab.data.columns import Classes, Numbers, Target
from transferlab.data.labels import check_alike, ordered, read_target
from transferlab.data.tables import checked_text, read_rows
from transferlab.errors import TransferlabError

Content = Literal["text", "pair", "words", "image", "audio"]
"""What an example holds: a text; two texts (``text``, ``text_pair``); a list of ``words``; an ``image`` (uint8, height × width ×
channels); or ``audio`` (float32, one channel) with its ``rate`` in Hz.
"""

Modality = Literal["text", "image", "audio"]
"""What a model reads."""

_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")
"""Names of folders that contain a split, not the images of a label (torchvision reads an ``ImageFolder`` of each)."""


@dataclass(frozen=True)
class Examples:
    """All examples before deduplication and splitting.

    Attributes:
        name, content, target, records, about, text_column: as in :class:`~transferlab.data.Dataset`.
        identify: index → (id, bytes that duplicates have in common, bytes or hash of what a model reads).
    """

    name: str
    content: Content
    target: Target
    records: Sequence[Any]
    identify: Callable[[int], tuple[str, bytes, bytes]]
    about: dict[str, str]
    text_column: str | None = None


def as_records(examples: Sequence[Any], modality: Modality) -> tuple[Content, list[dict[str, Any]]]:
    """Return (what they hold, a record for each) of examples outside a data set.

    Args:
        examples: texts, pairs of texts (tuples), lists of words, uint8 arrays (height, width, channels), or pairs of float32 arrays
            (samples,) and samples per second; all of one kind.
        modality: that they must be of.

    Raises:
        TransferlabError: an example of another kind, or another modality; its index is named.
    """
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
    return (next(iter(kinds)) if kinds else modality), records


_KINDS: dict[Content, str] = {
    "text": "a text",
    "pair": "a pair of texts",
    "words": "a list of words",
    "image": "an image",
    "audio": "audio",
}


def _as_record(example: Any, name: str, modality: Modality) -> tuple[Content, dict[str, Any]]:
    if modality == "image":
        if not isinstance(example, np.ndarray) or example.dtype != np.uint8 or example.ndim != 3 or not example.size:
            kind = f"{example.dtype} {example.shape}" if isinstance(example, np.ndarray) else repr(example)[:60]
            raise TransferlabError(
                f"{name} is {kind}; an image is a uint8 array (height, width, channels), as "
                "transferlab.data.images.read_image(file) returns it."
            )
        return "image", {"image": example}
    if modality == "audio":
        match example:
            case (np.ndarray() as waveform, int() as rate) if waveform.ndim == 1:
                return "audio", {"audio": waveform.astype(np.float32, copy=False), "rate": rate}
        raise TransferlabError(
            f"{name} is {repr(example)[:60]}; audio is a pair (array of samples, samples per second), as "
            "soundfile.read(file) returns it."
        )
    match example:
        case (str() as text, str() as other) if isinstance(example, tuple):
            return "pair", {"text": text, "text_pair": other}
        case [*words] if isinstance(example, list) and words and all(isinstance(word, str) for word in words):
            return "words", {"words": words}
    return "text", {"text": checked_text(example, name)}


def read_registered(name: str) -> Examples:
    """Read a data set of :data:`transferlab.data.builders.DATASETS`, built on first use."""
    from transferlab.data.arrayrecord import data_source
    from transferlab.data.builders import DATASETS
    from transferlab.data.images import read_image

    entry = DATASETS[name]
    source = data_source(entry)
    # These sets are small: texts and encoded images are kept in memory. TFDS shuffles by a hash when it writes; sorted by
    # id, the order does not depend on its version.
    stored = sorted(source.__getitems__(range(len(source))), key=lambda raw: raw["id"])

    def record(i: int) -> dict[str, Any]:
        raw = stored[i]
        example = _text(raw["text"]) if entry.modality == "text" else read_image(raw["image"])
        return {"id": _text(raw["id"]), entry.modality: example, **target.record(i)}

    def identify(i: int) -> tuple[str, bytes, bytes]:
        raw = stored[i]
        if entry.modality == "image":
            # The builder encodes equal images as equal bytes.
            same = hashlib.sha256(raw["image"]).digest()
            return _text(raw["id"]), same, same
        text = _text(raw["text"])
        return _text(raw["id"]), _same_text(text), text.encode()

    about = {"licence": entry.license, "citation": entry.citation, "version": entry.version}
    target: Target = (
        Classes(entry.labels, np.array([int(raw["label"]) for raw in stored], np.int32))
        if entry.number is None
        else Numbers((entry.number,), np.array([[float(_text(raw["target"]))] for raw in stored]))
    )
    return Examples(name, entry.modality, target, _Lazy(len(stored), record), identify, about)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def read_table(
    path: Path, text_column: str, columns: tuple[str, ...], label_kind: str, separator: str | None
) -> Examples:
    """Read a table with a column of texts and one or several of targets.

    Raises:
        TransferlabError: a row that cannot be read, or a target that is none; see :mod:`transferlab.data.labels`.
    """
    if text_column in columns:
        raise TransferlabError(f"The text and the target are both '{text_column}'; they must differ.")
    rows = read_rows(path, (text_column, *columns), columns[0])
    texts = [(number, checked_text(row[text_column], f"{path}, row {number}")) for number, row in rows]
    values = {column: [(number, row[column]) for number, row in rows] for column in columns}
    target = read_target(path, values, label_kind, path.suffix.lower() == ".jsonl", separator)

    def record(i: int) -> dict[str, Any]:
        return {"id": f"row {texts[i][0]}", "text": texts[i][1], **target.record(i)}

    def identify(i: int) -> tuple[str, bytes, bytes]:
        return f"row {texts[i][0]}", _same_text(texts[i][1]), texts[i][1].encode()

    return Examples(str(path), "text", target, _Lazy(len(texts), record), identify, {}, text_column)


def read_folder(path: Path, white: float | int | None) -> Examples:
    """Read a folder with one sub-folder of images per label.

    Raises:
        TransferlabError: a label without images, images outside the labels' folders, or folders of splits.
    """
    from transferlab.data.images import SUFFIXES, image_files, nested_images, passed_over, read_image

    names = ordered(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    check_alike(str(path), names)
    images = {name: image_files(path / name) for name in names}
    files = [(file, i) for i, name in enumerate(names) for file in images[name]]
    if splits := [
        split
        for split in _SPLITS
        for name in names
        if split == name.lower() and not images[name] and nested_images(path / name)
    ]:
        first = next(name for name in names if name.lower() == splits[0])
        raise TransferlabError(
            f"{path} has folders of splits ({', '.join(splits)}), each with folders of labels; these are not read yet. Open "
            f"one of them:\n  >>> tl.dataset({str(path / first)!r})"
        )
    if not files and not nested_images(path):
        raise TransferlabError(f"{path} holds no images; expected {path}/<label>/*.png or .jpg.")
    if loose := image_files(path):
        raise TransferlabError(
            f"{loose[0]} is outside the labels' folders ({path}/<label>/*), one of {len(loose)} such images. Move them into "
            "a label's folder, or elsewhere."
        )
    for name, inside in images.items():
        if deeper := nested_images(path / name):
            raise TransferlabError(
                f"{deeper[0]} is a folder deeper than a label's images ({path}/<label>/*), one of {len(deeper)} such images. "
                "Move them up, or elsewhere."
            )
        if not inside:
            raise TransferlabError(
                f"{path / name} holds no images ({', '.join(SUFFIXES)}), so that no example has the label '{name}'."
            )

    def record(i: int) -> dict[str, Any]:
        file, label = files[i]
        return {"id": str(file.relative_to(path)), "image": read_image(file, white), "label": label}

    def identify(i: int) -> tuple[str, bytes, bytes]:
        example = record(i)
        same = _same_image(example["image"])
        return example["id"], same, same

    ignored = passed_over([path / name for name in names])
    about = {"passed_over": ignored} if ignored else {}
    target = Classes(names, np.array([label for _, label in files], np.int32))
    return Examples(str(path), "image", target, _Lazy(len(files), record), identify, about)


def _same_text(text: str) -> bytes:
    return " ".join(html.unescape(text).casefold().split()).encode()


def _same_image(image: np.ndarray) -> bytes:
    return hashlib.sha256(str(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()


class _Lazy(Sequence[dict[str, Any]]):
    """``n`` records, each made when it is read."""

    def __init__(self, n: int, make: Callable[[int], dict[str, Any]]):
        self._n, self._make = n, make

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        return self._make(int(index))
