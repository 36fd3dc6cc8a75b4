"""Compressed files: ``.gz``, ``.bz2``, ``.xz``, and a ``.zip`` of one file, read as what is inside."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from transferlab import limits
from transferlab.data.readers import reader_of
from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.unread import line_for
from transferlab.errors import TransferlabError
from transferlab.reading import check_file, check_zip

_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class CompressedReader(Reader):
    """A file such as ``reviews.csv.gz``."""

    name = "compressed file (.gz, .bz2, .xz, .zip)"
    takes = ("documents", "white")

    def recognises(self, source: Any) -> bool:
        return isinstance(source, Path) and source.is_file() and source.suffix.lower() in (*_OPENERS, ".zip")

    def read(self, source: Path, options: Options) -> Table:
        with tempfile.TemporaryDirectory() as folder, _opened(source) as (name, file):
            inside = Path(folder) / name
            with inside.open("wb") as copy:
                _copy(source, file, copy)
            reader = reader_of(inside)
            if reader is None or isinstance(reader, CompressedReader):
                raise TransferlabError(
                    f"{source} holds '{name}', which is of no kind that is read. {line_for(Path(name))}".rstrip()
                )
            try:
                table = reader.read(inside, options)
            except TransferlabError as error:
                raise TransferlabError(str(error).replace(str(inside), str(source))) from None
        assert isinstance(table, Table)  # only a name is read as examples
        return replace(table, name=str(source), folder=source.parent)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[str, Any]]:
    """The name and the open content of the one file inside."""
    check_file(path)
    if path.suffix.lower() != ".zip":
        with _OPENERS[path.suffix.lower()](path) as file:
            yield path.stem, file
        return
    check_zip(path)
    with zipfile.ZipFile(path) as archive:
        names = [info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith("__MACOSX/")]
        if len(names) != 1:
            raise TransferlabError(
                f"{path} holds {len(names)} files; one that holds a single table is read. Unpack it."
            )
        with archive.open(names[0]) as file:
            yield PurePosixPath(names[0].filename).name, file


def _copy(path: Path, file: Any, copy: Any) -> None:
    """Unpack no more than a table may have."""
    left = limits.TABLE_BYTES
    while part := file.read(1 << 20):
        left -= len(part)
        if left < 0:
            raise TransferlabError(f"{path} unpacks to more than {limits.TABLE_BYTES:,} bytes (transferlab.limits).")
        copy.write(part)
