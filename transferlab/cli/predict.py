"""``transferlab predict``: read texts or images, one by one or by the file, and print labels with probabilities."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from transferlab.data.images import SUFFIXES as IMAGES
from transferlab.data.tables import SUFFIXES, checked_text, read_rows, read_text
from transferlab.errors import TransferlabError
from transferlab.train.result import read_record


def predict_all(
    directory: Path, inputs: Sequence[str], as_json: bool, text_column: str | None = None, white: float | None = None
) -> None:
    """Print one line per example: what the run's task predicts of it, as probabilities of labels.

    Args:
        directory: of a run or a study.
        inputs: texts, images, or files of them.
        as_json: print JSON lines.
        text_column: of tables; the one that the run was trained on by default.
        white: the value that is white in images of more than 8 bits.
    """
    from transferlab.data.text import TextTransform
    from transferlab.train.predictor import open_run

    if white is not None:
        from transferlab.data.levels import check_white

        check_white(white)
    predictor = open_run(best_run(directory))
    tables = [text for text in inputs if Path(text).suffix.lower() in SUFFIXES]
    if text_column is not None and (predictor.modality == "image" or not tables):
        raise TransferlabError(
            f"--text is for tables ({', '.join(SUFFIXES)}) of texts; "
            + ("this run reads images." if predictor.modality == "image" else "there is none among the inputs.")
        )
    if white is not None and predictor.modality != "image":
        raise TransferlabError("--white is for images; this run reads texts.")
    names, examples = [], []
    for name, example in _examples(inputs, predictor.modality, text_column or predictor.text_column, white):
        names.append(name)
        examples.append(predictor.task.example(example) if predictor.modality == "text" else example)
    if not examples:
        raise TransferlabError("There is nothing to predict: the files contain no examples.")
    presented = predictor.present(examples)
    for name, fields, line in zip(names, presented.rows, presented.lines, strict=True):
        click.echo(json.dumps({"input": name, **fields}) if as_json else f"{line}\t{' '.join(name.splitlines())}")
    if isinstance(predictor.transform, TextTransform) and isinstance(examples[0], str):
        cut = sum(one.cut > 0 for one in predictor.transform.encode(examples))
        if cut:
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


def _examples(inputs: Sequence[str], modality: str, text_column: str, white: float | None) -> Iterator[tuple[str, Any]]:
    for number, text in enumerate(inputs, 1):
        path = Path(text)
        suffix = path.suffix.lower()
        try:
            exists = text != "" and path.exists()  # no text at all is not the current directory
        except (OSError, ValueError):
            exists = False  # A long text, or one with a NUL, is not a file name.
        if modality == "image":
            if not exists:
                raise TransferlabError(f"There is no image file '{text}'.")
            yield from _images(path, white)
        elif exists and suffix in (".txt", *SUFFIXES):
            yield from _table(path, text_column)
        elif not exists and suffix in (".txt", *SUFFIXES, *IMAGES) and " " not in text:
            raise TransferlabError(f"There is no file '{text}'.")
        elif exists and (path.is_dir() or suffix or "/" in text):
            known = ", ".join((".txt", *SUFFIXES))
            raise TransferlabError(f"'{text}' exists, but is not a file of texts; those end in {known}.")
        else:
            yield text, checked_text(text, f"Input {number}")


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


def _table(path: Path, text_column: str) -> Iterator[tuple[str, str]]:
    if path.suffix.lower() == ".txt":
        lines = (line.removesuffix("\r") for line in read_text(path).split("\n"))
        yield from ((line, line) for line in lines if line.strip())
        return
    for number, row in read_rows(path, (text_column,)):
        text = checked_text(row[text_column], f"{path}, row {number}")
        yield text, text
