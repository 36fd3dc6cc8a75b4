"""Types of the fields of a ``config.json``: a value of the wrong type is an error that names its field."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from transferlab.errors import TransferlabError

_SAID = {int: "an integer of 64 bits", float: "a number", bool: "true or false", str: "a string"}


def given_fields(
    config: type | Mapping[str, type],
    raw: Mapping[str, Any],
    *,
    without: Collection[str] = (),
    where: str = "config.json",
) -> dict[str, Any]:
    """Return those fields of the dataclass ``config`` that ``raw`` gives, each as its type. ``null`` gives nothing.

    Args:
        config: a config dataclass, whose plain fields (numbers, strings, true or false) are read; or a type for each name.
        raw: the file's contents; what is no field of the dataclass is left to the reader.
        without: fields that ``raw`` does not speak of.
        where: begins the error message.

    Raises:
        TransferlabError: a value of another type; the field and the value are named.
    """
    kinds = _kinds(config) if isinstance(config, type) else config
    kinds = {name: kind for name, kind in kinds.items() if name not in without}
    return {
        name: _typed(raw[name], kind, f"{where}: {name}") for name, kind in kinds.items() if raw.get(name) is not None
    }


def given_number(raw: Mapping[str, Any], name: str, default: float, *, where: str = "config.json") -> float:
    """Return the number under ``name``, or ``default`` where ``raw`` has none; anything else is an error that names it."""
    return float(default) if raw.get(name) is None else _typed(raw[name], float, f"{where}: {name}")


def check_scalars(config: type, raw: Mapping[str, Any], *, where: str = "config.json") -> None:
    """Hold what ``raw`` says of the plain fields of ``config`` against their types, whatever its reader does with it.

    Lists and tables pass: some readers take them where the dataclass has a number (``image_size``).
    """
    given_fields(
        config, {name: value for name, value in raw.items() if not isinstance(value, (list, dict))}, where=where
    )


@cache
def _kinds(config: type) -> dict[str, type]:
    """The plain type of each field that has one: a literal is a string, an optional type that type."""
    hints, out = get_type_hints(config), {}
    for field in fields(config):
        kind = hints[field.name]
        if get_origin(kind) in (Union, types.UnionType):
            inner = [part for part in get_args(kind) if part is not types.NoneType]
            kind = inner[0] if len(inner) == 1 else None
        if get_origin(kind) is Literal and all(isinstance(part, str) for part in get_args(kind)):
            kind = str
        if kind in _SAID:
            out[field.name] = kind
    return out


def _typed(value: Any, kind: type, what: str) -> Any:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    # What is beyond the range of 64 bits, or of a double, is no number that can be used.
    if kind is int and plain and (isinstance(value, int) or value.is_integer()) and abs(value) < 2**63:
        return int(value)
    if kind is float and plain and (isinstance(value, float) or abs(value) < 2**1023):
        return float(value)
    if kind is bool and (isinstance(value, bool) or value in (0, 1)):
        return bool(value)
    if kind is str and isinstance(value, str):
        return value
    shown = repr(value)
    raise TransferlabError(f"{what} is {shown[:80]}{'…' if len(shown) > 80 else ''}; it must be {_SAID[kind]}.")
