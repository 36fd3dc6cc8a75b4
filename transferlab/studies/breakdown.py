"""What the predictions of a study's runs say beyond its table: every other metric, rows by output, and what figures draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transferlab.errors import TransferlabError
from transferlab.measure.named import metrics_by_kind
from transferlab.studies.observer import Cell
from transferlab.studies.scores import Score
from transferlab.studies.status import finished, none_finished
from transferlab.studies.table import Record, Row, reference_of
from transferlab.tasks import Task
from transferlab.train.evaluation import Evaluation, evaluate_run

ROWS = 30
"""Labels, tags or columns that a table shows; of more, those that are recognized worst."""


@dataclass(frozen=True)
class Predicted:
    """The predictions of an arm's runs at its largest budget, all seeds.

    Attributes:
        arm, budget: whose.
        runs: an evaluation of each seed.
    """

    arm: str
    budget: int
    runs: tuple[Evaluation, ...]

    def score(self, name: str) -> float:
        """A metric's mean over the runs for which it is defined."""
        return _mean([run.scores[name] for run in self.runs])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each output, means over the runs."""
        return [
            {
                key: first[key] if key == "name" else _mean([float(run.rows[i][key]) for run in self.runs])
                for key in first
            }
            for i, first in enumerate(self.runs[0].rows)
        ]


def predicted_by_arm(records: Sequence[Record], task: Task, directory: Path) -> dict[str, Predicted]:
    """Return arm → what its runs at its largest budget predicted; of tasks and runs that have such predictions."""
    if task.target not in metrics_by_kind():
        return {}
    out = {}
    for arm in dict.fromkeys(record["name"] for record in records):
        own = [record for record in records if record["name"] == arm and finished(record)]
        largest = max((record["budget"] for record in own), default=0)
        cells = [Cell(arm, largest, record["seed"]) for record in own if record["budget"] == largest]
        runs = [run for cell in cells if (run := _evaluated(cell.directory(directory), task)) is not None]
        if runs and len({(run.names, run.examples) for run in runs}) == 1:
            out[arm] = Predicted(arm, largest, tuple(runs))
    return out


def _evaluated(directory: Path, task: Task) -> Evaluation | None:
    """A run's evaluation; None where its predictions are gone or cannot be read: the records have its scores."""
    try:
        run = evaluate_run(directory, task)
    except TransferlabError:
        return None
    # Nothing is shown of predictions that are not finite.
    return run if any(map(math.isfinite, run.scores.values())) else None


def best_of(predicted: Mapping[str, Predicted], summary: Sequence[Row]) -> Predicted | None:
    """Return the arm of the best score at the largest budget: the one whose predictions are shown one by one."""
    score, reference = Score.of_rows(summary), reference_of(summary)
    rows = [
        row
        for row in summary
        if row["name"] in predicted and predicted[row["name"]].budget == row["budget"] and row["kind"] == "method"
        if not none_finished(row) and math.isfinite(row[score.name])
    ]
    # The scratch arm is shown where there is no other.
    rows = [row for row in rows if row["name"] != reference] or rows
    best = max(rows, key=lambda row: (row["budget"], score.direction * row[score.name]), default=None)
    return None if best is None else predicted[best["name"]]


def other_scores(
    predicted: Mapping[str, Predicted], task: Task, shown: Sequence[str | None]
) -> list[tuple[str, list[str]]]:
    """Return (a metric's label, its text for each arm) of every metric that has no table of its own."""
    out = []
    for name in metrics_by_kind()[task.target]:
        if name not in shown:
            values = [arm.score(name) for arm in predicted.values()]
            score = Score.of_task(task, name).for_values(values)
            out.append((score.title + (" ↓" if score.direction < 0 else ""), [score.text(value) for value in values]))
    return out


def output_rows(best: Predicted, task: Task) -> tuple[list[str], list[list[str]], int]:
    """Return (header, rows, how many are left out) of a table with a line for each label, tag or column."""
    rows = best.rows
    if len(rows) < 2:
        return [], [], 0
    columns = [key for key in rows[0] if key != "name"]
    worst = next((key for key in ("f1", task.chooses, task.primary) if key in columns), columns[0])
    if len(rows) > ROWS:
        direction = _column(task, worst).direction
        rows = sorted(rows, key=lambda row: direction * row[worst] if math.isfinite(row[worst]) else -math.inf)[:ROWS]
    table = [[row["name"]] for row in rows]
    header = []
    for key in columns:
        score = _column(task, key).for_values([row[key] for row in rows])
        header.append(score.label + (" ↓" if score.direction < 0 else ""))
        for line, row in zip(table, rows, strict=True):
            line.append(f"{row[key]:.0f}" if key == "support" else score.text(row[key]))
    return header, table, len(best.rows) - len(rows)


def _column(task: Task, key: str) -> Score:
    """A column of rows: a metric, or precision, recall and F1 of one output."""
    return Score.of_task(task, key) if key in metrics_by_kind()[task.target] else Score(key, bounds=(0.0, 1.0))


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if math.isfinite(value)]
    return float(np.mean(defined)) if defined else math.nan
