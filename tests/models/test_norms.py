"""LayerNorm against its definition, in both forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.modules import filled

from transferlab.models.norms import LayerNorm, layer_norm


@pytest.fixture(params=["cpu", "gpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is written for each kind of device, run on this one."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.usefixtures("backend")
def test_layer_norm_equals_its_definition() -> None:
    layer = filled(LayerNorm(6, eps=1e-3))
    x = np.random.default_rng(1).normal(2, 3, (4, 5, 6)).astype(np.float32)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-3)
    want = want * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...])
    np.testing.assert_allclose(layer(jnp.asarray(x)), want, atol=1e-5)


@pytest.mark.usefixtures("backend")
def test_layer_norms_gradient_is_the_derivative_of_its_steps() -> None:
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


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("moving", ["x", "scale", "bias"])
def test_layer_norms_gradient_does_not_depend_on_what_is_frozen(moving: str) -> None:
    rng = np.random.default_rng(1)
    given = {name: jnp.asarray(rng.normal(2, 3, shape), jnp.float32)
             for name, shape in {"x": (4, 5, 6), "scale": (6,), "bias": (6,)}.items()}  # fmt: skip
    dy = jnp.asarray(rng.normal(size=(4, 5, 6)), jnp.float32)

    def loss(given: dict[str, jax.Array]) -> jax.Array:
        return (layer_norm(given["x"], given["scale"], given["bias"], 1e-3) * dy).sum()

    alone = jax.grad(lambda value: loss({**given, moving: value}))(given[moving])
    np.testing.assert_allclose(alone, jax.grad(loss)(given)[moving], rtol=1e-5, atol=1e-5)
