"""From a table's columns to examples: what each row holds, what it is compared with, its group and its split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transferlab.data.arrays import arrays_of
from transferlab.data.cells import file_of, image_of, sound_of
from transferlab.data.columns import Classes, NoTarget, Numbers, TagSets, Target
from transferlab.data.examples import SPLITS, Examples, Lazy, same_image, same_text
from transferlab.data.labels import LEAVE_OUT, read_target
from transferlab.data.readers.base import Table
from transferlab.data.roles import Roles
from transferlab.data.sounds import mono
from transferlab.data.tables import checked_text
from transferlab.data.word_tags import are_word_tags, word_tags, words_of
from transferlab.errors import TransferlabError, nearest

Cells = Sequence[tuple[str, Any]]
"""A column: the place and value of each row."""


@dataclass(frozen=True)
class Contents:
    """What the rows of a table hold.

    Attributes:
        record: index → the fields of its record.
        same: index → (bytes that duplicates have in common, bytes or hash of what a model reads).
        words: of each row, where it holds words.
        notes: clauses for the summary.
    """

    record: Callable[[int], dict[str, Any]]
    same: Callable[[int], tuple[bytes, bytes]]
    words: list[list[str]] | None = None
    notes: tuple[str, ...] = ()


def examples_of(
    table: Table, roles: Roles, label_kind: str = "auto", separator: str | None = None, white: float | int | None = None
) -> Examples:
    """Return a table's examples.

    Raises:
        TransferlabError: a row whose content, target, group or split cannot be read; it is named.
    """

    def cells(name: str) -> Cells:
        return list(zip(table.places, table.columns[name], strict=True))

    if white is not None and roles.content != "image":
        raise TransferlabError(
            f"white is {white!r}, but '{table.name}' holds no images, to which it applies. Leave it out."
        )
    columns = [cells(name) for name in roles.columns]
    contents = _CONTENTS[roles.content](table, columns, white)
    target = _target(table, {name: cells(name) for name in roles.target}, contents.words, label_kind, separator)
    places = table.places

    def record(i: int) -> dict[str, Any]:
        return {"id": places[i], **contents.record(i), **target.record(i)}

    def identify(i: int) -> tuple[str, bytes, bytes]:
        return places[i], *contents.same(i)

    guessed = (roles.guessed,) if roles.guessed else ()
    if label_kind == "auto" and isinstance(target, Numbers) and len(target.names) == 1:
        distinct = len(np.unique(target.values))
        guessed = (*guessed, f"{target.names[0]}: {distinct:,} distinct numbers in {len(table):,} rows, a regression")
    if (
        label_kind == "auto"
        and isinstance(target, Numbers)
        and len(target.names) > 1
        and set(target.values.flat) <= {0, 1}
    ):
        guessed = (
            *guessed,
            f"{', '.join(target.names)} are 0 or 1, taken as numbers; if each is a tag, pass label_kind='tags'",
        )
    if separator is not None and not any(
        separator in str(value) for name in roles.target for value in table.columns[name]
    ):
        guessed = (*guessed, f"no cell of {', '.join(roles.target)} has the separator {separator!r}")
    named = {"content": roles.columns, "target": roles.target}
    return Examples(
        table.name, roles.content, target, Lazy(len(table), record), identify, dict(table.about), named,
        (*guessed, *table.notes, *contents.notes),
        groups=_groups(table.name, cells(roles.groups)) if roles.groups else None,
        splits=_splits(table.name, roles.splits, cells(roles.splits)) if roles.splits else None,
    )  # fmt: skip


def _text(value: Any, where: str) -> str:
    if value is None:
        raise TransferlabError(f"{where}: the text is missing. {LEAVE_OUT}")
    return checked_text(value, where)


def _texts(table: Table, columns: Sequence[Cells], white: float | int | None) -> Contents:
    del white
    texts = [_text(value, f"{table.name}, {place}") for place, value in columns[0]]
    return Contents(lambda i: {"text": texts[i]}, lambda i: (same_text(texts[i]), texts[i].encode()))


def _pairs(table: Table, columns: Sequence[Cells], white: float | int | None) -> Contents:
    del white
    sides = [[_text(value, f"{table.name}, {place}") for place, value in column] for column in columns]
    for side, column in zip(sides, columns, strict=True):
        for text, (place, _) in zip(side, column, strict=True):
            if not text.strip():
                raise TransferlabError(f"{table.name}, {place}: one text of the pair is empty. {LEAVE_OUT}")
    pairs = list(zip(*sides, strict=True))

    def same(i: int) -> tuple[bytes, bytes]:
        # The length of the first: where one text ends and the other starts.
        first, second = (same_text(text) for text in pairs[i])
        return f"{len(first)}\0".encode() + first + second, json.dumps(pairs[i]).encode()

    return Contents(lambda i: {"text": pairs[i][0], "text_pair": pairs[i][1]}, same)


def _words(table: Table, columns: Sequence[Cells], white: float | int | None) -> Contents:
    del white
    words = words_of(table.name, columns[0])

    def same(i: int) -> tuple[bytes, bytes]:
        # Case tells a name from a word, so it is not folded.
        content = json.dumps(words[i]).encode()
        return content, content

    return Contents(lambda i: {"words": words[i]}, same, words)


def _images(table: Table, columns: Sequence[Cells], white: float | int | None) -> Contents:
    files = [
        file_of(value, table.folder_of(row), f"{table.name}, {place}") for row, (place, value) in enumerate(columns[0])
    ]

    def record(i: int) -> dict[str, Any]:
        return {"image": image_of(files[i], f"{table.name}, {table.places[i]}", white)}

    def same(i: int) -> tuple[bytes, bytes]:
        content = same_image(record(i)["image"])
        return content, content

    return Contents(record, same)


def _sounds(table: Table, columns: Sequence[Cells], white: float | int | None) -> Contents:
    del white
    places = [f"{table.name}, {place}" for place, _ in columns[0]]
    files = [file_of(value, table.folder_of(row), places[row]) for row, (_, value) in enumerate(columns[0])]
    hashes, rates, seconds, several = [], Counter(), 0.0, 0
    for file, place in zip(files, places, strict=True):
        samples, rate = sound_of(file, place)
        hashes.append(
            hashlib.sha256(f"{rate} {samples.shape}".encode() + np.ascontiguousarray(samples).tobytes()).digest()
        )
        rates[rate] += 1
        seconds += len(samples) / rate
        several += samples.shape[1] > 1
    shown = (
        " and ".join(f"{rate:,} Hz" for rate in sorted(rates))
        if len(rates) < 3
        else f"{min(rates):,} to {max(rates):,} Hz"
    )
    notes = [f"{seconds / 60:.3g} minutes at {shown}"]
    if several:
        notes.append(f"{several:,} with several channels, which are averaged")

    def record(i: int) -> dict[str, Any]:
        samples, rate = sound_of(files[i], places[i])
        return {"audio": mono(samples), "rate": rate}

    return Contents(record, lambda i: (hashes[i], hashes[i]), notes=tuple(notes))


def _arrays(table: Table, columns: Sequence[Cells], white: float | None) -> Contents:
    del white
    arrays = arrays_of(columns[0], table.name)
    hashes = [hashlib.sha256(array.tobytes()).digest() for array in arrays]
    note = f"arrays of {' × '.join(map(str, arrays.shape[1:]))} numbers"
    return Contents(lambda i: {"array": arrays[i]}, lambda i: (hashes[i], hashes[i]), notes=(note,))


_CONTENTS: dict[str, Callable[[Table, Sequence[Cells], float | None], Contents]] = {
    "text": _texts,
    "pair": _pairs,
    "words": _words,
    "image": _images,
    "audio": _sounds,
    "array": _arrays,
}
"""How each kind of content is read."""


def _target(
    table: Table, columns: dict[str, Cells], words: list[list[str]] | None, kind: str, separator: str | None
) -> Target:
    if not columns:
        return NoTarget((), np.zeros((len(table), 0), np.int32))
    name, values = next(iter(columns.items()))
    classes = table.classes.get(name)
    if (
        words is not None
        and len(columns) == 1
        and kind == "auto"
        and separator is None
        and are_word_tags(values, words)
    ):
        return word_tags(table.name, values, words, classes)
    if classes is not None and len(columns) == 1 and kind in ("auto", "classes", "tags"):
        return _indices(table.name, values, classes)
    named = {column: _named(cells, table.classes.get(column)) for column, cells in columns.items()}
    return read_target(table.name, named, kind, table.typed, separator)


def _named(values: Cells, classes: tuple[str, ...] | None) -> Cells:
    """A column of indices by the names of its classes."""
    return (
        values
        if classes is None
        else [(place, classes[i] if i is not None and i >= 0 else None) for place, i in values]
    )


def _indices(name: str, values: Cells, classes: tuple[str, ...]) -> Classes | TagSets:
    """A target whose source has the names of its classes, and an index, or a list of them, for each row."""
    table = np.zeros((len(values), len(classes)), bool)
    for row, (place, value) in enumerate(values):
        for index in value if isinstance(value, list) else [value]:
            if index is None or index == -1:
                raise TransferlabError(f"{name}, {place}: the label is missing. {LEAVE_OUT}")
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(classes):
                raise TransferlabError(
                    f"{name}, {place}: the label is {index!r}; expected one from 0 to {len(classes) - 1}."
                )
            table[row, index] = True
    if any(isinstance(value, list) for _, value in values):
        return TagSets(classes, table)
    return Classes(classes, table.argmax(1).astype(np.int32))


def _groups(name: str, values: Cells) -> np.ndarray:
    for place, value in values:
        if value is None or value == "":
            raise TransferlabError(f"{name}, {place}: its group is missing. {LEAVE_OUT}")
    return np.array(
        [value if isinstance(value, str) else json.dumps(value, default=str) for _, value in values], object
    )


def _splits(name: str, column: str | None, values: Cells) -> np.ndarray:
    out = []
    for place, value in values:
        split = SPLITS.get(str(value).strip().lower())
        if split is None:
            raise TransferlabError(
                f"{name}, {place}: {column} is {value!r}; expected train, validation or test.{nearest(str(value), SPLITS)}"
            )
        out.append(split)
    return np.array(out, object)
