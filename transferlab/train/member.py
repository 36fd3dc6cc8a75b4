"""One run while it trains: its metrics, scores and checkpoints, its batches, and its predictions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Int

from transferlab import trees
from transferlab.data.batches import Batch, weights
from transferlab.tasks.base import Predictions, StepBatch, means
from transferlab.tasks.prediction import predict_rows
from transferlab.train.divergence import Divergence, first_not_finite, state_not_finite
from transferlab.train.setup import Setup
from transferlab.train.state import GAUGES, State, evaluated
from transferlab.train.writers import MetricsWriter

if TYPE_CHECKING:
    # Orbax is imported only where there is something to keep.
    from transferlab.train.checkpoints import Checkpoints

Columns = dict[str, np.ndarray]
"""Metrics of consecutive steps, by name: (steps,), or (steps, 2) with sum and sum of weights where it is a mean; empty for no
steps.
"""


@dataclass
class Member:
    """One run while it trains.

    Attributes:
        run: what trains.
        frozen: the frozen leaves that its program needs.
        key: of its carries in the frontier cache; None where nothing is cached.
        writer, checkpoints: where its metrics and states are written.
        pending: metrics of steps that are not in a row yet.
        seconds: wall-clock time so far, including earlier starts, without compilation; runs that train together share it evenly.
        flops: floating-point operations of its steps so far.
        best: (score, step, state on the host, meta) of the best validation so far, where that is the state to keep.
        highest: the score of the best validation so far.
        waited: evaluations since then.
        stopped: the step after which its patience ended.
        diverged: where it stopped being finite; from then on it is not trained, scored or saved.
        learning_rate: of its newest step.
    """

    run: Setup
    frozen: trees.Tree
    key: str | None
    writer: MetricsWriter
    checkpoints: Checkpoints | None
    pending: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    flops: float = 0.0
    best: tuple[float, int, State, dict[str, Any]] | None = None
    highest: float | None = None
    waited: int = 0
    stopped: int | None = None
    diverged: Divergence | None = None
    learning_rate: float = math.nan

    @property
    def total(self) -> int:
        """Steps after which its phase, or the whole run, ends: those planned, or those after which it stopped."""
        return self.run.span[1] if self.stopped is None else self.stopped

    @property
    def planned(self) -> int:
        """Steps of the whole run: those planned, or those after which it stopped."""
        return self.run.steps if self.stopped is None else self.stopped

    def trains(self, done: int) -> bool:
        """Whether it takes the step after ``done``."""
        return self.diverged is None and self.total > done

    def diverge(self, step: int, what: str, updates: int) -> None:
        """Remember where it stopped being finite."""
        self.diverged = Divergence(step, self.run.steps, what, self.learning_rate, updates)

    def check(self, first: int, metrics: Columns) -> Columns:
        """Check every step after ``first``; return their metrics, up to the step that diverged if one did."""
        if not metrics:
            return metrics
        problem = first_not_finite({"loss": means(metrics["loss"]), "gradient_norm": metrics["gradient_norm"]})
        if problem is not None:
            metrics = {name: values[: problem[0] + 1] for name, values in metrics.items()}
        self.learning_rate = float(metrics["learning_rate"][-1])
        if problem is not None:
            # Loss and gradient are those of the parameters before the step.
            self.diverge(first + problem[0] + 1, problem[1], first + problem[0])
        return metrics

    def check_state(self, state: State, done: int) -> None:
        """Check all values that a checkpoint holds."""
        what = state_not_finite(state)
        if what is not None:
            self.diverge(done, what, done)

    def next_event(self, done: int) -> int:
        """The next step after which there is something to score or save."""
        settings = self.run.settings
        events = [self.total]
        if len(self.run.data.validation):
            events.append(next((s for s in self._validations if s > done), self.total))
        if settings.checkpoint_steps and self.checkpoints is not None:
            events.append((done // settings.checkpoint_steps + 1) * settings.checkpoint_steps)
        return min(events)

    @property
    def _validations(self) -> list[int]:
        parts = self.run.settings.evaluations
        return sorted({max(1, round(self.run.steps * k / parts)) for k in range(1, parts + 1)})

    def validates(self, done: int) -> bool:
        """Whether the validation split is scored after this step."""
        return len(self.run.data.validation) > 0 and done in self._validations

    def log(self, first: int, metrics: Columns) -> list[dict[str, Any]]:
        """Add the metrics of the steps after ``first``; return the rows that are complete."""
        if not metrics:
            return []
        every, total = self.run.settings.log_every, self.total if self.diverged is None else self.diverged.step
        columns = metrics
        if self.pending:
            columns = {
                name: np.concatenate([np.array([row[name] for row in self.pending], np.float64), values])
                for name, values in metrics.items()
            }
        before, last = first - len(self.pending), first + len(metrics["loss"])
        ends = [step for step in range((first // every + 1) * every, last + 1, every) if step != total]
        ends += [total] if last == total else []
        windows = _windows(columns, [end - before for end in ends])
        rows = [{"step": end, **row, **self.run.task.logged(row)} for end, row in zip(ends, windows, strict=True)]
        rest = [values[ends[-1] - before if ends else 0 :].tolist() for values in columns.values()]
        self.pending = [dict(zip(columns, row, strict=True)) for row in zip(*rest, strict=True)]
        return rows

    def flush(self, done: int) -> list[dict[str, Any]]:
        """The row of the steps that are in none yet."""
        rest, self.pending = self.pending, []
        columns = {name: np.array([row[name] for row in rest], np.float64) for name in (rest[0] if rest else ())}
        windows = _windows(columns, [len(rest)] if rest else [])
        return [{"step": done, **row, **self.run.task.logged(row)} for row in windows]

    def improves(self, score: float, done: int) -> bool:
        """Whether this validation is the best so far; it stops where none has been for as long as its patience.

        One without a score is never the best: where none has one, the last state is kept.
        """
        better = math.isfinite(score) and (self.highest is None or not score <= self.highest)
        self.highest, self.waited = (score, 0) if better else (self.highest, self.waited + 1)
        self.wait(done)
        return better

    def wait(self, done: int) -> None:
        """Stop after this step, if the patience has ended before the planned steps have."""
        patience = self.run.settings.patience
        if patience is not None and self.waited >= patience and done < self.run.steps:
            self.stopped = done

    def score(self, predictions: Predictions) -> dict[str, float]:
        """Scores on the validation split."""
        return self.run.task.scored(predictions, self.run.data, self.run.data.validation)

    def meta(self, done: int) -> dict[str, Any]:
        """What a checkpoint after this step records in addition to its arrays."""
        waited = {"highest": self.highest, "waited": self.waited}
        return {**self.run.meta(done, self.pending, self.seconds, self.flops), **waited}

    def save(self, state: Callable[[], State], done: int) -> None:
        """Write the best state, if it is not on disk yet, and then this one."""
        if self.checkpoints is None:
            return
        if self.best is not None and self.best[1] < done:
            score, _, best, meta = self.best
            self.checkpoints.save(best, {**meta, "score": score}, score)
        score = self.best[0] if self.best is not None and self.best[1] == done else None
        self.checkpoints.save(state(), {**self.meta(done), "score": score}, score)


def _windows(columns: Columns, ends: list[int]) -> list[dict[str, float]]:
    """One row for each window, which ends before these indices: the mean over its examples, or the newest value of a gauge."""
    if not ends:
        return []
    starts = [0, *ends[:-1]]
    out: dict[str, list[float]] = {}
    for name, values in columns.items():
        if name not in GAUGES:
            out[name] = means(np.add.reduceat(values[: ends[-1]].astype(np.float64), starts)).tolist()
    # In the order in which a reader looks for them.
    out = {"loss": out.pop("loss"), **out}
    last = np.array(ends) - 1
    out |= {name: columns[name][last].tolist() for name in GAUGES}
    return [dict(zip(out, row, strict=True)) for row in zip(*out.values(), strict=True)]


def pending_metrics(pending: list[dict[str, Any]], batch_size: int) -> list[dict[str, Any]]:
    """The metrics that a checkpoint kept; those of earlier versions were means, and stand for whole batches."""
    return [
        {
            name: value if name in GAUGES or isinstance(value, list) else [value * batch_size, batch_size]
            for name, value in row.items()
        }
        for row in pending
    ]


def make_batch(member: Member, batch: Batch) -> StepBatch:
    """A training batch on the host: the carry at the program's first stage, targets, and weights, 0 for padding."""
    run = member.run
    rows, n = run.settings.batch_size, len(batch.indices)
    inputs, targets = run.carry(batch, rows, member.key), run.batch_targets(batch, rows)
    return {"inputs": inputs, "targets": targets, "weight": weights(n, rows)}  # pyright: ignore[reportReturnType]


def predict_member(member: Member, state: State, indices: Int[np.ndarray, " n"]) -> Predictions:
    """What is predicted for these examples, each once; padding rows are never returned."""
    run, rows, task = member.run, member.run.settings.batch_size, member.run.task
    params = evaluated(state)

    def call(batch: Batch) -> dict[str, np.ndarray]:
        targets = run.batch_targets(batch, rows) if task.reads_targets else {}
        carry = run.carry(batch, rows, member.key)
        return jax.device_get(run.program.predict(params, member.frozen, state["stats"], carry, targets))

    return task.restore(predict_rows(task, run.outputs, run.feed, indices, rows, call), run.fitted)
