"""Populations: a member equals its run trained alone; members that stop earlier, stops and resumes, and what is tested."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_bert

import transferlab as tl
from transferlab import trees
from transferlab.train import Interrupted, Optimizer, Seeds, Settings
from transferlab.train.fit import fit_together, prepare
from transferlab.train.program import _shared
from transferlab.train.run import Run
from transferlab.transfer.groups import Group

QUICK = Settings(learning_rate=1e-2, steps=20, batch_size=8, log_every=1)
MEMBERS = [
    # (labels, seeds, changes): other data, other orders and dropout, other learning rates and decay, other lengths.
    (40, Seeds(0, 0), {}),
    (40, Seeds(1, 1), {"learning_rate": 3e-2}),
    (24, Seeds(0, 2), {"weight_decay": 0.1}),
    (16, Seeds(2, 2), {"steps": 7}),
    (40, Seeds(3, 3), {"steps": 13, "learning_rate": 1e-1}),
]


def runs(source, films, directory: Path | None = None, **changes) -> list[Run]:
    method = tl.methods.Probe(head_dropout=0.2)
    return [
        tl.adapt(
            source, films.subset(labels, seeds.order), method=method, settings=replace(QUICK, **{**own, **changes}),
            seed=seeds, directory=None if directory is None else directory / str(number),
        )
        for number, (labels, seeds, own) in enumerate(MEMBERS)
    ]  # fmt: skip


def test_a_member_equals_its_run_trained_alone(source, films) -> None:
    together = fit_together(runs(source, films))
    alone = [run.fit() for run in runs(source, films)]
    assert [result.record["population_size"] for result in together] == [5] * 5
    for one, other in zip(together, alone, strict=True):
        assert [row["step"] for row in one.history] == [row["step"] for row in other.history]
        for name in ("loss", "gradient_norm", "learning_rate"):
            np.testing.assert_allclose(
                [row[name] for row in one.history], [row[name] for row in other.history], rtol=1e-5, atol=1e-5
            )
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        assert one.record["flops"] == other.record["flops"]
        assert one.record["steps"] == other.record["steps"]
    losses = [result.history[-1]["loss"] for result in together]
    assert len(set(losses)) == len(losses)


# (orders, runs on each): cut within the orders, between them, and not at all.
@pytest.mark.parametrize(("orders", "alike"), [(2, 4), (3, 4), (8, 1), (3, 3)])
def test_halves_that_step_in_two_threads_are_not_mixed_up(source, films, monkeypatch, orders: int, alike: int) -> None:
    monkeypatch.setattr("transferlab.train.engines.scanned.CHUNK", 6)

    def members() -> list[Run]:
        settings = replace(QUICK, steps=12)
        return [
            tl.adapt(
                source, films.subset(24, order), method=tl.methods.Probe(head_dropout=0.2), seed=order,
                settings=replace(settings, learning_rate=1e-2 * (order + 1), weight_decay=0.1 * number),
            )
            for order in range(orders)
            for number in range(alike)
        ]  # fmt: skip

    together = fit_together(members())
    monkeypatch.setattr("transferlab.train.engines.scanned.HALVED", 1000)
    whole = fit_together(members())
    for one, other in zip(together, whole, strict=True):
        assert len(one.history) == 12
        for row, same in zip(one.history, other.history, strict=True):
            assert row == pytest.approx(same, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)
    assert len({result.history[-1]["loss"] for result in together}) == len(together)


@dataclass(frozen=True)
class LastLayer(tl.methods.Full):
    """Trains from the middle on, so that carries with tokens come from the cache."""

    def groups(self, stages) -> tuple[Group, ...]:
        return (Group("layers/1"), Group("head"))


@pytest.mark.parametrize("method", [tl.methods.LoRA(rank=2, dropout=0.1), tl.methods.Full(), LastLayer()])
def test_a_vmapped_member_equals_its_run_trained_alone(source, films, monkeypatch, method) -> None:
    """With dropout on, and batches padded to the longest of all members: other lengths than the run alone has."""
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)

    def members(together: str) -> list[Run]:
        return [
            tl.adapt(
                source, films.subset(labels, seeds.order), method=method, seed=seeds,
                settings=replace(QUICK, vectorize=together, optimizer=Optimizer("sgd"), **own),
            )
            for labels, seeds, own in MEMBERS
        ]  # fmt: skip

    together, alone = (fit_together(members(how)) for how in ("always", "never"))
    assert [result.record["population_size"] for result in together] == [5] * 5
    assert [result.record["population_size"] for result in alone] == [1] * 5
    for one, other in zip(together, alone, strict=True):
        assert [row["step"] for row in one.history] == [row["step"] for row in other.history]
        for name in ("loss", "gradient_norm", "learning_rate"):
            np.testing.assert_allclose(
                [row[name] for row in one.history], [row[name] for row in other.history], rtol=1e-5, atol=1e-5
            )
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert len({result.history[-1]["loss"] for result in together}) == 5


def test_vmapped_members_are_no_more_than_the_device_holds(source, films) -> None:
    def members(limit: int | None) -> list[Run]:
        settings = replace(QUICK, steps=3, vectorize="always", memory_bytes=limit)
        return [
            tl.adapt(source, films.subset(24, 0), method=tl.methods.LoRA(rank=2), settings=settings, seed=seed)
            for seed in range(4)
        ]

    one = members(None)[0].memory
    results = fit_together(members(one.frozen + 2 * (one.total - one.frozen)))
    assert [result.record["population_size"] for result in results] == [2] * 4
    assert len({result.history[-1]["loss"] for result in results}) == 4


def test_timing_engines_changes_no_run(source, films, monkeypatch) -> None:
    """Elsewhere than on CPU, whether runs step together follows from a timing, which leaves no trace in them."""
    from transferlab.train import grouping

    monkeypatch.setattr(Run, "runs_concurrently", False)
    asked, answers = [], iter([True, False])

    def pays(*arguments) -> bool:
        asked.append(timed(*arguments))
        return next(answers)

    timed = grouping._vmap_is_faster
    monkeypatch.setattr(grouping, "_vmap_is_faster", pays)
    settings = replace(QUICK, optimizer=Optimizer("sgd"), steps=8)
    results = [
        fit_together(
            [
                tl.adapt(source, films.subset(24, 0), method=tl.methods.LoRA(rank=2), settings=settings, seed=seed)
                for seed in (0, 1)
            ]
        )
        for _ in range(2)
    ]
    assert [result.record["population_size"] for pair in results for result in pair] == [2, 2, 1, 1]
    assert all(isinstance(answer, bool) for answer in asked)
    for one, other in zip(*results, strict=True):
        assert len(one.history) == len(other.history) == 8
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        assert one.record["flops"] == pytest.approx(other.record["flops"], rel=0.2)


def test_a_population_compiles_once_for_all_members(source, films) -> None:
    _shared.cache_clear()
    members = runs(source, films, steps=20)
    fit_together(members)
    assert members[0].program is members[-1].program
    assert members[0].program.scanned_steps.compilations == 1
    assert members[0].program.step.compilations == 0


def test_members_keep_what_runs_do(source, films, tmp_path) -> None:
    results = fit_together(runs(source, films, tmp_path))
    for number, result in enumerate(results):
        with np.load(tmp_path / str(number) / "predictions.npz") as saved:
            np.testing.assert_array_equal(saved["probabilities"], result.probabilities)
        lines = (tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == result.record["steps"]
    films_test = [films.records[i]["text"] for i in films.test]
    np.testing.assert_allclose(tl.open_run(tmp_path / "3")(films_test), results[3].probabilities, atol=2e-6)


def test_only_runs_of_one_program_are_put_together(source, films) -> None:
    lora = tl.adapt(source, films.subset(16, 0), method=tl.methods.LoRA(rank=2), settings=replace(QUICK, steps=2))
    random = [
        tl.adapt(source, films.subset(16, 0), method=tl.methods.Probe(weights="random"), settings=QUICK, seed=seed)
        for seed in (0, 1)
    ]
    probe = runs(source, films)[0]
    results = fit_together([lora, *random, probe])
    assert [result.record["population_size"] for result in results] == [1, 1, 1, 1]
    assert [result.record["method"] for result in results] == ["lora", "probe", "probe", "probe"]
    assert not np.allclose(results[1].probabilities, results[2].probabilities)


@pytest.mark.parametrize("method", [tl.methods.LoRA(rank=2), tl.methods.Probe()], ids=["lora", "probe"])
def test_runs_of_sources_with_other_weights_are_not_put_together(source, films, tmp_path, method) -> None:
    """They have one architecture, hence one program; a population has the frozen leaves of its first member."""
    other = tl.load(write_bert(tmp_path / "other", seed=1))

    def fitted(vectorize: str) -> list[np.ndarray]:
        settings = Settings(learning_rate=3e-2, steps=8, batch_size=8, vectorize=vectorize)  # pyright: ignore[reportArgumentType]
        pair = [tl.adapt(one, films.subset(40, 0), method=method, settings=settings) for one in (source, other)]
        assert pair[0].program is pair[1].program
        return [result.probabilities for result in fit_together(pair)]

    np.testing.assert_allclose(fitted("always"), fitted("never"), atol=2e-5)


def test_a_stopped_population_loses_no_step(source, films, tmp_path, monkeypatch) -> None:
    from transferlab.train.engines import scanned

    calm = fit_together(runs(source, films, tmp_path / "calm"))
    monkeypatch.setattr(scanned, "CHUNK", 4)

    asked = []

    def stop(done: int, total: int, row: Mapping[str, float]) -> None:
        if done >= 8 and not asked:
            asked.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after step"):
        fit_together(runs(source, films, tmp_path / "stopped"), stop)
    assert not list((tmp_path / "stopped").glob("*/result.json"))
    results = fit_together(runs(source, films, tmp_path / "stopped"))
    for one, other in zip(calm, results, strict=True):
        assert [row["step"] for row in one.history] == [row["step"] for row in other.history]
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


@pytest.mark.parametrize("method", [tl.methods.Probe(), tl.methods.Full()])
def test_the_state_that_validated_best_is_tested(source, films, tmp_path, method) -> None:
    data = films.subset(40, 0).hold_out(0.3, 0)
    # A learning rate this high, kept to the end, moves the validation score up and down.
    settings = replace(QUICK, learning_rate=0.3, schedule="constant", evaluations=10, steps=20)
    run = tl.adapt(source, data, method=method, settings=settings, directory=tmp_path / "run")
    result = run.fit()
    rows = [row for row in result.history if "validation_accuracy" in row]
    assert [row["step"] for row in rows] == list(range(2, 21, 2))
    best = max(rows, key=lambda row: row["validation_accuracy"] - 1e-3 * row["validation_cross_entropy"])
    assert best["step"] < 20
    predict = tl.open_run(tmp_path / "run")
    texts = [data.records[i]["text"] for i in data.validation]
    hits = (predict(texts).argmax(1) == data.labels[data.validation]).mean()
    assert hits == pytest.approx(best["validation_accuracy"])
    np.testing.assert_allclose(predict([data.records[i]["text"] for i in data.test]), result.probabilities, atol=1e-5)


@pytest.mark.parametrize("method", [tl.methods.Probe(), tl.methods.LoRA(rank=2)])
def test_weights_that_are_not_to_be_kept_are_removed_from_disk(source, films, tmp_path, method) -> None:
    settings = replace(QUICK, steps=4, checkpoint_steps=2)
    run = tl.adapt(
        source, films.subset(16, 0), method=method, settings=settings, directory=tmp_path / "run", keep_weights=False
    )
    assert run.fit().test["accuracy"] > 0
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert (tmp_path / "run" / "predictions.npz").exists()


def test_members_in_bfloat16_share_the_base(source, films) -> None:
    shared: dict = {}
    settings = Settings(learning_rate=1e-3, steps=4, batch_size=8, precision="bfloat16", vectorize="always")
    frozen = [
        trees.flatten(prepare(tl.adapt(source, films.subset(16, 0), method=tl.methods.LoRA(rank=2), settings=settings,
                                       seed=seed), shared)[0].frozen)
        for seed in (0, 1)
    ]  # fmt: skip
    assert all(leaf is frozen[1][path] for path, leaf in frozen[0].items())
    assert {str(leaf.dtype) for leaf in frozen[0].values()} == {"bfloat16"}
