"""Fitting: what a step computes, what is donated, which examples are seen and tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transferlab.train.state import State

from dataclasses import replace

import jax
import numpy as np
import pytest
from support.runs import QUICK, fit

import transferlab as tl
from transferlab.data.columns import Classes
from transferlab.train import Seeds, Settings
from transferlab.train.fit import prepare
from transferlab.train.member import make_batch


def test_dropout_is_off_in_frozen_stages_and_on_where_something_trains(source, films) -> None:
    """A probe's features do not depend on the seed of dropout; full fine-tuning's losses do."""
    data = films.subset(40, 0)
    probes = [fit(source, data, tl.methods.Probe(), seed=Seeds(0, order))[0] for order in (0, 1)]
    assert all(run.plan.training == {"head"} for run in probes)
    key = probes[0].program, probes[1].program
    assert key[0] is key[1]
    losses = [fit(source, data, tl.methods.Full(), seed=Seeds(0, order))[1].history[0]["loss"] for order in (0, 1)]
    assert losses[0] != losses[1]


def test_training_lowers_the_loss_and_raises_test_accuracy(source, films) -> None:
    settings = Settings(learning_rate=1e-2, epochs=60, batch_size=16)
    _, result = fit(source, films.subset(90, 0), tl.methods.Full(), settings=settings)
    assert result.test["accuracy"] > 0.8
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2


def test_the_number_of_compilations_is_one_per_padded_length(source, films) -> None:
    from transferlab.train.program import _shared

    _shared.cache_clear()
    lengths, tested = set(), set()
    for seed in (0, 1):
        run, _ = fit(source, films.subset(40, seed), tl.methods.Full(), seed=seed)
        lengths |= {run.order[step].bucket for step in range(run.steps)}
        tested |= set(run.feed.buckets(run.data.test).tolist())
    assert len(lengths) > 1
    assert run.program.step.compilations == len(lengths)  # two seeds, three epochs, partial batches: no more
    assert run.program.predict.compilations == len(tested)


def test_a_padded_batch_gives_the_loss_of_its_real_rows(source, films) -> None:
    """Five examples padded to eight weigh as five: the mean is over real rows alone."""
    data = replace(films, train=films.train[:5])
    settings = [replace(QUICK, epochs=2, batch_size=size, log_every=1) for size in (5, 8)]
    first, second = (fit(source, data, tl.methods.Probe(), settings=s)[1] for s in settings)
    for a, b in zip(first.history, second.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_every_test_example_is_predicted_once_in_order(source, films, tmp_path) -> None:
    data = films.subset(40, 0)
    _, result = fit(source, data, tl.methods.Probe(), tmp_path / "run")
    with np.load(tmp_path / "run" / "predictions.npz") as saved:
        assert saved["id"].tolist() == [data.ids[i] for i in data.test]
        assert saved["label"].tolist() == data.labels[data.test].tolist()
        np.testing.assert_array_equal(saved["probabilities"], result.probabilities)
        assert saved["label_names"].tolist() == ["down", "up"]
    np.testing.assert_allclose(result.probabilities.sum(1), 1, atol=1e-5)


def test_the_last_partial_batch_is_trained_on(source, films) -> None:
    run = tl.adapt(source, films.subset(21, 0), settings=Settings(epochs=1, batch_size=8))
    seen = np.concatenate([run.order[step].indices for step in range(run.steps)])
    assert sorted(seen.tolist()) == sorted(run.data.train.tolist()) and run.steps == 3


def test_truncated_texts_are_counted(source, tmp_path) -> None:
    path = tmp_path / "long.csv"
    rows = [f"{'good' if i % 2 else 'bad'} {'film ' * (60 if i < 5 else 3)} day{i},{i % 2}" for i in range(40)]
    path.write_text("text,label\n" + "\n".join(rows))
    data = tl.dataset(path, test_examples=10)
    _, result = fit(source, data, tl.methods.Probe())
    assert result.record["truncated"] == 5


def test_the_step_keeps_what_is_frozen_and_donates_what_it_replaces(source, films) -> None:
    run = tl.adapt(source, films.subset(16, 0), method=tl.methods.LoRA(rank=2), settings=QUICK)
    member, state = prepare(run, {})
    batch = jax.device_put(make_batch(member, run.order[0]))
    run.program.step(state, member.frozen, batch, run.hparams())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state["params"], state["optimizer"])))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(member.frozen))


def test_the_backward_pass_does_not_go_through_what_is_frozen(source, films) -> None:
    """A probe whose features are not cached costs a forward pass and little more: full fine-tuning three."""
    data, cost = films.subset(16, 0), {}
    for name, method in (("full", tl.methods.Full()), ("probe", tl.methods.Probe())):
        run = tl.adapt(source, data, method=method, settings=replace(QUICK, cache_bytes=0))
        member, state = prepare(run, {})
        assert not run.decision.cached
        cost[name] = run.program.step.flops(state, member.frozen, make_batch(member, run.order[0]), run.hparams())
    assert cost["probe"] < 0.45 * cost["full"]


def test_confidence_does_not_outweigh_an_example_of_a_large_validation_split(source, films) -> None:
    from transferlab.train.loop import _take_score

    run = tl.adapt(source, films.subset(40, 0).hold_out(0.5, 0), settings=QUICK)
    member, n = prepare(run, {})[0], 4000
    object.__setattr__(run.data, "target", Classes(run.data.label_names, np.zeros(n, np.int32)))
    object.__setattr__(run.data, "validation", np.arange(n))
    for step, (wrong, sure) in enumerate(((400, 0.6), (399, 0.99999), (399, 0.9)), 1):
        probabilities = np.full((n, 2), (sure, 1 - sure), np.float32)
        probabilities[:wrong] = (1 - sure, sure)
        _take_score(member, [], step, {"probabilities": probabilities}, lambda: cast("State", {}))
    assert member.best is not None and member.best[1] == 3
    _take_score(member, [], 4, {"probabilities": np.full((n, 2), np.nan, np.float32)}, lambda: cast("State", {}))
    assert member.best[1] == 3
