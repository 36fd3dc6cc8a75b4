"""The step: gradients in parts are those of the whole, and bfloat16 is where it is meant to be and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import write_bert

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.train import Optimizer, Settings
from transferlab.train.fit import prepare
from transferlab.transfer.groups import Group

QUICK = Settings(learning_rate=1e-2, steps=6, batch_size=8, log_every=1)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory):
    """A BERT without dropout, so that nothing but the arithmetic can differ."""
    folder = tmp_path_factory.mktemp("still") / "bert"
    return tl.load(write_bert(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


@dataclass(frozen=True)
class LastLayer(tl.methods.Full):
    """Trains from the middle on, so that a carry with tokens is cached."""

    def groups(self) -> tuple[Group, ...]:
        return (Group("layers/1"), Group("head"))


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("method", [tl.methods.Full(), tl.methods.Probe()])
def test_gradients_in_parts_are_not_those_of_the_whole_batch(still, films, method, parts: int) -> None:
    # 13 examples in batches of 8: the second batch has 5 rows and 3 of padding, spread unevenly over its parts.
    data = films.subset(13, 0)
    whole, pieces = (
        tl.adapt(still, data, method=method, settings=replace(QUICK, accumulate=n)).fit() for n in (1, parts)
    )
    for one, other in zip(whole.history, pieces.history, strict=True):
        for name in ("loss", "accuracy", "gradient_norm"):
            assert one[name] == pytest.approx(other[name], rel=2e-4, abs=1e-5)
    np.testing.assert_allclose(whole.probabilities, pieces.probabilities, atol=2e-4)


def test_parts_that_do_not_divide_the_batch_are_taken() -> None:
    with pytest.raises(TransferlabError, match="accumulate is 3; it must divide the batch size 8"):
        Settings(batch_size=8, accumulate=3)


@pytest.mark.parametrize("method", [tl.methods.Full(), tl.methods.LoRA(rank=2), LastLayer(), tl.methods.Probe()])
def test_bfloat16_reaches_masters_or_misses_the_arithmetic(still, films, method) -> None:
    data = films.subset(24, 0)
    exact, coarse = (
        tl.adapt(still, data, method=method, settings=replace(QUICK, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    member, state = prepare(coarse, {})
    assert {leaf.dtype for leaf in jax.tree.leaves(state["params"])} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state["optimizer"])} <= {
        jnp.dtype(jnp.float32),
        jnp.dtype(jnp.int32),
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(member.frozen)} <= {jnp.dtype(jnp.bfloat16)}
    first, second = exact.fit(), coarse.fit()
    losses = [[row["loss"] for row in result.history] for result in (first, second)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[0], losses[1], atol=0.05)
    assert second.params is not None
    assert {leaf.dtype for leaf in trees.flatten(second.params).values()} == {jnp.dtype(jnp.float32)}
    if exact.decision.cached:
        assert coarse.decision.bytes_per_example < exact.decision.bytes_per_example


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_tap_whose_name_is_a_path_is_lost_on_the_way_to_the_head(still, films, monkeypatch, precision: str) -> None:
    """Features of every stage with a frontier in the middle: the carry holds the taps of the frozen stages."""
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    settings = replace(QUICK, precision=precision, learning_rate=0.3, optimizer=Optimizer("sgd"))
    data = films.subset(16, 0)
    runs = [
        tl.adapt(still, data, method=LastLayer(pooling="stages"), settings=replace(settings, cache_bytes=size))
        for size in (1 << 30, 0)
    ]
    assert [run.decision.cached for run in runs] == [True, False]
    cached, recomputed = (run.fit().probabilities for run in runs)
    np.testing.assert_allclose(cached, recomputed, atol=2e-5 if precision == "float32" else 2e-2)


def test_a_cached_bfloat16_carry_comes_back_as_bytes(still, films, tmp_path: Path, monkeypatch) -> None:
    from transferlab.transfer.cache import FrontierCache

    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    data = films.subset(16, 0)
    for method in (LastLayer(), tl.methods.Probe()):
        results, counts = [], []
        for _ in range(2):
            run = tl.adapt(still, data, method=method, settings=replace(QUICK, precision="bfloat16"))
            run.cache = FrontierCache(tmp_path)
            results.append(run.fit())
            counts.append(run.cache.computed)
        # The second process, as it were, read what the first had written.
        assert counts == [16 + len(data.test), 0]
        np.testing.assert_array_equal(results[0].probabilities, results[1].probabilities)


def test_batch_statistics_are_kept_in_bfloat16() -> None:
    from transferlab.models.layers import BatchNorm

    definition = trees.define(BatchNorm(3, eps=1e-3, momentum=0.1))
    params = definition.initialise(["scale", "bias"], jax.random.key(0))
    model = definition.merge(params, definition.initialise(["mean", "var"], jax.random.key(0)), compute="bfloat16")
    out = model(jnp.ones((4, 3), jnp.bfloat16) * jnp.arange(4)[:, None], jax.random.key(0))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in trees.flatten(trees.state_of(model)).values()} == {jnp.dtype(jnp.float32)}
    with pytest.raises(TransferlabError, match=r"'scale' is \(3,\) float16, expected \(3,\) float32"):
        definition.merge({**params, "scale": params["scale"].astype(jnp.float16)}, {}, partial=True, compute="bfloat16")
