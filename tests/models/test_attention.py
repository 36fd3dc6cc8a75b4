"""Attention against its definition, in all forms that families ask for; what goes to a GPU's fused kernel, and what not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special
from support.modules import filled

from transferlab import trees
from transferlab.compute.flags import plain_attention
from transferlab.methods.lora import LowRank
from transferlab.models import attention
from transferlab.models.attention import Attention, attend, dropped_softmax, softmax
from transferlab.models.layers import Linear, Normal, dropout

QUERIES, KEYS, WIDTH = 4, 6, 8
BIAS = np.random.default_rng(2).normal(size=(6, QUERIES, KEYS)).astype(np.float32)


def drawn(heads: int, groups: int, dtype: Any = jnp.float32) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(2, QUERIES, heads, WIDTH), (2, KEYS, groups, WIDTH), (2, KEYS, groups, WIDTH)]
    query, key, value = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return query, key, value


def masks() -> dict[str, np.ndarray | None]:
    seen = np.random.default_rng(1).random((2, QUERIES, KEYS)) < 0.6
    seen[..., 0] = True
    return {"none": None, "of keys": seen[:, 0], "of each query": seen}


def defined(query, key, value, *, scale, mask=None, bias=0.0, soft_cap=None) -> np.ndarray:
    """The definition in float64, a head at a time."""
    query, key, value = (np.asarray(x.astype(jnp.float32), np.float64) for x in (query, key, value))
    batch, queries, heads, width = query.shape
    shared = heads // key.shape[2]
    out = np.zeros((batch, queries, heads, width))
    bias = np.broadcast_to(bias, (heads, queries, key.shape[1]))
    for b, h in np.ndindex(batch, heads):
        scores = query[b, :, h] @ key[b, :, h // shared].T * scale
        scores = scores if soft_cap is None else np.tanh(scores / soft_cap) * soft_cap
        scores = scores + bias[h]
        if mask is not None:
            scores = np.where(mask[b] if mask.ndim == 3 else mask[b][None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[b, :, h] = weights / weights.sum(-1, keepdims=True) @ value[b, :, h // shared]
    return out.reshape(batch, queries, heads * width)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("more", [{}, {"soft_cap": 1.5}, {"bias": BIAS}])
def test_attention_equals_its_definition(groups: int, mask: str, more: dict[str, Any]) -> None:
    given = drawn(6, groups)
    want = defined(*given, scale=0.3, mask=masks()[mask], **more)
    more = {name: jnp.asarray(value) if name == "bias" else value for name, value in more.items()}
    np.testing.assert_allclose(attend(*given, scale=0.3, mask=_array(masks()[mask]), **more), want, atol=1e-5)


def test_windows_next_to_the_batch_do_not_see_each_other() -> None:
    query, key, value = drawn(6, 6)
    bias = jnp.asarray(np.random.default_rng(2).normal(size=(3, 6, QUERIES, KEYS)), jnp.float32)
    windows = [jnp.stack([x * (w + 1) for w in range(3)], axis=1) for x in (query, key, value)]
    got = attend(*windows, scale=0.3, bias=bias)
    for w in range(3):
        one = attend(query * (w + 1), key * (w + 1), value * (w + 1), scale=0.3, bias=bias[w])
        np.testing.assert_allclose(got[:, w], one, atol=1e-6)


@pytest.mark.parametrize("rows", ["none", "of keys", "of each query", "bias of all", "bias of each", "dropped"])
def test_parts_of_a_batch_attend_as_the_whole_batch_does(rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    query, key, value, target = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((8, QUERIES, 6, WIDTH), (8, KEYS, 2, WIDTH), (8, KEYS, 2, WIDTH), (8, QUERIES, 6 * WIDTH))
    )
    seen = jnp.asarray(rng.random((8, QUERIES, KEYS)) < 0.6)
    more = {
        "none": {}, "of keys": {"mask": seen[:, 0]}, "of each query": {"mask": seen}, "bias of all": {"bias": jnp.asarray(BIAS[None])},
        "bias of each": {"bias": jnp.asarray(rng.normal(size=(8, 6, QUERIES, KEYS)), jnp.float32)},
        "dropped": {"rate": 0.5, "random": jax.random.key(0)},
    }[rows]  # fmt: skip

    def loss(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return (attend(query, key, value, scale=0.3, **more) * target).sum()

    def answered() -> tuple[list[jax.Array], int]:
        calls = []
        monkeypatch.setattr(attention, "_attend", lambda *args, **more: calls.append(args) or plain(*args, **more))
        return jax.tree.leaves(jax.value_and_grad(loss, argnums=(0, 1, 2))(query, key, value)), len(calls)

    plain = attention._attend
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")  # the only one that attends in parts
    whole, calls = answered()
    assert calls == 1
    monkeypatch.setattr(attention, "_UNCUT", 8 * 6 * QUERIES * KEYS - 1)
    parts, calls = answered()
    assert calls == 8
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_keys_are_not_cut_for_one_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_UNCUT", 0)
    monkeypatch.setattr(attention, "_cut", lambda *args: pytest.fail("cut"))
    query, key, value = drawn(6, 2)
    assert attend(query[:, :1], key, value, scale=0.3).shape == (2, 1, 6 * WIDTH)


@pytest.mark.parametrize("case", ["none", "of keys", "of each query", "bias", "dropped", "no bias of its own"])
def test_one_query_attends_as_among_all_and_maps_no_other_token(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    layer = Attention(8, 2, dropout=0.5, bias=case != "no bias of its own", initialiser=Normal(0.5))
    graph, params = nnx.split(layer)
    leaves, tree = jax.tree.flatten(params)
    params = tree.unflatten([jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32) for leaf in leaves])
    x = jnp.asarray(rng.normal(size=(3, 5, 8)), jnp.float32)
    seen = jnp.asarray(rng.random((3, 5, 5)) < 0.6)
    seen = seen.at[0].set(False)  # nothing to see: all alike
    bias = jnp.asarray(rng.normal(size=(1, 2, 5, 5)), jnp.float32) if case == "bias" else None
    key = jax.random.key(0) if case == "dropped" else None

    def loss(params: Any, x: jax.Array, narrow: bool) -> tuple[jax.Array, jax.Array]:
        mask = {"of keys": seen[:, 0], "of each query": seen}.get(case)
        asked: dict[str, Any] = {"bias": bias}
        if narrow:
            asked = {"queries": x[:, :1], "bias": None if bias is None else bias[:, :, :1]}
        mask = mask[:, :1] if narrow and mask is not None and mask.ndim == 3 else mask
        attended = nnx.merge(graph, params)(x, mask, key, **asked)[:, 0]
        return jnp.square(attended).sum(), attended

    whole = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x, False)
    monkeypatch.setattr(attention, "attend", lambda *args, **more: pytest.fail("keys of all tokens"))
    alone = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x, True)
    for one, other in zip(*map(jax.tree.leaves, (whole, alone)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["key", "value"])
def test_one_query_uses_a_lora_next_to_keys_or_values(part: str) -> None:
    rng = np.random.default_rng(6)
    layer = Attention(8, 2, dropout=0.0, initialiser=Normal(0.5))
    x = jnp.asarray(rng.normal(size=(3, 5, 8)), jnp.float32)
    getattr(layer, part).lora = LowRank(8, 8, 2, 4.0, 0.0)
    graph, params = nnx.split(layer)
    leaves, tree = jax.tree.flatten(params)
    layer = nnx.merge(graph, tree.unflatten([jnp.asarray(rng.normal(size=a.shape), jnp.float32) for a in leaves]))
    np.testing.assert_allclose(layer(x, None, queries=x[:, :1]), layer(x, None)[:, :1], atol=1e-5)


def test_rows_that_do_not_divide_and_few_scores_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    shapes = ((7, 2**20), (12, 2**20), (8, 2**18), (8, 2**18 + 1))
    assert [attention._parts(*shape) for shape in shapes] == [1, 4, 1, 8]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("mask", masks())
def test_half_precision_is_close_to_the_definition(dtype: Any, mask: str) -> None:
    # On a GPU this is the fused kernel.
    given = drawn(6, 2, dtype)
    got = jax.jit(partial(attend, scale=0.3))(*given, mask=_array(masks()[mask]))
    assert got.dtype == dtype
    want = defined(*given, scale=0.3, mask=masks()[mask])
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.03)


@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("cut", [(0, 0), (1, 1), (0, 1), (1, 0)])
def test_jaxs_own_call_gives_the_same_result(
    groups: int, mask: str, cut: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's call, in JAX's portable form: values and gradients, for odd lengths too."""
    given = tuple(x[:, n:] for x, n in zip(drawn(6, groups), (cut[0], cut[1], cut[1]), strict=True))
    seen = masks()[mask]
    seen = None if seen is None else seen[..., cut[1] :] if seen.ndim == 2 else seen[:, cut[0] :, cut[1] :]
    target = jnp.asarray(np.random.default_rng(3).normal(size=(2, QUERIES - cut[0], 48)), jnp.float32)

    def loss(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return (attend(query, key, value, scale=0.3, mask=_array(seen)) * target).sum()

    plain = jax.value_and_grad(loss, argnums=(0, 1, 2))(*given)
    fused, asked = cast("Callable[..., jax.Array]", attention._fused), []
    monkeypatch.setattr(attention, "_fits_kernel", lambda *shape: True)
    monkeypatch.setattr(attention, "_fused", lambda *args: asked.append(args[-1]) or fused(*args[:-1], "xla"))
    portable = jax.value_and_grad(loss, argnums=(0, 1, 2))(*given)
    assert asked == ["cudnn"]
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(portable), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("tokens", [5, 6])
def test_an_extra_token_for_the_kernel_leaves_the_rest_unchanged(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = trees.define(Attention(16, 2, dropout=0.1))
    shapes = trees.flatten(layer.params).items()
    layer = layer.merge(trees.unflatten({p: 0.3 * jax.random.normal(jax.random.key(0), v.shape) for p, v in shapes}))
    x, target = jax.random.normal(jax.random.key(1), (2, 3, tokens, 16))

    def loss(x: jax.Array) -> jax.Array:
        return (layer(x, None, queries=x) * target).sum()

    plain = jax.value_and_grad(loss)(x)
    fused, asked = cast("Callable[..., jax.Array]", attention._fused), []
    monkeypatch.setattr(attention, "_fits_kernel", lambda *shape: True)
    monkeypatch.setattr(
        attention, "_fused", lambda *args: asked.append((args[0].shape[1], args[-2])) or fused(*args[:-1], "xla")
    )
    portable = jax.value_and_grad(loss)(x)
    assert asked == [(6, 5 if tokens == 5 else None)]
    for one, other in zip(plain, portable, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)
    # Padding is seen by nobody in the plain form either.
    query, key, value = drawn(6, 6)
    padded = [jnp.pad(x[:, :4], ((0, 0), (0, 2), (0, 0), (0, 0)), constant_values=9.0) for x in (query, key, value)]
    monkeypatch.setattr(attention, "_fits_kernel", lambda *shape: False)
    got = attend(*padded, scale=0.3, tokens=4)[:, :4]
    np.testing.assert_allclose(got, attend(query, key[:, :4], value[:, :4], scale=0.3), atol=1e-6)
    monkeypatch.setattr(attention, "_fits_kernel", lambda *shape: True)
    # Dropout acts on the weights, which the kernel does not have: no token is added.
    asked.clear()
    layer(x, None, jax.random.key(2))
    assert asked == []


def test_the_kernel_gets_exactly_the_calls_that_it_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "_kernel_compiles", lambda *kind: True)
    asked = []
    monkeypatch.setattr(attention, "_fused", lambda *args: asked.append(args) or args[0])
    key, bias = jax.random.key(0), jnp.zeros((6, QUERIES, KEYS))
    mask = jnp.ones((2, KEYS), bool)

    def goes(dtype: Any = jnp.bfloat16, width: int = WIDTH, **more: Any) -> bool:
        asked.clear()
        query, keys, value = (x[..., :width] for x in drawn(6, 2, dtype))
        attend(query, keys, value, scale=1.0, **more)
        return bool(asked)

    assert goes() and goes(jnp.float16) and goes(mask=mask) and goes(rate=0.1)
    assert goes(rate=0.0, random=key)
    assert not goes(jnp.float32) and not goes(rate=0.1, random=key) and not goes(bias=bias) and not goes(soft_cap=30.0)
    assert not goes(width=6)
    with plain_attention():
        assert not goes()
    assert goes()


def test_a_kernel_that_is_not_available_does_not_stop_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = drawn(6, 6, jnp.bfloat16)
    want = jax.jit(partial(attend, scale=0.3))(*given).astype(jnp.float32)
    tolerance = 0 if jax.default_backend() == "cpu" else 0.02  # a GPU took cuDNN's kernel here
    # A driver without cuDNN's kernels: JAX raises when it is asked for them.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "_fused", _refused)
    attention._kernel_compiles.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                plain = jax.jit(partial(attend, scale=0.3))(*given).astype(jnp.float32)
                np.testing.assert_allclose(plain, want, atol=tolerance, rtol=0)
        assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
        assert "cuDNN is not detected" in caplog.text
    finally:
        attention._kernel_compiles.cache_clear()


def _refused(*args: Any) -> jax.Array:
    raise RuntimeError("cuDNN is not detected.")


def _array(mask: np.ndarray | None) -> jax.Array | None:
    return None if mask is None else jnp.asarray(mask)


def test_softmax_and_its_gradient_equal_their_definitions() -> None:
    x = np.random.default_rng(0).normal(0, 20, (5, 7)).astype(np.float32)
    x[0] = np.finfo(np.float32).min  # nothing seen: all alike
    dx = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    weights = special.softmax(x.astype(np.float64), axis=-1)
    slope = weights * (dx - (weights * dx).sum(-1, keepdims=True))
    np.testing.assert_allclose(softmax(jnp.asarray(x)), weights, atol=1e-6)
    np.testing.assert_allclose(jax.jvp(softmax, (jnp.asarray(x),), (jnp.asarray(dx),))[1], slope, atol=1e-6)
    np.testing.assert_allclose(jax.vjp(softmax, jnp.asarray(x))[1](jnp.asarray(dx))[0], slope, atol=1e-6)


def test_the_module_equals_the_definition() -> None:
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


def test_a_row_that_is_all_padding_is_finite() -> None:
    layer = filled(Attention(4, 2, dropout=0.0))
    out = layer(jnp.ones((1, 3, 4)), jnp.zeros((1, 3), bool))
    assert np.isfinite(out).all()


def test_attention_without_a_mask_is_attention_to_everything() -> None:
    layer = filled(Attention(6, 2, dropout=0.0))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, 6)), jnp.float32)
    np.testing.assert_array_equal(layer(x, None), layer(x, jnp.ones((2, 4), bool)))
    assert not np.allclose(layer(x, None), layer(x, jnp.array([[True] * 3 + [False]] * 2)), atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_rounded_softmaxs_gradient_is_that_of_the_definition(dtype: Any) -> None:
    x, dy = jax.random.normal(jax.random.key(0), (2, 5, 7))
    weights, back = jax.vjp(lambda x: softmax(x, dtype), x)
    assert weights.dtype == dtype
    want, definition = jax.vjp(jax.nn.softmax, x)
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(weights.astype(jnp.float32), want, atol=tolerance)
    np.testing.assert_allclose(back(dy.astype(dtype))[0], definition(dy)[0], atol=tolerance)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gradient_through_dropped_weights_is_that_of_softmax_and_dropout(dtype: Any) -> None:
    x, dy = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 16))
    key = jax.random.key(1)
    kept, back = jax.vjp(lambda x: dropped_softmax(x, key, dtype, 0.3), x)
    want, definition = jax.vjp(lambda x: dropout(jax.nn.softmax(x), 0.3, key), x)
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    assert kept.dtype == dtype
    assert 0.2 < (np.asarray(kept) == 0.0).mean() < 0.4
    np.testing.assert_allclose(kept.astype(jnp.float32), want, atol=tolerance)
    np.testing.assert_allclose(back(dy.astype(dtype))[0], definition(dy)[0], atol=tolerance)


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("more", [{}, {"soft_cap": 1.5}, {"bias": BIAS}])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_every_device_gives_the_same_attention_weights(
    mask: str, more: dict[str, Any], rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bias = jnp.asarray(more.get("bias", np.zeros((1, 1, 1))), jnp.float32)

    def total(bias: jax.Array, *given: jax.Array) -> jax.Array:
        how = {"mask": _array(masks()[mask]), "rate": rate, "random": jax.random.key(5)}
        bias = jnp.broadcast_to(bias, BIAS.shape)
        return (attend(*given, bias=bias, scale=0.3, soft_cap=more.get("soft_cap"), **how) ** 2).sum()

    given = bias, *drawn(6, 2)
    want = jax.grad(total, (0, 1, 2, 3))(*given)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for ours, theirs in zip(jax.grad(total, (0, 1, 2, 3))(*given), want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_gpus_backward_pass_keeps_neither_float32_weights_nor_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    scores = jax.random.normal(jax.random.key(0), (2, 3, 4, 5)).astype(jnp.bfloat16)
    seen = jnp.ones((2, 1, 1, 5), bool)

    def weigh(scores: jax.Array) -> jax.Array:
        return attention._weighing()(scores, seen, None, jax.random.key(1), None, scores.dtype, 0.3, 0)

    kept = [x for x in jax.tree.leaves(jax.vjp(weigh, scores)[1]) if x.size >= scores.size]
    assert [(x.dtype, x.shape) for x in kept] == [(scores.dtype, scores.shape)] * 2
