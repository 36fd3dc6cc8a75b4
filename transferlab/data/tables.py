"""Tables of texts, ``.csv``, ``.tsv`` and ``.jsonl``: every row is read as it was meant, or named in an error."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from transferlab.errors import TransferlabError, nearest

SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Kinds of tables, in any case."""

Row = tuple[int, dict[str, Any]]


def read_rows(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """Return (row number, fields) of a table that must have these columns.

    The first data row is 1; in a ``.jsonl`` file the number is the line's.

    Raises:
        TransferlabError: an unknown kind of file, a line that is not UTF-8, a lacking column, or a row that does not
            have as many fields as the header.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise TransferlabError(f"{path}: unknown kind of table; expected {', '.join(SUFFIXES)}.")
    # By b"\n" alone: a text may hold other characters that Unicode calls line ends.
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TransferlabError(f"{path}, line {number}: not UTF-8 (byte {error.start}).") from None
    return _json_rows(path, lines, columns) if kind == ".jsonl" else _separated_rows(path, kind, columns)


def _json_rows(path: Path, lines: list[bytes], columns: tuple[str, ...]) -> list[Row]:
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = dict(json.loads(line))
            except (ValueError, TypeError):
                raise TransferlabError(f"{path}, line {number}: not a JSON object.") from None
            for column in columns:
                if column not in row:
                    raise TransferlabError(
                        f"{path}, line {number}: there is no '{column}'.{nearest(column, map(str, row))}"
                    )
            rows.append((number, row))
    return rows


def _separated_rows(path: Path, kind: str, columns: tuple[str, ...]) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strict: a stray quote at the start of a field would otherwise swallow the rows up to the next one.
        reader = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",", strict=True)
        # csv refuses fields of more than 131 072 characters unless told; here a text may be as long as its file.
        before = csv.field_size_limit(min(max(path.stat().st_size, csv.field_size_limit()), 2**31 - 1))
        try:
            names = list(reader.fieldnames or ())
            for column in columns:
                if column not in names:
                    raise TransferlabError(f"{path} has no column '{column}'.{nearest(column, names)}")
            for number, row in enumerate(reader, 1):
                if None in row:
                    raise TransferlabError(
                        f"{path}, row {number}: {len(names) + len(row[None])} fields, where the header has {len(names)}; "
                        "a field that holds the separator is written in double quotes."
                    )
                rows.append((number, row))
        except csv.Error as error:
            raise TransferlabError(f"{path}, row {len(rows) + 1}: {error}.") from None
        finally:
            csv.field_size_limit(before)
    return rows
