"""Runs that diverge: they raise and stop; runs that train with them are not affected; what they leave on disk is finite."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_bert
from test_population import QUICK

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.train import Diverged, Interrupted, Optimizer, Seeds, Settings
from transferlab.train.checkpoints import Checkpoints
from transferlab.train.divergence import first_not_finite, state_not_finite
from transferlab.train.fit import fit_each
from transferlab.train.optimizers import names
from transferlab.train.result import Result
from transferlab.train.run import Run

WILD = Settings(
    learning_rate=1e6, steps=20, batch_size=8, log_every=4, checkpoint_steps=2, schedule="constant", warmup=0.0
)
PROBE, LORA = tl.methods.Probe(head_dropout=0.2), tl.methods.LoRA(rank=2, dropout=0.1)


def finite_checkpoints(directory: Path) -> list[int]:
    """Steps of a run's checkpoints, all of whose numbers are finite."""
    kept = Checkpoints(directory / "checkpoints")
    steps = sorted(int(path.name) for path in kept.directory.glob("[0-9]*"))
    for step in steps:
        assert state_not_finite(dict(zip(("params", "stats"), kept.weights(step), strict=True))) is None
    kept.close()
    return steps


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_that_diverges_ends_with_one_error_and_its_last_finite_checkpoint(
    source, films, tmp_path, precision: str
) -> None:
    def run() -> Run:
        return tl.adapt(
            source, films.subset(40, 0), settings=replace(WILD, precision=precision), directory=tmp_path / "run"
        )

    with pytest.raises(Diverged) as caught:
        run().fit()
    divergence = caught.value.results[0].diverged
    assert divergence is not None and 2 < divergence.step < 20
    said = str(caught.value)
    for words in (
        f"diverged at step {divergence.step} of 20 (learning rate 1e+06): the loss is nan",
        "dataclasses.replace(settings, learning_rate=1e+05, warmup=0.1",
        f"keeps the checkpoint of step {(divergence.step - 1) // 2 * 2}",
    ):
        assert words in said
    assert ("precision='float32'" in said) == (precision == "bfloat16")
    assert finite_checkpoints(tmp_path / "run") == [(divergence.step - 1) // 2 * 2]
    rows = caught.value.results[0].history
    assert rows[-1]["step"] == divergence.step and math.isnan(rows[-1]["loss"])
    # Again: the same, without a step.
    steps: list[int] = []
    with pytest.raises(Diverged) as again:
        run().fit(lambda done, total, row: steps.append(done))
    assert str(again.value) == said and not steps
    assert again.value.results[0].status == f"diverged at step {divergence.step}"
    assert np.isnan(again.value.results[0].probabilities).all()
    assert again.value.results[0].probabilities.shape == (60, 2)
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["status"] == f"diverged at step {divergence.step}" and math.isnan(record["test"]["accuracy"])
    with pytest.raises(TransferlabError, match=f"diverged at step {divergence.step} of 20"):
        tl.open_run(tmp_path / "run")
    # What was asked for by removing the record.
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(Diverged) as continued:
        run().fit(lambda done, total, row: steps.append(done))
    assert continued.value.results[0].status == record["status"] and min(steps) > divergence.step - 3


def test_a_first_step_that_is_not_finite_is_not_blamed_on_the_learning_rate(films, tmp_path) -> None:
    path = write_bert(tmp_path / "huge") / "model.safetensors"
    save_file({name: tensor * np.float32(1e20) for name, tensor in load_file(path).items()}, path)
    for method in (tl.methods.Probe(), tl.methods.Full()):
        with pytest.raises(
            Diverged, match=r"at step 1 of 5 .* the pretrained\s+weights or the data are not finite"
        ) as caught:
            tl.adapt(
                tl.load(tmp_path / "huge"), films.subset(16, 0), method=method, settings=replace(QUICK, steps=5)
            ).fit()
        assert "lower learning rate" not in str(caught.value)


def test_a_run_whose_last_update_is_not_finite_is_not_finished(source, films, tmp_path) -> None:
    settings = replace(WILD, learning_rate=3e38, weight_decay=100.0, steps=1, optimizer=Optimizer("sgd"))
    for directory in (None, tmp_path / "run"):
        with pytest.raises(Diverged, match=r"at step 1 of 1 .*: the parameter '.*' is not finite\. Try a lower"):
            tl.adapt(source, films.subset(16, 0), settings=settings, directory=directory).fit()
    assert finite_checkpoints(tmp_path / "run") == []


def test_a_validation_that_is_not_finite_ends_the_run(source, films, tmp_path) -> None:
    from transferlab.train.fit import prepare
    from transferlab.train.loop import _take_score

    run = tl.adapt(source, films.subset(40, 0).hold_out(0.5, 0), settings=QUICK)
    member, state = prepare(run, {})
    rows: list[dict] = []
    _take_score(member, rows, 4, {"probabilities": np.full((20, 2), np.nan, np.float32)}, lambda: state)
    assert member.best is None and member.diverged is not None
    assert (member.diverged.step, member.diverged.what) == (
        4,
        "the predictions for the validation split are not finite",
    )
    assert rows == []
    # A state that answers, but is not finite, is never kept as the best.
    member.diverged = None
    state["stats"] = {"norm": {"var": np.array([1.0, np.inf], np.float32)}}
    _take_score(member, rows, 8, {"probabilities": np.full((20, 2), 0.5, np.float32)}, lambda: state)
    assert member.best is None and member.diverged is not None
    assert member.diverged.what == "the batch statistic 'norm/var' is not finite"


def members(source, films, method, wild: bool, directory: Path | None = None, **changes) -> list[Run]:
    """Three runs, the second of which diverges where it is to be wild; with a validation split."""
    rates = (1e-2, 1e38 if wild else 3e-2, 2e-2)
    lengths = (20, 20, 14)
    return [
        tl.adapt(
            source, films.subset(40, seed).hold_out(0.3, 0), method=method, seed=Seeds(seed, seed),
            settings=replace(QUICK, **{"learning_rate": rate, "steps": steps, "evaluations": 4, "log_every": 3,
                                       "warmup": 0.0, "schedule": "constant", **changes}),
            directory=None if directory is None else directory / str(seed),
        )
        for seed, (rate, steps) in enumerate(zip(rates, lengths, strict=True))
    ]  # fmt: skip


def assert_same(some: list[Result], others: list[Result]) -> None:
    """The same bits on a CPU; a GPU adds up in no fixed order."""
    tolerance = 0 if jax.default_backend() == "cpu" else 1e-4
    for one, other in zip(some, others, strict=True):
        assert [row["step"] for row in one.history] == [row["step"] for row in other.history] and len(one.history) > 5
        for row, same in zip(one.history, other.history, strict=True):
            assert row == pytest.approx(same, rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=tolerance)
        assert one.status == other.status == "finished"


@pytest.mark.parametrize(
    ("method", "together", "engine"),
    [(PROBE, "auto", 3), (LORA, "always", 3), (LORA, "auto", 2), (tl.methods.Full(), "never", 1)],
)
def test_the_others_are_bit_equal_where_one_diverges(
    source, films, tmp_path, method, together: str, engine: int
) -> None:
    calm = tl.fit_together(members(source, films, method, False, vectorize=together))
    assert [result.record["population_size"] for result in calm][:2] == [engine] * 2
    with pytest.raises(
        Diverged, match=r"(?s)1 of 3 runs diverged; .*\n  run 1: The run diverged at step 2 of 20"
    ) as caught:
        tl.fit_together(members(source, films, method, True, tmp_path, vectorize=together, checkpoint_steps=1))
    results = caught.value.results
    assert [result.status for result in results] == ["finished", "diverged at step 2", "finished"]
    assert_same(results[::2], calm[::2])
    assert [row["step"] for row in results[1].history] == [2]
    assert finite_checkpoints(tmp_path / "1") == [1]
    # A study wants the same without an error; nothing is trained again.
    again = fit_each(members(source, films, method, True, tmp_path, vectorize=together, checkpoint_steps=1))
    assert [result.status for result in again] == [result.status for result in results]
    assert_same(again[::2], calm[::2])


@pytest.mark.parametrize("method", [PROBE, LORA])
def test_a_stop_after_one_diverged_continues_the_others_alone(source, films, tmp_path, monkeypatch, method) -> None:
    monkeypatch.setattr("transferlab.train.engines.scanned.CHUNK", 3)
    calm = tl.fit_together(members(source, films, method, False))
    asked: list[int] = []

    def stop(done: int, total: int, row: Mapping[str, float]) -> None:
        if done >= 6 and not asked:
            asked.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after step"):
        tl.fit_together(members(source, films, method, True, tmp_path), stop)
    assert [path.parent.name for path in tmp_path.glob("*/result.json")] == ["1"]
    with pytest.raises(Diverged) as caught:
        tl.fit_together(members(source, films, method, True, tmp_path))
    assert [result.status for result in caught.value.results] == ["finished", "diverged at step 2", "finished"]
    for one, other in zip(caught.value.results[::2], calm[::2], strict=True):
        assert [row["step"] for row in one.history] == [row["step"] for row in other.history]
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_no_member_left_ends_a_population(source, films) -> None:
    steps: list[int] = []
    runs = members(source, films, PROBE, True, learning_rate=1e38)
    with pytest.raises(Diverged, match="3 of 3 runs diverged") as caught:
        tl.fit_together(runs, lambda done, total, row: steps.append(done))
    assert max(steps) < 20 and {result.status for result in caught.value.results} == {"diverged at step 2"}


def test_weights_that_are_not_to_be_kept_are_removed_when_the_run_diverges(source, films, tmp_path) -> None:
    run = tl.adapt(source, films.subset(16, 0), settings=WILD, directory=tmp_path / "run", keep_weights=False)
    with pytest.raises(Diverged, match="at step"):
        run.fit()
    assert (tmp_path / "run" / "result.json").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_every_step_of_a_window_is_checked() -> None:
    fine = {"loss": [0.5, 0.4, 0.3], "gradient_norm": [1.0, 2.0, 3.0]}
    assert first_not_finite(fine) is None
    assert first_not_finite({**fine, "loss": [0.5, math.inf, math.nan]}) == (1, "the loss is inf")
    assert first_not_finite({**fine, "gradient_norm": [1.0, math.nan, 1.0]}) == (1, "the gradient norm is nan")
    both = {"loss": [0.5, 0.4, math.nan], "gradient_norm": [1.0, math.inf, math.nan]}
    assert first_not_finite(both) == (1, "the gradient norm is inf")


def test_large_numbers_are_finite_and_any_leaf_may_not_be() -> None:
    huge = np.full(1000, 3e38, np.float32)  # its sum is not
    assert state_not_finite({"params": {"head": {"kernel": huge}}, "step": np.int32(3)}) is None
    huge[-1] = np.inf
    assert state_not_finite({"params": {"head": {"kernel": huge}}}) == "the parameter 'head/kernel' is not finite"


@pytest.mark.parametrize("name", names())
def test_no_optimizer_begins_with_a_state_that_is_taken_for_diverged(name: str) -> None:
    begun = Optimizer(name).rule().init({"kernel": np.ones((4, 3), np.float32), "bias": np.ones(3, np.float32)})
    assert state_not_finite({"optimizer": begun}) is None
