"""Normalisation layers: LayerNorm, RMSNorm, BatchNorm. Their statistics are float32 whatever the input's dtype."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from transferlab.models.layers import Key, ones, parameter, statistic, zeros


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis (Ba et al. 2016), statistics in float32.

    The backward pass keeps the input and recomputes the rest, so that less is written to memory and read back.
    """

    def __init__(self, features: int, eps: float, *, bias: bool = True):
        self.scale = parameter((features,), ones)
        self.bias = parameter((features,), zeros) if bias else None
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        return layer_norm(x, self.scale[...], None if self.bias is None else self.bias[...], self.eps)


def layer_norm(
    x: Float[Array, "*batch features"], scale: Float[Array, " features"], bias: Float[Array, " features"] | None, eps: float
) -> Float[Array, "*batch features"]:  # fmt: skip
    """Mean 0 and variance 1 over the last axis, then gain and bias; all in float32. ``eps`` is added to the variance.

    The backward pass recomputes the normalised values, on CPU from only x (a step is 2 to 4 % faster there), elsewhere
    from x and its moments (from only x, a GPU wrote them in float32 and read them back).
    """
    return (_norm_by_input if jax.default_backend() == "cpu" else _norm_by_moments)(x, scale, bias, eps)


# At the top level, so that JAX traces it once for all layers of a width.
@partial(jax.checkpoint, static_argnums=(3,))
def _norm_by_input(x: Array, scale: Array, bias: Array | None, eps: float) -> Array:
    return _gained(_standardise(x.astype(jnp.float32), eps), scale, bias, x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _standardise(x: Array, eps: float) -> Array:
    return _standardised(x, eps)[0]


@_standardise.defjvp
def _standardise_slope(eps: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    normal, factor = _standardised(primals[0], eps)
    return normal, _standard_tangent(normal, factor, tangents[0])


def _standardised(x: Array, eps: float) -> tuple[Array, Array]:
    centred = x - x.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    return centred * factor, factor


def _moments(x: Array, eps: float) -> tuple[Array, Array]:
    """Mean over the last axis, and the reciprocal of the deviation; in float32."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    return mean, jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + eps)


def _standard_tangent(normal: Array, factor: Array, dx: Array) -> Array:
    """The tangent in closed form: two sums over the axis, where differentiating step by step takes four."""
    # This first: in the other order XLA's CPU backend computes the slope for each of its uses (a fifth of a LoRA step).
    along = normal * (normal * dx).mean(-1, keepdims=True)
    return factor * (dx - dx.mean(-1, keepdims=True) - along)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _norm_by_moments(x: Array, scale: Array, bias: Array | None, eps: float) -> Array:
    return _norm(x, scale, bias, *_moments(x, eps))


@partial(_norm_by_moments.defjvp, symbolic_zeros=True)
def _norm_by_moments_slope(eps: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, scale, bias = primals
    moments = _moments(x, eps)
    # No tangent is computed for frozen parameters.
    moving = [None if isinstance(t, SymbolicZero) else t for t in tangents]
    return _norm(x, scale, bias, *moments), _norm_tangent(x, scale, *moments, *moving)


def _norm(x: Array, scale: Array, bias: Array | None, mean: Array, factor: Array) -> Array:
    return _gained((x.astype(jnp.float32) - mean) * factor, scale, bias, x.dtype)


def _gained(normal: Array, scale: Array, bias: Array | None, dtype: DTypeLike) -> Array:
    scaled = normal * scale
    return (scaled if bias is None else scaled + bias).astype(dtype)


@jax.checkpoint
def _norm_tangent(
    x: Array, scale: Array, mean: Array, factor: Array, dx: Array | None, dscale: Array | None, dbias: Array | None
) -> Array:
    normal, moved = (x.astype(jnp.float32) - mean) * factor, jnp.zeros((), jnp.float32)
    if dx is not None:
        moved = _standard_tangent(normal, factor, dx.astype(jnp.float32)) * scale
    if dscale is not None:
        moved = moved + normal * dscale
    if dbias is not None:
        moved = moved + dbias
    return jnp.broadcast_to(moved, x.shape).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation over the last axis (Zhang & Sennrich 2019), statistics in float32.

    With ``offset`` the gain is ``1 + scale`` and rounding follows it, as in Gemma; else it comes before, as in Llama and T5.
    """

    def __init__(self, features: int, eps: float, *, offset: bool = False):
        self.scale = parameter((features,), zeros if offset else ones)
        self.eps, self.offset = eps, offset

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        wide = x.astype(jnp.float32)
        normal = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        if self.offset:
            return (normal * (1.0 + self.scale[...].astype(jnp.float32))).astype(x.dtype)
        return self.scale[...].astype(x.dtype) * normal.astype(x.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015), statistics in float32.

    With a key, the batch's statistics are used and the running ones move: ``new = (1 - momentum) · old + momentum ·
    batch`` (torch's convention; the biased variance, as TensorFlow keeps it). Rows whose ``weight`` is 0 are padding and
    count in neither. Without a key, or where ``frozen`` is set, the running statistics are used and stay: the plan sets
    ``frozen`` where scale and bias do not train, so that an adapter in the same stage does not move them.
    """

    def __init__(self, features: int, *, eps: float, momentum: float):
        self.scale = parameter((features,), ones)
        self.bias = parameter((features,), zeros)
        self.mean = statistic((features,), zeros)
        self.var = statistic((features,), ones)
        self.eps, self.momentum, self.frozen = eps, momentum, False

    def __call__(
        self,
        x: Float[Array, "batch *space features"],
        key: Key | None = None,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch *space features"]:
        if key is None or self.frozen:
            mean, var = self.mean[...], self.var[...]
        else:
            wide = x.astype(jnp.float32)
            rows = jnp.ones(x.shape[0]) if weight is None else weight
            weights = (rows / jnp.maximum(rows.sum(), 1.0)).reshape(-1, *[1] * (x.ndim - 1))
            axes, positions = tuple(range(x.ndim - 1)), math.prod(x.shape[1:-1])
            mean = (wide * weights).sum(axes) / positions
            var = (jnp.square(wide - mean) * weights).sum(axes) / positions
            # A part of a batch that is all padding has no statistics.
            moved = self.momentum * (rows.sum() > 0)
            self.mean[...] = (1 - moved) * self.mean[...] + moved * mean
            self.var[...] = (1 - moved) * self.var[...] + moved * var
        factor = jax.lax.rsqrt(var + self.eps) * self.scale[...]
        return (x * factor + (self.bias[...] - mean * factor)).astype(x.dtype)
