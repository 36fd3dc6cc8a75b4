"""Errors that a user should see as one line: each names the thing, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
import heapq
import re
import types
import typing
from collections.abc import Iterable
from functools import cache
from itertools import islice
from numbers import Integral, Real
from typing import Any, Literal

from transferlab import limits


class TransferlabError(Exception):
    """Base of every error whose message alone tells a user what to mend; the command line prints it without a trace.

    A message that quotes much of a damaged file is cut to :data:`transferlab.limits.MESSAGE_CHARACTERS`, and is printable.
    """

    def __str__(self) -> str:
        text, most = printable(super().__str__()), limits.MESSAGE_CHARACTERS
        return text if len(text) <= most else f"{text[:most]}…"


def printable(text: str) -> str:
    """Return the text with what a terminal would obey, or could not encode, written as Python writes it: an escape of its code.

    Line ends and tabs stay. Names in files can hold anything.
    """
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice closest to ``name``, or the list of choices if none is close.

    Returns an empty string when there are no choices at all. However many there are, and however long, it takes a moment.
    """
    name = str(name)[:_COMPARED]
    choices = sorted(choice[:_COMPARED] for choice in islice(choices, limits.SUGGESTIONS))
    same = [choice for choice in choices if choice.lower() == name.lower()]
    likely = choices
    if len(choices) > _LIKELIEST:
        parts = set(_PARTS.findall(name.lower()))
        likely = heapq.nlargest(_LIKELIEST, choices, key=lambda choice: _alike(parts, name, choice))
    close = same or difflib.get_close_matches(name, likely, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    if not choices:
        return ""
    shown = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return f" Choose from: {shown}."


_COMPARED = 200
"""Characters of a name that are compared."""
_LIKELIEST = 200
"""Choices that are compared letter by letter, which takes 50 µs each."""
_PARTS = re.compile(r"[a-z]+|[0-9]+")


def _alike(parts: set[str], name: str, choice: str) -> tuple[int, int, int]:
    """How likely a choice is the nearest: the words that both have, those that one has alone, and how lengths differ."""
    others = set(_PARTS.findall(choice.lower()))
    return len(parts & others), -len(parts ^ others), -abs(len(name) - len(choice))


def check_fields(made: Any) -> None:
    """Hold a dataclass's fields that are one of a few words, or a number, against what they are declared as.

    Raises:
        TransferlabError: another value; the field, and the nearest word, are named.
    """
    for name, parts, words in _declared(type(made)):
        value = getattr(made, name)
        if words and value not in words and not (value is None and type(None) in parts):
            raise TransferlabError(f"{name} is {value!r}.{nearest(str(value), map(str, words))}")
        if value is None and type(None) in parts:
            continue
        known, called = (Real, "a number") if float in parts else (Integral, "a whole number")
        if (float in parts or int in parts) and (not isinstance(value, known) or isinstance(value, bool)):
            raise TransferlabError(f"{name} is {value!r}; it must be {called}.")


@cache
def _declared(kind: type) -> list[tuple[str, tuple[Any, ...], list[Any]]]:
    """Each field of a class with the types that it may have, and the words."""
    try:
        hints = typing.get_type_hints(kind)
    except NameError:
        return []  # a class of somebody's own, whose types are known where it was written alone
    fields = []
    for name, hint in hints.items():
        parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        words = [word for part in parts if typing.get_origin(part) is Literal for word in typing.get_args(part)]
        fields.append((name, parts, words))
    return fields
