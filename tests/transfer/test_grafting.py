"""``tl.graft``: leaves of any tree on any other, each accounted for, to the bit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen, nnx
from support import foreign

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.pytrees import named_leaves

RNG = np.random.default_rng(0)
LAYERS = [
    {"kernel": RNG.normal(size=(6, 6)).astype(np.float32), "bias": RNG.normal(size=6).astype(np.float32)}
    for _ in range(12)
]
"""Twelve layers, so that 10 and 11 come before 2 where numbers are sorted as texts."""


class Stack(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(12)])


class LinenStack(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(12):
            x = linen.Dense(6, name=f"layers_{i}")(x)
        return x


def restored(folder: Path) -> Any:
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder, {"layers": {str(i): layer for i, layer in enumerate(LAYERS)}})
        writer.wait_until_finished()
        return writer.restore(folder)


SOURCES = {
    "string keys": lambda folder: {"layers": {str(i): layer for i, layer in enumerate(LAYERS)}},
    "integer keys": lambda folder: {"layers": dict(enumerate(LAYERS))},
    "a list": lambda folder: {"layers": LAYERS},
    "an nnx.State": lambda folder: nnx.State(
        {"layers": {i: jax.tree.map(nnx.Param, layer) for i, layer in enumerate(LAYERS)}}
    ),
    "restored by Orbax": lambda folder: restored(folder / "checkpoint"),
    "on the device": lambda folder: jax.tree.map(jnp.asarray, {"layers": LAYERS}),
    "Linen's params": lambda folder: {f"layers_{i}": layer for i, layer in enumerate(LAYERS)},
}
ZEROS = jax.tree.map(np.zeros_like, {"layers": LAYERS})
TARGETS = {
    "nested dicts": lambda: {"layers": {str(i): layer for i, layer in enumerate(ZEROS["layers"])}},
    "shapes": lambda: jax.eval_shape(lambda: ZEROS),
    "an nnx.State": lambda: nnx.state(Stack(nnx.Rngs(0)), nnx.Param),
    "an NNX network": lambda: tl.network(Stack, stages=[tl.stage("layers/*", lambda m, x, i: m.layers[i](x))]),
    "a module": lambda: Stack(nnx.Rngs(0)),
    "a function's network": lambda: tl.function_network(lambda params, x: x, ZEROS),
    "a Linen network": lambda: tl.linen_network(LinenStack(), jnp.zeros((1, 6))),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("target", TARGETS)
def test_twelve_layers_pass_through_every_pair_of_doors_to_the_bit(source: str, target: str, tmp_path: Path) -> None:
    onto = TARGETS[target]()
    there, here = ("layers_" if "Linen" in door else "layers/" for door in (source, target))
    renames = {f"{here}{i}": f"{there}{i}" for i in range(12)} if there != here else {}
    graft = tl.graft(onto, SOURCES[source](tmp_path), rename=renames)
    placed = graft.place()
    if "network" in target:
        placed, state = placed
        assert state == {}
    else:
        assert jax.tree.structure(placed) == jax.tree.structure(onto)
    after = named_leaves(placed)[0]
    for i, layer in enumerate(LAYERS):
        for name, value in layer.items():
            assert np.array_equal(after[f"{here}{i}/{name}"], value)
    assert (
        graft.totals()["by_action"] == {"copied": 24} and graft.totals()["bytes_from_source"] == graft.totals()["bytes"]
    )


def test_linen_names_are_renamed_and_come_back() -> None:
    params: Any = LinenStack().init(jax.random.key(0), jnp.zeros((1, 6)))["params"]
    network = tl.linen_network(LinenStack(), jnp.zeros((1, 6)))
    renames = {f"layers_{i}": f"layers/{i}" for i in range(12)}
    onto, _ = tl.graft(network, {"layers": LAYERS}, rename=renames).place()
    assert all(np.array_equal(onto[f"layers_{i}"]["kernel"], layer["kernel"]) for i, layer in enumerate(LAYERS))
    back = tl.graft({"layers": ZEROS["layers"]}, params, rename={old: new for new, old in renames.items()}).place()
    assert np.array_equal(back["layers"][11]["kernel"], params["layers_11"]["kernel"])


def test_a_pretrained_source_becomes_part_of_a_network_of_ones_own(source: tl.pretrained.Source) -> None:
    class Mine(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            config = source.config
            self.word = nnx.Embed(config.vocab_size, config.hidden_size, rngs=rngs)
            self.norm = nnx.LayerNorm(config.hidden_size, rngs=rngs)
            self.head = nnx.Linear(config.hidden_size, 5, rngs=rngs)

    network = tl.network(Mine, "ids")
    rest = (
        "layers | embed/position | embed/token_type | pooler"
        if any(p.startswith("pooler") for p in source.leaves)
        else "layers | embed/position | embed/token_type"
    )
    graft = tl.graft(
        network, source, rename={"word": "embed/word", "norm": "embed/norm"}, initialise="head", unused=rest
    )
    params, _ = graft.place(seed=3)
    assert np.array_equal(params["word"]["embedding"], np.asarray(source.leaves["embed/word/embedding"]))
    assert np.array_equal(
        params["head"]["kernel"], network.initialise(["head/kernel"], jax.random.key(3))["head/kernel"]
    )
    said = str(graft)
    assert "initialised" in said and "copied" in said and "not used: layers/0" in said
    for row in graft.leaves:
        assert row.path in str(graft.table(whole=True).columns[0]._cells)


def test_leaves_can_be_made_of_others_and_a_tree_keeps_its_own() -> None:
    target = {"qkv": np.zeros((4, 12), np.float32), "head": np.full(3, 7.0, np.float32)}
    source = {name: RNG.normal(size=(4, 4)).astype(np.float32) for name in ("q", "k", "v")}
    rule = tl.Derived(("q", "k", "v"), "side by side", lambda *parts: np.concatenate(parts, 1))
    graft = tl.graft(target, source, derive={"qkv": rule}, initialise="head")
    placed = graft.place()
    assert np.array_equal(placed["qkv"], np.concatenate([source["q"], source["k"], source["v"]], 1))
    assert np.array_equal(placed["head"], target["head"])
    assert [(row.action, row.source) for row in graft.leaves] == [("kept", ()), ("derived", ("q", "k", "v"))]
    wrong = tl.Derived(("q",), "alone", lambda q: q)
    with pytest.raises(TransferlabError, match=r"'qkv' \(alone\) is \(4, 4\); the target has \(4, 12\)"):
        tl.graft(target, {"q": source["q"]}, derive={"qkv": wrong}, initialise="head").place()


def test_dtypes_are_the_targets_and_a_number_beyond_its_range_is_named() -> None:
    target = {"a": jax.ShapeDtypeStruct((2,), jnp.bfloat16), "b": jax.ShapeDtypeStruct((1,), jnp.float16)}
    source = {"a": np.array([1.0, 2.5]), "b": np.array([3.0])}
    graft = tl.graft(target, source)
    assert graft.leaves[0].reason == "float64 to bfloat16"
    assert graft.place()["a"].dtype == jnp.bfloat16
    with pytest.raises(TransferlabError, match=r"'b' .*float16"):
        tl.graft(target, {**source, "b": np.array([1e6])}).place()


def test_a_tree_of_numpys_own_dtypes_is_placed_in_those_that_jax_has() -> None:
    graft = tl.graft({"a": np.zeros(2)}, {"a": np.ones(2)})
    assert graft.leaves[0].dtype == "float32" and graft.leaves[0].bytes == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert graft.place()["a"].dtype == jnp.float32


def test_leaves_go_straight_into_shards() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    network = foreign.nnx_network()
    source = {"embed": {"kernel": np.ones((4, 6), np.float32), "bias": np.zeros(6)}}
    asked = []

    def sharding(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        asked.append(path)
        return (
            cut
            if shape and path.startswith(("embed", "head"))
            else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        )

    params, state = tl.graft(network, source, initialise="layers | head").place(sharding=sharding)
    assert params["embed"]["kernel"].sharding == cut and params["head"]["kernel"].sharding == cut
    assert set(asked) == {*trees.flatten(params), *trees.flatten(state)}


def stack(*names: str) -> dict[str, np.ndarray]:
    return {name: np.zeros(2, np.float32) for name in names}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tl.graft(stack("trunk", "head"), stack("trunk")), r"1 problem:\n  'head' \(2,\) is not in the source.*initialise="),
        (lambda: tl.graft(stack("trunk"), stack("trunk", "neck")), r"'neck' \(2,\) of the source has no place in the target"),
        (lambda: tl.graft(stack("a", "b"), stack("c", "d")), "4 problems"),
        (lambda: tl.graft({"a": np.zeros((3, 2))}, stack("a")), r"'a' is \(2,\) in the source and \(3, 2\) in the target"),
        (lambda: tl.graft(stack("a"), stack("b"), rename={"a": "bb"}), "no leaf of the source is at or below 'bb'.*'b'"),
        (lambda: tl.graft(stack("a"), stack("b"), rename={"aa": "b"}), "no leaf of the target is at or below 'aa'"),
        (lambda: tl.graft(stack("a"), stack("a"), initialise="heads"), "matches no leaf"),
        (lambda: tl.graft(stack("a"), stack("a"), unused="depth < 2"), "no stages were given"),
        (lambda: tl.graft(jax.eval_shape(lambda: stack("a", "b")), stack("a"), initialise="b"), "'b' .* has no initial value"),
        (lambda: tl.graft(stack("a"), jax.eval_shape(lambda: stack("a"))), "'a' of the source is a shape without values"),
        (lambda: tl.graft(stack("a"), {"a": 1.0}), "'a' of the source is '1.0', not an array"),
        (lambda: tl.graft({}, stack("a")), "The target has no leaves"),
        (lambda: tl.graft(stack("a"), foreign.nnx_network()), "The source is a network, which has no weights"),
        (lambda: tl.graft(Random(nnx.Rngs(0)), stack("a")), "is a random key; pass parameters alone"),
        (lambda: tl.graft(stack("a"), stack("b"), derive={"c": tl.Derived(("b",), "", np.copy)}), "derive names 'c', which the target lacks"),
        (lambda: tl.graft(stack("a"), stack("b"), derive={"a": tl.Derived(("bb",), "", np.copy)}), "of 'bb', which the source lacks.*'b'"),
    ],
)  # fmt: skip
def test_what_does_not_match_is_one_error_that_names_all_of_it(make: Any, words: str) -> None:
    with pytest.raises(TransferlabError, match=r"(?s)" + words):
        make()


class Random(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.dropout = nnx.Dropout(0.1, rngs=rngs)


def test_a_grafted_trunk_is_frozen_in_a_loop_of_ones_own() -> None:
    """Flax's transfer guide in one test: graft, label, partition, train."""
    network = tl.network(lambda rngs: foreign.Residual(rngs, classes=2), "x")
    donor = nnx.state(foreign.Residual(nnx.Rngs(5)), (nnx.Param, nnx.BatchStat))
    params, state = tl.graft(network, donor, initialise="head", unused="head").place(seed=1)
    names = tl.labels(params, {"head": "head"}, rest="frozen")
    optimizer = optax.partition({"head": optax.adam(0.1), "frozen": optax.set_to_zero()}, names)
    x, y = jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32), jnp.arange(8) % 2

    @jax.jit
    def step(params: Any, moments: Any) -> tuple[Any, Any, jax.Array]:
        def loss(params: Any) -> jax.Array:
            logits = network(params, state, x=x)["logits"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, value

    before, moments, losses = params, optimizer.init(params), []
    for _ in range(20):
        params, moments, value = step(params, moments)
        losses.append(float(value))
    assert losses[-1] < losses[0] - 0.1
    for path, leaf in trees.walk(params):
        assert np.array_equal(leaf, trees.flatten(before)[path]) == (not path.startswith("head"))


def twelve_layers() -> tuple[Any, Any, Any]:
    """A network, parameters that came through a graft, and the gradient function of a loss on all of them."""
    network = foreign.function_network()
    source = foreign.function_parameters(jax.random.key(5))
    params, _ = tl.graft(network, source).place()
    x, y = jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32), jnp.arange(8) % 3

    def loss(params: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(network(params, x=x)["logits"], y).mean()

    return network, params, (jax.jit(jax.grad(loss)), {"inputs": {"x": x}, "targets": {"label": y}})


def moved(before: Any, after: Any) -> set[str]:
    """The top folders of the leaves that differ in any bit."""
    leaves = trees.flatten(after)
    return {path.split("/")[0] for path, leaf in trees.walk(before) if not np.array_equal(leaf, leaves[path])}


def trained(rule: optax.GradientTransformation, params: Any, gradient: Any) -> Any:
    moments = rule.init(params)
    for _ in range(3):
        updates, moments = rule.update(gradient(params), moments, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_frozen_leaves_keep_every_bit_under_labels_under_both_masks_and_in_our_step(decay: float) -> None:
    network, params, (gradient, batch) = twelve_layers()
    rule = optax.adamw(1e-2, weight_decay=decay)
    names = tl.labels(params, {"head": "head"}, rest="frozen")
    partition = optax.partition({"head": rule, "frozen": optax.set_to_zero()}, names)
    assert moved(params, trained(partition, params, gradient)) == {"head"}
    inside, outside = tl.select("head").mask(params), tl.select("~head").mask(params)
    masks = optax.chain(optax.masked(rule, inside), optax.masked(optax.set_to_zero(), outside))
    assert moved(params, trained(masks, params, gradient)) == {"head"}
    step = tl.train_step(network, tl.tasks.Classification(), "head", rule)
    (state, frozen), update = step.init(params), jax.jit(step)
    for _ in range(3):
        state, _ = update(state, frozen, batch)
    assert moved(params, trees.join(state["params"], frozen)) == {"head"}


def test_one_mask_alone_hands_on_the_gradients_of_what_it_leaves_out() -> None:
    _, params, (gradient, _) = twelve_layers()
    rule = optax.masked(optax.adam(1e-2), tl.select("head").mask(params))
    gradients = gradient(params)
    updates, _ = rule.update(gradients, rule.init(params), params)
    assert moved(gradients, updates) == {"head"}  # all others are the gradients themselves: no rate, and the wrong sign
    assert moved(params, trained(rule, params, gradient)) == {"embed", "head", "layers"}
