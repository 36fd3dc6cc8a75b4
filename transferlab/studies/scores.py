"""What a study compares its arms by: a score of its task, which way it is better, and how it is written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from transferlab.measure.named import metrics_by_kind
from transferlab.tasks import Task, task_named

_WORDS = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "f1": "F1",
    "auroc": "AUROC",
    "mrr": "MRR",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
FORMER = {"task": "classification", "metric": "accuracy"}
"""Of records of versions that had no other task."""


@dataclass(frozen=True)
class Score:
    """One score of a task.

    Attributes:
        name: as in records.
        direction: 1 where larger is better, -1 where smaller is.
        bounds: the least and the largest value that it can have.
        proportion: whether it is the fraction of examples that are right.
        decimals: as tables write it.
    """

    name: str
    direction: int = 1
    bounds: tuple[float, float] = (-math.inf, math.inf)
    proportion: bool = False
    decimals: int = 3

    @classmethod
    def of_task(cls, task: Task, name: str | None = None) -> Score:
        """A score of this task; by default the one that chooses."""
        name = name or task.chooses
        known = metrics_by_kind().get(task.target, {})
        direction = task.scores[name] if name in task.scores else 1 if known[name].larger else -1
        # Of other metrics by name, those that are better where larger are fractions and correlations.
        bounds = task.bounds.get(name, (-math.inf, 1.0) if direction > 0 else (0.0, math.inf))
        return cls(name, direction, bounds, name in task.proportions)

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]], name: str | None = None) -> Score:
        """A score of a summary's rows, by default the one that they are compared by.

        A fraction has three decimals, another number so many that the largest of the column has four digits.
        """
        name = name or str(rows[0]["metric"])
        columns = [row["scores"][name] for row in rows if name in row["scores"]]
        low, high = columns[0]["bounds"]
        bounds = (-math.inf if low is None else low, math.inf if high is None else high)
        return cls(name, columns[0]["direction"], bounds).for_values([column["mean"] for column in columns])

    def for_values(self, values: Sequence[float | None]) -> Score:
        """The same score with the decimals that these values need."""
        sizes = [abs(value) for value in values if _finite(value)]
        return self if self.is_fraction else replace(self, decimals=_decimals(max(sizes, default=1.0)))

    @property
    def is_fraction(self) -> bool:
        """Whether it is at most 1, as accuracies, correlations and R² are: ``.847``."""
        return self.bounds[1] == 1.0

    @property
    def worst(self) -> float | None:
        """The worst value that it can have, as which a run without predictions counts; None where there is none."""
        worst = self.bounds[0] if self.direction > 0 else self.bounds[1]
        return worst if math.isfinite(worst) else None

    @property
    def label(self) -> str:
        """As in ``balanced accuracy`` or ``RMSE``."""
        return " ".join(_WORDS.get(word, word) for word in self.name.split("_"))

    @property
    def better(self) -> str:
        """``, ↓ better`` where smaller is better: after a heading or the name of an axis."""
        return "" if self.direction > 0 else ", ↓ better"

    @property
    def title(self) -> str:
        """The label as a heading begins."""
        return self.label[:1].upper() + self.label[1:]

    def clipped(self, value: float) -> float:
        """The value within the bounds: Student's t interval knows none."""
        return min(max(value, self.bounds[0]), self.bounds[1])

    def text(self, value: float | None, fewer: int = 0) -> str:
        """``.847``, ``1.023`` or ``3.12e+08``; a dash where it is not defined. ``fewer`` decimals are left out."""
        if not _finite(value):
            return "–"
        if self.decimals < 0:
            return f"{value:.{4 - fewer}g}"
        plain = f"{value:.{max(0, self.decimals - fewer)}f}"
        if not re.search("[1-9]", plain):
            plain = plain.removeprefix("-")  # rounded to zero
        return (without_zero(plain) if self.is_fraction else plain).replace("-", "−")

    def plain(self, value: float) -> str:
        """As prose writes it: ``0.847``."""
        return f"{value:.3f}" if self.is_fraction else self.text(value)

    def signed(self, value: float) -> str:
        """``+.013`` or ``−.207``, with a minus sign as wide as the plus."""
        return ("+" if value >= 0 else "−") + self.text(abs(value))

    def half(self, value: float) -> str:
        """`` ±.012``; nothing where there is no interval."""
        return f" ±{self.text(value)}" if _finite(value) else ""


def task_of(records: Sequence[Mapping[str, Any]]) -> Task:
    """The task of these records, with its fields at their defaults but for the metric."""
    first = {**FORMER, **records[0]} if records else FORMER
    kind = task_named(str(first["task"]))
    metric = str(first["metric"])
    return kind(metric=None if metric == kind.primary else metric)


def score_line(record: Mapping[str, Any]) -> str:
    """A record's score in a line of text: ``accuracy 0.812`` or ``RMSE 1.023``."""
    first = {**FORMER, **record}
    value = first["test"][first["metric"]]
    number = "not defined" if not _finite(value) else f"{value:.3f}" if abs(value) <= 1 else f"{value:.4g}"
    return f"{Score(first['metric']).label} {number}"


def without_zero(text: str) -> str:
    """Fractions as tables print them: ``.914`` for ``0.914``."""
    return re.sub(r"(?<!\d)0\.", ".", text)


def _decimals(size: float) -> int:
    """How many decimals give four digits; -1 where a number needs a power of ten."""
    if size == 0 or not 1e-4 <= size < 1e7:
        return 3 if size == 0 else -1
    return max(0, 3 - math.floor(math.log10(size)))


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
