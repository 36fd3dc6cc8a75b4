"""``Observer``: what a study shows while it runs; ``Cell``: a run in its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transferlab.train.memory import Memory
from transferlab.transfer.plan import Plan


@dataclass(frozen=True)
class Cell:
    """One run in the table of a study.

    Attributes:
        arm: name of the arm, or of the baseline.
        budget: labels in all.
        seed: of subset, initialisation and order.
    """

    arm: str
    budget: int
    seed: int

    def directory(self, study: Path) -> Path:
        """The directory of its files."""
        return study / "runs" / self.arm / str(self.budget) / str(self.seed)


class Observer:
    """Methods that a study calls while it runs. The command line's subclass prints; this one is silent.

    Example:
        >>> class Printing(tl.studies.observer.Observer):
        ...     def finished(self, cell, record):
        ...         print(cell, record["test"]["accuracy"])
        >>> tl.run_study(config, Printing())
    """

    def planned(self, arm: str, plan: Plan) -> None:
        """The plan of an arm, before anything trains."""

    def on_skipped_arm(self, arm: str) -> None:
        """An arm has no runs: its ``largest_budget`` is below every budget."""

    def on_stale_arm(self, arm: str) -> None:
        """The directory has runs of an arm that the config no longer has."""

    def on_start(self, cells: int, finished: int) -> None:
        """How many cells there are, and how many were finished before."""

    def cells(self, cells: Sequence[Cell], what: str) -> None:
        """Cells of one arm start, several where they train together; ``what`` is ``run``, ``tuning`` or ``baseline``."""

    def memory(self, cell: Cell, memory: Memory) -> None:
        """What a step of this cell will take on the device, before it trains; called once per arm."""

    def step(self, done: int, total: int, metrics: Mapping[str, int | float]) -> None:
        """Progress within a run."""

    def finished(self, cell: Cell, record: dict[str, Any]) -> None:
        """A cell has finished or diverged; ``record`` is the content of its ``record.json``."""
