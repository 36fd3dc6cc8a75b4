"""What a person sees while a run trains: what the line says, and that it is no part of the run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.runs import QUICK

import transferlab as tl
from transferlab.train.fit import fit_each
from transferlab.train.progress import Progress, _duration, _fitted, _label
from transferlab.train.run import Run
from transferlab.transfer.cache import FrontierCache

FULL = tl.methods.Full()


class Watched(Progress):
    """Keeps the line at each event."""

    def __init__(self, runs: int) -> None:
        super().__init__(runs)
        self.lines: list[str] = []

    def keep(self) -> None:
        self.lines.append(self.line(200))

    def prepares(self, run, number: int) -> None:
        super().prepares(run, number)
        self.keep()

    def features(self, program) -> Callable[[int, int], None]:
        count = super().features(program)

        def counted(done: int, total: int) -> None:
            count(done, total)
            self.keep()

        return counted

    def tests(self, engine) -> None:
        super().tests(engine)
        self.keep()


def lines_of(*runs: Run) -> list[str]:
    progress = Watched(len(runs))
    fit_each(runs, lambda done, total, metrics: progress.keep(), progress)
    return progress.lines


def test_a_run_says_its_step_epoch_metrics_speed_and_time_left(source, films) -> None:
    data = films.subset(40, 0).hold_out(0.2, 0)
    lines = lines_of(tl.adapt(source, data, method=FULL, settings=replace(QUICK, log_every=5)))
    assert lines[0] == f"reading {source.name}" and lines[-1] == "testing 60 examples"
    middle = next(line for line in lines if line.startswith("step 6/12"))
    number = r"\d+\.\d{3}"
    assert re.fullmatch(
        rf"step 6/12 · epoch 2/3 · loss {number} · accuracy {number} · validation accuracy {number} · [\d.,]+ examples/s · \d:\d\d left",
        middle,
    ), middle
    assert any(line.startswith("step 12/12 · epoch 3/3 · loss") for line in lines)


def test_the_score_is_the_one_that_the_task_chooses_by(source, films) -> None:
    data = films.subset(40, 0).hold_out(0.2, 0)
    task = tl.tasks.Classification(metric="balanced_accuracy")
    lines = lines_of(tl.adapt(source, data, method=FULL, settings=QUICK, task=task))
    assert "validation balanced accuracy " in lines[-2] and "validation accuracy" not in lines[-2]


def test_features_are_counted_while_they_are_computed(source, films) -> None:
    run = tl.adapt(source, films.subset(40, 0), method=tl.methods.Probe(), settings=QUICK)
    run.cache = FrontierCache(None)
    counted = [line for line in lines_of(run) if line.startswith("computing features")]
    assert counted and counted[-1].startswith("computing features 100/100")
    # The next run finds them.
    again = tl.adapt(source, films.subset(40, 0), method=tl.methods.Probe(), settings=QUICK)
    again.cache = run.cache
    assert not any(line.startswith("computing features") for line in lines_of(again))


def test_a_population_has_one_line_and_the_range_of_its_members(source, films) -> None:
    data = films.subset(40, 0)
    settings = [replace(QUICK, learning_rate=rate, log_every=2) for rate in (1e-3, 1e-1, 1.0)]
    runs = [tl.adapt(source, data, method=tl.methods.Probe(), settings=one) for one in settings]
    line = lines_of(*runs)[-2]
    assert re.match(r"3 runs together · step 15/15 · epoch 3/3 · loss \d\.\d{3}–\d\.\d{3} · ", line), line


def test_runs_one_after_another_and_in_pairs_are_numbered(source, films) -> None:
    data = films.subset(24, 0)
    alone = replace(QUICK, vectorize="never")
    lines = lines_of(*(tl.adapt(source, data, method=FULL, settings=alone, seed=seed) for seed in (0, 1)))
    assert lines[-1] == "run 2 of 2 · testing 60 examples"
    lines = lines_of(*(tl.adapt(source, data, method=FULL, settings=QUICK, seed=seed) for seed in (0, 1, 2)))
    assert any(line.startswith("runs 1–2 of 3 · step ") for line in lines)
    assert lines[-1].startswith("run 3 of 3 · testing")


def test_members_that_diverged_are_counted(source, films) -> None:
    data = films.subset(24, 0)
    sgd = tl.train.Optimizer("sgd", {"momentum": 0.9})
    settings = [replace(QUICK, learning_rate=rate, optimizer=sgd) for rate in (1e-3, 1e30)]
    lines = lines_of(*(tl.adapt(source, data, method=tl.methods.Probe(), settings=one) for one in settings))
    assert "1 diverged" in lines[-2]


@pytest.mark.parametrize(
    ("numbers", "runs", "label"),
    [
        ([0], 1, ""),
        ([4], 16, "run 5 of 16"),
        (range(16), 16, "16 runs together"),
        ([2, 3], 16, "runs 3–4 of 16"),
        ([0, 3], 16, "2 of 16 runs together"),
    ],
)
def test_a_label_says_which_runs_of_how_many(numbers, runs: int, label: str) -> None:
    assert _label(list(numbers), runs) == label


def test_a_narrow_terminal_keeps_the_step_and_the_time_left() -> None:
    parts = [(0, "step 1/2"), (4, "epoch 1/2"), (2, "loss 0.5"), (5, "9 examples/s"), (1, "0:42 left")]
    assert _fitted(parts, 80) == "step 1/2 · epoch 1/2 · loss 0.5 · 9 examples/s · 0:42 left"
    assert _fitted(parts, 34) == "step 1/2 · loss 0.5 · 0:42 left"
    assert _fitted(parts, 20) == "step 1/2 · 0:42 left"
    assert _fitted(parts, 6) == "step …" and _fitted(parts, 0) == "…"


def test_durations_are_read_as_on_a_clock() -> None:
    assert [_duration(seconds) for seconds in (-3.0, 7.4, 62.0, 3723.0)] == ["0:00", "0:07", "1:02", "1:02:03"]


def test_the_count_of_an_engine_is_what_the_device_has_finished(source, films) -> None:
    from transferlab.train.engines import StreamingEngine
    from transferlab.train.fit import prepare
    from transferlab.train.interrupt import StopRequest

    engine = StreamingEngine(*prepare(tl.adapt(source, films.subset(24, 0), method=FULL, settings=QUICK), {}))
    seen: list[tuple[int, int]] = []
    engine.advance(2, StopRequest(), lambda done, total, metrics: seen.append((engine.computed, done)))
    assert engine.computed == engine.done == 2
    assert seen and all(computed <= done for computed, done in seen)


def test_the_progress_of_a_program_that_compiles_starts_with_its_seconds(source, films) -> None:
    run = tl.adapt(source, films.subset(24, 0), method=FULL, settings=replace(QUICK, batch_size=7))
    progress = Progress(1)
    progress.prepares(run, 0)
    assert progress.line(80) == f"reading {source.name}" and run.program.compiling_since is None
    run.program.step.since = 0.0
    assert re.fullmatch(r"compiling … \d+ s", progress.line(80))
    run.program.step.since = None
    assert progress.line(80) == f"reading {source.name}"


def test_asking_what_compiles_makes_no_function(source, films) -> None:
    from transferlab.train.program import _shared

    _shared.cache_clear()
    program = tl.adapt(source, films.subset(24, 0), method=FULL, settings=QUICK).program
    assert program.compiling_since is None and program.compile_seconds == 0
    assert "step" not in vars(program)
