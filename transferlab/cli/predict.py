"""``transferlab predict``: read texts or images, one by one or by the file, and print labels with probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from transferlab.data.images import SUFFIXES as PICTURES
from transferlab.data.tables import SUFFIXES, read_rows
from transferlab.errors import TransferlabError
from transferlab.train.result import read_record


def predict_all(directory: Path, inputs: Sequence[str], as_json: bool) -> None:
    """Print one line per example: its label, its probability, and the other labels'."""
    from transferlab.data.text import TextTransform
    from transferlab.train.predictor import open_run

    predictor = open_run(best_run(directory))
    names, examples = [], []
    for name, example in _examples(inputs, predictor.modality):
        names.append(name)
        examples.append(example)
    if not examples:
        raise TransferlabError("There is nothing to predict: the files given hold no example.")
    for name, row in zip(names, predictor(examples), strict=True):
        order = row.argsort()[::-1]
        ranked = {predictor.labels[i]: float(row[i]) for i in order}
        if as_json:
            click.echo(json.dumps({"input": name, "label": predictor.labels[order[0]], "probabilities": ranked}))
        else:
            shown = "  ".join(f"{label} {p:.3f}" for label, p in list(ranked.items())[:5])
            click.echo(f"{shown}\t{' '.join(name.splitlines())}")
    if isinstance(predictor.transform, TextTransform):
        cut = sum(one.cut > 0 for one in predictor.transform.encode(examples))
        if cut:
            limit = predictor.transform.max_length
            click.echo(
                f"{cut} of {len(examples)} texts are longer than {limit} tokens; the rest was not read.", err=True
            )


def best_run(directory: Path) -> Path:
    """Return ``directory`` if it is a run; for a study, its best run that kept its weights."""
    if (directory / "run.json").exists():
        return directory
    if not (directory / "runs").is_dir():
        raise TransferlabError(f"{directory} is neither a run nor a study (no run.json, no runs/).")
    scored = [
        (read_record(path)["test"]["accuracy"], path.parent)
        for path in sorted(directory.glob("runs/*/*/*/record.json"))
        if (path.parent / "checkpoints").is_dir()
    ]
    if not scored:
        raise TransferlabError(f"{directory} has no finished run that kept its weights.")
    return max(scored, key=lambda pair: pair[0])[1]


def _examples(inputs: Sequence[str], modality: str) -> Iterator[tuple[str, Any]]:
    for text in inputs:
        path = Path(text)
        suffix = path.suffix.lower()
        try:
            exists = text != "" and path.exists()  # no text at all is not the current directory
        except (OSError, ValueError):
            exists = False  # A long text, or one with a NUL, is no file's name.
        if modality == "image":
            if not exists:
                raise TransferlabError(f"There is no image file '{text}'.")
            yield from _images(path)
        elif exists and suffix in (".txt", *SUFFIXES):
            yield from _table(path)
        elif not exists and suffix in (".txt", *SUFFIXES, *PICTURES) and " " not in text:
            raise TransferlabError(f"There is no file '{text}'.")
        elif exists and (path.is_dir() or suffix or "/" in text):
            known = ", ".join((".txt", *SUFFIXES))
            raise TransferlabError(f"'{text}' lies on disk, but is no file of texts; those are {known}.")
        else:
            yield text, text


def _images(path: Path) -> Iterator[tuple[str, Any]]:
    from transferlab.data.images import picture_files, read_image

    for file in picture_files(path) if path.is_dir() else [path]:
        yield str(file), read_image(file)


def _table(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix.lower() == ".txt":
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TransferlabError(f"{path} is not UTF-8 (byte {error.start}).") from None
        yield from ((line, line) for line in text.split("\n") if line.strip())
        return
    for number, row in read_rows(path, ("text",)):
        if not isinstance(row["text"], str):
            raise TransferlabError(f"{path}, row {number}: the text is {row['text']!r}.")
        yield row["text"], row["text"]
