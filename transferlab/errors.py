"""Errors that a user should see as one line: each names the thing, what was expected and the nearest valid choice."""

from __future__ import annotations

import bisect
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal

from transferlab.bounds import Bounds


class TransferlabError(Exception):
    """Base of every error whose message alone tells a user what to mend; the command line prints it without a trace."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice closest to ``name``, or the list of choices if none is close.

    Returns an empty string when there are no choices at all.
    """
    name = str(name)
    choices = sorted(choices)
    same = [choice for choice in choices if choice.lower() == name.lower()]
    close = same or difflib.get_close_matches(name[:_LONGEST], _neighbours(name, choices), n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    if not choices:
        return ""
    shown = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return f" Choose from: {shown}."


_LONGEST, _COMPARED = 300, 200
"""Characters of a name, and choices to each side of it, that are compared: each comparison takes tens of microseconds."""


def _neighbours(name: str, choices: list[str]) -> list[str]:
    """Of very many sorted choices those next to ``name`` in the alphabet, by their beginnings and by their ends."""
    if len(choices) <= 4 * _COMPARED:
        return choices
    ends = sorted(choice[::-1] for choice in choices)
    place, end = bisect.bisect(choices, name), bisect.bisect(ends, name[::-1])
    like_its_end = (choice[::-1] for choice in ends[max(0, end - _COMPARED) : end + _COMPARED])
    return list(dict.fromkeys([*choices[max(0, place - _COMPARED) : place + _COMPARED], *like_its_end]))


class FieldError(TransferlabError):
    """A field of a dataclass has a value that it cannot have; who read it from a file adds which."""


def check_fields(made: Any, where: str = "") -> None:
    """Check a dataclass's fields that are one of a few words, numbers, or true or false, against what they are declared as.

    A number has to be finite, and within the :class:`~transferlab.bounds.Bounds` of its type. Those in a tuple or a mapping
    are checked one by one.

    Args:
        made: the dataclass.
        where: begins the error message, before the field's name.

    Raises:
        FieldError: another value; the field, the value and what it may be (or the nearest word) are named.
    """
    before = f"{where}: " if where else ""
    for name, parts, words in _declared(type(made)):
        value = getattr(made, name)
        if value is None and type(None) in parts:
            continue
        if words and value not in words:
            raise FieldError(f"{before}{name} is {_short(value)}.{nearest(str(value), map(str, words))}")
        if numbers := [number for part in parts if (number := _number(part)) is not None]:
            # What may be whole or not is a number.
            _check_number(value, *min(numbers, key=lambda number: number[0] is not float), f"{before}{name} is")
        elif bool in parts and type(value).__name__ not in ("bool", "bool_"):
            raise FieldError(f"{before}{name} is {_short(value)}; it must be True or False.")
        elif isinstance(value, (tuple, Mapping)):
            for item in (item for part in parts if (item := _item(part)) is not None):
                for i, one in value.items() if isinstance(value, Mapping) else enumerate(value):
                    _check_number(one, *item, f"{before}{name}[{i!r}] is")


def _check_number(value: Any, kind: type, bounds: Bounds, said: str) -> None:
    known, called = (Real, "a number") if kind is float else (Integral, "a whole number")
    if not isinstance(value, known) or isinstance(value, bool):
        raise FieldError(f"{said} {_short(value)}; it must be {called}.")
    if not bounds.holds(value):
        # NaN differs from itself.
        infinite = value == value and not Bounds().holds(value)
        finite = " and finite" if infinite and bounds.most == math.inf != -bounds.least else ""
        raise FieldError(f"{said} {_short(value)}; it must be {bounds}{finite}.")


def _short(value: Any) -> str:
    """The value as Python writes it, cut where it is long."""
    try:
        shown = repr(value)
    except ValueError:
        return f"a number of {value.bit_length()} bits"  # Python writes no number of so many digits
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


@cache
def _number(hint: Any) -> tuple[type, Bounds] | None:
    """What a type says of a number: whole or not, and its bounds; None for another type."""
    plain, *extras = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
    bounds = next((extra for extra in extras if isinstance(extra, Bounds)), Bounds())
    return (plain, bounds) if plain in (int, float) else None


@cache
def _item(hint: Any) -> tuple[type, Bounds] | None:
    """The same of the items of a tuple of numbers, or of a mapping's values."""
    if typing.get_origin(hint) in (tuple, dict, Mapping):
        return next((number for part in typing.get_args(hint) if (number := _number(part)) is not None), None)
    return None


@cache
def _declared(kind: type) -> list[tuple[str, tuple[Any, ...], list[Any]]]:
    """Each field of a class with the types that it may have, and the words."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError:
        return []  # a class of somebody's own, whose types are known where it was written alone
    fields = []
    for name, hint in hints.items():
        parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        words = [word for part in parts if typing.get_origin(part) is Literal for word in typing.get_args(part)]
        fields.append((name, parts, words))
    return fields
