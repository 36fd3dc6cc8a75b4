"""``transferlab predict``: read texts, images or sounds, one by one or by the file, and print what a run predicts of each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from transferlab.data.examples import as_records
from transferlab.data.images import SUFFIXES as IMAGES
from transferlab.data.tables import SUFFIXES, checked_text, read_rows, read_text
from transferlab.errors import TransferlabError
from transferlab.train.result import read_record


def predict_all(
    directory: Path, inputs: Sequence[str], as_json: bool, text_columns: Sequence[str] = (), white: float | None = None
) -> None:
    """Print one line per example: what the run's task predicts of it, as probabilities of labels.

    Args:
        directory: of a run or a study.
        inputs: texts (of pairs: two for each), images, sounds, or files of them.
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
    tables = [text for text in inputs if Path(text).suffix.lower() in SUFFIXES]
    reads = {"text": "texts", "image": "images", "audio": "sounds"}[predictor.modality]
    if text_columns and (predictor.modality != "text" or not tables):
        raise TransferlabError(
            f"--text is for tables ({', '.join(SUFFIXES)}) of texts; "
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
    for name, example in _examples(
        inputs, predictor.modality, tuple(text_columns) or columns, white, predictor.task.texts_apart
    ):
        names.append(name)
        examples.append(predictor.task.example(example) if isinstance(example, str) else example)
    if not examples:
        raise TransferlabError("There is nothing to predict: the files contain no examples.")
    presented = predictor.present(examples)
    for name, fields, line in zip(names, presented.rows, presented.lines, strict=True):
        click.echo(json.dumps({"input": name, **fields}) if as_json else f"{line}\t{' '.join(name.splitlines())}")
    if isinstance(predictor.transform, TextTransform):
        content, records = as_records(examples, predictor.modality)
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
    inputs: Sequence[str], modality: str, columns: tuple[str, ...], white: float | None, apart: bool
) -> Iterator[tuple[str, Any]]:
    given: list[str] = []
    for number, text in enumerate(inputs, 1):
        path = Path(text)
        suffix = path.suffix.lower()
        try:
            exists = text != "" and path.exists()  # no text at all is not the current directory
        except (OSError, ValueError):
            exists = False  # A long text, or one with a NUL, is not a file name.
        if modality != "text":
            if not exists:
                raise TransferlabError(f"There is no {'image' if modality == 'image' else 'sound'} file '{text}'.")
            yield from _images(path, white) if modality == "image" else _sounds(path)
        elif exists and suffix in (".txt", *SUFFIXES):
            yield from _table(path, columns, apart)
        elif not exists and suffix in (".txt", *SUFFIXES, *IMAGES) and " " not in text:
            raise TransferlabError(f"There is no file '{text}'.")
        elif exists and (path.is_dir() or suffix or "/" in text):
            known = ", ".join((".txt", *SUFFIXES))
            raise TransferlabError(f"'{text}' exists, but is not a file of texts; those end in {known}.")
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


def _table(path: Path, columns: tuple[str, ...], apart: bool) -> Iterator[tuple[str, Any]]:
    if path.suffix.lower() == ".txt":
        if len(columns) > 1 and not apart:
            raise TransferlabError(
                f"{path} has a text a line, and this run reads pairs; give a table ({', '.join(SUFFIXES)})."
            )
        lines = (line.removesuffix("\r") for line in read_text(path).split("\n"))
        yield from ((line, line) for line in lines if line.strip())
        return
    for number, row in read_rows(path, columns):
        texts = [checked_text(row[column], f"{path}, row {number}") for column in columns]
        yield " | ".join(texts), tuple(texts) if len(texts) > 1 else texts[0]
