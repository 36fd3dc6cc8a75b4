"""Intervals of a single run over its test set: examples are resampled, and the task scores each draw."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
from jaxtyping import Int

from transferlab.data.dataset import Dataset
from transferlab.errors import TransferlabError
from transferlab.files import write_json
from transferlab.measure.statistics import bootstrap_interval
from transferlab.reading import read_object
from transferlab.studies.scores import Score
from transferlab.tasks import Task
from transferlab.tasks.prediction import take
from transferlab.train.result import read_predictions

DRAWS, FILE = 1000, "interval.json"


def resampled(directory: Path, task: Task, data: Dataset) -> tuple[float, float, str]:
    """The bootstrap interval (low, high, its kind) of the score of the run in this directory, from its predictions.

    A score that is the mean of examples' parts is drawn all at once; another is rescored, and kept next to the predictions.
    No interval where a run has no predictions, or not of these examples.
    """
    none, path, name = (math.nan, math.nan, "one seed"), directory / "predictions.npz", Score.of_task(task).name
    if not path.exists():
        return none
    key = {"metric": name, "draws": DRAWS, "predictions": hashlib.sha256(path.read_bytes()).hexdigest()}
    kept = _kept(directory / FILE)
    if {name: kept.get(name) for name in key} != key:
        predictions, _ = read_predictions(path, list(task.shapes(task.outputs(data))))
        if any(len(values) != len(data.test) for values in predictions.values()):
            return none
        parts = task.contributions(predictions, data, data.test).get(name)

        def score(rows: Int[np.ndarray, " n"]) -> float:
            drawn = {what: take(values, rows) for what, values in predictions.items()}
            return task.scored(drawn, data, data.test[rows])[name]

        low, high = (
            bootstrap_interval(np.arange(len(data.test)), score, draws=DRAWS)
            if parts is None
            else bootstrap_interval(parts, draws=DRAWS)
        )
        kept = {**key, "low": low, "high": high}
        write_json(directory / FILE, kept)
    return kept["low"], kept["high"], "bootstrap over the test set" if math.isfinite(kept["low"]) else "one seed"


def _kept(path: Path) -> dict:
    try:
        return read_object(path) if path.exists() else {}
    except (TransferlabError, json.JSONDecodeError):
        return {}
