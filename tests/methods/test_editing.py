"""``tl.edit`` and ``tl.merge`` on modules of Flax NNX that were not written for transferlab."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import foreign

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.methods import DoRA, LoRA, PiSSA

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4, 3)), jnp.float32)
IDS = jnp.arange(8).reshape(2, 4)


A_CLASS: Any = nnx.Linear

LAYERS: dict[str, tuple[Callable[[nnx.Rngs], Any], Any, tuple[int, ...], tuple[int, ...], str]] = {
    "Linear": (lambda r: nnx.Linear(3, 5, rngs=r), IMAGES, (3,), (5,), "ir,ro->io"),
    "Linear without bias": (lambda r: nnx.Linear(3, 5, use_bias=False, rngs=r), IMAGES, (3,), (5,), "ir,ro->io"),
    "LinearGeneral": (
        lambda r: nnx.LinearGeneral((6, 3), (2, 5), axis=(1, -1), rngs=r), IMAGES, (6, 3), (2, 5), "itr,rop->itop",
    ),
    "Einsum": (
        lambda r: nnx.Einsum("nhwc,ocp->nhwop", (2, 3, 4), (2, 4), rngs=r), IMAGES, (3,), (2, 4), "cr,rop->ocp",
    ),
    "Einsum over two axes": (
        lambda r: nnx.Einsum("...wc,cow->...o", (3, 5, 4), rngs=r), IMAGES, (3, 4), (5,), "cwr,ro->cow",
    ),
    "Conv": (lambda r: nnx.Conv(3, 5, (3, 2), strides=2, rngs=r), IMAGES, (3, 2, 3), (5,), "hwir,ro->hwio"),
    "Conv, circular and dilated": (
        lambda r: nnx.Conv(3, 5, (3, 3), padding="CIRCULAR", kernel_dilation=2, rngs=r), IMAGES, (3, 3, 3), (5,), "hwir,ro->hwio",
    ),
    "Embed": (lambda r: nnx.Embed(9, 5, rngs=r), IDS, (9,), (5,), "ir,ro->io"),
}  # fmt: skip


def filled(layer: Any, seed: int = 1) -> Any:
    """An adapted layer as training might have left it."""
    rng = np.random.default_rng(seed)
    for variable in (layer.lora.a, layer.lora.b):
        variable.set_value(jnp.asarray(rng.normal(size=variable.shape), variable.dtype))
    if layer.lora.magnitude is not None:
        layer.lora.magnitude.set_value(layer.lora.magnitude[...] * 1.5)
    return layer


class Small(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Linear(4, 6, rngs=rngs)
        self.layers = nnx.List([foreign.Block(rngs) for _ in range(2)])
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def paths(module: nnx.Module, kind: Any = nnx.Param) -> set[str]:
    return {"/".join(map(str, place)) for place, _ in nnx.to_flat_state(nnx.state(module, kind))}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_what_it_was_then_the_sum_and_the_same_again_merged(name: str) -> None:
    make, x, inputs, outputs, sum_ = LAYERS[name]
    layer: Any = make(nnx.Rngs(0))
    leaf = "embedding" if name == "Embed" else "kernel"
    graph, names, before, y = nnx.graphdef(layer), paths(layer), getattr(layer, leaf).get_value(), layer(x)
    assert tl.edit(layer, LoRA(rank=2, alpha=6.0, targets=leaf)) is layer
    assert isinstance(layer, make(nnx.Rngs(1)).__class__) and paths(layer) == names | {"lora/a", "lora/b"}
    assert np.array_equal(layer(x), y)
    assert bool(layer.lora.a[...].any()) != (name == "Embed") and bool(layer.lora.b[...].any()) == (name == "Embed")
    filled(layer)
    a, b = np.asarray(layer.lora.a[...]).reshape(*inputs, 2), np.asarray(layer.lora.b[...]).reshape(2, *outputs)
    trained = layer(x)
    np.testing.assert_allclose(layer(np.asarray(x)), trained, rtol=1e-6)
    assert tl.merge(layer) is layer
    np.testing.assert_allclose(getattr(layer, leaf)[...], before + 3 * np.einsum(sum_, a, b), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer(x), trained, rtol=1e-5, atol=2e-5)
    assert float(jnp.abs(trained - y).max()) > 0.1
    assert nnx.graphdef(layer) == graph and paths(layer) == names


@pytest.mark.parametrize("name", ["Linear", "Linear without bias", "LinearGeneral", "Einsum", "Conv"])
def test_doras_columns_have_the_magnitudes_length(name: str) -> None:
    make, x, *_ = LAYERS[name]
    layer: Any = make(nnx.Rngs(0))
    y = layer(x)
    tl.edit(layer, DoRA(rank=2, targets="kernel"))
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-6)
    layout = layer.lora.adapter.layout
    np.testing.assert_allclose(
        layer.lora.magnitude[...], np.linalg.norm(layout.matrix(layer.kernel[...]), axis=0), rtol=1e-6
    )
    trained, magnitude = filled(layer)(x), layer.lora.magnitude[...]
    tl.merge(layer)
    np.testing.assert_allclose(np.linalg.norm(layout.matrix(layer.kernel[...]), axis=0), magnitude, rtol=1e-5)
    np.testing.assert_allclose(layer(x), trained, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["LinearGeneral", "Conv", "Embed"])
def test_pissa_takes_the_largest_singular_values_out_of_the_kernel(name: str) -> None:
    make, x, *_ = LAYERS[name]
    layer: Any = make(nnx.Rngs(0))
    y, leaf = layer(x), "embedding" if name == "Embed" else "kernel"
    before = getattr(layer, leaf).get_value()
    tl.edit(layer, PiSSA(rank=2, targets=leaf))
    layout = layer.lora.adapter.layout
    whole, rest = (
        np.linalg.svd(layout.matrix(value), compute_uv=False) for value in (before, getattr(layer, leaf)[...])
    )
    np.testing.assert_allclose(rest[:-2], whole[2:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer(x), y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(getattr(tl.merge(layer), leaf)[...], before, rtol=1e-4, atol=1e-5)
    with pytest.raises(TransferlabError, match="needs the kernel's values: edit the module outside of jit"):
        nnx.eval_shape(lambda: tl.edit(make(nnx.Rngs(0)), PiSSA(rank=2, targets=leaf)))


def test_a_table_is_adapted_as_an_output_layer_too() -> None:
    layer: Any = filled(tl.edit(nnx.Embed(9, 5, rngs=nnx.Rngs(0)), LoRA(rank=2, targets="embedding")))
    query = jnp.ones((3, 5))
    logits = layer.attend(query)
    np.testing.assert_allclose(tl.merge(layer).attend(query), logits, rtol=1e-5, atol=1e-5)


def test_a_whole_module_keeps_its_paths_values_and_statistics() -> None:
    plain, module = Small(nnx.Rngs(0)), Small(nnx.Rngs(0))
    x = jnp.ones((4, 4))
    tl.edit(module, LoRA(rank=2, targets="embed | layers/1/**", dropout=0.5), seed=nnx.Rngs(5))
    adapted = ("embed", "layers/1/linear")
    assert paths(module) - paths(plain) == {f"{path}/lora/{leaf}" for path in adapted for leaf in "ab"}
    assert paths(module, nnx.BatchStat) == paths(plain, nnx.BatchStat)
    for place, leaf in nnx.to_flat_state(nnx.state(plain)):
        if not isinstance(leaf, nnx.RngState):
            assert np.array_equal(dict(nnx.to_flat_state(nnx.state(module)))[place].get_value(), leaf.get_value())
    for one in (plain, module):
        one.eval()
    assert np.array_equal(module(x), plain(x))
    other = tl.edit(Small(nnx.Rngs(0)), LoRA(rank=2, targets="embed"), seed=5)
    assert not np.array_equal(module.embed.lora.a[...], other.embed.lora.a[...])  # type: ignore[attr-defined]


class Active(nnx.Linear):
    """A class on Flax's layer that does more than it."""

    def __call__(self, inputs: jax.Array, factor: float = 1.0) -> jax.Array:
        return nnx.relu(super().__call__(inputs)) * factor


class Hidden(Active):
    pass


@pytest.mark.parametrize("method", [LoRA(rank=2, targets="kernel"), DoRA(rank=2, targets="kernel")])
def test_a_class_with_a_call_of_its_own_makes_it_of_the_adapted_kernel(method: LoRA) -> None:
    layer: Any = Hidden(3, 5, rngs=nnx.Rngs(0))
    y = layer(IMAGES)
    tl.edit(layer, method)
    np.testing.assert_allclose(layer(IMAGES), y, rtol=1e-5, atol=1e-6)
    trained = filled(layer)(IMAGES, factor=2.0)
    tl.merge(layer)
    assert type(layer) is Hidden and float(trained.min()) == 0.0 < float(jnp.abs(trained - 2 * y).max())
    np.testing.assert_allclose(layer(IMAGES, factor=2.0), trained, rtol=1e-5, atol=1e-5)


def test_dropout_acts_on_the_adapters_input_in_training_alone() -> None:
    layer: Any = tl.edit(nnx.Linear(3, 5, rngs=nnx.Rngs(0)), LoRA(rank=2, targets="kernel", dropout=0.5))
    x, start = jnp.ones((64, 3)), nnx.Linear(3, 5, rngs=nnx.Rngs(0))(jnp.ones((64, 3)))
    layer.train()
    assert np.array_equal(layer(x), start)  # b is zero: nothing is dropped from the layer's own input
    filled(layer)
    drawn = layer(x)
    assert len(np.unique(np.asarray(drawn)[:, 0].round(4))) > 2 and not np.array_equal(layer(x), drawn)
    layer.eval()
    assert len(np.unique(np.asarray(layer(x))[:, 0].round(4))) == 1


def test_jit_grad_split_and_shapes_see_an_adapted_module_as_any_other() -> None:
    def make() -> Small:
        return tl.edit(Small(nnx.Rngs(0)), LoRA(rank=2, targets="**/kernel", dropout=0.1))

    abstract = nnx.eval_shape(make)
    shapes = nnx.eval_shape(lambda: Small(nnx.Rngs(0)))
    assert nnx.graphdef(tl.edit(shapes, LoRA(rank=2, targets="**/kernel", dropout=0.1))) == nnx.graphdef(abstract)
    assert isinstance(shapes.embed.lora.a.get_value(), jax.ShapeDtypeStruct)  # type: ignore[attr-defined]
    assert not paths(tl.merge(shapes)) - paths(nnx.eval_shape(lambda: Small(nnx.Rngs(0))))
    module, x = make(), jnp.ones((4, 4))
    module.eval()
    expected = module(x)
    graph, adapters, rest = nnx.split(module, nnx.LoRAParam, ...)
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(module, x), expected, rtol=1e-5, atol=1e-5)

    def loss(adapters: Any) -> jax.Array:
        return (nnx.merge(graph, adapters, rest, copy=True)(x) ** 2).sum()

    gradients = jax.jit(jax.grad(loss))(adapters)
    moved = nnx.merge(graph, jax.tree.map(lambda p, g: p - 1e-5 * g, adapters, gradients), rest, copy=True)
    assert float((moved(x) ** 2).sum()) < float((expected**2).sum())
    trained = moved(x)
    assert np.array_equal(pickle.loads(pickle.dumps(moved))(x), trained)
    np.testing.assert_allclose(tl.merge(moved)(x), trained, rtol=1e-5, atol=1e-5)


class Stacked(nnx.Module):
    """Layers as ``nnx.scan`` runs them: one module, whose kernels have an axis of layers."""

    def __init__(self, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def layers(rngs: nnx.Rngs) -> nnx.Linear:
            return nnx.Linear(4, 4, rngs=rngs)

        self.layers = layers(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        scan: Any = nnx.scan(lambda x, layer: jnp.tanh(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return scan(x, self.layers)


@pytest.mark.parametrize(
    "method",
    [LoRA(rank=2, targets="layers", dropout=0.5), DoRA(rank=2, targets="layers"), PiSSA(rank=2, targets="layers")],
)
def test_stacked_layers_have_an_adapter_each(method: LoRA) -> None:
    module: Any = Stacked(nnx.Rngs(0))
    x = jnp.linspace(-1, 1, 8).reshape(2, 4)
    y = module(x)
    tl.edit(module, method)
    assert module.layers.lora.a.shape == (3, 4, 2) and module.layers.lora.b.shape == (3, 2, 4)
    np.testing.assert_allclose(module(x), y, rtol=1e-5, atol=1e-6)
    filled(module.layers)
    module.train()
    assert np.array_equal(module(x), module(x)) == (method.dropout == 0)
    module.eval()
    trained = module(x)
    np.testing.assert_allclose(tl.merge(module)(x), trained, rtol=1e-5, atol=1e-5)


def test_low_precision_stays_what_it_is_and_its_adapters_are_float32() -> None:
    layer: Any = nnx.Linear(3, 5, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 3), jnp.bfloat16)
    y = layer(x)
    tl.edit(layer, LoRA(rank=2, targets="kernel"))
    assert layer.lora.a.dtype == jnp.float32 and layer(x).dtype == y.dtype == jnp.bfloat16
    assert np.array_equal(layer(x), y)
    assert tl.merge(filled(layer)).kernel.dtype == jnp.bfloat16


class Other(LoRA):
    def edit(self, module: Any) -> None:
        raise AssertionError("never called")


class Tied(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Linear(3, 3, rngs=rngs)
        self.output = nnx.Linear(3, 3, rngs=rngs)
        self.output.kernel = self.embed.kernel


class Odd(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.depthwise = nnx.Conv(4, 4, (3,), feature_group_count=4, rngs=rngs)
        self.up = nnx.ConvTranspose(4, 4, (3,), rngs=rngs)
        self.batched = nnx.LinearGeneral(4, 4, batch_axis={0: 2}, rngs=rngs)
        self.experts = nnx.Einsum("end,edf->enf", (2, 4, 4), rngs=rngs)
        self.lora_linear = nnx.LoRALinear(4, 4, lora_rank=2, rngs=rngs)
        self.plain = nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 4, rngs=rngs)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda: tl.edit(Small(nnx.Rngs(0)), LoRA()), r"matches no leaf.*kernels of this module: embed/kernel, layers/0/linear/kernel, layers/1/linear/kernel.*\n  >>> tl.edit\(module, tl.methods.LoRA\(targets='\*\*/kernel'\)\)"),
        (lambda: tl.edit(Small(nnx.Rngs(0)), LoRA(targets="embed/kernel | layers/0/norm")), "selects no kernel outside the head, only such as 'layers/0/norm/bias'"),
        (lambda: tl.edit(Odd(nnx.Rngs(0)), LoRA(targets="head")), "selects no kernel outside the head"),
        (lambda: tl.edit(Odd(nnx.Rngs(0)), LoRA(targets="depthwise")), r"'depthwise/kernel' cannot have an adapter: it has 4 groups.*Leave it out: .*\(depthwise\) & ~depthwise/kernel"),
        (lambda: tl.edit(Odd(nnx.Rngs(0)), LoRA(targets="up")), "no adapter fits a ConvTranspose"),
        (lambda: tl.edit(Odd(nnx.Rngs(0)), LoRA(targets="batched")), r"a kernel for each index of axes \(0,\)"),
        (lambda: tl.edit(Odd(nnx.Rngs(0)), LoRA(targets="experts")), "has a kernel for each 'e' of the input"),
        (lambda: tl.edit(Odd(nnx.Rngs(0)), LoRA(targets="lora_linear")), "LoRALinear has an attribute 'lora' of its own"),
        (lambda: tl.edit(nnx.LayerNorm(4, rngs=nnx.Rngs(0)), LoRA(targets="scale")), "has no kernel outside the head"),
        (lambda: tl.edit(nnx.Embed(4, 4, rngs=nnx.Rngs(0)), DoRA(targets="embedding")), "an adapter of DoRA: its rows are looked up"),
        (lambda: tl.edit(tl.edit(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), LoRA(targets="kernel")), LoRA(targets="kernel")), "'lora' is an adapter already.*tl.merge"),
        (lambda: tl.edit(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), tl.methods.Full()), "Full is no method with adapters: .*targets="),
        (lambda: tl.edit(A_CLASS, LoRA()), r"takes an nnx.Module or a network.*tl.function_network"),
        (lambda: tl.edit(Hidden(4, 4, rngs=nnx.Rngs(0)), LoRA(targets="kernel", dropout=0.1)), r"its Hidden has a __call__ of its own.*LoRA\(dropout=0.0\)"),
        (lambda: tl.edit(Small(nnx.Rngs(0)), Other(targets="**/kernel")), "Other edits models of transferlab in a way of its own"),
        (lambda: tl.merge(nnx.Linear(4, 4, rngs=nnx.Rngs(0))), "no adapters of tl.edit to merge"),
        (lambda: tl.edit(tl.models.BertConfig(num_hidden_layers=1).build(), LoRA()), "edited by its method: tl.adapt"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_named_with_the_line_that_mends_it(edit: Any, words: str) -> None:
    with pytest.raises(TransferlabError, match=r"(?s)" + words):
        edit()


def test_a_kernel_that_two_layers_share_is_refused_and_nothing_is_half_edited() -> None:
    module = Tied(nnx.Rngs(0))
    # Without Flax's graph mode such a module is refused by Flax itself.
    with pytest.raises((TransferlabError, ValueError), match=r"another layer has the same Param|Duplicate Param"):
        tl.edit(module, LoRA(targets="embed/kernel"))
    odd = Odd(nnx.Rngs(0))
    graph = nnx.graphdef(odd)
    with pytest.raises(TransferlabError, match="cannot have an adapter"):
        tl.edit(odd, LoRA(targets="plain | up"))
    assert nnx.graphdef(odd) == graph
