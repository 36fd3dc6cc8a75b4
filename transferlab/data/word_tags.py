"""Words of a sentence and the tag of each, as lists or as texts with white space between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from transferlab.data.columns import WordTags
from transferlab.data.labels import check_alike, ordered
from transferlab.data.literals import list_in
from transferlab.data.tables import checked_text
from transferlab.errors import TransferlabError

IGNORED = (None, -100, "-100")
"""A word with such a tag is neither trained on nor scored."""


def listed(value: Any) -> list[Any] | None:
    """Return a cell's items: a list, a text that is one (:func:`list_in`), or what white space separates.

    None stands for any other value.
    """
    if isinstance(value, str):
        if (items := list_in(value)) is not None:
            return items
        # NumPy leaves out the middle of a long list when it writes one; other sentences may begin with a bracket.
        return None if value.strip()[:1] == "[" and " ... " in value.replace("\n", " ") else value.split()
    return list(value) if isinstance(value, (list, tuple)) else None


def words_of(name: str, values: Sequence[tuple[str, Any]]) -> list[list[str]]:
    """Return the words of each row.

    Raises:
        TransferlabError: a row that has none, or whose words are not texts; it is named.
    """
    out = []
    for place, value in values:
        words = listed(value)
        if not words:
            raise TransferlabError(
                f"{name}, {place}: the words are {str(value)[:60]!r}; expected a list of at least one."
            )
        for number, word in enumerate(words, 1):
            if not checked_text(word, f"{name}, {place}, word {number}").strip():
                raise TransferlabError(f"{name}, {place}: word {number} is empty. Remove it, and its tag.")
        out.append(words)
    return out


def are_word_tags(values: Sequence[tuple[str, Any]], words: Sequence[Sequence[str]]) -> bool:
    """Whether a target next to words is a tag for each: lists, or texts of as many parts in most rows."""
    lists = [value if isinstance(value, (list, tuple)) else None for _, value in values]
    if all(tags is not None for tags in lists):
        return True
    parts = [listed(value) or [] for _, value in values]
    several = [len(tags) == len(of) for tags, of in zip(parts, words, strict=True) if len(of) > 1]
    return bool(several) and 2 * sum(several) > len(several)


def word_tags(
    name: str,
    values: Sequence[tuple[str, Any]],
    words: Sequence[Sequence[str]],
    classes: tuple[str, ...] | None = None,
) -> WordTags:
    """Return the tag of each word.

    Args:
        name: of the source.
        values: place and tags of each row.
        words: of each row.
        classes: the name of each tag, where tags are indices.

    Raises:
        TransferlabError: a row with another number of tags than words, or a tag that is none; it is named.
    """
    rows: list[list[str | None]] = []
    for (place, value), of in zip(values, words, strict=True):
        tags = listed(value)
        if tags is None or len(tags) != len(of):
            count = "none" if tags is None else f"{len(tags)}"
            raise TransferlabError(
                f"{name}, {place}: there are {len(of)} words and {count} tags; each word needs one. "
                "A word without a tag has None."
            )
        rows.append([None if tag in IGNORED else _name(tag, classes, f"{name}, {place}") for tag in tags])
    check_alike(name, {tag: None for tags in rows for tag in tags if tag is not None})
    names = classes or ordered(tag for tags in rows for tag in tags if tag is not None)
    index: dict[str | None, int] = {tag: i for i, tag in enumerate(names)} | {None: -1}
    table = np.empty(len(rows), object)
    for row, tags in enumerate(rows):
        table[row] = np.array([index[tag] for tag in tags], np.int32)
    return WordTags(names, table)


def _name(tag: Any, classes: tuple[str, ...] | None, where: str) -> str:
    if classes is not None:
        if isinstance(tag, bool) or not isinstance(tag, int) or not 0 <= tag < len(classes):
            raise TransferlabError(f"{where}: the tag is {tag!r}; expected an index from 0 to {len(classes) - 1}.")
        return classes[tag]
    name = tag if isinstance(tag, str) else json.dumps(tag) if isinstance(tag, (bool, int)) else ""
    if not name.strip():
        raise TransferlabError(
            f"{where}: the tag is {tag!r}; expected a text or an integer, or None for a word without one."
        )
    return name
