"""What the columns of a table are for: named by the caller, stated by the source, or guessed where there is one way only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from transferlab.data.examples import SPLITS, Content
from transferlab.data.readers.base import Table
from transferlab.errors import TransferlabError, nearest

AUTO = "auto"
"""As the target: it is what the rule finds."""

_PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text", "text_pair"))
"""Names of the two texts of a pair, which are taken without being asked for."""
_CONTENTS = {"text": "text", "words": "words", "tokens": "words", "image": "image", "audio": "audio"}
"""Names of other contents, and their kind; words are lists."""
_TARGETS = ("label", "labels", "target")
"""Names of a target."""
_IDS = {"id", "idx", "index", "guid", "uid", "uuid", "", "unnamed: 0", "__index_level_0__"}
"""Names of columns that number the rows."""


@dataclass(frozen=True)
class Asked:
    """The columns that the caller names; None is guessed, and a target of None is none.

    Attributes:
        text: of the text, or of the two texts of a pair.
        words, image, audio, array: of the content, where it is no text.
        target: of the target, or several columns of numbers.
        groups, splits: of what must be on one side of a split, and of the name of each row's split.
    """

    text: str | tuple[str, ...] | None = None
    words: str | None = None
    image: str | None = None
    audio: str | None = None
    array: str | None = None
    target: str | tuple[str, ...] | None = AUTO
    groups: str | None = None
    splits: str | None = None

    @property
    def label(self) -> str | None:
        """The first column of the target, if it is named."""
        return None if self.target in (None, AUTO) else _several(self.target)[0]

    @property
    def given(self) -> dict[str, Any]:
        """Those that are named, and how."""
        return {of.name: getattr(self, of.name) for of in fields(self) if getattr(self, of.name) != of.default}

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are named, in the order of the attributes."""
        target = () if self.target in (None, AUTO) else _several(self.target)
        others = (name for name in (self.groups, self.splits) if name is not None)
        contents = (
            name
            for of in (self.text, self.words, self.image, self.audio, self.array)
            if of is not None
            for name in _several(of)
        )
        return tuple(dict.fromkeys((*contents, *target, *others)))


@dataclass(frozen=True)
class Roles:
    """What a table's columns are for.

    Attributes:
        content: what an example holds.
        columns: of the content: two for a pair, else one.
        target: columns; none of them is no target.
        groups, splits: columns, if there are such.
        guessed: which columns were taken without being asked for, and whose splits were not, for the summary; empty if none was.
    """

    content: Content
    columns: tuple[str, ...]
    target: tuple[str, ...]
    groups: str | None
    splits: str | None
    guessed: str = ""


def roles_of(table: Table, asked: Asked) -> Roles:
    """Return what the columns are for.

    Guessed are only a content and a target that can be found in one way: the content is the column ``text``, two columns of
    a pair by their usual names, ``words`` or ``tokens`` with lists, ``image``, ``audio``, the only column of texts, or that of arrays.
    The target is the only column ``label``, ``labels`` or ``target``, or else the only one left that does not number the
    rows; if none is left, there is none.

    Raises:
        TransferlabError: an unknown column, one with two roles, or several ways; the columns are listed, with the line to write.
    """
    for name in asked.columns:
        if name not in table.columns:
            raise TransferlabError(f"{table.name} has no column '{name}'.{nearest(name, table.columns)}")
    if not len(table):
        raise TransferlabError(f"'{table.name}' has no examples.")
    content, columns = _content(table, asked)
    stated = table.roles.get("splits")
    if stated and asked.splits:
        raise TransferlabError(f"{table.name} has splits of its own; leave out splits={asked.splits!r}.")
    other = (asked.groups, asked.splits or (_several(stated)[0] if stated else None))
    target = _target(table, asked, columns, other)
    taken = [*columns, *target]
    if twice := next((name for name in taken if taken.count(name) > 1), None):
        raise TransferlabError(
            f"The column '{twice}' has two roles ({content} and target, or one twice); they must differ."
        )
    for name in taken:
        if name in table.absent:
            raise TransferlabError(
                f"{table.name}: the {table.absent[name]} split has no column '{name}'. Leave the split out, or add it."
            )
    guesses = []
    if not (
        asked.text
        or asked.words
        or asked.image
        or asked.audio
        or asked.array
        or columns[0] in (content, table.roles.get(content))
    ):
        guesses.append(f"{content}: {' and '.join(columns)}")
    if asked.target == AUTO and target and target[0] not in ("label", table.roles.get("target")):
        guesses.append(f"target: {target[0]}")
    if other[1] is None and (unused := _unused_splits(table, (*taken, *other))):
        guesses.append(f"the splits in '{unused}' are not used; splits={unused!r} keeps them")
    return Roles(content, columns, target, *other, "; ".join(guesses))


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _content(table: Table, asked: Asked) -> tuple[Content, tuple[str, ...]]:
    named: Mapping[str, Any] = {"text": asked.text, "words": asked.words, "image": asked.image, "audio": asked.audio,
                                "array": asked.array}  # fmt: skip
    given = {kind: _several(names) for kind, names in named.items() if names is not None}
    if len(given) > 1:
        raise TransferlabError(f"An example holds one of {', '.join(given)}, not each; two texts are text=('a', 'b').")
    if not given:
        stated = {kind: _several(table.roles[kind]) for kind in named if kind in table.roles}
        given = stated or _guessed(table, asked)
    ((kind, columns),) = given.items()
    if (kind != "text" and len(columns) > 1) or len(columns) not in (1, 2):
        raise TransferlabError(f"{kind} is {columns!r}; expected a column, or two of texts that are a pair.")
    if len(columns) == 2:
        return "pair", columns
    return kind, columns  # pyright: ignore[reportReturnType]


def _guessed(table: Table, asked: Asked) -> dict[str, tuple[str, ...]]:
    """The content, by names that are usual, or else the only column of texts."""
    used = set(asked.columns)
    free = {name.lower(): name for name in table.columns if name not in used}
    for pair in _PAIRS:
        if all(name in free for name in pair):
            return {"text": tuple(free[name] for name in pair)}
    found = [(kind, free[name]) for name, kind in _CONTENTS.items() if name in free]
    lists = {kind: kind == "words" for kind in ("text", "words")}
    found = [(kind, name) for kind, name in found if lists.get(kind) in (None, _holds_lists(table.columns[name]))]
    found = found or [("text", name) for name in free.values() if _are_texts(table.columns[name])]
    found = found or [("array", name) for name in free.values() if _are_arrays(table.columns[name])]
    if len(found) != 1:
        several = f"several columns that may be the content ({', '.join(name for _, name in found)})"
        raise _unclear(table, several if found else "no column of texts", "content")
    ((kind, name),) = found
    return {kind: (name,)}


def _holds_lists(values: Sequence[Any]) -> bool:
    return isinstance(next((value for value in values if value is not None), None), list)


def _are_arrays(values: Sequence[Any]) -> bool:
    """Whether a column was an array of several axes, of numbers that are no integers."""
    return isinstance(next((value for value in values if value is not None), None), np.ndarray)


def _are_texts(values: Sequence[Any]) -> bool:
    """Whether a column's values are texts of several words, most of them different."""
    texts = [value for value in values if value is not None]
    if not texts or not all(isinstance(text, str) for text in texts):
        return False
    return 2 * sum(" " in text.strip() for text in texts) > len(texts) and 2 * len(set(texts)) > len(texts)


def _target(table: Table, asked: Asked, content: tuple[str, ...], other: Sequence[str | None]) -> tuple[str, ...]:
    if asked.target is None:
        return ()
    if asked.target != AUTO:
        return _several(asked.target)
    if "target" in table.roles:
        return _several(table.roles["target"])
    left = [name for name in table.columns if name not in (*content, *other) and name.lower() not in _IDS]
    usual = [name for name in left if name.lower() in _TARGETS]
    found = usual or left
    if len(found) > 1:
        raise _unclear(table, f"several columns that may be the target ({', '.join(found)})", "target")
    if found and not usual and _is_example(table, content[0], found[0]):
        raise TransferlabError(
            f"{table.name} seems to have no line of column names: the first line has {content[0][:40]!r} and {found[0]!r}, "
            "and the latter is a value of its column, too. Write the names in front, as text,label; or name these columns "
            "if that is what they are called."
        )
    return tuple(found)


def _is_example(table: Table, content: str, target: str) -> bool:
    """Whether what a file without types has for column names is its first example: a text of several words, and a target that is there again."""
    return not table.typed and " " in content.strip() and target in table.columns[target]


def _unused_splits(table: Table, roles: Sequence[str | None]) -> str | None:
    """A column without a role that says which split each row is in."""
    for name, values in table.columns.items():
        found = {value.strip().lower() if isinstance(value, str) else "" for value in values}
        if name not in roles and len(found) > 1 and found <= set(SPLITS):
            return name
    return None


def _unclear(table: Table, why: str, role: str) -> TransferlabError:
    # The column that says which split a row is in may be one that joining tables added.
    splits = table.roles.get("splits")
    names = [name for name in table.columns if name != splits]
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    objects = ((name, value) for name in names for value in table.columns[name] if isinstance(value, Mapping) and value)
    if nested := next(objects, None):
        field = f"{nested[0]}.{next(iter(nested[1]))}"
        return TransferlabError(
            f"{table.name} has {why}: its columns are {shown}, and '{nested[0]}' holds objects. Make columns of their fields, such as "
            f"'{field}':\n  >>> tl.dataset(pandas.json_normalize(rows))"
        )
    text, target = names[0] if names else "…", names[-1] if len(names) > 1 else None
    return TransferlabError(
        f"{table.name} has {why}: its columns are {shown}. Name the {role}:\n"
        f"  >>> tl.dataset(…, text={text!r}, target={target!r})"
    )
