"""Errors that a user should see as one line: each names the thing, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
import heapq
import inspect
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache, wraps
from itertools import islice
from numbers import Integral, Real
from typing import Any, Literal, TypeVar

from transferlab import limits
from transferlab.bounds import Bounds

Call = TypeVar("Call", bound=typing.Callable[..., Any])


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


class FieldError(TransferlabError):
    """A field of a dataclass has a value that it cannot have; who read it from a file adds which."""


def beyond_range(name: str, dtype: str, how: str) -> TransferlabError:
    """Return the error of finite values that are not finite in this type; ``how`` is what a wider one is given to."""
    hint = f"; {how} with dtype='bfloat16'" if dtype == "float16" else ""
    return TransferlabError(f"{name} has values beyond the range of {dtype}{hint}.")


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


def check_arguments(made: Call) -> Call:
    """Decorate a public function, or a class, so that arguments it does not take are an error that names the nearest.

    A class is changed in place.

    Raises:
        TransferlabError: on a call, an argument that is unknown, lacks, or is given twice.
    """
    call: Any = made.__init__ if isinstance(made, type) else made
    signature = inspect.signature(call)
    names = [
        name for name, one in signature.parameters.items() if one.kind is not one.POSITIONAL_ONLY and name != "self"
    ]
    free = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())

    @wraps(call)
    def checked(*args: Any, **given: Any) -> Any:
        for name in given:
            if name not in names and not free:
                raise TransferlabError(f"{made.__qualname__} takes no '{name}'.{_nearest_argument(name, names)}")
        try:
            signature.bind(*args, **given)
        except TypeError as error:
            raise TransferlabError(f"{made.__qualname__}: {error}.") from None
        return call(*args, **given)

    if not isinstance(made, type):
        return typing.cast(Call, checked)
    cls: Any = made
    cls.__init__ = checked
    return cls


def _nearest_argument(name: str, names: list[str]) -> str:
    """As :func:`nearest`; where none is close, one of whose words one is: ``text_column`` for ``txet``."""
    words = {word: choice for choice in names for word in choice.split("_")}
    if not difflib.get_close_matches(name, names, n=1, cutoff=0.5) and (
        close := difflib.get_close_matches(name, words, n=1, cutoff=0.6)
    ):
        return f" Did you mean '{words[close[0]]}'?"
    return nearest(name, names)
