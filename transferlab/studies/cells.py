"""The cells of a study: which train together, how an arm is tuned, what each records, and which weights are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from transferlab.compute.prefetch import THREADS
from transferlab.data.dataset import Dataset
from transferlab.files import remove_directory
from transferlab.measure.named import say_undefined
from transferlab.pretrained.source import Source
from transferlab.studies.observer import Cell, Observer
from transferlab.studies.scores import Score
from transferlab.studies.settings import ArmConfig, StudyConfig
from transferlab.studies.status import finished, oriented
from transferlab.tasks import Task
from transferlab.tasks.prediction import all_finite
from transferlab.train.divergence import FINISHED, drop_checkpoints
from transferlab.train.fit import fit_each
from transferlab.train.grouping import MAX_POPULATION
from transferlab.train.identity import TRIALS
from transferlab.train.result import Result, read_record, write_predictions
from transferlab.train.run import Run, Seeds, adapt
from transferlab.train.settings import Settings
from transferlab.transfer.plan import Plan

TUNED_ON = 0.2
"""The fraction of a budget's labels on which settings are chosen."""

RECORDED = (
    "trainable_parameters", "flops", "seconds", "population_size", "memory", "memory_note", "steps", "settings", "truncated", "compilations",
)  # fmt: skip
"""Fields that a cell's record takes from its run's."""


@dataclass
class Cells:
    """Runs cells of a study.

    Attributes:
        config: of the study.
        source: what its arms start from.
        data: what they train on, whole.
        task: of all arms.
        directory: of the study.
        observer: to which progress is shown.
        plans: of each arm that has a run.
    """

    config: StudyConfig
    source: Source
    data: Dataset
    task: Task
    directory: Path
    observer: Observer
    plans: Mapping[str, Plan]
    _shown: set[str] = field(default_factory=set, init=False, repr=False)
    """Arms whose memory has been shown."""

    def run(self, group: Sequence[Cell]) -> list[dict[str, Any]]:
        """Run the cells of one group, and return their records."""
        return [self._baseline(group[0])] if group[0].arm in self.config.baselines else self._arms(group)

    def groups(self, cells: Sequence[Cell]) -> list[list[Cell]]:
        """Group the cells that run together: those of an arm, as many as may train at the same time."""
        groups: dict[tuple, list[Cell]] = {}
        for cell in cells:
            groups.setdefault((cell.arm, self._largest_group(cell)), []).append(cell)
        return [group[i : i + most] for (_, most), group in groups.items() for i in range(0, len(group), most)]

    def _largest_group(self, cell: Cell) -> int:
        """How many cells like this one are run together."""
        arm = self.config.methods.get(cell.arm)
        if arm is None or arm.train.vectorize == "never":
            return 1
        run = self.make(cell, arm, arm.train, self.data.subset(cell.budget, cell.seed))
        return THREADS if run.runs_concurrently else MAX_POPULATION

    def _arms(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Tune (in the full grid), train and test cells of one arm; return their records."""
        arm = self.config.methods[cells[0].arm]
        choices = [(arm.train, None, 0.0) for _ in cells]
        if self.config.grid == "full" and arm.tune:
            choices = self._tune(cells, arm)
        self.observer.cells(cells, "run")
        runs = {
            cell: self.make(
                cell, arm, settings, self.data.subset(cell.budget, cell.seed), cell.directory(self.directory)
            )
            for cell, (settings, tuning, _) in zip(cells, choices, strict=True)
            if tuning is None or tuning["chosen"] is not None
        }
        if runs and not (first := next(iter(runs.values()))).features_on_device and cells[0].arm not in self._shown:
            self._shown.add(cells[0].arm)
            self.observer.memory(cells[0], first.memory)
        results = dict(zip(runs, fit_each(list(runs.values()), self.observer.step), strict=True))
        records = []
        for cell, (settings, tuning, seconds) in zip(cells, choices, strict=True):
            if cell in results:
                result = results[cell]
                fields = {
                    "status": result.status,
                    "diverged": result.record.get("diverged"),
                    "test": result.record["test"],
                }
                fields |= {name: result.record[name] for name in RECORDED}
            else:
                fields = {"status": f"diverged in all {len(arm.tune)} tuning trials", "settings": asdict(settings)}
                fields["trainable_parameters"] = self.plans[cell.arm].trainable_parameters
            tuned = {"tuning_seconds": seconds, "tuning": tuning}
            records.append({**self._untested(cell, "method", arm.method.name), **tuned, **fields})
        return records

    def _tune(self, cells: Sequence[Cell], arm: ArmConfig) -> list[tuple[Settings, dict[str, Any] | None, float]]:
        """For each cell, choose settings on a fifth of the budget's labels; the best then trains on all of them."""
        splits = []
        for cell in cells:
            split = self.data.subset(cell.budget, cell.seed).hold_out(TUNED_ON, cell.seed)
            splits.append(replace(split, test=np.zeros(0, np.int64)))
        self.observer.cells(cells, "tuning")
        runs = [
            self.make(
                cell, arm, replace(arm.train, **changes), split,
                cell.directory(self.directory) / TRIALS / str(number), keep_weights=False,
            )
            for cell, split in zip(cells, splits, strict=True)
            for number, changes in enumerate(arm.tune)
        ]  # fmt: skip
        results = fit_each(runs, self.observer.step)
        trials = len(arm.tune)
        return [
            _winner(arm, self.task, results[i * trials : (i + 1) * trials], len(split.validation))
            for i, split in enumerate(splits)
        ]

    def make(
        self, cell: Cell, arm: ArmConfig, settings: Settings, data: Dataset, directory: Path | None = None,
        keep_weights: bool = True,
    ) -> Run:  # fmt: skip
        """The run of a cell, with these settings and data."""
        return adapt(
            self.source,
            data,
            method=arm.method,
            settings=settings,
            task=self.task,
            seed=Seeds(cell.seed, cell.seed),
            directory=directory,
            keep_weights=keep_weights,
        )

    def _baseline(self, cell: Cell) -> dict[str, Any]:
        self.observer.cells([cell], "baseline")
        data, task = self.data.subset(cell.budget, cell.seed), self.task
        started = time.perf_counter()
        record = self._untested(cell, "baseline", cell.arm)
        try:
            predictions = task.baselines[cell.arm].predictions(task, data, self.source)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            # The arms do not need it; the table says that it failed.
            return {**record, "status": f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
        record["seconds"] = time.perf_counter() - started
        if not all_finite(predictions):
            return {**record, "status": "failed: its predictions are not finite"}
        write_predictions(cell.directory(self.directory), task, data, task.outputs(data), predictions)
        return {**record, "status": FINISHED, "test": task.scored(predictions, data, data.test)}

    def _untested(self, cell: Cell, kind: str, method: str) -> dict[str, Any]:
        """A cell's record before anything is trained or tested."""
        score = Score.of_task(self.task)
        return {
            "name": cell.arm,
            "kind": kind,
            "method": method,
            "budget": cell.budget,
            "seed": cell.seed,
            "task": self.task.name,
            "metric": score.name,
            "direction": score.direction,
            "status": "",
            "diverged": None,
            "test": dict.fromkeys([*self.task.scores, score.name], math.nan),
            "trainable_parameters": 0,
            "flops": 0.0,
            "seconds": 0.0,
            "population_size": 1,
            "memory": {},
            "memory_note": "",
            "tuning_seconds": 0.0,
            "steps": 0,
            "settings": {},
            "tuning": None,
            "truncated": 0,
            "compilations": 0,
        }

    def keep_best(self, arm: str, cells: Sequence[Cell]) -> None:
        """Keep the weights of the arm's best run (by its test score) alone; the others keep their predictions, if any."""
        scored = []
        for cell in (cell for cell in cells if cell.arm == arm):
            directory = cell.directory(self.directory)
            if (directory / "record.json").exists() and (directory / "checkpoints").is_dir():
                record = read_record(directory / "record.json")
                if finished(record):
                    scored.append((oriented(record), directory))
                else:
                    drop_checkpoints(directory)
        scored.sort(key=lambda pair: pair[0], reverse=True)
        for _, directory in scored[1 if self.config.keep_weights else 0 :]:
            remove_directory(directory / "checkpoints")


def _winner(
    arm: ArmConfig, task: Task, results: Sequence[Result], validation: int
) -> tuple[Settings, dict[str, Any] | None, float]:
    """Return (settings, what to record, seconds) of the trial with the best validation score at its end.

    At its end, since the chosen settings then train on all labels, to the end. Ties go to the smaller tie-break of the task.
    A trial that diverged is never chosen; if all did, none is. One without a score is chosen where none has one: the first.
    """
    trials, chances = [], {}
    metric = Score.of_task(task).name
    for number, (changes, result) in enumerate(zip(arm.tune, results, strict=True)):
        trial: dict[str, Any] = {"settings": plain_settings(changes), metric: None, task.tie_break: None}
        if result.diverged is None:
            last = next(row for row in reversed(result.history) if f"validation_{metric}" in row)
            scores = {name: last[key] for name in (*task.scores, metric) if (key := f"validation_{name}") in last}
            chances[number] = task.selection(scores, validation)
            trial |= {name: scores[name] for name in (metric, task.tie_break)}
        trials.append({**trial, "status": result.status})
    # A task of one's own, or a result of an earlier version, may say NaN, which is neither larger nor smaller.
    best = max(
        chances, key=lambda number: chances[number] if math.isfinite(chances[number]) else -math.inf, default=None
    )
    if best is not None and not math.isfinite(chances[best]):
        say_undefined(
            metric, "no tuning trial has a value of it to choose by, so that the first one's settings are taken"
        )
    tuning = {
        "trials": len(arm.tune),
        "chosen": None if best is None else plain_settings(arm.tune[best]),
        "validation_examples": validation,
        "validation": trials,
    }
    seconds = sum(result.record["seconds"] for result in results)
    return arm.train if best is None else replace(arm.train, **arm.tune[best]), tuning, seconds


def plain_settings(changes: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's settings as plain data, as records have them."""
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in changes.items()
    }
