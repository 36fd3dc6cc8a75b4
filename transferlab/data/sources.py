"""From whatever people call their data (a name, a path, an object, a mapping of splits) to its rows, by the reader that knows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transferlab.data.examples import SPLITS, Examples
from transferlab.data.readers import reader_of, readers
from transferlab.data.readers.base import Options, Table
from transferlab.data.readers.joining import joined
from transferlab.data.unread import line_for
from transferlab.errors import TransferlabError, nearest
from transferlab.reading import reading


def read_source(source: Any, options: Options) -> Table | Examples:
    """Return the rows of a source.

    Raises:
        TransferlabError: nothing is there, no reader knows it, or a row or file cannot be read; it is named.
    """
    if are_splits(source):
        ours = [SPLITS[str(name).lower()] for name in source]
        if len(set(ours)) < len(ours):
            raise TransferlabError(f"Two of {', '.join(map(str, source))} are the same split.")
        return joined({SPLITS[str(name).lower()]: _part(name, part, options) for name, part in source.items()})
    _check_splits(source)
    found = _found(source)
    reader = reader_of(found)
    if reader is None:
        what = f"'{_shown(source)}'" if isinstance(found, (str, int, float, Path)) else f"A {type(found).__name__}"
        line, kinds = line_for(found), "; ".join(reader.name for reader in readers())
        raise TransferlabError(f"{what} is data of no kind that is read{f'. {line}' if line else f': {kinds}.'}")
    for name in ("documents", "white"):
        value = getattr(options, name)
        if value is not None and name not in reader.takes:
            raise TransferlabError(
                f"{name} is {value!r}, but '{_shown(source)}' ({reader.name}) does not take it. Leave it out."
            )
    with reading(_shown(source)):
        return reader.read(found, options)


def _shown(source: Any) -> str:
    """A source in an error: a name or path whole, the beginning of data in memory."""
    return str(source) if isinstance(source, (str, Path)) else str(source)[:80]


def are_splits(source: Any) -> bool:
    """Whether a source is a mapping from the names of splits to a source each, and not one of columns."""
    return (
        isinstance(source, Mapping)
        and bool(source)
        and all(str(name).lower() in SPLITS for name in source)
        and not any(isinstance(part, list) and not (part and isinstance(part[0], Mapping)) for part in source.values())
    )


def _check_splits(source: Any) -> None:
    """Raise for a mapping of tables or paths of which one name is a split and another is not, so that it is not read as columns."""
    if not isinstance(source, Mapping) or not any(str(name).lower() in SPLITS for name in source):
        return
    if all(isinstance(part, (str, Path, Mapping)) or hasattr(part, "columns") for part in source.values()):
        other = next(str(name) for name in source if str(name).lower() not in SPLITS)
        raise TransferlabError(f"'{other}' is not a split; expected train, validation or test.{nearest(other, SPLITS)}")


def _found(source: Any) -> Any:
    """A path that exists, a text that is a name, or an object as it is."""
    from transferlab.data.builders import DATASETS

    if not isinstance(source, (str, Path)):
        return source
    text = str(source)
    if not text.strip():
        raise TransferlabError(f"The data is {text!r}; expected a name, a path, or data in memory.")
    path = Path(text).expanduser()
    if text in DATASETS or (":" in text and reader_of(text) is not None):
        return text
    if path.exists():
        return path
    if path.suffix or "/" in text:
        raise TransferlabError(f"There is no file or folder '{text}'.")
    raise TransferlabError(f"Unknown data set '{text}'.{nearest(text, DATASETS)} Or give a table or a folder.")


def _part(name: str, source: Any, options: Options) -> Table:
    part = read_source(source, options)
    if isinstance(part, Examples) or "splits" in part.roles:
        raise TransferlabError(
            f"The {name} split, '{part.name}', has splits of its own; give it alone:\n  >>> tl.dataset({part.name!r})"
        )
    return part
