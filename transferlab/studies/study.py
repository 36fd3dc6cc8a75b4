"""A study: a table of runs. It plans every arm before anything trains, resumes where it was, and ends with a report."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from transferlab.compute.host import interruptible
from transferlab.compute.prefetch import THREADS
from transferlab.data.dataset import Dataset, dataset
from transferlab.errors import TransferlabError, check_arguments
from transferlab.files import (
    TEMPORARY,
    drop_litter,
    file_lock,
    new_folder,
    read_object,
    remove_directory,
    write_json,
    write_text,
)
from transferlab.measure.metrics import scores
from transferlab.pretrained.loading import load
from transferlab.pretrained.source import Source
from transferlab.studies.environment import environment
from transferlab.studies.settings import ArmConfig, StudyConfig
from transferlab.studies.status import finished
from transferlab.studies.table import markdown_page, results_csv, study_result, summarise
from transferlab.train.divergence import FINISHED, drop_checkpoints
from transferlab.train.fit import fit_each
from transferlab.train.identity import TRIALS
from transferlab.train.memory import Memory
from transferlab.train.profile import Profile, profile
from transferlab.train.result import Result, read_record, write_predictions
from transferlab.train.run import Run, Seeds, adapt
from transferlab.train.settings import RENAMED, Settings
from transferlab.train.writers import read_metrics
from transferlab.transfer.plan import Plan

TOGETHER = 64
"""Most cells that train in one program."""
RECORDED = (
    "trainable_parameters", "flops", "seconds", "population_size", "memory", "memory_note", "steps", "settings", "truncated", "compilations",
)  # fmt: skip
"""What a study's record takes over from a run's."""
INPUTS, LOCK = "inputs.json", ".lock"
"""Files of a study's directory: hashes of what it reads, and what a running process holds."""
RESUMABLE = ("budgets", "seeds", "methods", "baselines", "workdir", "grid", "keep_weights")
"""Fields that may differ when a study is continued; an arm that was there keeps its own fields."""


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
    """What a study tells while it runs. The command line shows it; the base class is silent."""

    def planned(self, arm: str, plan: Plan) -> None:
        """The plan of an arm, before anything trains."""

    def left_out(self, arm: str) -> None:
        """An arm has no run: its ``largest_budget`` is below every budget."""

    def dropped(self, arm: str) -> None:
        """The directory has runs of an arm that the config no longer has."""

    def began(self, cells: int, finished: int) -> None:
        """How many cells there are, and how many an earlier start has finished."""

    def cells(self, cells: Sequence[Cell], what: str) -> None:
        """Cells of one arm start, more than one where they train together; ``what`` is ``run``, ``tuning`` or ``baseline``."""

    def memory(self, cell: Cell, memory: Memory) -> None:
        """What a step of this cell will hold on the device, before it trains; told once an arm."""

    def step(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Progress within a run."""

    def finished(self, cell: Cell, record: dict[str, Any]) -> None:
        """A cell is done."""


class Study:
    """Everything of one study. ``plans`` is the dry run; ``run()`` does it all and returns ``result.json``'s content."""

    def __init__(self, config: StudyConfig, observer: Observer | None = None):
        self.config = config
        self.observer = observer or Observer()
        self._told: set[str] = set()
        self.directory = study_directory(config)
        self.source = self._open_source()
        self.data = self._open_data()
        self._check()

    def _check(self) -> None:
        """Hold the config against the data, so that nothing fails half-way through the table."""
        config, available = self.config, len(self.data.train)
        for name, modality in (("tfidf", "text"), ("pixels", "image")):
            if name in config.baselines and self.data.modality != modality:
                raise TransferlabError(
                    f"The baseline '{name}' reads {modality}s, but '{self.data.name}' holds {self.data.modality}s."
                )
        for budget in config.budgets:
            if budget > available:
                raise TransferlabError(
                    f"config.budgets asks for {budget} labels, but '{config.data}' has {available} for training "
                    f"({len(self.data.test)} more are the test split)."
                )
        for seed in config.seeds:
            # Subsets are nested: what the smallest holds, all hold.
            self.data.subset(min(config.budgets), seed)

    def _open_source(self) -> Source:
        source = load(self.config.source)
        return source if self.config.image_size is None else source.resized(self.config.image_size)

    def _open_data(self) -> Dataset:
        config = self.config
        return dataset(
            config.data,
            test_examples=config.test_examples,
            text_column=config.text_column,
            label_column=config.label_column,
            label_kind=config.label_kind,
            white=config.white,
        )

    # -----------------------------------------------------------------------------------------------------------

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The plan of every arm, at its smallest budget, the one that trains least first; nothing is allocated."""
        out = {}
        for name, arm in self.config.methods.items():
            cells = self.config.arms_at(arm, len(self.data.train))
            if cells:
                budget, seed = min(cells)
                subset = self.data.subset(budget, seed)
                made = adapt(self.source, subset, method=arm.method, settings=arm.train, seed=seed).plan
                out[name] = replace(made, method=name)
        return dict(sorted(out.items(), key=lambda item: (item[1].trainable_parameters, item[0])))

    @property
    def left_out(self) -> list[str]:
        """Arms without a run: the quick grid's ``largest_budget`` of theirs is below every budget."""
        return [name for name in self.config.methods if name not in self.plans]

    @property
    def dropped(self) -> list[str]:
        """Arms with finished runs in the directory that the config no longer has."""
        ran = {path.relative_to(self.directory).parts[1] for path in self.directory.glob("runs/*/*/*/record.json")}
        return sorted(ran - self.config.methods.keys() - set(self.config.baselines))

    @cached_property
    def cells(self) -> list[Cell]:
        """All runs: baselines, then arm by arm, so that runs that share a compiled program are neighbours."""
        out = []
        for name in self.config.baselines:
            out += [Cell(name, budget, seed) for budget in self.config.budgets for seed in self.config.seeds]
        for name in self.plans:
            cells = self.config.arms_at(self.config.methods[name], len(self.data.train))
            out += [Cell(name, budget, seed) for budget, seed in cells]
        return out

    def run(self) -> dict[str, Any]:
        """Run what is not finished yet, and write tables (JSON, CSV, Markdown), the learning curves and ``report.html``.

        Raises:
            TransferlabError: the directory holds a study with other settings (the fields are named), on other weights
                or other data, or another process runs it just now.
        """
        self._claim()
        with file_lock(self.directory / LOCK, f"Another process is running the study in {self.directory}."):
            return self._run()

    def _run(self) -> dict[str, Any]:
        for name, made in self.plans.items():
            self.observer.planned(name, made)
        for name in self.left_out:
            self.observer.left_out(name)
        for name in self.dropped:
            self.observer.dropped(name)
        cells = self.cells
        done = [cell for cell in cells if (cell.directory(self.directory) / "record.json").exists()]
        self.observer.began(len(cells), len(done))
        for group in self._groups([cell for cell in cells if cell not in done]):
            baseline = group[0].arm in self.config.baselines
            for cell, record in zip(group, [self._baseline(group[0])] if baseline else self._arms(group), strict=True):
                write_json(cell.directory(self.directory) / "record.json", record)
                if not baseline:
                    self._keep_best(cell.arm)
                self.observer.finished(cell, record)
        return self.report()

    def profiles(self) -> Iterator[tuple[str, Profile]]:
        """Profile a few steps of each arm at its largest budget; a trace, a page and a picture in ``profile/ARM``.

        Raises:
            TransferlabError: the directory holds another study.
        """
        from transferlab.studies.figures import standalone, step_by_stage

        self._claim()
        for name in self.plans:
            arm = self.config.methods[name]
            budget, seed = max(self.config.arms_at(arm, len(self.data.train)))
            run = self._make(Cell(name, budget, seed), arm, arm.train, self.data.subset(budget, seed))
            folder = self.directory / "profile" / name
            found = profile(run, folder)
            write_text(folder / "profile.svg", standalone(step_by_stage(found.stages, found.step_seconds)))
            yield name, found

    def records(self) -> list[dict[str, Any]]:
        """The records of all finished cells of this config, in the table's order."""
        paths = [cell.directory(self.directory) / "record.json" for cell in self.cells]
        return [read_record(path) for path in paths if path.exists()]

    def report(self) -> dict[str, Any]:
        """Write the tables and the report from what is finished; return ``result.json``'s content."""
        # matplotlib is imported where there is something to draw: a run begins without it.
        from transferlab.studies.figures import learning_curves, palette_of, standalone
        from transferlab.studies.report import write_report

        records = self.records()
        if not records:
            raise TransferlabError(f"{self.directory} has no finished run to report on.")
        self._hold_inputs()
        hashes = {
            "source": {"name": self.source.name, **self.source.recorded, "tree_sha256": self.source.sha256},
            "data": {"name": self.data.name, "sha256": self.data.sha256, **self.data.describe()},
        }
        manifest = {"config": self.config.raw, "environment": environment(), "hashes": hashes}
        summary = summarise(records, test_examples=len(self.data.test))
        result = study_result(records, summary, manifest)
        write_json(self.directory / "result.json", result)
        write_text(self.directory / "results.csv", results_csv(records))
        write_text(self.directory / "table.md", markdown_page(summary, self.config.name))
        curve = learning_curves(summary, palette_of(summary))
        write_text(self.directory / "learning_curves.svg", standalone(curve))
        write_report(
            self.directory / "report.html",
            records=records,
            summary=summary,
            curve=curve,
            plan={name: plan.to_dict() for name, plan in self.plans.items()},
            curves=self._curves(),
            environment=manifest["environment"],
            hashes=hashes,
            config=self.config.raw,
            title=self.config.name,
            classes=len(np.unique(self.data.labels[self.data.test])),
        )
        return result

    # -----------------------------------------------------------------------------------------------------------

    def _groups(self, cells: Sequence[Cell]) -> list[list[Cell]]:
        """Cells that are run together: an arm's, as many as may train at the same time."""
        groups: dict[tuple, list[Cell]] = {}
        for cell in cells:
            groups.setdefault((cell.arm, self._most(cell)), []).append(cell)
        return [group[i : i + most] for (_, most), group in groups.items() for i in range(0, len(group), most)]

    def _most(self, cell: Cell) -> int:
        """How many cells like this one are run together."""
        arm = self.config.methods.get(cell.arm)
        if arm is None or arm.train.vectorize == "never":
            return 1
        run = self._make(cell, arm, arm.train, self.data.subset(cell.budget, cell.seed))
        return THREADS if run.runs_concurrently else TOGETHER

    def _arms(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Tune (in the full grid), train and test cells of one arm; return their records."""
        arm = self.config.methods[cells[0].arm]
        chosen = [(arm.train, None, 0.0) for _ in cells]
        if self.config.grid == "full" and arm.tune:
            chosen = self._tune(cells, arm)
        self.observer.cells(cells, "run")
        runs = {
            cell: self._make(
                cell, arm, settings, self.data.subset(cell.budget, cell.seed), cell.directory(self.directory)
            )
            for cell, (settings, tuning, _) in zip(cells, chosen, strict=True)
            if tuning is None or tuning["chosen"] is not None
        }
        if runs and not (first := next(iter(runs.values()))).resident and cells[0].arm not in self._told:
            self._told.add(cells[0].arm)
            self.observer.memory(cells[0], first.memory)
        results = dict(zip(runs, fit_each(list(runs.values()), self.observer.step), strict=True))
        records = []
        for cell, (settings, tuning, seconds) in zip(cells, chosen, strict=True):
            if cell in results:
                result = results[cell]
                found = {
                    "status": result.status,
                    "diverged": result.record.get("diverged"),
                    "test": result.record["test"],
                }
                found |= {name: result.record[name] for name in RECORDED}
            else:
                found = {"status": f"diverged in all {len(arm.tune)} tuning trials", "settings": asdict(settings)}
                found["trainable_parameters"] = self.plans[cell.arm].trainable_parameters
            tuned = {"tuning_seconds": seconds, "tuning": tuning}
            records.append({**_untested(cell, "method", arm.method.name), **tuned, **found})
        return records

    def _tune(self, cells: Sequence[Cell], arm: ArmConfig) -> list[tuple[Settings, dict[str, Any] | None, float]]:
        """For each cell, choose by a fifth of the budget's labels; the winner then trains on all of them."""
        splits = []
        for cell in cells:
            split = self.data.subset(cell.budget, cell.seed).hold_out(0.2, cell.seed)
            splits.append(replace(split, test=np.zeros(0, np.int64)))
        self.observer.cells(cells, "tuning")
        runs = [
            self._make(
                cell, arm, replace(arm.train, **changes), split,
                cell.directory(self.directory) / TRIALS / str(number), keep_weights=False,
            )
            for cell, split in zip(cells, splits, strict=True)
            for number, changes in enumerate(arm.tune)
        ]  # fmt: skip
        results = fit_each(runs, self.observer.step)
        trials = len(arm.tune)
        return [
            _winner(arm, results[i * trials : (i + 1) * trials], len(split.validation))
            for i, split in enumerate(splits)
        ]

    def _make(
        self, cell: Cell, arm: ArmConfig, settings: Settings, data: Dataset, directory: Path | None = None,
        keep_weights: bool = True,
    ) -> Run:  # fmt: skip
        return adapt(
            self.source,
            data,
            method=arm.method,
            settings=settings,
            seed=Seeds(cell.seed, cell.seed),
            directory=directory,
            keep_weights=keep_weights,
        )

    def _baseline(self, cell: Cell) -> dict[str, Any]:
        # scikit-learn is imported where there is a baseline, and before the clock runs.
        from transferlab.evaluate import baselines

        self.observer.cells([cell], "baseline")
        data = self.data.subset(cell.budget, cell.seed)
        started = time.perf_counter()
        record = _untested(cell, "baseline", cell.arm)
        try:
            probabilities = baselines.probabilities(cell.arm, data)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            # The arms do not need it; the table says that it is missing.
            return {**record, "status": f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
        record["seconds"] = time.perf_counter() - started
        if not np.isfinite(probabilities).all():
            return {**record, "status": "failed: its probabilities are not finite"}
        write_predictions(cell.directory(self.directory), data, probabilities)
        return {**record, "status": FINISHED, "test": scores(probabilities, data.labels[data.test])}

    def _keep_best(self, arm: str) -> None:
        """Keep the weights of the arm's best run (by test accuracy); the others keep their predictions, if they have any."""
        scored = []
        for cell in (cell for cell in self.cells if cell.arm == arm):
            directory = cell.directory(self.directory)
            if (directory / "record.json").exists() and (directory / "checkpoints").is_dir():
                record = read_record(directory / "record.json")
                if finished(record):
                    scored.append((record["test"]["accuracy"], directory))
                else:
                    drop_checkpoints(directory)
        scored.sort(key=lambda pair: pair[0], reverse=True)
        for _, directory in scored[1 if self.config.keep_weights else 0 :]:
            remove_directory(directory / "checkpoints")

    def _curves(self) -> dict[str, list[tuple[int, int, list[dict[str, Any]]]]]:
        curves: dict[str, list[tuple[int, int, list[dict[str, Any]]]]] = {}
        for cell in self.cells:
            directory = cell.directory(self.directory)
            if cell.arm not in self.config.methods or not (directory / "record.json").exists():
                continue
            record = read_record(directory / "record.json")
            if not finished(record):
                continue  # Its losses leave no scale for those of the others; the report names it.
            # A tuned run's validation curve is that of the trial that won.
            rows = read_metrics(directory / "metrics.jsonl")
            tuning = record["tuning"]
            if tuning is not None:
                arm = self.config.methods[cell.arm]
                number = (
                    [_plain(t) for t in arm.tune].index(tuning["chosen"])
                    if tuning["chosen"] in map(_plain, arm.tune)
                    else 0
                )
                trial = read_metrics(directory / TRIALS / str(number) / "metrics.jsonl")
                rows = rows + [row for row in trial if "validation_accuracy" in row]
            curves.setdefault(cell.arm, []).append((cell.budget, cell.seed, rows))
        return curves

    def _claim(self) -> None:
        """Write the config, or hold it against the one that is there."""
        path = self.directory / "config.json"
        mine = json.loads(json.dumps(self.config.raw))
        if path.exists():
            theirs = read_object(path)
            problems = sorted(_changed(theirs, mine))
            if problems:
                raise TransferlabError(
                    f"{self.directory} holds a study with another config; these fields differ: {', '.join(problems)}. "
                    "Only added seeds, budgets and methods continue a study; choose another --config.workdir."
                )
        elif self.directory.is_dir():
            drop_litter(self.directory)
            # One that was killed before it wrote its config has run nothing: it begins anew, on what its sources hold now.
            names = {path.name for path in self.directory.iterdir() if not path.name.endswith(TEMPORARY)}
            if names - {INPUTS, LOCK} or not _began(self.directory / INPUTS):
                raise TransferlabError(
                    f"{self.directory} is not empty and holds no study; choose another --config.workdir."
                )
            (self.directory / INPUTS).unlink(missing_ok=True)
        new_folder(self.directory)
        self._hold_inputs()
        write_json(path, mine)

    def _hold_inputs(self) -> None:
        """Hold weights, preprocessing and data against those that the study began with: one table has one of each.

        A config says where they are; what lies there may have changed since.
        """
        assert self.source.transform is not None
        mine = {
            "source": {"name": self.source.name, "mark": self.source.sha256},
            "preprocessing": {"name": self.source.name, "mark": self.source.transform.describe()},
            "data": {"name": self.data.name, "mark": self.data.sha256},
        }
        # A config may name them from where the study was started.
        for kind, given in (("source", self.config.source), ("data", self.config.data)):
            if Path(given).expanduser().exists():
                mine[kind]["path"] = str(Path(given).expanduser().resolve())
        path = self.directory / INPUTS
        if not path.exists():
            write_json(path, mine)
            return
        theirs = read_object(path)
        changed = [
            f"{kind} '{one['name']}'" for kind, one in mine.items() if theirs.get(kind, one)["mark"] != one["mark"]
        ]
        if changed:
            raise TransferlabError(
                f"{self.directory} holds a study on other contents of its {', '.join(changed)}: its runs cannot stand in "
                "one table with new ones. Restore what was there, or choose another --config.workdir."
            )


def _began(path: Path) -> bool:
    """Whether ``inputs.json`` is missing, or one that a study wrote: whoever else's is not removed."""
    if not path.exists():
        return True
    try:
        found = read_object(path)
    except TransferlabError:
        return False
    return "source" in found and all(isinstance(one, dict) and "mark" in one for one in found.values())


def _winner(
    arm: ArmConfig, results: Sequence[Result], validation: int
) -> tuple[Settings, dict[str, Any] | None, float]:
    """Return (settings, what to record, seconds) of the trial with the best validation accuracy at its end.

    At its end, since the winner trains on all labels and so to its end. Among equals the smaller cross-entropy wins. One
    that diverged is never chosen; where all did, nothing is.
    """
    trials, scores = [], {}
    for number, (changes, result) in enumerate(zip(arm.tune, results, strict=True)):
        trial: dict[str, Any] = {"settings": _plain(changes), "accuracy": None, "cross_entropy": None}
        if result.diverged is None:
            last = next(row for row in reversed(result.history) if "validation_accuracy" in row)
            scores[number] = (last["validation_accuracy"], -last["validation_cross_entropy"])
            trial |= {"accuracy": last["validation_accuracy"], "cross_entropy": last["validation_cross_entropy"]}
        trials.append({**trial, "status": result.status})
    # An earlier version recorded no status.
    best = max(scores, key=lambda number: (math.isfinite(scores[number][1]), *scores[number]), default=None)
    tuning = {
        "trials": len(arm.tune),
        "chosen": None if best is None else _plain(arm.tune[best]),
        "validation_examples": validation,
        "validation": trials,
    }
    seconds = sum(result.record["seconds"] for result in results)
    return arm.train if best is None else replace(arm.train, **arm.tune[best]), tuning, seconds


def _untested(cell: Cell, kind: str, method: str) -> dict[str, Any]:
    """A cell's record before anything was trained or tested."""
    return {
        "name": cell.arm,
        "kind": kind,
        "method": method,
        "budget": cell.budget,
        "seed": cell.seed,
        "status": "",
        "diverged": None,
        "test": dict.fromkeys(("accuracy", "balanced_accuracy", "cross_entropy"), math.nan),
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


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's settings as a record holds them."""
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in changes.items()
    }


@check_arguments
@interruptible()
def run_study(config: StudyConfig, observer: Observer | None = None) -> dict[str, Any]:
    """Run a study from start (or from where it was) to its report; return ``result.json``'s content."""
    return Study(config, observer).run()


def recorded_config(directory: Path) -> dict[str, Any]:
    """Return the config that a study's directory recorded, with its source and data where they lie from here.

    Raises:
        TransferlabError: there is no study.
    """
    if not (directory / "config.json").exists():
        raise TransferlabError(f"{directory} holds no study (no config.json).")
    raw = {**read_object(directory / "config.json"), "workdir": str(directory)}
    held = read_object(directory / INPUTS) if (directory / INPUTS).exists() else {}
    for kind in ("source", "data"):
        place = held.get(kind, {}).get("path")
        if place is not None and Path(place).exists() and not Path(str(raw[kind])).expanduser().exists():
            raw[kind] = place
    return raw


def study_directory(config: StudyConfig) -> Path:
    """The study's directory: ``workdir``, or one derived from the config's name and hash."""
    if config.workdir:
        return Path(config.workdir).expanduser()
    fixed = {k: v for k, v in config.raw.items() if k not in RESUMABLE or k == "grid"}
    fixed["arms"] = {name: _arm_identity(arm) for name, arm in config.methods.items()}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return Path("results") / f"{config.name}-{digest}"


def _arm_identity(arm: ArmConfig) -> dict[str, Any]:
    # By their first names, so that a directory that an earlier version named is found again.
    former = {name: before for before, name in RENAMED.items()}
    train = {former.get(name, name): value for name, value in asdict(arm.train).items()}
    return {"method": arm.method.name, **asdict(arm.method), "train": train}


def _changed(theirs: dict[str, Any], mine: dict[str, Any]) -> Iterable[str]:
    """Names of the fields that differ and may not."""
    for name in sorted(theirs.keys() | mine.keys()):
        if name not in RESUMABLE and theirs.get(name) != mine.get(name):
            yield name
    if theirs.get("grid") != mine.get("grid"):
        yield "grid"
    for name in ("budgets", "seeds"):
        if not _each(theirs.get(name)) <= _each(mine.get(name)):
            yield f"{name} (some were removed)"
    for name, arm in theirs.get("methods", {}).items():
        if name in mine["methods"] and _without_caps(mine["methods"][name]) != _without_caps(arm):
            yield f"methods.{name}"


def _each(value: Any) -> set[Any]:
    """Seeds or budgets of a ``config.json``; earlier versions wrote a single one as it was given on the command line."""
    return set(value) if isinstance(value, list) else {value} - {None}


def _without_caps(arm: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arm.items() if key not in ("largest_budget", "first_seeds")}
