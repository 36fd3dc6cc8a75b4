"""Layers of all families, against independent evaluations of their definitions."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from support.modules import filled

from transferlab.models.layers import ACTIVATIONS, FEW_ROWS, Embedding, dropout, gated, gelu, lookup
from transferlab.models.norms import LayerNorm

KEY = jax.random.key(3)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.013])
def test_dropout_meets_its_rate_and_keeps_the_mean(rate: float) -> None:
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


def test_dropout_decisions_depend_on_neither_neighbors_nor_other_keys() -> None:
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


def test_dropout_patterns_of_eight_neighbors_are_even() -> None:
    kept = np.asarray(dropout(jnp.ones(8 * 60_000), 0.5, KEY) > 0).reshape(-1, 8)
    counts = np.bincount(kept @ (1 << np.arange(8)), minlength=256)
    expected = len(kept) / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 255 - 5 * np.sqrt(510) < chi_square < 255 + 5 * np.sqrt(510)


def test_dropout_is_off_in_evaluation_and_the_same_under_vmap() -> None:
    x = jnp.arange(12.0).reshape(3, 4)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, KEY) is x
    keys = jax.random.split(KEY, 5)
    together = jax.vmap(lambda key: dropout(x, 0.3, key))(keys)
    np.testing.assert_array_equal(together, jnp.stack([dropout(x, 0.3, key) for key in keys]))


def test_dropout_of_a_text_does_not_depend_on_how_far_it_is_padded() -> None:
    short = dropout(jnp.ones((4, 16, 24)), 0.3, KEY)
    long = dropout(jnp.ones((4, 32, 24)), 0.3, KEY)
    np.testing.assert_array_equal(short, long[:, :16])
    attention = dropout(jnp.ones((4, 2, 32, 32)), 0.3, KEY)
    np.testing.assert_array_equal(dropout(jnp.ones((4, 2, 16, 16)), 0.3, KEY), attention[:, :, :16, :16])


def test_gelu_and_its_gradient_equal_their_definitions() -> None:
    x = np.linspace(-8, 8, 4001)
    phi = 0.5 * (1 + special.erf(x / np.sqrt(2)))
    slope = phi + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(gelu(jnp.asarray(x, jnp.float32)), x * phi, atol=2e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32)), slope, atol=2e-6)
    forward = jax.vmap(lambda v: jax.jvp(gelu, (v,), (jnp.float32(1),))[1])(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(forward, slope, atol=2e-6)


def test_dropouts_factor_is_not_rounded_to_half_precision() -> None:
    # Rounded, 1 / 0.9 is 1.109: all that is kept would be too small.
    x = 1.0 + jax.random.uniform(KEY, (400, 400))
    kept = np.asarray(dropout(x.astype(jnp.bfloat16), 0.1, KEY).astype(jnp.float32))
    factor = (kept[kept > 0] / np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32))[kept > 0]).mean()
    assert factor == pytest.approx(1 / 0.9, rel=2e-4)


# Which keep less: the sign, their output, and nothing.
@pytest.mark.parametrize("name", [None, *sorted(set(ACTIVATIONS) - {"relu", "tanh", "linear"})])
def test_a_norm_and_an_activation_keep_no_more_than_their_input(name: str | None) -> None:
    x = jnp.ones((4, 5, 6), jnp.bfloat16)
    kept = jax.tree.leaves(jax.vjp(filled(LayerNorm(6, eps=1e-3)) if name is None else ACTIVATIONS[name], x)[1])
    assert [(a.dtype, a.shape) for a in kept if a.size >= x.size] == [(x.dtype, x.shape)]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_an_activation_in_half_precision_is_within_a_rounding(name: str) -> None:
    x = jnp.linspace(-6, 6, 4001).astype(jnp.bfloat16)
    want = ACTIVATIONS[name](x.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(ACTIVATIONS[name](x), want)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_a_gate_is_the_activation_times_the_other_input_and_keeps_only_its_inputs(name: str) -> None:
    gate, up, dy = jax.random.normal(jax.random.key(0), (3, 4, 6))
    y, back = jax.vjp(partial(gated, name), gate, up)
    want, definition = jax.vjp(lambda gate, up: ACTIVATIONS[name](gate) * up, gate, up)
    np.testing.assert_allclose(y, want, atol=1e-6)
    for ours, theirs in zip(back(dy), definition(dy), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert len([x for x in jax.tree.leaves(back) if x.size >= gate.size]) == 2
    half = gate.astype(jnp.bfloat16), up.astype(jnp.bfloat16)
    np.testing.assert_array_equal(gated(name, *half), ACTIVATIONS[name](half[0]) * half[1])


def test_a_tied_table_is_the_same_table() -> None:
    table = filled(Embedding(7, 3))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
    want = np.asarray(x) @ np.asarray(table(jnp.arange(7))).T
    np.testing.assert_allclose(table.attend(x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [3, FEW_ROWS + 1])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_looked_up_rows_gradient_is_the_sum_of_its_uses(rows: int, dtype: Any) -> None:
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
