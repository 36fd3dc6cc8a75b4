"""``transferlab predict``: read texts or images, one by one or by the file, and print labels with probabilities."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from transferlab.errors import TransferlabError
from transferlab.files import read_json

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
TABLES = (".txt", ".csv", ".tsv", ".jsonl")


def predict_all(directory: Path, inputs: Sequence[str], as_json: bool) -> None:
    """Print one line per example: its label, its probability, and the other labels'."""
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
            click.echo(f"{shown}\t{name}")


def best_run(directory: Path) -> Path:
    """Return ``directory`` if it is a run; for a study, its best run that kept its weights."""
    if (directory / "run.json").exists():
        return directory
    if not (directory / "runs").is_dir():
        raise TransferlabError(f"{directory} is neither a run nor a study (no run.json, no runs/).")
    scored = [
        (read_json(path)["test"]["accuracy"], path.parent)
        for path in sorted(directory.glob("runs/*/*/*/record.json"))
        if (path.parent / "checkpoints").is_dir()
    ]
    if not scored:
        raise TransferlabError(f"{directory} has no finished run that kept its weights.")
    return max(scored, key=lambda pair: pair[0])[1]


def _examples(inputs: Sequence[str], modality: str) -> Iterator[tuple[str, Any]]:
    for text in inputs:
        path = Path(text) if len(text) < 4096 and "\n" not in text else None
        suffix = path.suffix.lower() if path is not None else ""
        exists = path is not None and path.exists()
        if modality == "image":
            if path is None or not exists:
                raise TransferlabError(f"There is no image file '{text}'.")
            yield from _images(path)
        elif exists and path is not None and suffix in TABLES:
            yield from _table(path)
        elif not exists and suffix in (*TABLES, *IMAGES) and " " not in text:
            raise TransferlabError(f"There is no file '{text}'.")
        else:
            yield text, text


def _images(path: Path) -> Iterator[tuple[str, Any]]:
    from transferlab.data.images import read_image

    files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES) if path.is_dir() else [path]
    for file in files:
        yield str(file), read_image(file)


def _table(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise TransferlabError(f"{path} is not UTF-8 (byte {error.start}).") from None
    lines = text.splitlines()
    if path.suffix == ".txt":
        yield from ((line, line) for line in lines if line.strip())
    elif path.suffix == ".jsonl":
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                raise TransferlabError(f"{path}, line {number}: not a JSON object with 'text'.") from None
            yield value, value
    else:
        rows = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
        if "text" not in (rows.fieldnames or ()):
            raise TransferlabError(f"{path} has no column 'text'; it has {rows.fieldnames}.")
        yield from ((row["text"], row["text"]) for row in rows)
