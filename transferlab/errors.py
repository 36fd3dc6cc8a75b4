"""Errors that a user should see as one message: each names the thing, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
import heapq
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from functools import wraps
from itertools import islice
from pathlib import PurePath
from typing import Any, TypeVar

from transferlab import limits

Call = TypeVar("Call", bound=typing.Callable[..., Any])


class TransferlabError(Exception):
    """Base of every error whose message alone tells a user what to fix; the command line prints it without a traceback.

    Messages are printable. One that quotes much of a damaged file is cut to
    :data:`transferlab.limits.MESSAGE_CHARACTERS`.
    """

    def __str__(self) -> str:
        text, most = printable(super().__str__()), limits.MESSAGE_CHARACTERS
        return text if len(text) <= most else f"{text[:most]}…"


def printable(text: str) -> str:
    """Return the text with characters that a terminal would obey, or could not encode, as Python's escapes.

    Line ends and tabs stay. Names in files can contain anything.
    """
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice closest to ``name``, or the list of choices if none is close.

    Returns an empty string when there are no choices at all. It is fast however many there are, and however long.

    Example:
        >>> nearest("qurey", ["query", "value"])
        " Did you mean 'query'?"
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
"""How many characters of a name are compared."""
_LIKELIEST = 200
"""How many choices are compared letter by letter, at 50 µs each."""
_PARTS = re.compile(r"[a-z]+|[0-9]+")


def _alike(parts: set[str], name: str, choice: str) -> tuple[int, int, int]:
    """How likely a choice is the nearest: the words that both have, those that only one has, the difference in length."""
    words = set(_PARTS.findall(choice.lower()))
    return len(parts & words), -len(parts ^ words), -abs(len(name) - len(choice))


def shown(value: object) -> str:
    """Return a wrong argument as an error shows it: a text or number as it is, a class by its name, else what kind of thing it is.

    Example:
        >>> shown("lora"), shown(dict), shown(object())
        ("'lora'", 'the class dict', 'a value of type object')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, int, float, PurePath)):
        return repr(str(value)[:60])
    return f"a value of type {type(value).__name__}"


def no_attribute(module: str, name: str, choices: Iterable[str]) -> AttributeError:
    """Return the error of a module that lacks a name, with the nearest that it has; for its ``__getattr__``."""
    near = "" if name.startswith("_") else f".{nearest(name, choices)}"
    return AttributeError(f"module '{module}' has no attribute '{name}'{near}")


def face_of(module: str, names: Iterable[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package that offers these names: a misspelt one is an error with the nearest.

    Defined where type checkers do not look, since a module with a ``__getattr__`` has every name for them.
    """

    def missing(name: str) -> Any:
        raise no_attribute(module, name, names)

    return missing, lambda: sorted(names)


class FieldError(TransferlabError):
    """A field of a dataclass has a value that it cannot have; code that read it from a file adds the file's name."""


class Unwritable(TransferlabError):
    """A format of files cannot hold a model. Plans say so before anything trains (:func:`transferlab.pretrained.exports.exports`).

    Attributes:
        reason: what does not fit, a clause.
        change: what to change so that it does, a clause; empty where nothing would.
    """

    def __init__(self, message: str, reason: str, change: str = ""):
        super().__init__(message)
        self.reason = reason
        self.change = change


def beyond_range(name: str, dtype: str, how: str) -> TransferlabError:
    """Return the error for finite values that overflow in this type; ``how`` is the call that takes a wider one."""
    hint = f"; {how} with dtype='bfloat16'" if dtype == "float16" else ""
    return TransferlabError(f"{name} has values beyond the range of {dtype}{hint}.")


def check_arguments(target: Call, elsewhere: Callable[[str], str] = lambda name: "") -> Call:
    """Decorate a public function, or a class, so that an unknown argument is an error that names the nearest.

    A class is changed in place.

    Args:
        target: the function or class.
        elsewhere: of an unknown argument: a sentence with the line that gives it where it belongs; empty for any other.

    Raises:
        TransferlabError: on a call, an argument that is unknown, missing, or given twice.
    """
    call: Any = target.__init__ if isinstance(target, type) else target
    signature = inspect.signature(call)
    names = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is not parameter.POSITIONAL_ONLY and name != "self"
    ]
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())

    @wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in names and not free:
                near = elsewhere(name) or _nearest_argument(name, names)
                raise TransferlabError(f"{target.__qualname__} takes no '{name}'.{near}")
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TransferlabError(f"{target.__qualname__}: {error}.{_by_name(str(error), signature)}") from None
        return call(*args, **kwargs)

    if not isinstance(target, type):
        return typing.cast(Call, checked)
    cls: Any = target
    cls.__init__ = checked
    return cls


_ELSEWHERE = {
    "model": "source", "dataset": "data", "output_dir": "directory", "label": "target", "labels": "target", "y": "target",
    "lr": "learning_rate", "num_train_epochs": "epochs", "r": "rank", "n": "examples",
}  # fmt: skip
"""Arguments as other libraries call them, and our names."""


def _by_name(error: str, signature: inspect.Signature) -> str:
    """Where there are too many arguments without a name: which may have none, and how others are given."""
    kinds = signature.parameters.values()
    named = [parameter.name for parameter in kinds if parameter.kind is parameter.KEYWORD_ONLY]
    if "too many positional" not in error or not named:
        return ""
    free = [p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    return f" Only {', '.join(free) or 'none'} may be given without a name; the others are given by it, as {named[0]}=…"


def _nearest_argument(name: str, names: list[str]) -> str:
    """As :func:`nearest`; where none is close, the choice with a word that is: ``text_column`` for ``txet``."""
    if (ours := _ELSEWHERE.get(name)) in names:
        return f" Did you mean '{ours}'?"
    words = {word: choice for choice in names for word in choice.split("_")}
    if not difflib.get_close_matches(name, names, n=1, cutoff=0.5) and (
        close := difflib.get_close_matches(name, words, n=1, cutoff=0.6)
    ):
        return f" Did you mean '{words[close[0]]}'?"
    return nearest(name, names)
