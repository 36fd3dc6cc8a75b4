"""Layers that families share, against independent evaluations of their definitions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from transferlab import trees
from transferlab.models.attention import Attention
from transferlab.models.layers import FEW_ROWS, Embedding, LayerNorm, Linear, dropout, gelu, layer_norm, lookup, softmax

KEY = jax.random.key(3)


def filled(module, seed: int = 0):
    definition = trees.define(module)
    rng = np.random.default_rng(seed)
    flat = trees.flatten(definition.params)
    return definition.merge(
        trees.unflatten({p: jnp.asarray(rng.normal(0, 0.5, v.shape), jnp.float32) for p, v in flat.items()})
    )


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.013])
def test_dropout_misses_its_rate_or_changes_the_mean(rate: float) -> None:
    x = jnp.ones((1000, 300))
    kept = np.asarray(dropout(x, rate, KEY) > 0)
    n, sigma = kept.size, np.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) < 5 * sigma / np.sqrt(n)
    # No row and no column is dropped more than chance has it: 1300 sums within 5 standard deviations.
    for axis in (0, 1):
        sums = kept.sum(axis)
        m = kept.shape[axis]
        assert np.abs(sums - m * (1 - rate)).max() < 5 * sigma * np.sqrt(m)
    np.testing.assert_allclose(np.unique(dropout(x, rate, KEY)), [0, 1 / (1 - rate)], rtol=1e-6)


def test_dropout_decisions_depend_on_their_neighbours_or_on_another_keys() -> None:
    keys = [jax.random.fold_in(KEY, step) for step in range(8)]
    masks = [np.asarray(dropout(jnp.ones((512, 512)), 0.5, key) > 0).astype(np.float64) for key in keys]
    limit = 5 / np.sqrt(512 * 511)

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        return abs(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]))

    for mask in masks:
        for shift in (1, 2, 3, 16, 32, 64, 384):
            assert correlation(mask[:, shift:], mask[:, :-shift]) < limit * 2
            assert correlation(mask[shift:], mask[:-shift]) < limit * 2
    for i, first in enumerate(masks):
        for second in masks[i + 1 :]:
            assert correlation(first, second) < limit


def test_dropout_patterns_of_eight_neighbours_are_uneven() -> None:
    kept = np.asarray(dropout(jnp.ones(8 * 60_000), 0.5, KEY) > 0).reshape(-1, 8)
    counts = np.bincount(kept @ (1 << np.arange(8)), minlength=256)
    expected = len(kept) / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 255 - 5 * np.sqrt(510) < chi_square < 255 + 5 * np.sqrt(510)


def test_dropout_acts_in_evaluation_or_differs_under_vmap() -> None:
    x = jnp.arange(12.0).reshape(3, 4)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, KEY) is x
    keys = jax.random.split(KEY, 5)
    together = jax.vmap(lambda key: dropout(x, 0.3, key))(keys)
    np.testing.assert_array_equal(together, jnp.stack([dropout(x, 0.3, key) for key in keys]))


def test_dropout_of_a_text_hangs_on_how_far_it_is_padded() -> None:
    short = dropout(jnp.ones((4, 16, 24)), 0.3, KEY)
    long = dropout(jnp.ones((4, 32, 24)), 0.3, KEY)
    np.testing.assert_array_equal(short, long[:, :16])
    attention = dropout(jnp.ones((4, 2, 32, 32)), 0.3, KEY)
    np.testing.assert_array_equal(dropout(jnp.ones((4, 2, 16, 16)), 0.3, KEY), attention[:, :, :16, :16])


def test_softmax_or_its_slope_is_not_the_definitions() -> None:
    x = np.random.default_rng(0).normal(0, 20, (5, 7)).astype(np.float32)
    x[0] = np.finfo(np.float32).min  # nothing seen: all alike
    dx = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    share = special.softmax(x.astype(np.float64), axis=-1)
    slope = share * (dx - (share * dx).sum(-1, keepdims=True))
    np.testing.assert_allclose(softmax(jnp.asarray(x)), share, atol=1e-6)
    np.testing.assert_allclose(jax.jvp(softmax, (jnp.asarray(x),), (jnp.asarray(dx),))[1], slope, atol=1e-6)
    np.testing.assert_allclose(jax.vjp(softmax, jnp.asarray(x))[1](jnp.asarray(dx))[0], slope, atol=1e-6)


def test_gelu_or_its_slope_is_not_the_definitions() -> None:
    x = np.linspace(-8, 8, 4001)
    share = 0.5 * (1 + special.erf(x / np.sqrt(2)))
    slope = share + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(gelu(jnp.asarray(x, jnp.float32)), x * share, atol=2e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32)), slope, atol=2e-6)
    forward = jax.vmap(lambda v: jax.jvp(gelu, (v,), (jnp.float32(1),))[1])(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(forward, slope, atol=2e-6)


def test_dropouts_factor_is_rounded_to_half_precision() -> None:
    # Rounded, 1 / 0.9 is 1.109: all that is kept would be too small.
    x = 1.0 + jax.random.uniform(KEY, (400, 400))
    kept = np.asarray(dropout(x.astype(jnp.bfloat16), 0.1, KEY).astype(jnp.float32))
    share = (kept[kept > 0] / np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32))[kept > 0]).mean()
    assert share == pytest.approx(1 / 0.9, rel=2e-4)


@pytest.fixture(params=["cpu", "gpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is written for each kind of device, run on this one."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.usefixtures("backend")
def test_layer_norm_is_not_the_definitions() -> None:
    layer = filled(LayerNorm(6, eps=1e-3))
    x = np.random.default_rng(1).normal(2, 3, (4, 5, 6)).astype(np.float32)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-3)
    want = want * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...])
    np.testing.assert_allclose(layer(jnp.asarray(x)), want, atol=1e-5)


@pytest.mark.usefixtures("backend")
def test_layer_norms_slope_is_not_the_derivative_of_its_steps() -> None:
    rng = np.random.default_rng(1)
    x, scale, bias, dy = (rng.normal(2, 3, shape) for shape in ((4, 5, 6), (6,), (6,), (4, 5, 6)))

    def steps(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-3) * scale + bias

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        layer = LayerNorm(6, eps=1e-3)
        layer.scale.set_value(scale)
        layer.bias.set_value(bias)  # type: ignore[union-attr]
        return layer(x)

    narrow = [jnp.asarray(a, jnp.float32) for a in (x, scale, bias, dy)]
    backward, forward = jax.vjp(ours, *narrow[:3])[1](narrow[3]), jax.jvp(ours, narrow[:3], narrow[:3])[1]
    with jax.enable_x64(True):
        wide = [jnp.asarray(a) for a in (x, scale, bias, dy)]
        want = jax.vjp(steps, *wide[:3])[1](wide[3]), jax.jvp(steps, wide[:3], wide[:3])[1]
    for one, other in zip((*backward, forward), (*want[0], want[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_norm_or_an_activation_keeps_more_than_its_input() -> None:
    x = jnp.ones((4, 5, 6), jnp.bfloat16)
    for function in (filled(LayerNorm(6, eps=1e-3)), gelu):
        kept = jax.tree.leaves(jax.vjp(function, x)[1])
        assert [(a.dtype, a.shape) for a in kept if a.size >= x.size] == [(x.dtype, x.shape)]


def test_attention_is_not_the_definitions() -> None:
    layer, heads, width = filled(Attention(6, 2, dropout=0.0)), 2, 3
    x = np.random.default_rng(2).normal(size=(2, 4, 6)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)

    def project(part: Linear) -> np.ndarray:
        y = x @ np.asarray(part.kernel[...]) + np.asarray(part.bias[...])  # type: ignore[index]
        return y.reshape(2, 4, heads, width)

    query, key, value = project(layer.query), project(layer.key), project(layer.value)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(width)
    scores = np.where(mask[:, None, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(2, 4, 6)
    want = mixed @ np.asarray(layer.output.kernel[...]) + np.asarray(layer.output.bias[...])  # type: ignore[index]
    np.testing.assert_allclose(layer(jnp.asarray(x), jnp.asarray(mask)), want, atol=1e-5)


def test_a_row_that_is_all_padding_gives_nan() -> None:
    layer = filled(Attention(4, 2, dropout=0.0))
    out = layer(jnp.ones((1, 3, 4)), jnp.zeros((1, 3), bool))
    assert np.isfinite(out).all()


def test_a_tied_table_is_a_second_table() -> None:
    table = filled(Embedding(7, 3))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
    want = np.asarray(x) @ np.asarray(table(jnp.arange(7))).T
    np.testing.assert_allclose(table.attend(x), want, rtol=1e-5, atol=1e-6)


def test_attention_without_a_mask_is_not_attention_to_everything() -> None:
    layer = filled(Attention(6, 2, dropout=0.0))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, 6)), jnp.float32)
    np.testing.assert_array_equal(layer(x, None), layer(x, jnp.ones((2, 4), bool)))
    assert not np.allclose(layer(x, None), layer(x, jnp.array([[True] * 3 + [False]] * 2)), atol=1e-3)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("moving", ["x", "scale", "bias"])
def test_layer_norms_slope_hangs_on_what_is_frozen(moving: str) -> None:
    rng = np.random.default_rng(1)
    given = {name: jnp.asarray(rng.normal(2, 3, shape), jnp.float32)
             for name, shape in {"x": (4, 5, 6), "scale": (6,), "bias": (6,)}.items()}  # fmt: skip
    dy = jnp.asarray(rng.normal(size=(4, 5, 6)), jnp.float32)

    def loss(given: dict[str, jax.Array]) -> jax.Array:
        return (layer_norm(given["x"], given["scale"], given["bias"], 1e-3) * dy).sum()

    alone = jax.grad(lambda value: loss({**given, moving: value}))(given[moving])
    np.testing.assert_allclose(alone, jax.grad(loss)(given)[moving], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [3, FEW_ROWS + 1])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_looked_up_rows_gradient_is_not_the_sum_of_its_uses(rows: int, dtype: Any) -> None:
    table = jax.random.normal(jax.random.key(0), (rows, 4)).astype(dtype)
    # 999 uses of row 1: in bfloat16 a sum of as many ones, one after another, stays at 256.
    ids = jnp.asarray([[1] * 999 + [0, rows + 5]])
    found, back = jax.vjp(lambda table: lookup(table, ids), table)
    np.testing.assert_array_equal(found[0], table[jnp.asarray([1] * 999 + [0, rows - 1])])
    assert found.dtype == dtype
    (slope,) = back(jnp.ones_like(found))
    uses = np.zeros(rows)
    uses[[1, 0, rows - 1]] = 999, 1, 1
    np.testing.assert_allclose(slope.astype(jnp.float32)[:, 0], uses, rtol=2**-8)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_rounded_softmaxs_slope_is_not_that_of_the_definition(dtype: Any) -> None:
    x, dy = jax.random.normal(jax.random.key(0), (2, 5, 7))
    share, back = jax.vjp(lambda x: softmax(x, dtype), x)
    assert share.dtype == dtype
    want, definition = jax.vjp(jax.nn.softmax, x)
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(share.astype(jnp.float32), want, atol=tolerance)
    np.testing.assert_allclose(back(dy.astype(dtype))[0], definition(dy)[0], atol=tolerance)
