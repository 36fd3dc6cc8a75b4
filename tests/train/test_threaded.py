"""Runs in threads: each equals its run trained alone, bit by bit; stops, errors and resumes; when they train one by one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from support.typed import found
from test_population import MEMBERS, QUICK, LastLayer

import transferlab as tl
from transferlab.data.batches import BatchSampler, batch_sampler, epoch_order
from transferlab.train import Interrupted, Seeds
from transferlab.train.checkpoints import Checkpoints
from transferlab.train.engines import ThreadedEngine
from transferlab.train.fit import fit_together, prepare
from transferlab.train.interrupt import StopRequest
from transferlab.train.result import Result
from transferlab.train.run import Run

LORA = tl.methods.LoRA(rank=2, dropout=0.1)


def runs(source, films, method=LORA, members=MEMBERS, directory: Path | None = None, **changes) -> list[Run]:
    return [
        tl.adapt(
            source, films.subset(labels, seeds.order).hold_out(0.3, 0), method=method, seed=seeds,
            settings=replace(QUICK, **{"log_every": 3, "evaluations": 2, **own, **changes}),
            directory=None if directory is None else directory / str(number),
        )
        for number, (labels, seeds, own) in enumerate(members)
    ]  # fmt: skip


def assert_same(some: list[Result], others: list[Result]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.history == other.history and len(one.history) > 2
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert one.record["flops"] == other.record["flops"]
    assert len({result.history[-1]["validation_cross_entropy"] for result in some}) == len(some)


@pytest.mark.parametrize("method", [LORA, tl.methods.Full(), LastLayer()])
def test_a_run_next_to_another_equals_itself_trained_alone(source, films, monkeypatch, method) -> None:
    """With other data, lengths and dropout, and one left over; for the last layer with carries from the cache."""
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    pairs, alone = (fit_together(runs(source, films, method, vectorize=how)) for how in ("auto", "never"))
    assert [result.record["population_size"] for result in pairs] == [2, 2, 2, 2, 1]
    assert [result.record["population_size"] for result in alone] == [1] * 5
    assert_same(pairs, alone)


# (labels, seeds, changes): one has finished when the other is half-way.
UNEQUAL = [(24, Seeds(0, 0), {"steps": 9}), (40, Seeds(1, 1), {})]


@pytest.mark.parametrize("step", [4, 13])
def test_a_stopped_pair_loses_no_step(source, films, tmp_path, step: int) -> None:
    calm = fit_together(runs(source, films, members=UNEQUAL))
    seen, asked = set(), []

    def stop(done: int, total: int, row: Mapping[str, float]) -> None:
        seen.add((threading.current_thread() is threading.main_thread(), total))
        if done == step and not asked:
            asked.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after step"):
        fit_together(runs(source, films, members=UNEQUAL, directory=tmp_path), stop)
    assert seen == {(True, 20)}
    reached = [found(Checkpoints(tmp_path / str(i) / "checkpoints").last) for i in (0, 1)]
    assert reached[0] == reached[1] < 9 if step < 9 else reached[0] == 9 < reached[1] < 20
    assert_same(fit_together(runs(source, films, members=UNEQUAL, directory=tmp_path)), calm)


class SeenByTheCaller(StopRequest):
    """A stop that one thread sees and the other does not."""

    def __init__(self) -> None:
        pass

    @property
    def asked(self) -> bool:
        return threading.current_thread() is threading.main_thread()


def test_a_stop_leaves_a_pair_at_one_step(source, films) -> None:
    members, states = zip(*(prepare(run, {}) for run in runs(source, films, members=MEMBERS[:2])), strict=True)
    pair = ThreadedEngine(members, states)
    columns = pair.advance(20, SeenByTheCaller(), None)
    assert pair.done == 3
    assert [int(pair.state(i)["step"]) for i in (0, 1)] == [3, 3]
    assert [len(one["loss"]) for one in columns] == [3, 3]


def test_an_error_in_one_keeps_the_others_checkpoints(source, films, tmp_path) -> None:
    calm = fit_together(runs(source, films, members=UNEQUAL))

    def fail(done: int, total: int, row: Mapping[str, float]) -> None:
        if done == 8:
            raise RuntimeError("the screen is gone")

    with pytest.raises(RuntimeError, match="the screen"):
        fit_together(runs(source, films, members=UNEQUAL, directory=tmp_path, checkpoint_steps=4), fail)
    again = runs(source, films, members=UNEQUAL, directory=tmp_path, checkpoint_steps=4)
    resumed = []
    results = fit_together(again, lambda done, total, row: resumed.append(done))
    assert min(resumed) > 4
    assert_same(results, calm)


def test_threads_that_share_an_order_keep_its_epochs() -> None:
    """Runs with one seed have one order, and are not in the same epoch where an epoch is one step."""
    before, places = sys.getswitchinterval(), np.arange(4)
    want = [epoch_order(places, places, 4, 0, epoch)[0].indices.tolist() for epoch in range(2000)]

    def epochs(order: BatchSampler, start: int) -> list[list[int]]:
        return [order[start + i].indices.tolist() for i in range(1000)]

    sys.setswitchinterval(1e-6)
    try:
        for _ in range(4):
            order = batch_sampler(places, places, 4, 2000, 0, True)
            with ThreadPoolExecutor(4) as threads:
                found = list(threads.map(epochs, [order] * 4, [0, 1000] * 2))
            assert found == [want[:1000], want[1000:]] * 2
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("method", [LORA, tl.methods.Full()])
def test_two_runs_do_not_train_in_memory_for_one(source, films, method) -> None:
    """The base is in memory in addition to both states."""
    if jax.default_backend() != "cpu":
        pytest.skip("only a CPU trains two runs on two threads")

    def together(limit: int) -> list[int]:
        members = runs(source, films, method, MEMBERS[:2], steps=2, memory_bytes=limit)
        return [result.record["population_size"] for result in fit_together(members)]

    one = runs(source, films, method, MEMBERS[:1])[0]
    base = sum(leaf.bytes for leaf in one.plan.leaves if leaf.action == "copied")
    both = base + 2 * (one.memory.total - one.memory.frozen)
    assert together(both) == [2, 2]
    assert together(both - 1) == [1, 1]


@pytest.mark.parametrize(("more", "want"), [(0, 2), (-2, 1)])
def test_a_second_run_takes_at_most_half_of_a_machine(source, films, more: int, want: int, monkeypatch) -> None:
    one = runs(source, films, LORA, MEMBERS[:1])[0]
    base = sum(leaf.bytes for leaf in one.plan.leaves if leaf.action == "copied")
    both = base + 2 * (one.memory.total - one.memory.frozen)
    monkeypatch.setattr("transferlab.train.grouping.device_bytes", lambda: 2 * both + more)
    results = fit_together(runs(source, films, LORA, MEMBERS[:2], steps=2))
    assert [result.record["population_size"] for result in results] == [want, want]
