"""Somebody else's modules as networks: the same numbers as the module itself, whole and by stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from support import foreign

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models.backbone import frontier
from transferlab.models.foreign import ForeignNetwork
from transferlab.models.foreign.linen_module import LinenModule
from transferlab.models.foreign.nnx_module import NnxModule
from transferlab.models.network import Network
from transferlab.selectors import owns

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, foreign.INPUTS)), jnp.float32)
KINDS: dict[str, Callable[..., ForeignNetwork]] = {
    "nnx": foreign.nnx_network,
    "linen": foreign.linen_network,
    "function": foreign.function_network,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def started(network: ForeignNetwork, seed: int = 0) -> tuple[trees.Tree, trees.Tree]:
    paths = {**trees.flatten(network.params), **trees.flatten(network.state)}
    leaves = network.initialise(paths, jax.random.key(seed))
    params = {path: leaves[path] for path in trees.flatten(network.params)}
    return trees.unflatten(params), trees.unflatten({p: x for p, x in leaves.items() if p not in params})


def reference(kind: str, params: trees.Tree, state: trees.Tree) -> jax.Array:
    """What the module itself makes of ``X`` in evaluation, by its own library's means."""
    flat = {**trees.flatten(params), **trees.flatten(state)}
    if kind == "nnx":
        module = foreign.Residual(nnx.Rngs(7))
        graph, own = nnx.split(module)
        places = [
            (place, v.replace(flat.get("/".join(map(str, place)), v.get_value())))
            for place, v in nnx.to_flat_state(own)
        ]
        module = nnx.merge(graph, nnx.from_flat_state(places))
        module.eval()
        return module(X)
    if kind == "linen":
        out: Any = foreign.LinenResidual().apply({"params": params, "batch_stats": state}, X)
        return out
    layers = [params["layers"][str(i)] for i in range(foreign.DEPTH)]
    return foreign.function({**params, "layers": layers}, X)


def test_a_network_computes_what_its_module_does_whole_by_stages_and_from_any_stage_on(kind: str) -> None:
    network = KINDS[kind]()
    checked: Network = network  # pyright holds it to the protocol
    params, state = started(network)
    expected = reference(kind, params, state)
    assert np.array_equal(KINDS[kind](())(params, state, x=X)["logits"], expected)
    assert checked.divisible and [stage.name for stage in network.stages][:3] == ["embed", "layers/0", "layers/1"]
    for cut in (1, 6, 13):
        middle, _ = network.run(params, state, {"x": X}, stop=cut)
        # Leaves of stages that ran already are not needed.
        rest = {
            p: x
            for p, x in trees.walk(params)
            if not owns([own for stage in network.stages[:cut] for own in stage.owns], p)
        }
        out, _ = network.run(trees.unflatten(rest), state, middle, start=cut)
        np.testing.assert_allclose(out["logits"], expected, rtol=1e-5, atol=1e-5)


def test_leaves_start_as_the_module_starts_them_and_alone_as_together(kind: str) -> None:
    network = KINDS[kind]()
    params, state = started(network, seed=3)
    alone = network.initialise(
        ["layers/5/kernel" if kind == "function" else next(p for p in trees.flatten(params) if "5" in p)],
        jax.random.key(3),
    )
    ((path, value),) = alone.items()
    assert np.array_equal(value, trees.flatten(params)[path])
    if kind == "nnx":
        own = foreign.Residual(nnx.Rngs(jax.random.key(3)))
        assert np.array_equal(own.layers[11].linear.kernel[...], params["layers"]["11"]["linear"]["kernel"])
    if kind == "linen":
        own: Any = foreign.LinenResidual().init(jax.random.key(3), X)["params"]
        drawn = network.initialise(["layers_11/linear/kernel"], jax.random.key(3))["layers_11/linear/kernel"]
        assert drawn.shape == own["layers_11"]["linear"]["kernel"].shape and float(jnp.std(drawn)) > 0.1
    assert set(trees.flatten(state)) == set(trees.flatten(network.state))


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_stages_that_do_not_train_are_still_while_others_draw_and_move_their_statistics(kind: str) -> None:
    network = KINDS[kind]()
    params, state = started(network)
    last = frozenset(["layers/11", "head"])

    def run(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        out, after = network.run(params, state, {"x": X}, key=jax.random.key(seed, impl="threefry2x32"), training=last)
        return np.asarray(out["logits"]), trees.flatten(after)

    (first, after), (second, _), (again, _) = run(1), run(2), run(1)
    assert np.array_equal(first, again) and not np.array_equal(first, second)
    before = trees.flatten(state)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved and all("11" in path for path in moved)
    by_hand, _ = network.run(params, state, {"x": X}, stop=12)
    y = np.asarray(by_hand["hidden"]) @ flat(params, "11", "linear/kernel") + flat(params, "11", "linear/bias")
    mean = next(path for path in moved if path.endswith("mean"))
    np.testing.assert_allclose(after[mean], 0.5 * before[mean] + 0.5 * y.mean(0), rtol=1e-5, atol=1e-5)
    quiet, same = network.run(params, state, {"x": X}, key=jax.random.key(1), training=frozenset())
    assert np.array_equal(quiet["logits"], network(params, state, x=X)["logits"])
    assert all(np.array_equal(before[path], leaf) for path, leaf in trees.walk(same))


def flat(params: trees.Tree, number: str, name: str) -> np.ndarray:
    return next(np.asarray(x) for path, x in trees.walk(params) if number in path and path.endswith(name))


def test_an_nnx_module_of_one_stage_still_holds_frozen_statistics_and_linen_evaluates_whole() -> None:
    for make, owned in ((foreign.nnx_network, "layers/*"), (foreign.linen_network, "layers_*")):
        rules = [tl.stage("embed"), tl.stage("layers/*", owns=owned), tl.stage("head")]
        network = make(rules)
        assert not network.divisible and len(network.stages) == foreign.DEPTH + 2
        params, state = started(network)
        key, before = jax.random.key(0, impl="threefry2x32"), trees.flatten(state)
        _, after = network.run(params, state, {"x": X}, key=key, training=frozenset(["layers/11", "head"]))
        moved = {p for p, x in trees.walk(after) if not np.array_equal(before[p], x)}
        assert {p.split("/")[1] for p in moved} == ({"11"} if make is foreign.nnx_network else set())
        every = frozenset(stage.name for stage in network.stages)
        _, after = network.run(params, state, {"x": X}, key=key, training=every)
        assert all(not np.array_equal(before[p], x) for p, x in trees.walk(after))
        with pytest.raises(TransferlabError, match="runs as a whole"):
            network.run(params, state, {"x": X}, stop=3)


def test_gradients_are_the_same_with_activations_computed_again_and_vmap_goes_through(kind: str) -> None:
    network = KINDS[kind]()
    params, state = started(network)
    key, all_ = jax.random.key(0, impl="threefry2x32"), frozenset(stage.name for stage in network.stages)

    def loss(params: trees.Tree, remat: bool) -> jax.Array:
        return network.run(params, state, {"x": X}, key=key, training=all_, remat=remat)[0]["logits"].sum()

    plain, again = (jax.jit(jax.grad(loss), static_argnums=1)(params, remat) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, again)
    two = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    members = jax.vmap(lambda p: network(p, state, x=X)["logits"])(two)
    np.testing.assert_allclose(members[1], network(params, state, x=X)["logits"], rtol=1e-5, atol=1e-5)


def test_the_frontier_and_depth_follow_from_stages(kind: str) -> None:
    network = KINDS[kind]()
    leaf = next(path for path in trees.flatten(network.params) if "9" in path)
    assert frontier(network.stages, {leaf}) == 10
    mask = tl.select("depth >= -2").mask(network)
    chosen = {path for path, leaf in trees.walk(mask) if leaf}
    assert chosen and all("11" in path or "10" in path for path in chosen)


class Streams(nnx.Module):
    """Variables of a user's own, a table used twice, and a flag of the call."""

    def __init__(self, rngs: nnx.Rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (5, 4)))
        self.seen = Counter(jnp.zeros((), jnp.int32))
        self.scale = nnx.Variable(jnp.full((4,), 2.0))
        self.noise = rngs.noise.fork()

    def __call__(self, ids: jax.Array, weights: jax.Array, deterministic: bool) -> jax.Array:
        self.seen[...] = self.seen[...] + (0 if deterministic else 1)
        hidden = self.table[...][ids] * self.scale[...] * weights[:, None]
        if not deterministic:
            hidden = hidden + jax.random.normal(self.noise(), hidden.shape)
        return hidden @ self.table[...].T


class Counter(nnx.Variable):
    pass


def test_random_streams_own_variables_are_told_apart() -> None:
    network = tl.network(lambda rngs: Streams(rngs), ("ids", "weights"), training="deterministic")
    assert list(trees.flatten(network.params)) == ["table"]
    assert set(trees.flatten(network.state)) == {"seen", "scale"}
    params, state = started(network)
    ids, weights = jnp.array([0, 3]), jnp.array([1.0, 2.0])
    quiet = network(params, state, ids=ids, weights=weights)["logits"]
    table = params["table"]
    np.testing.assert_allclose(quiet, (table[ids] * 2.0 * weights[:, None]) @ table.T, rtol=1e-5, atol=1e-5)
    key = jax.random.key(0, impl="threefry2x32")
    out, after = network.run(params, state, {"ids": ids, "weights": weights}, key=key, training=["network"])
    assert int(after["seen"]) == 1 and not np.allclose(out["logits"], quiet)
    other, _ = network.run(params, state, {"ids": ids, "weights": weights}, key=jax.random.key(1), training=["network"])
    assert not np.allclose(out["logits"], other["logits"])


def test_a_function_with_state_and_keys_is_told_both() -> None:
    def apply(params: Any, state: Any, x: jax.Array, key: Any = None, training: bool = False) -> Any:
        noise = jax.random.normal(key, x.shape) if training else 0.0
        return (x + noise) * params["scale"], {"count": state["count"] + training}

    network = tl.function_network(apply, {"scale": jnp.ones(4)}, state={"count": jnp.zeros((), jnp.int32)})
    params, state = {"scale": jnp.full(4, 3.0)}, {"count": jnp.zeros((), jnp.int32)}
    np.testing.assert_allclose(network(params, state, x=X)["logits"], X * 3)
    out, after = network.run(params, state, {"x": X}, key=jax.random.key(0), training=["network"])
    assert int(after["count"]) == 1 and not np.allclose(out["logits"], X * 3)


class Stray(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.trunk, self.temperature = nnx.Linear(2, 2, rngs=rngs), nnx.Param(jnp.ones(()))


class Plain(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear, self.scale = nnx.Linear(2, 2, rngs=rngs), jnp.ones(2)


def without_parameters() -> Any:
    return tl.linen_network(linen.Dropout(0.5, deterministic=True), jnp.zeros((1, 2)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tl.network(Stray, stages=[tl.stage("trunk")]), "'temperature' is owned by no stage"),
        (lambda: tl.network(Stray, stages=[tl.stage("trunk"), tl.stage("all", owns=["trunk/kernel", "temperature"])]), "'trunk/kernel' is owned by trunk and all"),
        (lambda: tl.network(Stray, stages=[tl.stage("trunck"), tl.stage("temperature")]), "The stage 'trunck' owns no leaf.*trunk"),
        (lambda: tl.network(Stray, stages=[tl.stage("layers/*")]), "The stage 'layers/\\*' owns no leaf"),
        (lambda: tl.network(Stray, stages=[tl.stage("trunk"), tl.stage("trunk")]), "Two stages are called 'trunk'"),
        (lambda: tl.network(Plain), "'scale' is a plain array.*nnx.Variable"),
        (lambda: NnxModule(Stray(nnx.Rngs(0)), ("x",), None), "takes the function that makes a module"),
        (lambda: NnxModule(lambda: Stray(nnx.Rngs(0)), ("x",), None), "tl.network calls create\\(rngs\\)"),
        (lambda: tl.network(Stray, output="logit"), "output is 'logit'.*'logits'"),
        (lambda: tl.network(Stray, inputs=()), "name what the module is called with"),
        (lambda: LinenModule(Stray, {"x": X}, None, ()), "takes an nn.Module"),
        (lambda: tl.linen_network(linen.Dense(2), (X, X)), "example has 2 inputs, and inputs names 1"),
        (without_parameters, "has no parameters"),
        (lambda: tl.function_network(foreign.function, {"rate": 0.1}), "'rate' is '0.1', not an array.*eqx.partition"),
        (lambda: tl.function_network(foreign.function, {"a": X}).initialise(["a"], jax.random.key(0)), "init=lambda key"),
        (lambda: foreign.function_network()({}, image=X), "The input '(image|x)' is (unknown|missing)"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_network_is_refused_with_the_line_that_mends_it(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(TransferlabError, match=words):
        make()
