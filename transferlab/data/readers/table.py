"""Tables as text: ``.csv``, ``.tsv``, JSON lines, and JSON with a list of objects or a mapping of columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.tables import SUFFIXES, read_rows
from transferlab.errors import TransferlabError, nearest


class TableReader(Reader):
    """A file whose rows have named fields."""

    name = "table (.csv, .tsv, .jsonl, .json)"
    takes = ("white",)

    def recognises(self, source: Any) -> bool:
        return isinstance(source, Path) and source.suffix.lower() in SUFFIXES and not source.is_dir()

    def read(self, source: Path, options: Options) -> Table:
        # Where columns are guessed, none may be there twice.
        rows = read_rows(source, options.columns, options.target or "label", unique=len(options.columns) < 2)
        names = list(dict.fromkeys(name for _, row in rows for name in row))
        for number, row in rows:
            for name in options.columns:
                if name not in row:
                    raise TransferlabError(f"{source}, line {number}: there is no '{name}'.{nearest(name, row)}")
        return Table(
            str(source),
            {name: [row.get(name) for _, row in rows] for name in names},
            [f"row {number}" for number, _ in rows],
            typed=source.suffix.lower() not in (".csv", ".tsv"),
            folder=source.parent,
        )
