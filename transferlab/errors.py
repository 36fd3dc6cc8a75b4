"""Errors that a user should see as one line: each names the thing, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Literal, TypeVar

Call = TypeVar("Call", bound=typing.Callable[..., Any])


class TransferlabError(Exception):
    """Base of every error whose message alone tells a user what to mend; the command line prints it without a trace."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice closest to ``name``, or the list of choices if none is close.

    Returns an empty string when there are no choices at all.
    """
    choices = sorted(choices)
    same = [choice for choice in choices if choice.lower() == str(name).lower()]
    close = same or difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    if not choices:
        return ""
    shown = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return f" Choose from: {shown}."


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


@functools.cache
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

    @functools.wraps(call)
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
