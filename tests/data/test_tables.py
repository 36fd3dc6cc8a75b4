"""Tables: quotation marks of both kinds, and no row lost or merged without a word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import transferlab as tl
from transferlab import limits
from transferlab.data.tables import read_rows, read_text
from transferlab.errors import TransferlabError

ROWS = [(f"plain text {i}", str(i % 2)) for i in range(10)]
STRAY = [('"I loved it', "1"), ("fine movie", "0"), ('they said great"', "1"), ("last", "1")]


def write(path: Path, rows: list[tuple[str, str]], end: str = "") -> Path:
    separator = "\t" if path.suffix == ".tsv" else ","
    path.write_text("\n".join(separator.join(row) for row in [("text", "label"), *rows]) + "\n" + end, "utf-8")
    return path


def texts(path: Path) -> list[str]:
    return [row["text"] for _, row in read_rows(path, ("text", "label"), "label")]


@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_quotes_that_open_in_one_text_and_close_in_another_merge_no_rows(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"t.{kind}", [*ROWS, *STRAY])
    assert texts(path) == [text for text, _ in (*ROWS, *STRAY)]
    assert len(tl.dataset(path, test_examples=4).records) == 14


@pytest.mark.parametrize("rows", [[('he "said" so', "1"), ('"Hello" he said', "0")], [('"never closed', "1")]])
@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_quotes_that_enclose_nothing_are_characters(tmp_path: Path, kind: str, rows: list[tuple[str, str]]) -> None:
    assert texts(write(tmp_path / f"t.{kind}", [*ROWS, *rows]))[10:] == [text for text, _ in rows]


def test_quotes_enclose_separators_lines_and_marks(tmp_path: Path) -> None:
    rows = [('"Hello, world"', "1"), ('"two\nlines, or so"', "0"), ('"he said ""no"""', "1"), ("plain", "0")]
    path = write(tmp_path / "t.csv", [*ROWS, *rows])
    assert texts(path)[10:] == ["Hello, world", "two\nlines, or so", 'he said "no"', "plain"]
    front = tmp_path / "u.csv"
    front.write_text('label,text\n0,plain\n1,"a\nb, c"\n0,"d\ne"\n')
    assert texts(front) == ["plain", "a\nb, c", "d\ne"]


def test_a_table_that_can_be_read_in_two_ways_is_refused_by_its_row(tmp_path: Path) -> None:
    # A row that needs its quotes, and a pair of stray marks around rows whose labels other rows have.
    path = write(tmp_path / "t.csv", [*ROWS, *STRAY, ('"Hello, world"', "1")])
    with pytest.raises(
        TransferlabError, match=r"t\.csv, row 11: lines 12 to 14 could be one text in double quotes, or 3 rows"
    ):
        texts(path)
    front = tmp_path / "u.csv"
    front.write_text('label,text\n0,plain\n1,"a\nb, c"\n')
    with pytest.raises(TransferlabError, match=r"u\.csv, row 2: lines 3 to 4"):
        texts(front)


def test_one_row_whose_quotes_are_wrong_in_a_quoted_table_is_named(tmp_path: Path) -> None:
    for name, row in (("t.csv", '"He" said'), ("u.csv", '"never closed')):
        with pytest.raises(TransferlabError, match=rf"{name}, row 12: "):
            texts(write(tmp_path / name, [*ROWS, ('"Hello, world"', "1"), (row, "0")]))
    # Nearly every text is in quotes: they are not part of it.
    rows = [(f'"{text}"', label) for text, label in ROWS]
    with pytest.raises(TransferlabError, match=r"v\.csv, row 11: "):
        texts(write(tmp_path / "v.csv", [*rows, ('"a "good" film"', "1")]))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_with_another_separator_is_read(tmp_path: Path, separator: str, name: str) -> None:
    path = tmp_path / name
    lines = [f"{i}{separator}text, {i}{separator}{i % 2}" for i in range(4)]
    if separator == ",":
        lines = [line.replace("text, ", "text ") for line in lines]
    path.write_text(separator.join(["id", "text", "label"]) + "\r\n" + "\r\n".join(lines))
    assert texts(path)[1] == lines[1].split(separator)[1]
    path.write_text(
        "\n".join([separator.join(["id", "text", "label"]), *lines, f"5{separator}a{separator}b{separator}c"])
    )
    with pytest.raises(TransferlabError, match="row 5: 4 fields, where the header has 3"):
        texts(path)


def test_a_header_of_other_names_or_none_is_distinguished_from_another_separator(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for header, said in (
        ("body;y\n", r"no column 'text'\. Its fields seem to be separated by ';'\. Choose from: body, y\.$"),
        ("texts;label\n", r"no column 'text'\. Its fields seem to be separated by ';'\. Did you mean 'texts'\?$"),
        ("texts,label;y\n", r"no column 'text'\. Did you mean 'texts'\?$"),
        (
            "a;t 0\n",
            r"seem to be separated by ';'\. Its first row is 'a', 't 0'; expected a header with column names\.$",
        ),
        (
            "",
            r"no column 'text'\. Its fields seem .* Its first row is 'a', 't 1'; expected a header with column names\.$",
        ),
    ):
        path.write_text(header + "a;t 1\nb;t 2\na;t 3\n")
        with pytest.raises(TransferlabError, match=said):
            texts(path)
    path.write_text("t 1,a\nt 2,b\nt 3,a\n")
    with pytest.raises(TransferlabError, match=r"no column 'text'\. Its first row is 't 1', 'a'; expected a header"):
        texts(path)


def test_rows_of_other_lengths_nul_and_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for written, said in (
        (b"text,label,id\na,1,7\nb,0\n", "row 2: 2 fields, where the header has 3"),
        (b"text,label\na,1\nb,0,0\n", "row 2: 3 fields, where the header has 2"),
        (b"text,label\na,1\nb\0c,0\n", "line 3: contains a NUL character"),
        ("text,label\na,1\n".encode("utf-16"), "line 1: not UTF-8 .* looks like UTF-16"),
        (b"text,label\na,1\ncaf\xe9,0\n", r"line 3: not UTF-8 \(byte 3\)"),
        (b"text,label,label\na,1,0\n", "has 2 columns 'label'"),
        (b"\xef\xbb\xbf\n", "is empty"),
    ):
        path.write_bytes(written)
        with pytest.raises(TransferlabError, match=said):
            texts(path)
    path.write_bytes(b"\xef\xbb\xbftext,label\r\na,1\r\n\r\nb,0\r\n")
    assert texts(path) == ["a", "b"]


def test_a_line_that_is_not_an_object_or_has_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for line, said in (
        ('[["text", "a"], ["label", 1]]', "line 2: expected a JSON object"),
        ("[" * 100_000, "line 2: expected a JSON object"),
        ('{"text": "a", "label": 1, "label": 0}', "line 2: 'label' is given more than once"),
    ):
        path.write_text('{"text": "a", "label": 1}\n' + line + "\n")
        with pytest.raises(TransferlabError, match=said):
            texts(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_table_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(TransferlabError, match=r"pipe\.csv is a pipe; expected a file"):
        tl.dataset(tmp_path / "pipe.csv")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    with pytest.raises(TransferlabError, match=r"device\.csv is a device; expected a file"):
        tl.dataset(tmp_path / "device.csv")
    with pytest.raises(TransferlabError, match="is a directory; expected a file"):
        read_text(tmp_path)


def test_a_table_past_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TABLE_BYTES", 20)
    with pytest.raises(TransferlabError, match=r"t\.csv has \d+ bytes; such a file can have 20 "):
        tl.dataset(write(tmp_path / "t.csv", ROWS))
