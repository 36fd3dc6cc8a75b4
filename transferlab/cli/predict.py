"""``transferlab predict``: read texts, images or sounds, one by one or by the file, and print what a run predicts of each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from transferlab.data.contents import examples_of
from transferlab.data.examples import Content, Modality, as_records
from transferlab.data.images import SUFFIXES as IMAGES
from transferlab.data.labels import LEAVE_OUT
from transferlab.data.readers import reader_of
from transferlab.data.readers.arrow import ARROW, PARQUET, ArrowReader
from transferlab.data.readers.base import Options, Table
from transferlab.data.readers.conll import SUFFIXES as CONLL
from transferlab.data.readers.folder import FolderReader
from transferlab.data.readers.table import TableReader
from transferlab.data.readers.text import TextReader, check_prose
from transferlab.data.roles import Asked, roles_of
from transferlab.data.tables import SUFFIXES, checked_text, read_text
from transferlab.errors import TransferlabError, nearest
from transferlab.reading import reading
from transferlab.train.result import read_record

FILES = (*PARQUET, *ARROW, *CONLL, ".gz", ".bz2", ".xz", ".zip")
"""Suffixes of files of rows, besides tables as text."""


def predict_all(
    directory: Path, inputs: Sequence[str], as_json: bool, text_columns: Sequence[str] = (), white: float | None = None
) -> None:
    """Print one line per example: what the run's task predicts of it, as probabilities of labels.

    Args:
        directory: of a run or a study.
        inputs: texts (of pairs: two for each), images, sounds, files and folders of them, or of rows that hold them.
        as_json: print JSON lines.
        text_columns: of tables, two of pairs; those that the run was trained on by default.
        white: the value that is white in images of more than 8 bits.
    """
    from transferlab.data.text import TextTransform
    from transferlab.train.predictor import open_run

    if white is not None:
        from transferlab.data.levels import check_white

        check_white(white)
    predictor = open_run(best_run(directory))
    tables = [text for text in inputs if Path(text).suffix.lower() in (*SUFFIXES, *FILES) or os.path.isdir(text)]
    reads = {"text": "texts", "image": "images", "audio": "sounds"}[predictor.modality]
    if text_columns and (predictor.modality != "text" or not tables):
        raise TransferlabError(
            f"--text is for tables ({', '.join((*SUFFIXES, *FILES))}) of texts; "
            + ("there is none among the inputs." if predictor.modality == "text" else f"this run reads {reads}.")
        )
    if white is not None and predictor.modality != "image":
        raise TransferlabError(f"--white is for images; this run reads {reads}.")
    own = predictor.text_column
    columns = (own,) if isinstance(own, str) else tuple(own)
    if text_columns and len(text_columns) != len(columns):
        what = "a text" if len(columns) == 1 else "pairs of texts"
        wanted = " ".join(f"--text {column}" for column in columns)
        raise TransferlabError(
            f"This run reads {what}, and --text is given {len(text_columns)} times. As in: {wanted}."
        )
    names, examples = [], []
    words = predictor.task.contents == ("words",)
    for name, example in _examples(
        inputs, predictor.modality, tuple(text_columns) or columns, white, predictor.task.texts_apart, words
    ):
        names.append(name)
        examples.append(predictor.task.example(example) if isinstance(example, str) else example)
    if not examples:
        raise TransferlabError("There is nothing to predict: the files contain no examples.")
    presented = predictor.present(examples)
    for name, fields, line in zip(names, presented.rows, presented.lines, strict=True):
        click.echo(json.dumps({"input": name, **fields}) if as_json else f"{line}\t{' '.join(name.splitlines())}")
    if isinstance(predictor.transform, TextTransform):
        content, records = as_records(examples, predictor.modality, words)
        feed = predictor.task.inputs(records, predictor.transform, content=content)
        if cut := feed.truncated(np.arange(len(records))):
            limit = predictor.transform.max_length
            click.echo(f"{cut} of {len(examples)} texts are longer than {limit} tokens, and were truncated.", err=True)


def best_run(directory: Path) -> Path:
    """Return ``directory`` if it is a run; for a study, its best run that kept its weights, whose path is printed."""
    from transferlab.studies.scores import score_line
    from transferlab.studies.status import finished, oriented, status_of

    if (directory / "run.json").exists():
        return directory
    if not (directory / "runs").is_dir():
        raise TransferlabError(f"{directory} is neither a run nor a study (no run.json, no runs/).")
    records = [(read_record(path), path.parent) for path in sorted(directory.glob("runs/*/*/*/record.json"))]
    scored = [(record, path) for record, path in records if finished(record) and (path / "checkpoints").is_dir()]
    if not scored:
        failed = [
            f"{path.relative_to(directory)} {status_of(record)}" for record, path in records if not finished(record)
        ]
        raise TransferlabError(
            f"{directory} has no finished run that kept its weights." + (f" {'; '.join(failed)}." if failed else "")
        )
    record, run = max(scored, key=lambda pair: oriented(pair[0]))
    click.echo(f"Run: {run} (test {score_line(record)}, the best of {len(scored)} that kept their weights).", err=True)
    return run


def _examples(
    inputs: Sequence[str],
    modality: Modality,
    columns: tuple[str, ...],
    white: float | None,
    apart: bool,
    words: bool = False,
) -> Iterator[tuple[str, Any]]:
    given: list[str] = []
    content: Content = modality if modality != "text" else "words" if words else "pair" if len(columns) > 1 else "text"
    for number, text in enumerate(inputs, 1):
        path = Path(text)
        suffix = path.suffix.lower()
        try:
            exists = text != "" and path.exists()  # no text at all is not the current directory
        except (OSError, ValueError):
            exists = False  # A long text, or one with a NUL, is not a file name.
        table = exists and not path.is_dir() and reader_of(path) is not None
        if modality != "text":
            if not exists:
                raise TransferlabError(f"There is no {'image' if modality == 'image' else 'sound'} file '{text}'.")
            if table or isinstance(reader_of(path), ArrowReader):
                yield from _rows(path, (), content, white)
            else:
                yield from _images(path, white) if modality == "image" else _sounds(path)
        elif table and suffix == ".txt":
            yield from _lines(path, len(columns) > 1 and not apart, words)
        elif exists and (table or path.is_dir()):
            for file in _tables(path):
                yield from _rows(file, columns, content, white)
        elif not exists and suffix in (".txt", *SUFFIXES, *FILES, *IMAGES) and " " not in text:
            raise TransferlabError(f"There is no file '{text}'.")
        elif exists and (suffix or "/" in text):
            raise _no_texts(text)
        elif len(columns) == 1 or (apart and len(inputs) == 1):
            yield text, checked_text(text, f"Input {number}")
        else:
            given.append(checked_text(text, f"Input {number}"))
            if len(given) == len(columns):
                yield " | ".join(given), tuple(given)
                given = []
    if given:
        raise TransferlabError(
            f"This run reads pairs of texts, and '{given[0]}' has no second one: give two texts for each pair."
        )


def _images(path: Path, white: float | None) -> Iterator[tuple[str, Any]]:
    from transferlab.data.images import image_files, nested_images, passed_over, read_image

    files = sorted(image_files(path) + nested_images(path)) if path.is_dir() else [path]
    if path.is_dir():
        passed_over([path])
    if not files:
        raise TransferlabError(f"{path} holds no images ({', '.join(IMAGES)}).")
    for file in files:
        # A file name may not be UTF-8; it is then printed with replacement characters.
        yield os.fsencode(file).decode("utf-8", "replace"), read_image(file, white)


def _sounds(path: Path) -> Iterator[tuple[str, Any]]:
    from transferlab.data.sounds import SUFFIXES as SOUNDS
    from transferlab.data.sounds import mono, read_sound

    every = path.rglob("*") if path.is_dir() else [path]
    files = sorted(file for file in every if file == path or file.suffix.lower() in SOUNDS)
    if not files:
        raise TransferlabError(f"{path} holds no sounds ({', '.join(SOUNDS)}).")
    for file in files:
        samples, rate = read_sound(file, str(file))
        yield os.fsencode(file).decode("utf-8", "replace"), (mono(samples), rate)


def _lines(path: Path, pairs: bool, words: bool) -> Iterator[tuple[str, Any]]:
    """A text a line."""
    if pairs:
        raise TransferlabError(
            f"{path} has a text a line, and this run reads pairs; give a table ({', '.join(SUFFIXES)})."
        )
    if words:
        check_prose(path)
    lines = (line.removesuffix("\r") for line in read_text(path).split("\n"))
    yield from ((line, line) for line in lines if line.strip())


def _rows(path: Path, columns: tuple[str, ...], content: Content, white: float | None) -> Iterator[tuple[str, Any]]:
    """What the rows of a file or folder hold, read as :func:`transferlab.dataset` reads it.

    Columns are those that are named, or else those that the source itself states, as CoNLL does, or that are called as usual.
    """
    reader = reader_of(path)
    assert reader is not None
    with reading(path):
        table = reader.read(path, Options(columns if isinstance(reader, TableReader) else (), white=white))
    assert isinstance(table, Table)  # only a name is read as examples
    stated = {"text", "words"} & table.roles.keys()
    if lacking := [name for name in columns if name not in table.columns and not stated]:
        raise TransferlabError(
            f"{table.name} has no column '{lacking[0]}', as the data of this run had.{nearest(lacking[0], table.columns)} --text names "
            "another."
        )
    named = columns and not (stated and any(name not in table.columns for name in columns))
    kind = {"pair": "text"}.get(content, content)
    given: dict[str, Any] = {kind: columns if len(columns) > 1 else next(iter(columns))} if named else {}
    asked = Asked(**given, target=None)
    roles = roles_of(table, asked)
    if roles.content != content and (roles.content, content) != ("text", "words"):  # white space separates words
        raise TransferlabError(f"{path} holds {roles.content}, and this run reads {content}.")
    try:
        examples = examples_of(table, roles, white=white)
    except TransferlabError as error:
        raise TransferlabError(str(error).replace(LEAVE_OUT, "Fill it in, or leave the row out.")) from None
    for record in examples.records:
        place = f"{path}, {record['id']}"
        match record:
            case {"text": text, "text_pair": other}:
                yield f"{text} | {other}", (text, other)
            case {"text": text}:
                yield text, text
            case {"words": words}:
                yield " ".join(words), words
            case {"image": image}:
                yield place, image
            case {"audio": samples, "rate": rate}:
                yield place, (samples, rate)


def _tables(path: Path) -> list[Path]:
    """The files of a folder, in its sub-folders too, that are read by themselves; the path itself where they are read together."""
    if not path.is_dir() or not isinstance(reader_of(path), FolderReader):
        return [path]
    files = sorted(
        file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".") and reader_of(file)
    )
    texts = [file for file in files if isinstance(reader_of(file), TextReader)]
    if texts and len(texts) < len(files):
        other = next(file for file in files if file not in texts)
        raise TransferlabError(
            f"{path} holds texts, as {texts[0].name}, and tables, as {other.name}. Give them one by one."
        )
    if not files:
        raise _no_texts(str(path))
    return [path] if texts else files


def _no_texts(path: str) -> TransferlabError:
    known = ", ".join((".txt", *SUFFIXES, *FILES))
    return TransferlabError(f"'{path}' exists, but is not a file of texts, nor a folder of such; those end in {known}.")
