"""A study on the terminal: plans, live progress, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from transferlab.cli.browser import links, open_in_browser
from transferlab.data.dataset import Dataset
from transferlab.errors import printable
from transferlab.studies.observer import Cell, Observer
from transferlab.studies.scores import Score, score_line
from transferlab.studies.settings import StudyConfig
from transferlab.studies.status import failure_lines, finished, status_of
from transferlab.studies.study import Study
from transferlab.studies.table import reference_of, rich_table
from transferlab.tasks import Task
from transferlab.train.memory import Memory
from transferlab.transfer.plan import Plan
from transferlab.transfer.show import console as output

REPORT = "report.html"
SKIPPED_ARM = "Skipped: {}, whose largest_budget is below every budget of this study."


class Watcher(Observer):
    """Prints plans and shows two bars: cells of the study, steps of the run. Without a terminal, one line per cell."""

    def __init__(self, console: Console):
        self.console = console
        self.progress: Progress | None = None
        self.seen: set[str] = set()
        self.started = time.monotonic()
        self.count = self.done = 0
        self.unit = "labels"

    def planned(self, arm: str, plan: Plan) -> None:
        self.console.print(plan.table())

    def on_skipped_arm(self, arm: str) -> None:
        self._say(SKIPPED_ARM.format(arm))

    def on_stale_arm(self, arm: str) -> None:
        self._say(f"Not in the table: {arm}, which is no longer in the config; its runs are kept in runs/{arm}.")

    def on_start(self, cells: int, finished: int) -> None:
        self.count, self.done = cells, finished
        if finished:
            self._say(f"Continuing: {finished} of {cells} runs are finished.")
        if not self.console.is_terminal:
            return
        self.progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"), console=self.console, transient=True,
        )  # fmt: skip
        self.all = self.progress.add_task("study", total=cells, completed=finished, note="")
        self.one = self.progress.add_task("run", total=None, note="")
        self.progress.start()

    def cells(self, cells: Sequence[Cell], what: str) -> None:
        if self.progress is not None:
            first = cells[0]
            runs = f"{first.budget} {self.unit} · seed {first.seed}" if len(cells) == 1 else f"{len(cells)} runs"
            name = f"{first.arm} · {runs}" + ("" if what == "run" else f" · {what}")
            self.progress.reset(self.one, description=name, total=None, note="")

    def memory(self, cell: Cell, memory: Memory) -> None:
        self._say(f"A step of {cell.arm} at {cell.budget} {self.unit} takes {memory}.", highlight=False)

    def step(self, done: int, total: int, metrics: Mapping[str, Any]) -> None:
        if self.progress is None:
            return
        self.progress.update(self.one, completed=done, total=total)
        if "loss" in metrics:
            self.progress.update(self.one, note=f"loss {metrics['loss']:.3f}")

    def finished(self, cell: Cell, record: dict[str, Any]) -> None:
        self.done += 1
        outcome = score_line(record) if finished(record) else status_of(record)
        line = (
            f"[{self.done:>3}/{self.count}] {cell.arm:<13} {cell.budget:>5} {self.unit}  seed {cell.seed}  "
            f"{outcome}  {record['seconds']:6.1f} s"
        )
        self._say(line, highlight=False)
        if self.progress is not None:
            self.progress.advance(self.all)

    def _say(self, line: str, highlight: bool | None = None) -> None:
        """Print a line literally: names of arms and data may look like markup."""
        self.console.print(printable(line), markup=False, highlight=highlight)

    def close(self) -> None:
        """Remove the bars."""
        if self.progress is not None:
            self.progress.stop()


def run_watched(config: StudyConfig, profile: bool = False, browse: bool = False) -> None:
    """Run a study on the terminal; with ``profile``, first a few steps of each arm under the profiler; with ``browse``, the
    report opens in a browser at the end.
    """
    use_compilation_cache()
    console = output(highlight=False)
    watcher = Watcher(console)
    started = time.monotonic()
    study = Study(config, watcher)
    watcher.unit = study.task.budget_unit
    console.print(data_line(study.data))
    console.print(task_line(study.task), highlight=False, markup=False)
    if profile:
        for arm, summary in study.profiles():
            console.print(f"Profile: {arm}", style="bold", markup=False)
            console.print(f"{summary}\n", highlight=False, markup=False)
    try:
        result = study.run()
    finally:
        watcher.close()
    show_result(result, study.directory, console)
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes.")
    if browse:
        open_in_browser(study.directory / REPORT, console)


def data_line(data: Dataset) -> str:
    """A line on how a study's data was read and split."""
    return f"Data: {data.name}: {data.summary}."


def task_line(task: Task) -> str:
    """A line on what a study's arms learn and are compared by."""
    score = Score.of_task(task)
    return f"Task: {task.name}, compared by {score.label}{score.better}."


def show_result(result: Mapping[str, Any], directory: Path, console: Console | None = None) -> None:
    """Print the final table and the paths of the report and results."""
    console = console or output()
    table = rich_table(result["summary"])
    if Measurement.get(console, console.options, table).minimum > console.width:
        table = rich_table(result["summary"], narrow=True)
    console.print(table)
    for line in failure_lines(result["summary"], reference_of(result["summary"])):
        console.print(line, markup=False, highlight=False)
    console.print(links([directory / name for name in (REPORT, "result.json", "results.csv")]), soft_wrap=True)


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache, so that a second process need not compile them."""
    from transferlab.compute.compile_cache import keep_compiled
    from transferlab.fetching import cache_dir

    keep_compiled(cache_dir() / "xla")
