"""What a study shows while it runs, and the cells that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transferlab.train.memory import Memory
from transferlab.transfer.plan import Plan


@dataclass(frozen=True)
class Cell:
    """One run of the table: an arm (or baseline) at one budget and one seed."""

    arm: str
    budget: int
    seed: int

    def directory(self, study: Path) -> Path:
        """Where it keeps its files."""
        return study / "runs" / self.arm / str(self.budget) / str(self.seed)


class Observer:
    """What a study shows while it runs. The command line shows it; the base class is silent."""

    def planned(self, arm: str, plan: Plan) -> None:
        """The plan of an arm, before anything trains."""

    def on_skipped_arm(self, arm: str) -> None:
        """An arm has no run: its ``largest_budget`` is below every budget."""

    def on_stale_arm(self, arm: str) -> None:
        """The directory has runs of an arm that the config no longer has."""

    def on_start(self, cells: int, finished: int) -> None:
        """How many cells there are, and how many an earlier start has finished."""

    def cells(self, cells: Sequence[Cell], what: str) -> None:
        """Cells of one arm start, more than one where they train together; ``what`` is ``run``, ``tuning`` or ``baseline``."""

    def memory(self, cell: Cell, memory: Memory) -> None:
        """What a step of this cell will hold on the device, before it trains; shown once per arm."""

    def step(self, done: int, total: int, metrics: Mapping[str, int | float]) -> None:
        """Progress within a run."""

    def finished(self, cell: Cell, record: dict[str, Any]) -> None:
        """A cell is done."""
