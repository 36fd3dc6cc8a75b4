"""A study: a table of runs. It plans every arm before anything trains, can be resumed, and ends with a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from transferlab.compute.host import interruptible
from transferlab.data.dataset import Dataset
from transferlab.errors import TransferlabError, check_arguments, shown
from transferlab.files import file_lock, write_json, write_text
from transferlab.methods import METHODS, MODIFIERS
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.loading import load
from transferlab.pretrained.source import Source
from transferlab.reading import read_object
from transferlab.studies.breakdown import predicted_by_arm
from transferlab.studies.cells import TUNED_ON, Cells, plain_settings
from transferlab.studies.directory import LOCK, study_directory, verify_directory, verify_inputs
from transferlab.studies.environment import environment
from transferlab.studies.observer import Cell, Observer
from transferlab.studies.resampling import resampled
from transferlab.studies.settings import AUTO, CODE, StudyConfig
from transferlab.studies.status import finished
from transferlab.studies.table import Interval, Row, markdown_page, results_csv, study_result, summarize
from transferlab.tasks import TASKS, Task, task_for, task_from
from transferlab.train.identity import TRIALS
from transferlab.train.own_code import Recorded, check_family, not_at_hand, record_if_own
from transferlab.train.profile import Profile, profile
from transferlab.train.result import read_record
from transferlab.train.run import adapt
from transferlab.train.writers import read_metrics
from transferlab.transfer.plan import Plan


class Study:
    """One study: ``plans`` is the dry run; ``run()`` trains, reports and returns the content of ``result.json``.

    Example:
        >>> study = Study(transferlab.config.read_config("configs/tweets.py"))
        >>> print(study.plans["probe"])
        >>> result = study.run()

    Attributes:
        config: of the study.
        observer: to which its progress is shown.
        directory: where runs, tables and the report are written.
        source: what its arms start from, opened.
        data: what they train on, whole.
        task: of all arms, which says what they are compared by.
        plans: arm → :class:`transferlab.transfer.Plan`.
        cells: all runs, finished or not.

    Raises:
        TransferlabError: source or data cannot be read, or the config does not fit the data.
    """

    def __init__(self, config: StudyConfig, observer: Observer | None = None):
        if not isinstance(config, StudyConfig):
            raise TransferlabError(
                f"config is {shown(config)}; read it first: tl.run_study(transferlab.config.read_config('configs/tweets.py'))."
            )
        self.config = config
        self.observer = observer or Observer()
        self.directory = study_directory(config)
        self.source = self._open_source()
        self.data = self._open_data()
        self.task = self._task()
        code = record_if_own("task", TASKS, type(self.task))
        if code := {**code, **record_if_own("family", FAMILIES, FAMILIES[self.source.family])}:
            config.raw.setdefault(CODE, {}).update(code)  # is recorded with the config
        self._check()

    def _task(self) -> Task:
        """The task that the config names, or that follows from the data, with the config's fields.

        Raises:
            TransferlabError: the data's target cannot be read as that task's.
        """
        given = self.config.task
        if isinstance(given, Task):
            task = given
        else:
            name = given.get("name", AUTO)
            named = task_for(self.data, self.source).name if name == AUTO else name
            task = task_from({**given, "name": named}, "config.task")
        task.check(self.data, self.source)
        task.outputs(self.data)
        return task.resolved(self.data)

    def _check(self) -> None:
        """Check the config against the data, so that nothing fails halfway through the table."""
        config, available = self.config, len(self.data.train)
        for name in config.baselines:
            baseline = self.task.baselines.get(name)
            if baseline is None:
                raise TransferlabError(
                    f"config.baselines has '{name}', which the task {self.task.name} does not have; it has "
                    f"{', '.join(self.task.baselines) or 'none'}."
                )
            if baseline.reads not in (None, self.data.modality):
                raise TransferlabError(
                    f"The baseline '{name}' reads {baseline.reads}s, but '{self.data.name}' holds {self.data.modality}s; remove "
                    "it from config.baselines."
                )
        for budget in config.budgets:
            if budget > available:
                raise TransferlabError(
                    f"config.budgets has {budget} labels, but '{config.data}' has {available} for training "
                    f"({len(self.data.test)} more are the test split); budgets can be {available} at most."
                )
        self._check_subsets()

    def _check_subsets(self) -> None:
        """Check every subset of the data that a run or a tuning trial trains on.

        Raises:
            TransferlabError: the task cannot train on some; each budget and seed is named.
        """
        config, task = self.config, self.task
        # Subsets are nested: if the smallest has several classes, all have.
        cells = {(min(config.budgets), seed): False for seed in config.seeds}
        if task.fit(self.data):
            for arm in config.methods.values():
                tuned = config.grid == "full" and bool(arm.tune)
                cells |= {cell: cells.get(cell, False) or tuned for cell in config.arms_at(arm, len(self.data.train))}
        problems: dict[str, list[str]] = {}
        for (budget, seed), tuned in sorted(cells.items()):
            try:
                subset = self.data.subset(budget, seed)
                task.fit(subset)
            except TransferlabError as error:
                problems.setdefault(str(error), []).append(f"{budget:,} {task.budget_unit} with seed {seed}")
                continue
            try:
                if tuned:
                    task.fit(subset.hold_out(TUNED_ON, seed))
            except TransferlabError as error:
                part = f"the tuning trials of {budget:,} {task.budget_unit} with seed {seed}"
                problems.setdefault(str(error), []).append(part)
        if problems:
            lines = [f"{', '.join(places)}: {problem}" for problem, places in problems.items()]
            raise TransferlabError("\n".join(["Some runs of the study could not train.", *lines]))

    def _open_source(self) -> Source:
        check_family(self.config.raw.get(CODE, {}), f"The study in {self.directory}")
        source = load(self.config.source)
        return source if self.config.image_size is None else source.resized(self.config.image_size)

    def _open_data(self) -> Dataset:
        return self.config.data.open(self.config.test_examples)

    # -----------------------------------------------------------------------------------------------------------

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The plan of every arm, at its smallest budget; arms that train the fewest parameters come first."""
        out = {}
        for name, arm in self.config.methods.items():
            cells = self.config.arms_at(arm, len(self.data.train))
            if cells and not isinstance(arm.method, Recorded):
                budget, seed = min(cells)
                subset = self.data.subset(budget, seed)
                # What is tuned trains on all labels too: settings that cannot are an error now, not after the trials.
                tune = arm.tune if self.config.grid == "full" else ()
                chosen = [replace(arm.train, **changes) for changes in ({}, *tune)]
                runs = [
                    adapt(self.source, subset, method=arm.method, settings=settings, task=self.task, seed=seed)
                    for settings in chosen
                ]
                out[name] = replace(runs[0].plan, method=name)
        return dict(sorted(out.items(), key=lambda item: (item[1].trainable_parameters, item[0])))

    @cached_property
    def _recorded_plans(self) -> dict[str, dict[str, Any]]:
        """As plain data: the plan of each arm whose method's code is not at hand, as its first finished run wrote it."""
        out = {}
        for name, arm in self.config.methods.items():
            if isinstance(arm.method, Recorded):
                cells = [
                    Cell(name, *cell).directory(self.directory)
                    for cell in self.config.arms_at(arm, len(self.data.train))
                ]
                written = next((path for cell in cells if (path := cell / "plan.json").exists()), None)
                if written is not None:
                    out[name] = {**read_object(written), "method": name}
        return out

    @property
    def _planned(self) -> list[str]:
        """Arms that have a plan, those that train the fewest parameters first."""
        sizes = {name: plan.trainable_parameters for name, plan in self.plans.items()}
        sizes |= {name: plan["totals"]["trainable_parameters"] for name, plan in self._recorded_plans.items()}
        return sorted(sizes, key=lambda name: (sizes[name], name))

    @property
    def skipped_arms(self) -> list[str]:
        """Arms without a run: in the quick grid, those whose ``largest_budget`` is below every budget."""
        return [name for name in self.config.methods if name not in self._planned]

    @property
    def stale_arms(self) -> list[str]:
        """Arms with finished runs in the directory that the config no longer has."""
        arms = {path.relative_to(self.directory).parts[1] for path in self.directory.glob("runs/*/*/*/record.json")}
        return sorted(arms - self.config.methods.keys() - set(self.config.baselines))

    @cached_property
    def cells(self) -> list[Cell]:
        """All runs: baselines, then arm by arm, so that runs that share a compiled program are adjacent."""
        out = []
        for name in self.config.baselines:
            out += [Cell(name, budget, seed) for budget in self.config.budgets for seed in self.config.seeds]
        for name in self._planned:
            cells = self.config.arms_at(self.config.methods[name], len(self.data.train))
            out += [Cell(name, budget, seed) for budget, seed in cells]
        return out

    @cached_property
    def _runner(self) -> Cells:
        return Cells(self.config, self.source, self.data, self.task, self.directory, self.observer, self.plans)

    def run(self) -> dict[str, Any]:
        """Run all cells that are not finished, and write tables (JSON, CSV, Markdown), learning curves and ``report.html``.

        Raises:
            TransferlabError: the directory holds a study with other settings (the fields are named), on other weights
                or other data, or another process is running it.
        """
        for arm in self.config.methods.values():
            if isinstance(arm.method, Recorded) and (record := arm.method.absent) is not None:
                registry = METHODS if record["name"] == arm.method.name else MODIFIERS
                raise not_at_hand(registry, record, f"The study in {self.directory}")
        verify_directory(self.directory, self.config, self.source, self.data)
        with file_lock(self.directory / LOCK, f"Another process is running the study in {self.directory}."):
            return self._run()

    def _run(self) -> dict[str, Any]:
        for name, plan in self.plans.items():
            self.observer.planned(name, plan)
        for name in self.skipped_arms:
            self.observer.on_skipped_arm(name)
        for name in self.stale_arms:
            self.observer.on_stale_arm(name)
        cells = self.cells
        done = [cell for cell in cells if (cell.directory(self.directory) / "record.json").exists()]
        self.observer.on_start(len(cells), len(done))
        for group in self._runner.groups([cell for cell in cells if cell not in done]):
            for cell, record in zip(group, self._runner.run(group), strict=True):
                write_json(cell.directory(self.directory) / "record.json", record)
                if cell.arm in self.config.methods:
                    self._runner.keep_best(cell.arm, cells)
                self.observer.finished(cell, record)
        return self.report()

    def profiles(self) -> Iterator[tuple[str, Profile]]:
        """Profile a few steps of each arm at its largest budget; write a trace, a summary and a figure to ``profile/ARM``.

        Raises:
            TransferlabError: the directory holds another study.
        """
        from transferlab.studies.figures import standalone, step_by_stage

        verify_directory(self.directory, self.config, self.source, self.data)
        for name in self.plans:
            arm = self.config.methods[name]
            budget, seed = max(self.config.arms_at(arm, len(self.data.train)))
            run = self._runner.make(Cell(name, budget, seed), arm, arm.train, self.data.subset(budget, seed))
            folder = self.directory / "profile" / name
            summary = profile(run, folder)
            write_text(folder / "profile.svg", standalone(step_by_stage(summary.stages, summary.step_seconds)))
            yield name, summary

    def records(self) -> list[dict[str, Any]]:
        """The records of all finished cells of this config, in the table's order."""
        paths = [cell.directory(self.directory) / "record.json" for cell in self.cells]
        return [read_record(path) for path in paths if path.exists()]

    def report(self) -> dict[str, Any]:
        """Write the tables and the report from the finished cells; return the content of ``result.json``.

        Raises:
            TransferlabError: no cell is finished, or weights or data have changed.
        """
        # matplotlib is imported only where there is something to draw.
        from transferlab.studies.figures import learning_curves, palette_of, standalone
        from transferlab.studies.report import write_report

        records = self.records()
        if not records:
            raise TransferlabError(f"{self.directory} has no finished run to report on.")
        verify_inputs(self.directory, self.config, self.source, self.data)
        hashes = {
            "source": {"name": self.source.name, **self.source.recorded, "tree_sha256": self.source.sha256},
            "data": {"name": self.data.name, "sha256": self.data.sha256, **self.data.describe()},
        }
        manifest = {"config": self.config.raw, "environment": environment(), "hashes": hashes}
        summary = summarize(records, self.task, test_examples=len(self.data.test), resample=self._resampled)
        result = study_result(records, summary, manifest)
        write_json(self.directory / "result.json", result)
        write_text(self.directory / "results.csv", results_csv(records))
        companion = self._companion(summary)
        write_text(self.directory / "table.md", markdown_page(summary, self.config.name, companion))
        curve = learning_curves(summary, palette_of(summary))
        write_text(self.directory / "learning_curves.svg", standalone(curve))
        write_report(
            self.directory / "report.html",
            records=records,
            summary=summary,
            curve=curve,
            plan={
                name: self._recorded_plans[name] if name in self._recorded_plans else self.plans[name].to_dict()
                for name in self._planned
            },
            curves=self._curves(),
            environment=manifest["environment"],
            hashes=hashes,
            config=self.config.raw,
            title=self.config.name,
            task=self.task,
            companion=companion,
            predicted=predicted_by_arm(records, self.task, self.directory),
            explained={name: self.task.explain(name, self.data) for name in self.task.scores},
        )
        return result

    # -----------------------------------------------------------------------------------------------------------

    def _companion(self, summary: Sequence[Row]) -> str | None:
        """The score that has a table next to the one that chooses: the task's, or its own first where that one chooses."""
        others = [name for name in (self.task.companion, self.task.primary) if name and name != self.task.chooses]
        return next((name for name in others if all(name in row["scores"] for row in summary)), None)

    def _resampled(self, record: dict[str, Any]) -> Interval:
        cell = Cell(record["name"], record["budget"], record["seed"])
        return resampled(cell.directory(self.directory), self.task, self.data)

    def _curves(self) -> dict[str, list[tuple[int, int, list[dict[str, Any]]]]]:
        curves: dict[str, list[tuple[int, int, list[dict[str, Any]]]]] = {}
        for cell in self.cells:
            directory = cell.directory(self.directory)
            if cell.arm not in self.config.methods or not (directory / "record.json").exists():
                continue
            record = read_record(directory / "record.json")
            if not finished(record):
                continue  # Its losses would stretch the scale for all others; the report names it.
            # A tuned run's validation curve is that of the trial that was chosen.
            rows = read_metrics(directory / "metrics.jsonl")
            tuning = record["tuning"]
            if tuning is not None:
                arm = self.config.methods[cell.arm]
                number = (
                    [plain_settings(t) for t in arm.tune].index(tuning["chosen"])
                    if tuning["chosen"] in map(plain_settings, arm.tune)
                    else 0
                )
                trial = read_metrics(directory / TRIALS / str(number) / "metrics.jsonl")
                rows = rows + [row for row in trial if any(name.startswith("validation_") for name in row)]
            curves.setdefault(cell.arm, []).append((cell.budget, cell.seed, rows))
        return curves


@check_arguments
@interruptible()
def run_study(config: StudyConfig, observer: Observer | None = None) -> dict[str, Any]:
    """Run a study, or continue it, up to its report; return the content of ``result.json``.

    Example:
        >>> config = transferlab.config.read_config("configs/tweets.py", ["--config.workdir=results/tweets"])
        >>> result = tl.run_study(config)
        >>> [(row["name"], row["budget"], row["accuracy"]) for row in result["summary"]]

    Args:
        config: a :class:`transferlab.studies.settings.StudyConfig`.
        observer: its methods are called as the study proceeds; none by default.

    Raises:
        TransferlabError: source or data cannot be read, the config does not fit them, or the directory holds another
            study.
        Interrupted: Ctrl-C or SIGTERM; the same call continues.
    """
    return Study(config, observer).run()
