"""Readers of data: each file in this folder recognises a kind of source and reads it into named columns."""

from __future__ import annotations

from functools import cache
from typing import Any

from transferlab.data.readers.base import Reader
from transferlab.plugins import members


@cache
def readers() -> tuple[Reader, ...]:
    """Return every reader of this folder's files, and those that installed packages add; those that recognise whatever is left
    come last.
    """
    kinds = {kind for kind in members(__name__) if isinstance(kind, type)}
    found = [kind() for kind in kinds if issubclass(kind, Reader) and kind.name]
    return tuple(sorted(found, key=lambda reader: (reader.last, reader.name)))


def reader_of(source: Any) -> Reader | None:
    """Return the first reader that recognises a source."""
    return next((reader for reader in readers() if reader.recognises(source)), None)
