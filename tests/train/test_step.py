"""``tl.train_step``: our update in a loop of one's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import foreign

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError

RNG = np.random.default_rng(0)
X, Y = jnp.asarray(RNG.normal(size=(8, foreign.INPUTS)), jnp.float32), jnp.asarray(RNG.integers(0, 3, 8))
BATCH = {"inputs": {"x": X}, "targets": {"label": Y}}


def started(network: Any) -> tuple[trees.Tree, trees.Tree]:
    paths = [*trees.flatten(network.params), *trees.flatten(network.state)]
    leaves = network.initialise(paths, jax.random.key(0))
    inside = trees.flatten(network.params)
    return (
        trees.unflatten({p: leaves[p] for p in inside}),
        trees.unflatten({p: leaves[p] for p in paths if p not in inside}),
    )


def test_a_step_is_the_gradient_of_the_mean_cross_entropy_of_what_trains() -> None:
    network = foreign.function_network()
    params, state = started(network)
    step = tl.train_step(network, tl.tasks.Classification(), "head | layers/11", optax.sgd(0.5))
    loop, frozen = step.init(params, state)
    after, metrics = jax.jit(step)(loop, frozen, BATCH)

    def loss(trains: Any) -> jax.Array:
        logits = network(trees.join(trains, frozen), x=X)["logits"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

    value, grads = jax.value_and_grad(loss)(loop["params"])
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.global_norm(grads), rtol=1e-5, atol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, loop["params"], grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), after["params"], expected)
    assert set(trees.flatten(after["params"])) == {
        f"{part}/{leaf}" for part in ("head", "layers/11") for leaf in ("kernel", "bias")
    }
    assert int(after["step"]) == 1


def test_padding_does_not_count_and_statistics_move_only_where_leaves_train() -> None:
    network = foreign.nnx_network()
    params, state = started(network)
    step = jax.jit(tl.train_step(network, tl.tasks.Classification(), "head | layers/11", optax.adam(1e-2)))
    loop, frozen = tl.train_step(network, tl.tasks.Classification(), "head | layers/11", optax.adam(1e-2)).init(
        params, state
    )
    after, first = step(loop, frozen, BATCH, 0)
    moved = {p for p, x in trees.walk(after["stats"]) if not np.array_equal(x, trees.flatten(state)[p])}
    assert moved == {"layers/11/norm/mean", "layers/11/norm/var"}
    _, second = step(loop, frozen, BATCH, 0)
    assert float(first["loss"]) == float(second["loss"]) != float(step(loop, frozen, BATCH, 1)[1]["loss"])
    assert not np.array_equal(after["params"]["head"]["kernel"], loop["params"]["head"]["kernel"])
    plain = foreign.function_network()
    params, _ = started(plain)
    step = tl.train_step(plain, tl.tasks.Classification(), "head", optax.sgd(0.1))
    loop, frozen = step.init(params)
    padded = {
        "inputs": {"x": jnp.concatenate([X, jnp.full((3, foreign.INPUTS), 9.0)])},
        "targets": {"label": jnp.concatenate([Y, jnp.zeros(3, Y.dtype)])},
        "weight": jnp.concatenate([jnp.ones(8), jnp.zeros(3)]),
    }
    (one, whole), (two, same) = step(loop, frozen, BATCH), step(loop, frozen, padded)
    np.testing.assert_allclose(whole["accuracy"], same["accuracy"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one["params"], two["params"])


def test_groups_have_rules_of_their_own_by_labels() -> None:
    network = foreign.function_network()
    params, _ = started(network)
    trains = "head | depth >= -2"
    names = tl.labels(trees.split_by(params, tl.train_step(network, tl.tasks.Classification(), trains, optax.sgd(1.0)).trainable)[0],
                      {"head": "head"}, rest="trunk")  # fmt: skip
    rule = optax.partition({"head": optax.sgd(0.1), "trunk": optax.set_to_zero()}, names)
    step = tl.train_step(network, tl.tasks.Classification(), trains, rule)
    loop, frozen = step.init(params)
    after, _ = jax.jit(step)(loop, frozen, BATCH)
    before = trees.flatten(loop["params"])
    assert {p.split("/")[0] for p, x in trees.walk(after["params"]) if not np.array_equal(x, before[p])} == {"head"}


def test_what_cannot_be_stepped_is_refused() -> None:
    network = foreign.function_network()
    with pytest.raises(TransferlabError, match="matches no leaf"):
        tl.train_step(network, tl.tasks.Classification(), "heda", optax.sgd(0.1))
    hidden = tl.function_network(
        foreign.function, jax.eval_shape(foreign.function_parameters, jax.random.key(0)), output="hidden"
    )
    with pytest.raises(TransferlabError, match="output is 'hidden'"):
        tl.train_step(hidden, tl.tasks.Classification(), "head", optax.sgd(0.1))
