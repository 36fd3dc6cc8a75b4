"""Networks of somebody else's modules in our runs: planned, trained, cached, resumed, opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import foreign
from support.runs import flat
from support.typed import found

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.pytrees import named_leaves
from transferlab.train import Settings
from transferlab.transfer.cache import FrontierCache

X = np.random.default_rng(0).normal(size=(60, foreign.INPUTS)).astype(np.float32)
Y = ["a" if row[0] > 0 else "b" for row in X]
QUICK = Settings(learning_rate=1e-2, steps=6, batch_size=8, log_every=2, checkpoint_steps=2)


class Trunk(nnx.Module):
    """Batch statistics, dropout, and a Variable of its own."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Linear(foreign.INPUTS, foreign.WIDTH, rngs=rngs)
        self.layers = nnx.List([foreign.Block(rngs) for _ in range(3)])
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return x


STAGES = (
    tl.stage("embed", lambda m, x: m.embed(x), owns=("embed", "calls")),
    tl.stage("layers/*", lambda m, x, i: m.layers[i](x)),
)
NAMES = (tl.stage("embed", owns=("embed", "calls")), tl.stage("layers/*"))


def source_of(stages: Any = STAGES, seed: int = 0) -> Any:
    network = tl.network(lambda rngs: Trunk(rngs), "x", stages, output="hidden")
    return tl.from_tree(network, nnx.state(Trunk(nnx.Rngs(seed))))


@pytest.fixture(scope="module")
def data():
    return tl.dataset({"x": X, "label": Y})


@pytest.fixture(scope="module")
def staged():
    return source_of()


@pytest.mark.parametrize("stages", [STAGES, NAMES, ()], ids=["stages", "names", "whole"])
def test_a_probe_of_ones_own_network_computes_its_features_once(stages, data, monkeypatch) -> None:
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    run = tl.adapt(source_of(stages), data, method=tl.methods.Probe(), settings=QUICK)
    run.cache = FrontierCache()
    assert run.decision.cached and run.plan.trainable == ("head/bias", "head/kernel")
    result = run.fit(quiet=True)
    assert run.cache.computed == len(data.train) + len(data.test)
    # What the module itself makes of an example is what the run's head reads.
    module = Trunk(nnx.Rngs(0))
    module.eval()
    head = flat(result.params)
    logits = np.asarray(module(jnp.asarray(X[:5]))) @ head["head/kernel"] + head["head/bias"]
    np.testing.assert_allclose(result.predict(X[:5]), jax.nn.softmax(logits), atol=1e-5)


def test_the_frontier_in_the_middle_is_cached_where_stages_run_and_only_depth_where_they_have_names(
    data, monkeypatch
) -> None:
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    trained = []
    for stages, cached in ((STAGES, True), (NAMES, False)):
        run = tl.adapt(source_of(stages), data, method=tl.methods.LastLayers(1), settings=QUICK)
        run.cache = FrontierCache()
        assert run.decision.cached == cached and run.plan.stages[run.plan.frontier] == "layers/2"
        trained.append(flat(run.fit(quiet=True).params))
        assert run.cache.computed == (len(data.train) + len(data.test) if cached else 0)
    before = named_leaves(nnx.state(Trunk(nnx.Rngs(0)), nnx.Param))[0]
    for after in trained:
        moved = {path for path, leaf in before.items() if not np.array_equal(leaf, after[path])}
        assert moved and all(path.startswith("layers/2/") for path in moved)


def test_adapters_train_next_to_frozen_kernels_and_merge_into_them(staged, data) -> None:
    run = tl.adapt(staged, data, method=tl.methods.LoRA(rank=2, targets="layers/**/kernel"), settings=QUICK)
    assert "layers/1/linear/lora/a" in run.plan.trainable and "added by lora" in str(run.plan)
    result = run.fit(quiet=True)
    source = found(result.source)
    logits = source({"x": X[:5]})["logits"]
    np.testing.assert_allclose(result.predict(X[:5]), jax.nn.softmax(logits), atol=1e-5)
    assert not any("lora" in path for path in source.leaves)
    with pytest.raises(TransferlabError, match="for which no other library has files"):
        tl.save(source, "anywhere")


@pytest.mark.parametrize("method", [tl.methods.DoRA, tl.methods.PiSSA])
def test_what_a_method_makes_of_kernels_it_makes_of_those_of_a_network_of_ones_own(method, staged, data) -> None:
    run = tl.adapt(staged, data, method=method(rank=2, targets="layers/**/kernel"), settings=QUICK)
    made = [leaf for leaf in run.plan.leaves if leaf.action == "derived"]
    names = {leaf.path.rpartition("/")[2] for leaf in made}
    assert names == ({"magnitude"} if method is tl.methods.DoRA else {"kernel", "a", "b"})
    result = run.fit(quiet=True)
    np.testing.assert_allclose(
        result.predict(X[:5]), jax.nn.softmax(found(result.source)({"x": X[:5]})["logits"]), atol=1e-4
    )


def test_a_killed_run_ends_as_if_it_had_not_been_and_opens_again(data, tmp_path: Path, staged) -> None:
    def run(folder: str, source: Any = staged) -> Any:
        return tl.adapt(source, data, method=tl.methods.Full(), settings=QUICK, directory=tmp_path / folder)

    whole = run("whole").fit(quiet=True)

    def stop(step: int, steps: int, metrics: Any) -> None:
        if step >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("stopped").fit(report=stop)
    # Another process would make the network and its arrays anew.
    resumed = run("stopped", source_of()).fit(quiet=True)
    for path, leaf in flat(whole.params).items():
        np.testing.assert_array_equal(flat(resumed.params)[path], leaf)
    np.testing.assert_array_equal(whole.probabilities, resumed.probabilities)
    with pytest.raises(
        TransferlabError, match=r"tl\.open_run\(directory, source=tl\.from_tree\(network, params, state\)\)"
    ):
        tl.open_run(tmp_path / "whole")
    opened = tl.open_run(tmp_path / "whole", source=source_of())
    np.testing.assert_array_equal(opened(X[:4]), whole.predict(X[:4]))
    with pytest.raises(TransferlabError, match="other weights"):
        tl.open_run(tmp_path / "whole", source=source_of(seed=1))


def test_a_network_with_logits_keeps_its_head_for_as_many_labels(data) -> None:
    weights = {"params": foreign.function_parameters(jax.random.key(1))}
    network = foreign.function_network()
    kept = tl.from_tree(network, weights["params"], labels=("a", "b", "c"))
    three = tl.dataset({"x": X, "label": ["abc"[i % 3] for i in range(60)]})
    plan = tl.adapt(kept, three, settings=QUICK).plan
    assert {leaf.action for leaf in plan.leaves} == {"copied"}
    other = tl.adapt(tl.from_tree(network, weights["params"], labels=("x", "y", "z")), three, settings=QUICK)
    assert [leaf.path for leaf in other.plan.leaves if leaf.action == "initialised"] == ["head/bias", "head/kernel"]
    assert other.fit(quiet=True).probabilities.shape[1] == 3
    with pytest.raises(TransferlabError, match=r"puts out 3 logits, and the data has 2 labels.*output='hidden'"):
        tl.adapt(kept, data)


def test_arrays_that_are_not_the_networks_are_all_named() -> None:
    network = foreign.function_network()
    params = foreign.function_parameters(jax.random.key(1))
    wrong = {**params, "embed": {"kernel": params["embed"]["kernel"], "bais": jnp.zeros(2)}}
    with pytest.raises(TransferlabError) as error:
        tl.from_tree(network, wrong)
    for part in ("'embed/bias' (6,) is not in params", "'embed/bais' has no place", "tl.graft(network, params"):
        assert part in str(error.value)


def test_tasks_and_data_that_it_cannot_learn_are_refused(staged, films) -> None:
    with pytest.raises(TransferlabError, match=r"(?s)came without preprocessing.*transform="):
        tl.adapt(staged, films)
    with pytest.raises(TransferlabError, match="can be adapted to these tasks"):
        tl.adapt(staged, films, task=tl.tasks.MaskedLanguageModel())
    numbers = tl.dataset({"x": X, "label": X[:, 0].tolist()}, label_kind="numbers")
    with pytest.raises(TransferlabError, match="output='hidden'"):
        tl.adapt(tl.from_tree(foreign.function_network(), foreign.function_parameters(jax.random.key(0))), numbers)
    assert tl.adapt(staged, numbers, settings=QUICK).fit(quiet=True).test["rmse"] > 0
