"""A run of several phases: what each trains, what is taken over, and that it ends the same however often it is killed."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.runs import flat
from support.typed import found

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.methods import LPFT, Full, GradualUnfreezing, Method, Phase
from transferlab.train import Optimizer, Settings
from transferlab.train.checkpoints import Checkpoints
from transferlab.train.state import next_phase

SETTINGS = Settings(steps=8, batch_size=8, learning_rate=1e-2, log_every=1)


class HeadThenBack(Method):
    """The head, then the last layer alone: what the first phase trained is frozen in the second."""

    name = "head_then_back"

    def phases(self, stages) -> tuple[Phase, ...]:
        head, last = tl.Group("head"), tl.Group("layers/1")
        return (Phase((head,), "head", 0.25), Phase((head, last), "both", 0.25), Phase((last,), "last", 0.5))


def test_each_phase_trains_its_leaves_and_leaves_the_others_bit_equal(source, films) -> None:
    data = films.subset(32, 0)
    run = tl.adapt(source, data, method=HeadThenBack(), settings=SETTINGS)
    assert [phase.span for phase in run.phases] == [(0, 2), (2, 4), (4, 8)]
    result = run.fit()
    start, end = flat(run.plan.place(0)[0]), _trained(result)
    moved = {path for path in start if not np.array_equal(start[path], end[path])}
    assert moved == {path for path in start if path.startswith(("layers/1/", "head/"))}
    # The head as phase two left it: a run that ends there has the same.
    short = tl.adapt(source, data, method=_Two(), settings=SETTINGS)
    assert short.steps == 8 and [phase.span for phase in short.phases] == [(0, 2), (2, 8)]


class _Two(HeadThenBack):
    name = "two"

    def phases(self, stages) -> tuple[Phase, ...]:
        first, second, _ = super().phases(stages)
        return (first, Phase(second.groups, "both", 0.75))


def _trained(result) -> dict[str, np.ndarray]:
    leaves = found(result.adapted).source.leaves
    return {path: np.asarray(leaf.read()) for path, leaf in leaves.items()}


def test_what_a_phase_freezes_keeps_the_value_that_it_had(source, films) -> None:
    """The last phase trains no head: its final head is that of a run of the first two phases."""
    data = films.subset(32, 0)
    whole = tl.adapt(source, data, method=HeadThenBack(), settings=SETTINGS)
    rows = whole.fit().history
    assert [row["step"] for row in rows] == list(range(1, 9))
    learned = found(whole.fit().adapted).source.leaves["head/kernel"].read()
    stopped = _stop_after(whole.phases[1], data, source)
    np.testing.assert_allclose(learned, stopped, rtol=1e-4)  # the head alone is trained by another program


def _stop_after(phase, data, source) -> np.ndarray:
    """The head after the second phase, stepped by hand."""
    from transferlab.data.batches import stream
    from transferlab.train.fit import prepare

    member, state = prepare(phase.whole.phases[0], {})
    for number in (0, 1):
        view = phase.whole.phases[number]
        if number:
            member, state = prepare(view, {}, None, (member, state))
        first, last = view.span
        batches = stream(view.order, partial(_batch, member), first)
        for _ in range(first, last):
            state, _ = view.program.step(state, member.frozen, next(batches), view.hparams())
    return np.asarray(trees.flatten(state["params"])["head/kernel"])


def _batch(member, batch) -> Any:
    from transferlab.train.member import make_batch

    return make_batch(member, batch)


def test_moments_stay_with_their_leaves_and_each_birth_counts_its_own_updates() -> None:
    """A leaf that begins later is corrected for its own start at zero: its first update has the size of a first update."""
    old: Any = {"a": jnp.ones(3)}
    both: Any = {"a": jnp.ones(3), "b": jnp.ones(3)}
    rule = Optimizer("adam", clip_norm=None)
    first, second = rule.rule({"a": 0}), rule.rule({"a": 0, "b": 1})
    state: Any = {"params": old, "stats": {}, "optimizer": first.init(old), "step": jnp.zeros((), jnp.int32)}
    for _ in range(300):
        _, state["optimizer"] = first.update({"a": jnp.full(3, 0.1)}, state["optimizer"], old)
    state["step"] = jnp.asarray(300, jnp.int32)
    new: Any = {"params": both, "stats": {}, "optimizer": second.init(both), "step": jnp.zeros((), jnp.int32)}
    joined = next_phase(new, state)
    assert int(joined["step"]) == 300
    gradient: Any = {"a": jnp.full(3, 0.1), "b": jnp.full(3, 0.1)}
    updates: Any
    updates, after = second.update(gradient, joined["optimizer"], both)
    np.testing.assert_allclose(updates["b"], updates["a"], rtol=1e-5)
    alone = optax.adam(1.0)
    fresh: Any
    fresh, _ = alone.update({"b": gradient["b"]}, alone.init({"b": both["b"]}))
    np.testing.assert_allclose(updates["b"], -fresh["b"], rtol=1e-5)
    counts = [int(leaf) for leaf in jax.tree.leaves(after) if leaf.dtype == jnp.int32]
    assert sorted(counts) == [1, 301]


def test_a_learning_rate_rises_and_falls_within_its_phase(source, films) -> None:
    settings = Settings(steps=8, batch_size=8, learning_rate=1e-3, warmup=0.0, schedule="linear", log_every=1)
    run = tl.adapt(source, films.subset(32, 0), method=LPFT(probe_learning_rate=1e-2), settings=settings)
    rates = [row["learning_rate"] for row in run.fit().history]
    np.testing.assert_allclose(rates, [1e-2, 0.75e-2, 0.5e-2, 0.25e-2, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3], rtol=1e-5)


def test_gradual_unfreezing_begins_with_the_head_and_ends_with_everything(source, films) -> None:
    run = tl.adapt(source, films.subset(32, 0), method=Full() | GradualUnfreezing(), settings=SETTINGS)
    trained = [set(phase.transfer.trainable) for phase in run.phases]
    assert trained[0] == {"head/kernel", "head/bias"}
    assert all(before < after for before, after in itertools.pairwise(trained))
    assert {path.split("/")[1] for path in trained[1] if path.startswith("layers/")} == {"1"}
    assert trained[-1] == {leaf.path for leaf in run.plan.leaves}
    assert [phase.fraction for phase in run.plan.phases] == [pytest.approx(1 / 6)] * 3 + [0.5]


KILLED = """
import os, signal, sys, transferlab as tl
from transferlab.train import Settings
source, data = tl.load(sys.argv[1]), tl.dataset(sys.argv[2], test_examples=60).subset(64, 0)
methods = {"lpft": tl.methods.LPFT(), "unfreezing": tl.methods.Full() | tl.methods.GradualUnfreezing(layers=2)}
settings = Settings(learning_rate=1e-2, steps=24, batch_size=8, log_every=2, checkpoint_steps=3, ema=0.9)
def report(done, total, row):
    if done >= int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
tl.adapt(source, data, method=methods[sys.argv[4]], settings=settings, directory=sys.argv[3]).fit(report)
"""


def _start(bert_folder: Path, table: Path, directory: Path, method: str, killed: int = 10**6) -> int:
    command = [sys.executable, "-c", KILLED, str(bert_folder), str(table), str(directory), method, str(killed)]
    return subprocess.run(command, capture_output=True, timeout=300, check=False).returncode


def _final(directory: Path):
    checkpoints = Checkpoints(directory / "checkpoints")
    step = checkpoints.chosen()
    assert step is not None
    params, _ = checkpoints.weights(step)
    checkpoints.close()
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    with np.load(directory / "predictions.npz") as saved:
        return flat(params), rows, saved["probabilities"]


@pytest.mark.parametrize(("method", "kills"), [("lpft", (5, 12, 22)), ("unfreezing", (7, 14))])
def test_a_run_that_is_killed_in_each_phase_ends_bit_equal(
    bert_folder, table, tmp_path, method: str, kills: tuple[int, ...]
) -> None:
    assert _start(bert_folder, table, tmp_path / "calm", method) == 0
    # In the first phase, right after its last step, and in a later one.
    for killed in kills:
        assert _start(bert_folder, table, tmp_path / "killed", method, killed) == -9
    assert _start(bert_folder, table, tmp_path / "killed", method) == 0
    calm, killed = _final(tmp_path / "calm"), _final(tmp_path / "killed")
    assert calm[0].keys() == killed[0].keys() and any(path.startswith("layers/") for path in calm[0])
    for path, value in calm[0].items():
        np.testing.assert_array_equal(value, killed[0][path], err_msg=path)
    assert calm[1] == killed[1]
    np.testing.assert_array_equal(calm[2], killed[2])


def test_runs_of_several_phases_train_together_as_they_do_alone(source, films) -> None:
    data = films.subset(32, 0)

    def made(seed: int, vectorize: str) -> tl.train.Run:
        settings = Settings(steps=8, batch_size=8, learning_rate=1e-2, log_every=1, vectorize=vectorize)  # type: ignore[arg-type]
        return tl.adapt(source, data, method=LPFT(), settings=settings, seed=seed)

    together = tl.fit_together([made(seed, "always") for seed in (0, 1, 2)])
    for seed, result in enumerate(together):
        alone = made(seed, "never").fit()
        np.testing.assert_allclose(result.predictions["probabilities"], alone.predictions["probabilities"], atol=1e-5)


def test_a_finished_run_of_phases_is_opened_and_predicts_the_same(source, films, tmp_path) -> None:
    data = films.subset(32, 0).hold_out(0.25, seed=0)
    result = tl.adapt(source, data, method=LPFT(), settings=SETTINGS, directory=tmp_path / "run").fit()
    texts = [data.records[i]["text"] for i in data.test]
    np.testing.assert_allclose(tl.open_run(tmp_path / "run")(texts), result.predictions["probabilities"], atol=1e-6)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert [phase["name"] for phase in plan["phases"]] == ["probe", "full"]
    assert plan["phases"][0]["trains"] == ["head/bias", "head/kernel"] and plan["phases"][1]["steps"] == 0.5


def test_the_plan_shows_when_each_leaf_trains(source, films) -> None:
    text = str(tl.adapt(source, films.subset(32, 0), method=LPFT(), settings=SETTINGS).plan)
    assert "1 probe (50%), 2 full (50%)" in text
    head, layer = (
        next(line for line in text.splitlines() if line.strip().startswith(name)) for name in ("head", "layers/0")
    )
    assert "trains 1, 2" in head and "trains 2" in layer


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ((Phase((tl.Group("head"),), "a", 0.5),), "take 0.5 of the run's steps"),
        ((), "has no phase"),
        ((Phase((), "empty"),), "Nothing would train"),
        ((Phase((tl.Group("head"),), "a", 0.99), Phase((tl.Group("head"),), "b", 0.01)), "'b' takes 1.0% of 8 steps, which is none"),
        ((Phase((tl.Group("layers/9"),), "a", 0.5), Phase((tl.Group("head"),), "b", 0.5)), "Phase 1, 'a': .*layers/9"),
    ],
)  # fmt: skip
def test_phases_that_cannot_be_are_refused(source, films, phases, said: str) -> None:
    class Odd(Method):
        name = "odd"

        def phases(self, stages):
            return phases

    with pytest.raises(TransferlabError, match=said):
        tl.adapt(source, films.subset(32, 0), method=Odd(), settings=SETTINGS)


def test_a_phase_has_only_settings_that_do_not_change_the_order_of_examples() -> None:
    with pytest.raises(TransferlabError, match=r"the setting 'batch_size'; a phase may have learning_rate"):
        Phase((tl.Group("head"),), "a", settings={"batch_size": 4})
    with pytest.raises(TransferlabError, match="fraction is 0"):
        Phase((tl.Group("head"),), "a", fraction=0.0)
    with pytest.raises(TransferlabError, match="this method has several: 'probe' and 'full'"):
        (LPFT() | GradualUnfreezing()).modified_phases(())
