"""Convolutions and batch norm: the fast form on CPU is the convolution it stands for, and statistics ignore padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferlab import trees
from transferlab.models.convolutions import Conv, DepthwiseConv
from transferlab.models.norms import BatchNorm

KEY = jax.random.key(0)


def filled(module, seed: int = 0):
    """The module with parameters drawn and batch statistics away from their start."""
    definition = trees.define(module)
    rng = np.random.default_rng(seed)

    def draw(tree):
        flat = trees.flatten(tree)
        return trees.unflatten({p: jnp.asarray(rng.uniform(0.5, 1.5, v.shape), v.dtype) for p, v in flat.items()})

    return definition.merge(draw(definition.params), draw(definition.state))


def pixels(*shape: int, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_on_cpu_gives_the_numbers_and_gradients_of_a_grouped_convolution(kernel, stride, size, padding):
    x = pixels(3, *size, 4)
    weights = pixels(kernel, kernel, 1, 4, seed=1)

    def outputs(form: str):
        layer = trees.define(DepthwiseConv(4, kernel, stride=stride, padding=padding, form=form))
        y, back = jax.vjp(lambda x, k: layer.merge({"kernel": k})(x), x, weights)
        return y, *back(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    for got, want in zip(outputs("shifted"), outputs("grouped"), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)


def test_depthwise_on_cpu_works_under_vmap_over_members_with_their_own_kernels():
    x, weights = pixels(2, 7, 6, 3), pixels(4, 3, 3, 1, 3, seed=1)
    layer = trees.define(DepthwiseConv(3, 3, stride=2, form="shifted"))

    def loss(kernel):
        return jnp.square(layer.merge({"kernel": kernel})(x)).sum()

    together = jax.vmap(jax.grad(loss))(weights)
    alone = jnp.stack([jax.grad(loss)(kernel) for kernel in weights])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_depthwise_in_bfloat16_returns_and_differentiates_in_bfloat16():
    layer = trees.define(DepthwiseConv(3, 3, form="shifted"))
    kernel = pixels(3, 3, 1, 3, seed=1).astype(jnp.bfloat16)

    def loss(x, kernel):
        # The tree promises float32 leaves; the step casts after the merge, as here.
        model = layer.merge({"kernel": kernel.astype(jnp.float32)})
        model.kernel = model.kernel.replace(kernel)
        y = model(x)
        assert y.dtype == jnp.bfloat16
        return y.astype(jnp.float32).sum()

    dx, dkernel = jax.grad(loss, (0, 1))(pixels(2, 6, 6, 3).astype(jnp.bfloat16), kernel)
    assert dx.dtype == dkernel.dtype == jnp.bfloat16


@pytest.mark.parametrize(("length", "pads"), [(8, (0, 1)), (7, (1, 1)), (224, (0, 1))])
def test_same_padding_at_stride_two_puts_the_odd_pixel_after_the_image(length, pads):
    """TensorFlow pads an even side only at its end; torch's symmetric padding shifts every feature by a pixel."""
    x = np.zeros((1, length, length, 1), np.float32)
    x[0, 0, 0] = 1.0
    model = filled(Conv(1, 1, 3, stride=2))
    kernel = np.asarray(model.kernel[...])
    # The first pixel meets the tap that stands as far into the kernel as zeros were put before it.
    np.testing.assert_allclose(model(jnp.asarray(x))[0, 0, 0, 0], kernel[pads[0], pads[0], 0, 0], rtol=1e-6)
    assert model(jnp.asarray(x)).shape == (1, -(-length // 2), -(-length // 2), 1)


def test_frozen_batch_norm_keeps_its_statistics_and_uses_them():
    x = pixels(4, 3, 3, 2) * 3 + 1
    model = filled(BatchNorm(2, eps=1e-3, momentum=0.1))
    before = jax.tree.map(np.asarray, trees.state_of(model))
    alone, among = model(x[:1]), model(x)[:1]
    np.testing.assert_array_equal(alone, among)
    jax.tree.map(np.testing.assert_array_equal, before, trees.state_of(model))
    want = (np.asarray(x) - before["mean"]) / np.sqrt(before["var"] + 1e-3) * model.scale[...] + model.bias[...]
    np.testing.assert_allclose(model(x), want, rtol=1e-5, atol=1e-5)


def test_running_statistics_of_batch_norm_move_by_the_stated_momentum():
    x = pixels(4, 3, 5, 2) * 3 + 1
    model = filled(BatchNorm(2, eps=1e-3, momentum=0.1))
    before = jax.tree.map(np.asarray, trees.state_of(model))
    y = model(x, KEY)
    values = np.asarray(x, np.float64).reshape(-1, 2)
    after = trees.state_of(model)
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * values.var(0), rtol=1e-5)
    normal = (np.asarray(y) - model.bias[...]) / model.scale[...]
    np.testing.assert_allclose(normal.reshape(-1, 2).mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(normal.reshape(-1, 2).var(0), 1.0, atol=1e-3)


def test_padding_rows_do_not_leak_into_the_statistics_of_a_training_batch():
    x = pixels(3, 4, 4, 2) * 2 + 5
    padded = jnp.concatenate([x, jnp.full((5, 4, 4, 2), 1e3)])
    weight = jnp.array([1.0] * 3 + [0.0] * 5)
    one, other = filled(BatchNorm(2, eps=1e-3, momentum=0.1)), filled(BatchNorm(2, eps=1e-3, momentum=0.1))
    want, got = one(x, KEY), other(padded, KEY, weight)[:3]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    want_state, got_state = trees.state_of(one), trees.state_of(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got_state, want_state)


def test_a_part_that_is_all_padding_leaves_the_statistics() -> None:
    norm = filled(BatchNorm(3, eps=1e-3, momentum=0.1))
    before = np.asarray(norm.mean[...]), np.asarray(norm.var[...])
    norm(jnp.zeros((4, 2, 2, 3)), jax.random.key(0), jnp.zeros(4))
    np.testing.assert_array_equal(norm.mean[...], before[0])
    np.testing.assert_array_equal(norm.var[...], before[1])
