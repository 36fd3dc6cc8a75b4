"""Readers of data: each file in this folder recognises a kind of source and reads it into named columns."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from transferlab.data.readers.base import Reader


@cache
def readers() -> tuple[Reader, ...]:
    """Return every reader of this folder's files; those that recognise whatever is left come last."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    found = [kind() for kind in kinds if issubclass(kind, Reader) and kind.name]
    return tuple(sorted(found, key=lambda reader: (reader.last, reader.name)))


def reader_of(source: Any) -> Reader | None:
    """Return the first reader that recognises a source."""
    return next((reader for reader in readers() if reader.recognises(source)), None)
