"""``tl.edit`` on networks: next to the layers of an NNX module, on the weights of Linen and of functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from support import foreign

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.methods import DoRA, LoRA, PiSSA
from transferlab.models.foreign import ForeignNetwork

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(8, foreign.INPUTS)), jnp.float32)
BATCH = {"inputs": {"x": X}, "targets": {"label": jnp.arange(8) % 3}}
LINEN: Any = foreign.LinenResidual()
NETWORKS: dict[str, tuple[Any, str]] = {
    "NNX": (foreign.nnx_network, "embed/kernel | layers/{0,2}/linear"),
    "Linen": (foreign.linen_network, "embed/kernel | layers_{0,2}/linear"),
    "a function": (foreign.function_network, "embed/kernel | layers/{0,2}"),
}


@pytest.fixture(autouse=True)
def three_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "DEPTH", 3)


def donor(network: ForeignNetwork) -> tuple[trees.Tree, trees.Tree]:
    """Arrays of a network, as training elsewhere left them."""
    return tuple(
        trees.unflatten({p: jnp.asarray(RNG.uniform(0.1, 0.5, s.shape), jnp.float32) for p, s in trees.walk(part)})
        for part in (network.params, network.state)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("staged", [True, False])
def test_an_edited_network_is_grafted_trained_and_merged_back(kind: str, staged: bool) -> None:
    make, targets = NETWORKS[kind]
    network = make() if staged else make(())
    edited = tl.edit(network, LoRA(rank=2, targets=targets, dropout=0.1))
    added = trees.flatten(edited.params).keys() - trees.flatten(network.params).keys()
    assert len(added) == 6 and all(path.split("/")[-2:] in (["lora", "a"], ["lora", "b"]) for path in added)
    assert trees.flatten(network.params).keys() < trees.flatten(edited.params).keys()
    params, state = donor(network)
    graft = tl.graft(edited, trees.join(params, state), initialise="**/lora/**")
    assert graft.totals()["by_action"]["initialised"] == 6
    assert ("no dropout on their input (dropout=0.1 has no effect)" in " ".join(str(graft).split())) == (kind != "NNX")
    ours, stats = graft.place(seed=3)
    expected = network(params, state, x=X)["logits"]
    assert np.array_equal(edited(ours, stats, x=X)["logits"], expected)
    step = tl.train_step(edited, tl.tasks.Classification(), "**/lora/** | head", optax.adam(1e-2))
    loop, frozen = step.init(ours, stats)
    update = jax.jit(step)
    loop, first = update(loop, frozen, BATCH)
    loop, second = update(loop, frozen, BATCH)
    assert float(first["loss"]) != float(second["loss"])
    trained = trees.join(loop["params"], frozen)
    moved = {path for path, leaf in trees.walk(trained) if not np.array_equal(leaf, trees.flatten(ours)[path])}
    assert moved == added | {"head/kernel", "head/bias"}
    merged = edited.merge(trained)
    assert trees.flatten(merged).keys() == trees.flatten(network.params).keys()
    np.testing.assert_allclose(
        edited(trained, loop["stats"], x=X)["logits"],
        network(merged, loop["stats"], x=X)["logits"],
        rtol=1e-5,
        atol=1e-5,
    )
    if staged and kind != "NNX":
        carry, after = edited.run(trained, loop["stats"], {"x": X}, stop=2)
        whole = edited.run(trained, after, carry, start=2, remat=True)[0]["logits"]
        np.testing.assert_allclose(whole, edited(trained, loop["stats"], x=X)["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("method", [DoRA, PiSSA])
def test_leaves_that_a_method_makes_of_kernels_are_made_of_those_that_are_placed(kind: str, method: type[LoRA]) -> None:
    make, _ = NETWORKS[kind]
    network = make()
    edited = tl.edit(network, method(rank=2, targets="embed"))
    params, state = donor(network)
    params["input"] = params.pop("embed")
    graft = tl.graft(edited, trees.join(params, state), rename={"embed": "input"}, initialise="**/lora/**")
    ours, stats = graft.place()
    kernel, placed = params["input"]["kernel"], ours["embed"]
    if method is DoRA:
        np.testing.assert_allclose(placed["lora"]["magnitude"], np.linalg.norm(kernel, axis=0), rtol=1e-6)
        assert "input/kernel (the length of each column" in " ".join(str(graft).split())
    else:
        singular = np.linalg.svd(placed["kernel"], compute_uv=False)
        np.testing.assert_allclose(singular[:2], np.linalg.svd(kernel, compute_uv=False)[2:], rtol=1e-3, atol=1e-5)
        assert graft.totals()["by_action"]["derived"] == 3
    params["embed"] = params.pop("input")
    np.testing.assert_allclose(
        edited(ours, stats, x=X)["logits"], network(params, state, x=X)["logits"], rtol=1e-4, atol=1e-4
    )


class Many(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Conv(6, (3, 3), name="conv")(x)
        x = linen.DenseGeneral((2, 3), axis=(1, -1), name="general")(x)
        x = linen.Einsum((5, 3, 6), "nwhd,odk->nwhok", name="einsum", use_bias=False)(x).sum((2, 3))
        x = linen.MultiHeadDotProductAttention(2, name="attention")(x, x)
        x = x + linen.Embed(4, 6, name="table")(jnp.arange(x.shape[1]))
        return linen.Dense(2, name="head")(linen.LayerNorm(name="norm")(x.mean(1)))


def test_linens_layers_tell_which_axes_of_a_kernel_are_in_and_out() -> None:
    network = tl.linen_network(Many(), jnp.zeros((1, 5, 4, 3)))
    edited = tl.edit(network, LoRA(rank=2, targets="**"))
    shapes = {path: leaf.shape for path, leaf in trees.walk(edited.params) if "/lora/" in path}
    kernels = {
        "conv": (27, 6), "general": (30, 6), "einsum": (3, 30), "table": (4, 6), "attention/out": (6, 6),
        "attention/query": (6, 6), "attention/key": (6, 6), "attention/value": (6, 6),
    }  # fmt: skip
    assert shapes == {
        f"{path}/lora/{leaf}": shape
        for path, (n, m) in kernels.items()
        for leaf, shape in (("a", (n, 2)), ("b", (2, m)))
    }
    drawn = edited.initialise(["conv/lora/a", "conv/lora/b", "table/lora/a", "table/lora/b"], jax.random.key(0))
    assert not drawn["conv/lora/b"].any() and not drawn["table/lora/a"].any() and drawn["table/lora/b"].any()
    assert float(abs(drawn["conv/lora/a"]).max()) < 27**-0.5 < 1.2 * float(abs(drawn["conv/lora/a"]).max())
    drawn = {path: jnp.asarray(RNG.normal(size=leaf.shape), jnp.float32) for path, leaf in trees.walk(edited.params)}
    merged = trees.flatten(edited.merge(trees.unflatten(drawn)))
    a, b = np.asarray(drawn["einsum/lora/a"]), np.asarray(drawn["einsum/lora/b"]).reshape(2, 5, 6)
    np.testing.assert_allclose(
        merged["einsum/kernel"], drawn["einsum/kernel"] + 8 * np.einsum("dr,rok->odk", a, b), rtol=1e-4, atol=1e-5
    )


def test_a_weight_is_out_by_in_as_equinox_has_it_and_anything_else_in_by_out() -> None:
    params = {
        "first": {"weight": jnp.ones((5, 4)), "bias": jnp.ones((5, 1))},
        "second": {"w": jnp.ones((5, 3)), "b": jnp.ones(3)},
        "pair": {"one": jnp.ones((2, 3, 4)), "two": jnp.ones((3, 4))},
    }
    network = tl.function_network(
        lambda p, x: jnp.tanh(p["first"]["weight"] @ x.T).T @ p["second"]["w"], params, init=lambda key: params
    )
    edited = tl.edit(network, LoRA(rank=2, alpha=2.0, targets="**"))
    shapes = {path: leaf.shape for path, leaf in trees.walk(edited.params) if "lora" in path}
    assert shapes == {
        "first/lora/a": (4, 2), "first/lora/b": (2, 5), "second/lora/a": (5, 2), "second/lora/b": (2, 3),
        "pair/lora/one/a": (6, 2), "pair/lora/one/b": (2, 4), "pair/lora/two/a": (3, 2), "pair/lora/two/b": (2, 4),
    }  # fmt: skip
    leaves = edited.initialise(list(trees.flatten(edited.params)), jax.random.key(0))
    assert leaves["first/lora/a"].any() and not leaves["first/lora/b"].any()
    leaves |= {path: jnp.asarray(RNG.normal(size=shape), jnp.float32) for path, shape in shapes.items()}
    merged = edited.merge(trees.unflatten(leaves))
    product = np.asarray(leaves["first/lora/a"]) @ np.asarray(leaves["first/lora/b"])
    np.testing.assert_allclose(merged["first"]["weight"], 1 + product.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        edited(trees.unflatten(leaves), x=X)["logits"], network(merged, x=X)["logits"], rtol=1e-5
    )
    assert "'weight' are taken as (out, in, …)" in edited.notes[1]


def test_a_stage_that_owns_leaves_by_name_owns_their_adapters() -> None:
    params = {"w0": jnp.ones((4, 4)), "w1": jnp.ones((4, 4))}
    stages = [tl.stage(f"layer{i}", lambda p, x, i=i: x @ p[f"w{i}"], owns=f"w{i}") for i in range(2)]
    edited = tl.edit(tl.function_network(lambda p, x: x @ p["w0"] @ p["w1"], params, "x", stages), LoRA(targets="w1"))
    assert [stage.owns for stage in edited.stages] == [("w0",), ("w1", "lora/w1")]
    step = tl.train_step(edited, tl.tasks.Classification(), "lora/**", optax.sgd(0.1))
    assert step.training == {"layer1"}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda: tl.edit(tl.edit(foreign.nnx_network(), LoRA(targets="embed")), LoRA(targets="layers")), r"adapters already.*tl.edit\(network.base"),
        (lambda: tl.edit(foreign.linen_network(), LoRA()), r"matches no leaf.*kernels of this network: embed/kernel, .*\n  >>> tl.edit\(network, tl.methods.LoRA\(targets='\*\*/kernel'\)\)"),
        (lambda: tl.edit(foreign.function_network(), LoRA(targets="layers/2/bias")), "selects no kernel outside the head"),
        (lambda: tl.merge(tl.edit(foreign.nnx_network(), LoRA(targets="embed"))), r"params = network.merge\(params\)"),
        (lambda: tl.edit(LINEN, LoRA()), r"tl.edit\(tl.linen_network\(module, example\), method\)"),
        (lambda: tl.edit(foreign.function_network(), LoRA(targets="embed")).merge({"embed": {"kernel": X}}), "'embed/lora/a' is missing"),
        (lambda: tl.edit(tl.function_network(lambda p, x: x, {"a": {"w": X, "lora": {"a": X, "b": X}}}), LoRA(targets="a/w")), "has a leaf 'a/lora/a' already"),
        (lambda: tl.edit(tl.network(lambda rngs: nnx.Conv(4, 4, (1,), feature_group_count=2, rngs=rngs)), LoRA(targets="kernel")), r"2 groups.*tl.edit\(network, "),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_named_with_the_line_that_mends_it(edit: Any, words: str) -> None:
    with pytest.raises(TransferlabError, match=r"(?s)" + words):
        edit()
