"""Errors that a user should see as one line: each names the thing, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
import heapq
import inspect
import re
import typing
from collections.abc import Iterable
from functools import wraps
from itertools import islice
from typing import Any, TypeVar

from transferlab import limits

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
