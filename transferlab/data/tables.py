"""Tables of texts, ``.csv``, ``.tsv``, ``.jsonl`` and ``.json``: every row is read as intended, or named in an error."""

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

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
"""Suffixes of tables, in any case."""

_SEPARATORS = ",;\t|"

Row = tuple[int, dict[str, Any]]


def read_rows(path: Path, columns: tuple[str, ...], label: str | None = None, *, unique: bool = False) -> list[Row]:
    """Return (row number, fields) of a table that must have these columns.

    The first data row is 1; in a file of JSON lines the number is the line's. Whether double quotes enclose fields in a
    separated file or are ordinary characters (GLUE's tables, most ``.tsv``) is decided from the whole file. The separator
    follows from the file's suffix, or is the only other one of ``, ; tab |`` with which the header has these columns.

    Args:
        path: of the file.
        columns: that it must have, each once; empty where its header is to say what there is.
        unique: whether no column may be repeated, not even another than those.
        label: the column whose values repeat from row to row, which tells rows from texts of several lines.

    Raises:
        TransferlabError: not a file, one that is too large or of an unknown kind, a line that is not UTF-8, a missing or
            repeated column, a row with another number of fields than the header, or quotes that can be read in two ways.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise TransferlabError(f"{path}: unknown kind of table '{path.suffix}'; expected {', '.join(SUFFIXES)}.")
    text = read_text(path)
    if kind in (".csv", ".tsv"):
        return _separated_rows(path, kind, text, columns, label, unique)
    rows = _json_list(path, text, columns) if kind == ".json" else None
    return _json_rows(path, text, columns, unique) if rows is None else rows


def read_text(path: Path) -> str:
    """Return a file's text, without a byte order mark.

    Raises:
        TransferlabError: not a file (a directory, a pipe, a device), one that is too large, or a line that is not UTF-8 or
            contains a NUL; the file and line are named.
    """
    # Only at b"\n": a text may contain other characters that Unicode calls line ends.
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
                f"{path}, line {number}: contains a NUL character, which no text has. Save the file as UTF-8."
            )
    return raw.decode("utf-8")


def checked_text(value: Any, where: str) -> str:
    """Return ``value`` if it is a string that can be encoded as UTF-8.

    Raises:
        TransferlabError: anything else, or half of a character (a lone surrogate) in it.
    """
    if not isinstance(value, str):
        raise TransferlabError(
            f"{where}: the text is missing." if value is None else f"{where}: the text is {value!r}, not a string."
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TransferlabError(f"{where}: the text holds half of a character, or bytes that are not UTF-8.") from None
    return value


def _json_rows(path: Path, text: str, columns: tuple[str, ...], unique: bool) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                pairs = json.loads(line, object_pairs_hook=_Pairs)
            except (ValueError, RecursionError):
                pairs = None
            if not isinstance(pairs, _Pairs):
                raise TransferlabError(f"{path}, line {number}: expected a JSON object; got {line.strip()[:40]!r}.")
            row = dict(pairs)
            for column in columns:
                if column not in row:
                    raise TransferlabError(f"{path}, line {number}: there is no '{column}'.{nearest(column, row)}")
            for column in row if unique and len(row) < len(pairs) else columns:
                if sum(name == column for name, _ in pairs) > 1:
                    raise TransferlabError(f"{path}, line {number}: '{column}' is given more than once.")
            rows.append((number, row))
    return rows


def _json_list(path: Path, text: str, columns: tuple[str, ...]) -> list[Row] | None:
    """The rows of a list of objects, or of a mapping of columns; None for a file of JSON lines of that name."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        if not _is_object(text.lstrip().split("\n", 1)[0]):
            raise TransferlabError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from None
        return None
    except (ValueError, RecursionError):
        return None
    if isinstance(whole, dict):
        _check_layout(path, whole)
    if isinstance(whole, dict) and whole and all(isinstance(values, list) for values in whole.values()):
        lengths = {name: len(values) for name, values in whole.items()}
        if len(set(lengths.values())) > 1:
            raise TransferlabError(f"{path}: its columns have different numbers of values: {lengths}.")
        whole = [dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)]
    if not isinstance(whole, list):
        return None
    for number, row in enumerate(whole, 1):
        if not isinstance(row, dict):
            line = f" Of texts alone make a column:\n  >>> tl.dataset({{'text': json.load(open({str(path)!r}))}})"
            raise TransferlabError(
                f"{path}, row {number}: expected a JSON object; got {str(row)[:40]!r}.{line if isinstance(row, str) else ''}"
            )
        for column in columns:
            if column not in row:
                raise TransferlabError(f"{path}, row {number}: there is no '{column}'.{nearest(column, row)}")
    return list(enumerate(whole, 1))


def _check_layout(path: Path, whole: dict[str, Any]) -> None:
    """Raise for an object whose rows are under a key, or that pandas writes by default: it is no mapping of columns."""
    load = f"json.load(open({str(path)!r}))"
    if keys := _rows_under(whole):
        under = "".join(f"[{part!r}]" for part in keys[0])
        names = " and ".join(".".join(key) for key in keys)
        together = f", or, if they are splits, together:\n  >>> tl.dataset({load})" if len(keys) > 1 else ""
        raise TransferlabError(
            f"{path} holds its rows under {names}. Open them:\n  >>> tl.dataset({load}{under}){together}"
        )
    split = set(whole) <= {"columns", "data", "index"} and len(whole) > 1
    values = list(whole.values())
    if split or (values and all(isinstance(value, dict) for value in values) and len({*map(tuple, values)}) == 1):
        form = ", orient='split'" if split else ""
        raise TransferlabError(
            f"{path} is laid out as pandas writes a DataFrame. Open it as one:\n  >>> tl.dataset(pandas.read_json({str(path)!r}{form}))"
        )


def _rows_under(whole: dict[str, Any], depth: int = 3) -> list[tuple[str, ...]]:
    """The keys of lists of objects in an object that has no columns besides; a key for each level."""
    found = [(key,) for key, value in whole.items() if _are_rows(value)]
    columns = [value for value in whole.values() if isinstance(value, list) and not _are_rows(value)]
    if found and not any(len(column) == len(whole[key]) for (key,) in found for column in columns):
        return found
    inside = (
        [(key, value) for key, value in whole.items() if isinstance(value, dict)] if not found and depth > 1 else []
    )
    return [(key, *deeper) for key, value in inside for deeper in _rows_under(value, depth - 1)]


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as written: names may repeat."""


# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """A separated file under one interpretation of its quotes: its records, and the first problem."""

    names: list[str]
    records: list[tuple[range, list[str]]]
    """(its lines, from 0; fields), without the header."""
    problem: str = ""


def _separated_rows(
    path: Path, kind: str, text: str, columns: tuple[str, ...], label: str | None, unique: bool
) -> list[Row]:
    if not text.strip():
        raise TransferlabError(f"{path} is empty.")
    usual = "\t" if kind == ".tsv" else ","
    separator = _separator(text, usual, columns or ("text", "label"))
    reading = _reading(path, separator, text, columns, label)
    for column in columns:
        if column not in reading.names:
            other = "" if separator == usual else f" Its fields seem to be separated by {separator!r}."
            raise TransferlabError(
                f"{path} has no column '{column}'.{other}{_headerless(reading, columns) or nearest(column, reading.names)}"
            )
    # A spreadsheet may have columns without a name, which nobody asks for.
    for column in dict.fromkeys(filter(None, reading.names)) if unique else columns:
        if (count := reading.names.count(column)) > 1:
            raise TransferlabError(f"{path} has {count} columns '{column}'; rename all but one.")
    if reading.problem:
        raise TransferlabError(f"{path}, row {len(reading.records) + 1}: {reading.problem}.")
    rows = enumerate(reading.records, 1)
    return [(number, dict(zip(reading.names, fields, strict=True))) for number, (_, fields) in rows]


def _separator(text: str, usual: str, columns: tuple[str, ...]) -> str:
    """The usual separator, unless the header has the columns, or several fields, with exactly one other."""
    header = next(line for line in io.StringIO(text, newline="") if line.strip()).rstrip("\r\n")

    def holds(separator: str) -> bool:
        try:
            quoted = next(csv.reader([header], delimiter=separator))
        except csv.Error:
            quoted = []
        return set(columns) <= set(quoted) or set(columns) <= set(header.split(separator))

    # Where a quoted name spans several lines, the first line is no evidence.
    several = [separator for separator in _SEPARATORS if separator in header and header.count('"') % 2 == 0]
    for fits in ([separator for separator in _SEPARATORS if holds(separator)], several):
        if usual in fits or len(fits) > 1:
            return usual
        if fits:
            return fits[0]
    return usual


def _headerless(reading: _Reading, columns: tuple[str, ...]) -> str:
    """A sentence if the first row looks like data: it has none of the columns, and a value that repeats below."""
    below = [set(values) for values in zip(*(fields for _, fields in reading.records), strict=True)]
    repeats = any(name in values for name, values in zip(reading.names, below, strict=False))
    if not repeats or any(column in reading.names for column in columns):
        return ""
    shown = ", ".join(repr(name[:40]) for name in reading.names[:5]) + (", …" if len(reading.names) > 5 else "")
    return f" Its first row is {shown}; expected a header with column names."


def _reading(path: Path, separator: str, text: str, columns: tuple[str, ...], label: str | None) -> _Reading:
    """The file read with quotes that enclose fields, or as ordinary characters, whichever fits the whole file."""
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
        f"{path}, row {first + 1}: lines {place.start + 1} to {place.stop} could be one text in double quotes, or {len(place)} "
        "rows of which two have a stray quotation mark. Put every field in quotes, the header's too, and double the marks "
        'within a text (""), or save the table as .jsonl.'
    )


def _quoted(lines: Sequence[str], separator: str) -> _Reading:
    """Read double quotes as in RFC 4180: they enclose fields. Text after a closing one, or a missing one, is a problem."""
    # By default csv refuses fields of more than 131 072 characters; here a text may be as long as its file.
    longest = sum(map(len, lines))
    before = csv.field_size_limit(min(max(longest, csv.field_size_limit()), 2**31 - 1))
    # Not strict, a stray quote at the start of a field would swallow the rows up to the next one.
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
    """Read double quotes as ordinary characters, and every line as a row."""
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
                hint = "; put a field that contains the separator in double quotes" if len(fields) > len(names) else ""
                return _Reading(names, rows, f"{len(fields)} fields, where the header has {len(names)}{hint}")
            else:
                rows.append((place, fields))
    except csv.Error as error:
        unclosed = "a quotation mark opens a field and is never closed"
        return _Reading(names or [], rows, unclosed if "end of data" in str(error) else str(error))
    return _Reading(names or [], rows)


def _encloses(plain: _Reading) -> bool:
    """Whether quotes were meant to enclose fields though not all do: most rows have such a field, or one has ``""``."""
    rows = [[f for f in fields if len(f) > 1 and f[0] == f[-1] == '"'] for _, fields in plain.records]
    return 2 * sum(map(bool, rows)) > len(rows) or any('""' in field[1:-1] for row in rows for field in row)


def _merged(
    quoted: _Reading, several: Sequence[int], lines: Sequence[str], separator: str, label: str | None
) -> list[int]:
    """Which records of several lines are rows merged by stray quotation marks, judging by their labels.

    Both the first and the last line of such a record are rows by themselves, with a label that other rows have. In a real
    text of several lines, at most one of them is: its label is either before or after the text.
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
