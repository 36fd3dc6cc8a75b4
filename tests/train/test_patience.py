"""Which state is kept, and runs that stop where no evaluation gets better: alone, in threads, and in one program."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.measure.named import say_undefined
from transferlab.tasks import Classification
from transferlab.train import Interrupted, Settings
from transferlab.train.checkpoints import Checkpoints
from transferlab.train.fit import fit_together
from transferlab.train.result import Result
from transferlab.train.run import Run

# Labels that follow from nothing: the validation's cross-entropy is soon at its best.
HASTY = Settings(
    learning_rate=3e-2, steps=60, batch_size=8, log_every=4, evaluations=20, patience=3, schedule="constant",
    weight_decay=0.0,
)  # fmt: skip
TASK = Classification(metric="cross_entropy")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> tl.data.Dataset:
    path, rng = tmp_path_factory.mktemp("noise") / "a.csv", np.random.default_rng(0)
    words = np.array(["good", "bad", "film", "the", "a", "day"])
    rows = [f"{' '.join(words[rng.integers(0, 6, 5)])} {i},{'xy'[rng.integers(2)]}" for i in range(120)]
    path.write_text("\n".join(["text,label", *rows]))
    return tl.dataset(path, test_examples=40).hold_out(0.25, seed=0)


def adapted(source, data, directory: Path | None = None, *, method: Any = None, seed: int = 0, **changes) -> Run:
    method = tl.methods.Probe() if method is None else method
    return tl.adapt(
        source, data, method=method, settings=replace(HASTY, **changes), seed=seed, task=TASK, directory=directory
    )


def validations(result: Result) -> dict[int, float]:
    return {row["step"]: row["validation_cross_entropy"] for row in result.history if "validation_cross_entropy" in row}


def same(one: Result, other: Result, tolerance: float = 0.0) -> None:
    assert one.record["stopped_at"] == other.record["stopped_at"] and len(one.history) == len(other.history)
    for row, wanted in zip(one.history, other.history, strict=True):
        assert row.keys() == wanted.keys() and row == pytest.approx(wanted, rel=tolerance, abs=tolerance)
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=tolerance, atol=tolerance)


def test_a_run_stops_once_so_many_evaluations_were_no_better(source, noise) -> None:
    patient, hasty = adapted(source, noise, patience=None).fit(), adapted(source, noise).fit()
    scores, stopped = validations(hasty), hasty.record["stopped_at"]
    best = min(scores, key=lambda step: scores[step])
    assert list(scores) == list(range(3, stopped + 1, 3)) and stopped == best + 3 * 3 < 60
    # Until then it is the run that does not stop: its schedule is that of all steps.
    rows = [row for row in patient.history if row["step"] <= stopped]
    assert hasty.history[:-1] == rows[: len(hasty.history) - 1] and hasty.history[-1]["step"] == stopped
    assert patient.record["stopped_at"] is None and hasty.record["steps"] == patient.record["steps"] == 60
    assert hasty.record["flops"] < patient.record["flops"]


def test_steps_since_the_last_row_are_in_the_row_at_which_it_stops(source, noise) -> None:
    run = adapted(source, noise, log_every=50)
    coarse, fine = run.fit(), adapted(source, noise, log_every=1).fit()
    stopped = coarse.record["stopped_at"]
    losses = [row["loss"] for row in fine.history]
    (row,) = [row for row in coarse.history if "loss" in row]
    assert row["step"] == stopped == len(losses) < 50 and "validation_cross_entropy" in row
    sizes = [len(run.order[step].indices) for step in range(stopped)]
    assert row["loss"] == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)


def test_the_row_at_which_it_stops_has_all_that_other_rows_have(source, noise) -> None:
    @dataclass(frozen=True)
    class Doubled(Classification):
        name: ClassVar[str] = ""

        def logged(self, means: Mapping[str, float]) -> dict[str, float]:
            return {"twice": 2 * means["loss"]}

    settings = replace(HASTY, log_every=50)
    result = tl.adapt(source, noise, method=tl.methods.Probe(), task=Doubled(), settings=settings).fit()
    (row,) = [row for row in result.history if "loss" in row]
    assert row["step"] == result.record["stopped_at"] and row["twice"] == 2 * row["loss"]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_what_is_tested_and_kept_is_what_keep_says(source, noise, tmp_path: Path, keep: str) -> None:
    result = adapted(source, noise, tmp_path, keep=keep, patience=4).fit()
    scores, stopped = validations(result), result.record["stopped_at"]
    best = min(scores, key=lambda step: scores[step])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.chosen() == (best if keep == "best" else stopped) and best < stopped == checkpoints.last
    texts = [noise.records[int(i)]["text"] for i in noise.test]
    np.testing.assert_allclose(tl.open_run(tmp_path)(texts), result.probabilities, atol=1e-5)
    whole = adapted(source, noise, patience=None, keep="last", steps=60).fit()
    assert whole.record["stopped_at"] is None
    assert not np.allclose(whole.probabilities, result.probabilities, atol=1e-3)


def partly(defined: set[int]) -> Classification:
    """A task whose validations have scores at these alone, counted from 1."""
    done: list[int] = []

    @dataclass(frozen=True)
    class Partly(Classification):
        name: ClassVar[str] = ""

        def scored(self, predictions, data, indices) -> dict[str, float]:
            scores = super().scored(predictions, data, indices)
            if len(indices) != len(data.validation):
                return scores
            done.append(len(done) + 1)
            return scores if done[-1] in defined else dict.fromkeys(scores, math.nan)

    return Partly()


def test_a_state_with_a_score_is_kept_before_those_without(source, noise, tmp_path: Path) -> None:
    settings = replace(HASTY, steps=40, evaluations=20, patience=None)
    run = tl.adapt(source, noise, method=tl.methods.Probe(), task=partly({4, 9}), settings=settings, directory=tmp_path)
    scores = {step: score for step, score in validations(run.fit()).items() if math.isfinite(score)}
    assert list(scores) == [8, 18] and Checkpoints(tmp_path / "checkpoints").chosen() in scores


def test_where_no_validation_has_a_score_the_last_state_is_kept_and_it_is_said_once(
    source, noise, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    say_undefined.cache_clear()
    for name, patience, last in (("long", None, 40), ("short", 3, 6)):
        settings = replace(HASTY, steps=40, evaluations=20, patience=patience)
        directory = tmp_path / name
        result = tl.adapt(source, noise, method=tl.methods.Probe(), task=partly(set()), settings=settings, directory=directory).fit()  # fmt: skip
        assert (result.record["stopped_at"] or 40) == last == Checkpoints(directory / "checkpoints").chosen()
    said = [record.getMessage() for record in caplog.records if "last state is kept" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith("accuracy is not defined here, NaN: no validation has a value of it")


ENGINES = {
    "scanned": (None, {}),
    "threaded": (tl.methods.LoRA(rank=2), {"steps": 40}),
    "vmapped": (tl.methods.LoRA(rank=2), {"steps": 40, "vectorize": "always"}),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_members_stop_each_where_they_would_alone(source, noise, tmp_path: Path, engine: str) -> None:
    method, changes = ENGINES[engine]
    # The second shares its order with the first; the last never stops.
    members = [{}, {"learning_rate": 1e-2}, {"seed": 1}, {"seed": 2, "patience": None}]

    def runs(directory: Path | None = None) -> list[Run]:
        return [
            adapted(source, noise, directory and directory / str(i), method=method, **{**changes, **own})
            for i, own in enumerate(members)
        ]

    together, alone = fit_together(runs()), [run.fit() for run in runs()]
    stops = [result.record["stopped_at"] for result in together]
    assert stops[3] is None and len({stop for stop in stops if stop}) > 1
    assert together[0].record["population_size"] == (2 if engine == "threaded" else 4)
    for one, other in zip(together, alone, strict=True):
        same(one, other, 0.0 if engine == "threaded" else 1e-4)

    # Interrupted when some have stopped and some wait, they end the same.
    asked: list[int] = []

    def interrupt(done: int, total: int, row: Mapping[str, float]) -> None:
        if done > min(stop for stop in stops if stop) and not asked:
            asked.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        fit_together(runs(tmp_path), report=interrupt)
    for one, other in zip(fit_together(runs(tmp_path)), together, strict=True):
        same(one, other, 0.0 if engine == "threaded" else 1e-4)


SCRIPT = """
import os, signal, sys, transferlab as tl
from transferlab.train import Settings
source, data = tl.load(sys.argv[1]), tl.dataset(sys.argv[2], test_examples=40).hold_out(0.25, seed=0)
settings = Settings(
    learning_rate=3e-2, steps=60, batch_size=8, log_every=4, evaluations=20, patience=3, schedule="constant",
    weight_decay=0.0, checkpoint_steps=2, keep=sys.argv[4],
)
def report(done, total, row):
    if done >= int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
task = tl.tasks.Classification(metric="cross_entropy")
tl.adapt(source, data, method=tl.methods.LoRA(rank=2), settings=settings, task=task, directory=sys.argv[3]).fit(report)
"""


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_run_killed_while_it_waits_stops_at_the_same_step_bit_by_bit(
    source, bert_folder: Path, noise, tmp_path: Path, keep: str
) -> None:
    def start(directory: Path, until: int) -> int:
        command = [sys.executable, "-c", SCRIPT, str(bert_folder), noise.name, str(directory), keep, str(until)]
        return subprocess.run(command, capture_output=True, timeout=300).returncode

    assert start(tmp_path / "calm", 1000) == 0
    stopped = json.loads((tmp_path / "calm" / "result.json").read_text())["stopped_at"]
    assert stopped is not None
    # Between the second and the third evaluation that were no better.
    assert start(tmp_path / "killed", stopped - 1) == -signal.SIGKILL
    last = Checkpoints(tmp_path / "killed" / "checkpoints").last
    assert last is not None and Checkpoints(tmp_path / "killed" / "checkpoints").meta(last)["waited"] in (1, 2)
    assert start(tmp_path / "killed", 1000) == 0
    calm, killed = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("calm", "killed")]
    assert calm["stopped_at"] == killed["stopped_at"] and calm["test"] == killed["test"]
    assert (tmp_path / "calm/metrics.jsonl").read_text() == (tmp_path / "killed/metrics.jsonl").read_text()
    one, other = (np.load(tmp_path / name / "predictions.npz")["probabilities"] for name in ("calm", "killed"))
    np.testing.assert_array_equal(one, other)


def test_patience_without_a_validation_split_is_an_error_that_says_how_to_get_one(source, films) -> None:
    with pytest.raises(
        TransferlabError, match=r"patience is 3, and .* has no validation split.*data.hold_out\(0.2, seed=0\)"
    ):
        adapted(source, films)
    with pytest.raises(TransferlabError, match="patience is 0; it must be at least 1"):
        replace(HASTY, patience=0)


def test_a_run_of_a_version_without_these_settings_continues(source, noise, tmp_path: Path) -> None:
    adapted(source, noise, tmp_path, patience=None, steps=4).fit()
    recorded = json.loads((tmp_path / "run.json").read_text())
    del recorded["settings"]["keep"], recorded["settings"]["patience"]
    (tmp_path / "run.json").write_text(json.dumps(recorded))
    again = adapted(source, noise, tmp_path, patience=None, steps=4).fit()
    assert again.status == "finished"
    with pytest.raises(TransferlabError, match=r"settings.keep \(best → last\)"):
        adapted(source, noise, tmp_path, patience=None, steps=4, keep="last").fit()
