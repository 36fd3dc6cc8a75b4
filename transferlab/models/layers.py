"""Building blocks of all families. A parameter is declared abstract, with the initialiser that would draw it from scratch.

Nothing here has random state: a ``key`` passed to a call means *train* (dropout acts, batch statistics move); ``None``
means *evaluate*.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from transferlab.errors import TransferlabError, nearest

Key = jax.Array


# Initialisers compare by value, so that two models of the same shape use one compiled program.


@dataclass(frozen=True)
class Normal:
    """Gaussian with this standard deviation."""

    std: float

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return self.std * jax.random.normal(key, shape, dtype)


@dataclass(frozen=True)
class TruncatedNormal:
    """Gaussian truncated at two standard deviations; ``std`` is that of the full Gaussian (as in BERT's code)."""

    std: float

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return self.std * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


@dataclass(frozen=True)
class Uniform:
    """Uniform on [-bound, bound]."""

    bound: float

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jax.random.uniform(key, shape, dtype, -self.bound, self.bound)


@dataclass(frozen=True)
class Constant:
    """This value in every entry."""

    value: float

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jnp.full(shape, self.value, dtype)


zeros, ones = Constant(0.0), Constant(1.0)
Initialiser = Callable[[Key, tuple[int, ...], jnp.dtype], Array]


def parameter(shape: tuple[int, ...], initialiser: Initialiser, dtype: jnp.dtype = jnp.float32) -> nnx.Param:
    """Declare a parameter. Nothing is allocated: its value is a ``jax.ShapeDtypeStruct`` until weights are placed."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)), initialiser=initialiser)


def statistic(shape: tuple[int, ...], initialiser: Initialiser) -> nnx.BatchStat:
    """Declare a batch statistic (float32), which no gradient reaches."""
    return nnx.BatchStat(jax.ShapeDtypeStruct(shape, jnp.dtype(jnp.float32)), initialiser=initialiser)


def dropout(x: Float[Array, "..."], rate: float, key: Key | None, before: int = 0) -> Float[Array, "..."]:
    """Zero entries with probability ``rate`` and scale the rest; the identity if ``key`` is None.

    Where ``x`` is part of an array, ``before`` is the number of rows before it: a part drops what the whole array would.
    """
    return x if key is None or rate == 0.0 else _dropped(x, rate, key, before)


# At the top level and jitted, so that JAX traces it once per shape.
@partial(jax.jit, static_argnums=(1, 3), inline=True)
def _dropped(x: Array, rate: float, key: Key, before: int) -> Array:
    keep = _hash_bits(key, x.shape, before) >= jnp.uint32(round(rate * 2**32))
    # In float32: in bfloat16 the factor itself would be off by up to 0.4 %, for every entry alike.
    scaled = (x.astype(jnp.float32) * (1.0 / (1.0 - rate))).astype(x.dtype)
    return jnp.where(keep, scaled, jnp.zeros((), x.dtype))


def _hash_bits(key: Key, shape: tuple[int, ...], before: int = 0) -> Array:
    """32 bits for each position: MurmurHash3's finaliser over (key, position).

    It takes a handful of integer operations, which XLA fuses with their use and repeats in the backward pass instead of
    keeping a mask. Threefry's bits, which are cryptographically strong, took a fifth of a step on CPU. A position is a
    sum over its coordinates, so that a text's bits do not depend on how far its batch is padded.
    """
    words = jax.random.key_data(key).astype(jnp.uint32)
    first, second = words[0], words[-1]
    position = first
    for axis, factor in zip(reversed(range(len(shape))), _FACTORS, strict=False):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis) + jnp.uint32(0 if axis else before)
        position = position + along * jnp.uint32(factor)
    bits = (position ^ (position >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ second ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


_FACTORS = (0x9E3779B9, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0x85EBCA77)
"""Odd numbers without a common pattern (those of xxHash), one per axis, the last axis first."""


class Linear(nnx.Module):
    """``x @ kernel + bias``; kernel (in, out). A method may set ``lora``, an adapter next to the kernel."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, initialiser: Initialiser = TruncatedNormal(0.02)
    ):
        self.kernel = parameter((inputs, outputs), initialiser)
        self.bias = parameter((outputs,), zeros) if bias else None
        self.lora: nnx.Module | None = nnx.data(None)

    def __call__(self, x: Float[Array, "*batch inputs"], key: Key | None = None) -> Float[Array, "*batch outputs"]:
        # Tokens are flattened to one axis: XLA's CPU backend is slow at gradients that contract two.
        flat = x.reshape(-1, x.shape[-1])
        kernel = self.kernel[...]
        y = flat @ kernel
        if self.lora is not None:
            y = self.lora(x, y, kernel, key)
        if self.bias is not None:
            y = y + self.bias[...]
        return y.reshape(*x.shape[:-1], y.shape[-1])


class Embedding(nnx.Module):
    """A table (vocabulary, features), looked up by integer."""

    def __init__(self, vocabulary: int, features: int, *, initialiser: Initialiser = TruncatedNormal(0.02)):
        self.embedding = parameter((vocabulary, features), initialiser)

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
        """Return a row for each id.

        Raises:
            TransferlabError: an id that the table has no row for. One that is traced (under ``jax.jit``) has no value to
                check: it takes the nearest row.
        """
        _check_ids(ids, self.embedding.shape[0])
        return lookup(self.embedding[...], ids)

    def attend(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch vocabulary"]:
        """Logits over the vocabulary from the same table: tied weights are a call, never a shared variable."""
        return x @ self.embedding[...].T


def _check_ids(ids: Int[Array, "*batch"], rows: int) -> None:
    if isinstance(ids, Tracer) or not getattr(ids, "is_fully_addressable", True):
        return
    values = np.asarray(ids)
    wrong = np.argwhere((values < 0) | (values >= rows))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise TransferlabError(
            f"The id {int(values[place])} at {list(place)} is beyond a table of {rows} rows (0 to {rows - 1})."
        )


FEW_ROWS = 256
"""Number of rows up to which a lookup in a table is a matmul with one-hot rows."""


def lookup(table: Float[Array, "rows features"], ids: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
    """Look up rows of a table; an index beyond the last row gives that row. Gradients of a row are summed in float32.

    In a small table the lookup is a matmul with one-hot rows: on a GPU, additions to the same row wait for each other,
    and with token types, which are all 0, they took 24 ms of a 27 ms step.
    """
    rows = table.shape[0]
    if rows <= FEW_ROWS:
        one_hot = jax.nn.one_hot(jnp.clip(ids.reshape(-1), 0, rows - 1), rows, dtype=table.dtype)
        values = jnp.matmul(one_hot, table, precision=jax.lax.Precision.HIGHEST)
        return values.reshape(*ids.shape, table.shape[1])
    return jnp.take(table.astype(jnp.float32), ids, axis=0, mode="clip").astype(table.dtype)


def _exact_gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + jax.lax.erf(x * (1.0 / math.sqrt(2.0))))


_SMOOTH: dict[str, Callable[[Array], Array]] = {
    "gelu": _exact_gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


def _in_float32(name: str, x: Array) -> Array:
    if name not in _SMOOTH:
        return ACTIVATIONS[name](x)
    return _SMOOTH[name](x.astype(jnp.float32)).astype(x.dtype)


_activate = jax.checkpoint(_in_float32, static_argnums=(0,))


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x Φ(x)`` with the exact Gaussian distribution (Hendrycks & Gimpel 2016), as in BERT and ViT; in float32.

    The backward pass keeps only ``x`` and recomputes Φ: the erf costs less than writing it to memory and reading it back.
    """
    return _activate("gelu", x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    **{name: partial(_activate, name) for name in _SMOOTH},
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}
"""Activations by the names that Hugging Face configs use. The smooth ones compute in float32 and keep only their input."""


def check_activation(name: str, where: str, field: str) -> None:
    """Raise for a name that :data:`ACTIVATIONS` lacks; ``where`` and ``field`` say whose it is."""
    if name not in ACTIVATIONS:
        raise TransferlabError(f"{where}: unknown {field} '{name}'.{nearest(name, ACTIVATIONS)}")


@partial(jax.checkpoint, static_argnums=(0,))
def gated(activation: str, gate: Float[Array, "..."], up: Float[Array, "..."]) -> Float[Array, "..."]:
    """``activation(gate) · up`` (Shazeer 2020). The backward pass keeps only these two inputs."""
    return _in_float32(activation, gate) * up


def drop_path(x: Float[Array, "batch ..."], rate: float, key: Key | None) -> Float[Array, "batch ..."]:
    """Stochastic depth (Huang et al. 2016): zero whole examples of a residual branch, scale the rest."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], *[1] * (x.ndim - 1)))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
