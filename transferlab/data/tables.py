"""Tables of texts, ``.csv``, ``.tsv`` and ``.jsonl``: every row is read as it was meant, or named in an error."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transferlab import limits
from transferlab.errors import TransferlabError, nearest
from transferlab.reading import check_file, reading

SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Kinds of tables, in any case."""

_SEPARATORS = ",;\t|"

Row = tuple[int, dict[str, Any]]


def read_rows(path: Path, columns: tuple[str, ...], label: str | None = None) -> list[Row]:
    """Return (row number, fields) of a table that must have these columns.

    The first data row is 1; in a ``.jsonl`` file the number is the line's. Whether double quotes enclose fields in a
    separated file or stand for themselves (GLUE's tables, most ``.tsv``) is decided from the whole file. Fields are
    separated as the file's name says, or by the one other of ``, ; tab |`` that makes the header hold these columns.

    Args:
        path: of the file.
        columns: that it must have, each once.
        label: the one of them whose values repeat from row to row: they tell rows from texts of several lines.

    Raises:
        TransferlabError: no file, one that is too large, an unknown kind of file, a line that is not UTF-8, a lacking or repeated column, a row that does
            not have as many fields as the header, or quotes that can be read in two ways.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise TransferlabError(f"{path}: unknown kind of table; expected {', '.join(SUFFIXES)}.")
    text = read_text(path)
    return _json_rows(path, text, columns) if kind == ".jsonl" else _separated_rows(path, kind, text, columns, label)


def read_text(path: Path) -> str:
    """Return a file's text, without a byte order mark.

    Raises:
        TransferlabError: it is no file (a directory, a pipe, a device) or too large, or a line is not UTF-8 or holds a NUL;
            it is named.
    """
    # By b"\n" alone: a text may hold other characters that Unicode calls line ends.
    check_file(path, limits.TABLE_BYTES)
    with reading(path):
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            wide = " It looks like UTF-16." if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
            raise TransferlabError(
                f"{path}, line {number}: not UTF-8 (byte {error.start}).{wide} Save the file as UTF-8."
            ) from None
        if b"\0" in line:
            raise TransferlabError(
                f"{path}, line {number}: holds a NUL character, which no text has. Save the file as UTF-8."
            )
    return raw.decode("utf-8")


def checked_text(value: Any, where: str) -> str:
    """Return ``value`` if it is a text that can be read.

    Raises:
        TransferlabError: it is none, or holds half of a character (a lone surrogate).
    """
    if not isinstance(value, str):
        raise TransferlabError(f"{where}: the text is {value!r}, not a string.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TransferlabError(f"{where}: the text holds half of a character, or bytes that are not UTF-8.") from None
    return value


def _json_rows(path: Path, text: str, columns: tuple[str, ...]) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                pairs = json.loads(line, object_pairs_hook=_Pairs)
            except (ValueError, RecursionError):
                pairs = None
            if not isinstance(pairs, _Pairs):
                raise TransferlabError(f"{path}, line {number}: not a JSON object.")
            row = dict(pairs)
            for column in columns:
                if column not in row:
                    raise TransferlabError(f"{path}, line {number}: there is no '{column}'.{nearest(column, row)}")
                if sum(name == column for name, _ in pairs) > 1:
                    raise TransferlabError(f"{path}, line {number}: '{column}' is given more than once.")
            rows.append((number, row))
    return rows


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written: names may repeat."""


# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """A separated file under one understanding of its quotes: records, and the first problem of it."""

    names: list[str]
    records: list[tuple[range, list[str]]]
    """(its lines, from 0; fields), without the header."""
    problem: str = ""


def _separated_rows(path: Path, kind: str, text: str, columns: tuple[str, ...], label: str | None) -> list[Row]:
    if not text.strip():
        raise TransferlabError(f"{path} is empty.")
    usual = "\t" if kind == ".tsv" else ","
    separator = _separator(text, usual, columns)
    reading = _reading(path, separator, text, columns, label)
    for column in columns:
        if column not in reading.names:
            other = "" if separator == usual else f" Its fields look separated by {separator!r}."
            raise TransferlabError(
                f"{path} has no column '{column}'.{other}{_headerless(reading, columns) or nearest(column, reading.names)}"
            )
        if (count := reading.names.count(column)) > 1:
            raise TransferlabError(f"{path} has {count} columns '{column}'; give each a name of its own.")
    if reading.problem:
        raise TransferlabError(f"{path}, row {len(reading.records) + 1}: {reading.problem}.")
    rows = enumerate(reading.records, 1)
    return [(number, dict(zip(reading.names, fields, strict=True))) for number, (_, fields) in rows]


def _separator(text: str, usual: str, columns: tuple[str, ...]) -> str:
    """The usual separator, unless the header holds the columns, or several fields, by one other alone."""
    header = next(line for line in io.StringIO(text, newline="") if line.strip()).rstrip("\r\n")

    def holds(separator: str) -> bool:
        try:
            quoted = next(csv.reader([header], delimiter=separator))
        except csv.Error:
            quoted = []
        return set(columns) <= set(quoted) or set(columns) <= set(header.split(separator))

    # Where a quoted name has several lines, the first of them says nothing.
    several = [separator for separator in _SEPARATORS if separator in header and header.count('"') % 2 == 0]
    for fits in ([separator for separator in _SEPARATORS if holds(separator)], several):
        if usual in fits or len(fits) > 1:
            return usual
        if fits:
            return fits[0]
    return usual


def _headerless(reading: _Reading, columns: tuple[str, ...]) -> str:
    """A sentence where the first row looks like data: it has no column that is asked for, and a value that repeats below."""
    below = [set(values) for values in zip(*(fields for _, fields in reading.records), strict=True)]
    repeats = any(name in values for name, values in zip(reading.names, below, strict=False))
    if not repeats or any(column in reading.names for column in columns):
        return ""
    shown = ", ".join(repr(name[:40]) for name in reading.names[:5]) + (", …" if len(reading.names) > 5 else "")
    return f" Its first row is {shown}; a header with column names is expected."


def _reading(path: Path, separator: str, text: str, columns: tuple[str, ...], label: str | None) -> _Reading:
    """Whether quotes enclose fields or are characters like others: what the whole file agrees with."""
    lines = list(io.StringIO(text, newline=""))
    quoted = _quoted(lines, separator)
    if '"' not in text:
        return quoted
    plain = _plain(lines, separator)
    fits = not plain.problem and all(column in plain.names for column in columns)
    if quoted.problem:
        return plain if fits and not _encloses(plain) else quoted
    several = [i for i, (place, _) in enumerate(quoted.records) if len(place) > 1]
    if not several or len(quoted.names) < 2:
        return quoted
    merged = _merged(quoted, several, lines, separator, label)
    if fits and (separator == "\t" or merged == several):
        return plain
    if not fits and not merged:
        return quoted
    first = next((i for i in several if i not in merged), several[0]) if fits else merged[0]
    place = quoted.records[first][0]
    raise TransferlabError(
        f"{path}, row {first + 1}: lines {place.start + 1} to {place.stop} are one text in double quotes, or {len(place)} "
        "rows of which two have a stray quotation mark; both can be read. Put every field in quotes, the header's too, and "
        'write a mark within a text twice (""), or write the table as .jsonl.'
    )


def _quoted(lines: Sequence[str], separator: str) -> _Reading:
    """Double quotes enclose fields, as RFC 4180 has it; text after a closing one, or none at the end, is a problem."""
    # csv refuses fields of more than 131 072 characters unless told; here a text may be as long as its file.
    longest = sum(map(len, lines))
    before = csv.field_size_limit(min(max(longest, csv.field_size_limit()), 2**31 - 1))
    # Strict: a stray quote at the start of a field would otherwise swallow the rows up to the next one.
    reader = csv.reader(lines, delimiter=separator, strict=True)

    def records() -> Iterable[tuple[range, list[str]]]:
        start = 0
        for fields in reader:
            yield range(start, reader.line_num), fields
            start = reader.line_num

    try:
        return _rectangle(records())
    finally:
        csv.field_size_limit(before)


def _plain(lines: Sequence[str], separator: str) -> _Reading:
    """Double quotes are characters like others, and every line is a row."""
    bare = (line.rstrip("\r\n") for line in lines)
    return _rectangle((range(i, i + 1), line.split(separator) if line else []) for i, line in enumerate(bare))


def _rectangle(records: Iterable[tuple[range, list[str]]]) -> _Reading:
    """Records as rows of a table, up to the first that does not have the header's number of fields."""
    names: list[str] | None = None
    rows: list[tuple[range, list[str]]] = []
    try:
        for place, fields in records:
            if not fields:
                continue  # an empty line
            if names is None:
                names = fields
            elif len(fields) != len(names):
                hint = (
                    "; a field that holds the separator is written in double quotes" if len(fields) > len(names) else ""
                )
                return _Reading(names, rows, f"{len(fields)} fields, where the header has {len(names)}{hint}")
            else:
                rows.append((place, fields))
    except csv.Error as error:
        never = "a quotation mark opens a field and is never closed"
        return _Reading(names or [], rows, never if "end of data" in str(error) else str(error))
    return _Reading(names or [], rows)


def _encloses(plain: _Reading) -> bool:
    """Whether a table whose quotes do not all enclose fields was meant so: most rows have such a field, or one has ``""``."""
    rows = [[f for f in fields if len(f) > 1 and f[0] == f[-1] == '"'] for _, fields in plain.records]
    return 2 * sum(map(bool, rows)) > len(rows) or any('""' in field[1:-1] for row in rows for field in row)


def _merged(
    quoted: _Reading, several: Sequence[int], lines: Sequence[str], separator: str, label: str | None
) -> list[int]:
    """Which records of several lines are rows merged by stray quotation marks, by what their labels say.

    Both the first and the last line of such a record is a row by itself, with a label that other rows have. Of a text that
    truly has several lines one at most is: its label is before the text or after it.
    """
    if label not in quoted.names:
        return []
    column, width = quoted.names.index(label), len(quoted.names)
    known = {fields[column] for place, fields in quoted.records if len(place) == 1}

    def row(line: str) -> bool:
        fields = line.rstrip("\r\n").split(separator)
        return len(fields) == width and (not known or fields[column] in known)

    places = [(i, quoted.records[i][0]) for i in several]
    return [i for i, place in places if row(lines[place.start]) and row(lines[place.stop - 1])]
