"""Fields of dataclasses: read from a mapping as their declared types, and checked against what those types allow.

:func:`read` is for files of transferlab or its user: every name must be a field, every value of its type.
:func:`given_fields` is for ``config.json`` files of other libraries: it reads the plain fields that are there and leaves the
rest to the format's reader. :func:`check_fields` is called by a dataclass on itself, wherever its values came from.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from transferlab.bounds import Bounds
from transferlab.errors import FieldError, TransferlabError, nearest

Made = TypeVar("Made")
_FOREIGN = {int: "an integer of 64 bits", float: "a number", bool: "true or false", str: "a string"}
_UNIONS = (Union, types.UnionType)


def read(cls: type[Made], raw: Any, where: str) -> Made:
    """Return the dataclass that a mapping describes, or ``raw`` itself if it is one already.

    A list becomes a tuple, an integer a float, and a mapping a dataclass, where the field's type is one.

    Args:
        cls: the dataclass.
        raw: field → value, from Python, a config or ``json.loads(json.dumps(asdict(…)))``.
        where: starts the error message, before ``.field``.

    Raises:
        FieldError: an unknown field (the nearest is named), a value of another type, or one that the class refuses.
    """
    if isinstance(raw, cls):
        return raw
    if not isinstance(raw, Mapping):
        raise FieldError(f"{where} is {short(raw)}; it must be a mapping with the fields of {cls.__name__}.")
    values = read_values(cls, raw, where)
    try:
        return cls(**values)
    except FieldError as error:
        raise FieldError(f"{where}.{error}") from None
    except TypeError as error:  # a field without a default is missing
        raise FieldError(f"{where}: {error}.") from None


def read_values(cls: type, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields that ``raw`` has, each as its type: :func:`read` without the dataclass.

    Raises:
        FieldError: an unknown field, or a value of another type.
    """
    hints = get_type_hints(cls)
    check_names(raw, hints, where)
    return {name: _read(value, hints[name], f"{where}.{name}") for name, value in raw.items()}


def check_names(raw: Iterable[str], names: Iterable[str], where: str) -> None:
    """Check that every name in ``raw`` is one of ``names``.

    Raises:
        FieldError: an unknown name; the nearest is named.
    """
    names = set(names)
    for name in raw:
        if name not in names:
            raise FieldError(f"Unknown field {where}.{name}.{nearest(str(name), names)}")


def check_mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping.

    Raises:
        FieldError: anything else.
    """
    if not isinstance(value, Mapping):
        raise FieldError(f"{where} is {short(value)}; expected a mapping.")
    return value


def _read(value: Any, hint: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        if value is None and type(None) in args:
            return None
        return _read_member(value, [arg for arg in args if arg is not type(None)], where)
    if origin is Literal:
        if value not in args:
            raise FieldError(f"{where} is {short(value)}.{nearest(str(value), map(str, args))}")
        return value
    if origin in (tuple, Sequence):
        items = (value,) if isinstance(value, (int, float, str)) else value
        if not isinstance(items, (list, tuple)):
            raise FieldError(f"{where} is {short(value)}; expected a tuple of {_name(args[0])}.")
        return tuple(_read(item, args[0], f"{where}[{i}]") for i, item in enumerate(items))
    if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        return check_mapping(value, where)
    if is_dataclass(hint):
        return read(typing.cast(type, hint), value, where)
    return value if hint is Any else _scalar(value, hint, where)


def _read_member(value: Any, members: list[Any], where: str) -> Any:
    """The value as the first type of a union that it can be read as; a list as that of sequences, if there is one."""
    sequences = [member for member in members if get_origin(member) in (tuple, Sequence)]
    if isinstance(value, (list, tuple)) and sequences:
        members = sequences
    first: FieldError | None = None
    for member in members:
        try:
            return _read(value, member, where)
        except FieldError as error:
            first = first or error
    raise first or FieldError(f"{where} is {short(value)}; it must be None.")


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))


def given_fields(
    config: type | Mapping[str, type],
    raw: Mapping[str, Any],
    *,
    without: Collection[str] = (),
    where: str = "config.json",
) -> dict[str, Any]:
    """Return the fields of the dataclass ``config`` that ``raw`` has, each as its type. ``null`` counts as missing.

    Args:
        config: a config dataclass, whose plain fields (numbers, strings, true or false) are read; or a type for each name.
        raw: the file's contents; anything that is not a field of the dataclass is left to the reader.
        without: fields to leave out, which ``raw`` has under other names or not at all.
        where: starts the error message.

    Raises:
        TransferlabError: a value of another type; the field and the value are named.
    """
    kinds = _plain_kinds(config) if isinstance(config, type) else config
    return {
        name: _scalar(raw[name], kind, f"{where}: {name}", foreign=True)
        for name, kind in kinds.items()
        if name not in without and raw.get(name) is not None
    }


def given_number(raw: Mapping[str, Any], name: str, default: float, *, where: str = "config.json") -> float:
    """Return the number under ``name``, or ``default`` where ``raw`` has none.

    Raises:
        TransferlabError: anything that is not a number; the field and the value are named.
    """
    return given_fields({name: float}, raw, where=where).get(name, float(default))


def check_scalars(config: type, raw: Mapping[str, Any], *, where: str = "config.json") -> None:
    """Check the values in ``raw`` of the plain fields of ``config`` against their types, whatever its reader does with them.

    Lists and tables pass: some readers take them where the dataclass has a number (``image_size``).
    """
    given_fields(
        config, {name: value for name, value in raw.items() if not isinstance(value, (list, dict))}, where=where
    )


@cache
def _plain_kinds(config: type) -> dict[str, type]:
    """The plain type of each field that has one: a literal counts as a string, an optional type as that type."""
    out = {}
    for name, hint in get_type_hints(config).items():
        kinds = [
            kind for kind in (get_args(hint) if get_origin(hint) in _UNIONS else (hint,)) if kind is not type(None)
        ]
        kind = str if get_origin(kinds[0]) is Literal and isinstance(get_args(kinds[0])[0], str) else kinds[0]
        if len(kinds) == 1 and kind in _FOREIGN:
            out[name] = kind
    return out


def _scalar(value: Any, kind: Any, where: str, *, foreign: bool = False) -> Any:
    """The value as its type. In other libraries' files, an integer may be written 3.0, and true or false as 1 or 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Numbers beyond the range of 64 bits, or of a double, cannot be used.
    if kind is int and number and abs(value) < 2**63 and (isinstance(value, int) or (foreign and value.is_integer())):
        return int(value)
    if kind is float and number and (isinstance(value, float) or abs(value) < 2**1023):
        return float(value)
    if kind is bool and (isinstance(value, bool) or (foreign and value in (0, 1))):
        return bool(value)
    if kind not in (int, float, bool) and isinstance(value, get_origin(kind) or kind):
        return value
    if foreign:
        raise TransferlabError(f"{where} is {short(value)}; it must be {_FOREIGN[kind]}.")
    raise FieldError(f"{where} is {short(value)} ({type(value).__name__}); expected {_name(kind)}.")


def short(value: Any) -> str:
    """Return the value as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write a number of so many digits
    return text if len(text) <= 80 else f"{text[:80]}…"


# ---------------------------------------------------------------------------------------------------------------


def check_fields(instance: Any, where: str = "") -> None:
    """Check a dataclass's fields that are literals, numbers or booleans against their declared types.

    A number has to be finite, and within the :class:`~transferlab.bounds.Bounds` of its type. Numbers in a tuple or a
    mapping are checked one by one.

    Args:
        instance: of the dataclass.
        where: starts the error message, before the field's name.

    Raises:
        FieldError: any other value; the field, the value and what it may be (or the nearest word) are named.
    """
    before = f"{where}: " if where else ""
    for name, parts, words in _declared(type(instance)):
        value = getattr(instance, name)
        if value is None and type(None) in parts:
            continue
        if words and value not in words and not (isinstance(value, Mapping) and any(map(_item, parts))):
            raise FieldError(f"{before}{name} is {short(value)}.{nearest(str(value), map(str, words))}")
        if numbers := [number for part in parts if (number := _number(part)) is not None]:
            # A field that may be an integer or a float is a number.
            _check_number(value, *min(numbers, key=lambda number: number[0] is not float), f"{before}{name} is")
        elif bool in parts and type(value).__name__ not in ("bool", "bool_"):
            raise FieldError(f"{before}{name} is {short(value)}; it must be True or False.")
        elif isinstance(value, (tuple, Mapping)):
            for item in (item for part in parts if (item := _item(part)) is not None):
                for i, number in value.items() if isinstance(value, Mapping) else enumerate(value):
                    _check_number(number, *item, f"{before}{name}[{i!r}] is")


def _check_number(value: Any, kind: type, bounds: Bounds, start: str) -> None:
    abstract, noun = (Real, "a number") if kind is float else (Integral, "an integer")
    if not isinstance(value, abstract) or isinstance(value, bool):
        raise FieldError(f"{start} {short(value)}; it must be {noun}.")
    if not bounds.holds(value):
        # NaN differs from itself.
        infinite = value == value and not Bounds().holds(value)
        finite = " and finite" if infinite and bounds.most == math.inf != -bounds.least else ""
        raise FieldError(f"{start} {short(value)}; it must be {bounds}{finite}.")


@cache
def _number(hint: Any) -> tuple[type, Bounds] | None:
    """A number's type (integer or float) and its bounds; None for anything but a number."""
    plain, *extras = get_args(hint) if get_origin(hint) is typing.Annotated else (hint,)
    bounds = next((extra for extra in extras if isinstance(extra, Bounds)), Bounds())
    return (plain, bounds) if plain in (int, float) else None


@cache
def _item(hint: Any) -> tuple[type, Bounds] | None:
    """As :func:`_number`, of the items of a tuple of numbers, or of a mapping's values."""
    if get_origin(hint) in (tuple, dict, Mapping):
        return next((number for part in get_args(hint) if (number := _number(part)) is not None), None)
    return None


@cache
def _declared(kind: type) -> list[tuple[str, tuple[Any, ...], list[Any]]]:
    """Each field of a class with the types that it may have, and its literals."""
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError:
        return []  # a user's class, whose types are known only where it was defined
    fields = []
    for name, hint in hints.items():
        parts = get_args(hint) if get_origin(hint) in _UNIONS else (hint,)
        words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
        fields.append((name, parts, words))
    return fields
