"""Building blocks that families share. A parameter is declared abstract, with how it would be drawn from scratch.

Nothing here holds random state: a ``key`` passed at call means *train* (dropout acts, batch statistics move); ``None``
means *evaluate*.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

Key = jax.Array


# Initialisers compare by value, so that two models of one shape are one compiled program.


@dataclass(frozen=True)
class Normal:
    """Gaussian with this standard deviation."""

    std: float

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return self.std * jax.random.normal(key, shape, dtype)


@dataclass(frozen=True)
class TruncatedNormal:
    """Gaussian cut at two standard deviations; ``std`` is that of the uncut one (as in BERT's code)."""

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
    """Every entry has this value."""

    value: float

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jnp.full(shape, self.value, dtype)


zeros, ones = Constant(0.0), Constant(1.0)
Initialiser = Callable[[Key, tuple[int, ...], jnp.dtype], Array]


def parameter(shape: tuple[int, ...], initialiser: Initialiser, dtype: jnp.dtype = jnp.float32) -> nnx.Param:
    """Declare a parameter. Nothing is allocated: the value is a ``jax.ShapeDtypeStruct`` until weights are placed."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)), initialiser=initialiser)


def statistic(shape: tuple[int, ...], initialiser: Initialiser) -> nnx.BatchStat:
    """Declare a batch statistic (float32), which no gradient reaches."""
    return nnx.BatchStat(jax.ShapeDtypeStruct(shape, jnp.dtype(jnp.float32)), initialiser=initialiser)


def dropout(x: Float[Array, "..."], rate: float, key: Key | None, before: int = 0) -> Float[Array, "..."]:
    """Zero entries with probability ``rate`` and scale the rest; the identity if ``key`` is None.

    Where ``x`` is a part of an array, ``before`` rows of it stand before: a part drops what the whole array would.
    """
    if key is None or rate == 0.0:
        return x
    keep = _hash_bits(key, x.shape, before) >= jnp.uint32(round(rate * 2**32))
    # In float32: in bfloat16 the factor itself would be off by up to 0.4 %, for every entry alike.
    scaled = (x.astype(jnp.float32) * (1.0 / (1.0 - rate))).astype(x.dtype)
    return jnp.where(keep, scaled, jnp.zeros((), x.dtype))


def _hash_bits(key: Key, shape: tuple[int, ...], before: int = 0) -> Array:
    """32 bits for each position: MurmurHash3's finaliser over (key, position).

    A handful of integer operations that XLA fuses with what uses them, and computes again in the backward pass
    instead of keeping a mask. Threefry's bits, which are made to be unpredictable, were a fifth of a step on CPU.
    A position is a sum over its coordinates, so that a text's bits do not hang on how far its batch is padded.
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
"""Odd numbers without a common pattern (those of xxHash), one an axis, the last axis first."""


class Linear(nnx.Module):
    """``x @ kernel + bias``; kernel (in, out). A method may set ``lora``, an adapter that sits beside the kernel."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, initialiser: Initialiser = TruncatedNormal(0.02)
    ):
        self.kernel = parameter((inputs, outputs), initialiser)
        self.bias = parameter((outputs,), zeros) if bias else None
        self.lora: nnx.Module | None = nnx.data(None)

    def __call__(self, x: Float[Array, "*batch inputs"], key: Key | None = None) -> Float[Array, "*batch outputs"]:
        # Tokens are flattened to one axis: XLA's CPU backend is slow on gradients that contract two.
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
        return lookup(self.embedding[...], ids)

    def attend(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch vocabulary"]:
        """Logits over the vocabulary from the same table: a tie is a call, never a shared variable."""
        return x @ self.embedding[...].T


FEW_ROWS = 256
"""Rows of a table up to which a lookup is a product with one-hot rows."""


def lookup(table: Float[Array, "rows features"], ids: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
    """Rows of a table, the last for an index beyond it. What many lookups of a row add to its gradient is summed in float32.

    Of a small table they are a matrix product with one-hot rows: on a GPU additions to the same row wait for each other,
    and with token types, which are all 0, they took 24 ms of a 27 ms step.
    """
    rows = table.shape[0]
    if rows <= FEW_ROWS:
        chosen = jax.nn.one_hot(jnp.clip(ids.reshape(-1), 0, rows - 1), rows, dtype=table.dtype)
        found = jnp.matmul(chosen, table, precision=jax.lax.Precision.HIGHEST)
        return found.reshape(*ids.shape, table.shape[1])
    return jnp.take(table.astype(jnp.float32), ids, axis=0, mode="clip").astype(table.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis (Ba et al. 2016), statistics in float32. ``eps`` is the origin's.

    The backward pass keeps what came in and computes the rest again: less to write to memory and read.
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

    The backward pass computes again what was normalised, on CPU from x alone (a step is 2 to 4 % faster there), elsewhere from
    x and its moments (from x alone, a GPU wrote it in float32 and read it back).
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
    """In closed form: two sums over the axis, where the derivative of each step has four."""
    # This first: in the other order XLA's CPU backend computes the slope once for each of its uses (a fifth of a LoRA step).
    along = normal * (normal * dx).mean(-1, keepdims=True)
    return factor * (dx - dx.mean(-1, keepdims=True) - along)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _norm_by_moments(x: Array, scale: Array, bias: Array | None, eps: float) -> Array:
    return _norm(x, scale, bias, *_moments(x, eps))


@partial(_norm_by_moments.defjvp, symbolic_zeros=True)
def _norm_by_moments_slope(eps: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, scale, bias = primals
    moments = _moments(x, eps)
    # Of what is frozen no tangent is computed.
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

    With ``offset`` the gain is ``1 + scale`` and rounding comes after it, as in Gemma; else before it, as in Llama and T5.
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


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(x: Float[Array, "*batch n"], dtype: DTypeLike = jnp.float32) -> Float[Array, "*batch n"]:
    """Of the last axis, computed in the dtype of ``x`` and rounded to ``dtype``.

    The backward pass keeps the rounded result alone; ``jax.nn.softmax`` keeps the exponentials as well.
    """
    raised = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    return (raised / raised.sum(-1, keepdims=True)).astype(dtype)


@softmax.defjvp
def _softmax_slope(dtype: DTypeLike, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    share = softmax(x, dtype)
    wide = share.astype(x.dtype)
    return share, (wide * (dx - (wide * dx).sum(-1, keepdims=True))).astype(dtype)


@jax.checkpoint
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x Φ(x)`` with the exact Gaussian distribution (Hendrycks & Gimpel 2016), as BERT and ViT have it; in float32.

    The backward pass keeps ``x`` alone and computes Φ again: the erf costs less than to write it to memory and read it.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * (1.0 / math.sqrt(2.0))))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""Activations by the names that Hugging Face configs use."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis: (before, after), one more after where the total is odd."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Conv(nnx.Module):
    """2-D convolution, NHWC, kernel (height, width, in, out), no bias.

    ``padding`` is ``same`` (TensorFlow's, uneven at stride 2) or ``symmetric`` (torch's ``(kernel - 1) // 2``). With
    ``groups`` each part of the outputs sees its part of the inputs: kernel (height, width, in / groups, out).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: str = "same", groups: int = 1
    ):
        normal = Normal(math.sqrt(2.0 / (kernel * kernel * outputs)))
        self.kernel = parameter((kernel, kernel, inputs // groups, outputs), normal)
        self.stride, self.padding, self.groups = stride, padding, groups

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows columns outputs"]:
        return convolve(x, self.kernel[...], self.stride, self.padding, self.groups)


def convolve(
    x: Float[Array, "batch height width inputs"], kernel: Array, stride: int, padding: str, groups: int = 1
) -> Float[Array, "batch rows columns outputs"]:
    """2-D convolution as :class:`Conv` has it, with any kernel (height, width, in / groups, out)."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), _pads(x, kernel.shape[0], stride, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


class Patches(nnx.Module):
    """Square patches, each mapped to a vector: a convolution whose stride is its kernel, computed as one product.

    Kernel (height, width, in, out). What is left over at the right and below is not seen.
    """

    def __init__(self, inputs: int, outputs: int, side: int, *, initialiser: Initialiser = TruncatedNormal(0.02)):
        self.kernel = parameter((side, side, inputs, outputs), initialiser)
        self.bias = parameter((outputs,), zeros)
        self.side = side

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows columns outputs"]:
        batch, height, width, channels = x.shape
        rows, columns, side = height // self.side, width // self.side, self.side
        whole = x[:, : rows * side, : columns * side]
        patches = whole.reshape(batch, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
        kernel = self.kernel[...]
        flat = patches.reshape(batch * rows * columns, -1) @ kernel.reshape(-1, kernel.shape[-1])
        return (flat + self.bias[...]).reshape(batch, rows, columns, -1)


def pointwise(inputs: int, outputs: int, *, bias: bool = False) -> Linear:
    """A 1×1 convolution is a linear map of the channels: one matrix product over all positions."""
    return Linear(inputs, outputs, bias=bias, initialiser=Normal(math.sqrt(2.0 / outputs)))


def max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    """The largest of 3×3 pixels at stride 2; one pixel more on each side, which never is the largest (torch's)."""
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), border)


def every(stride: int, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    """Each ``stride``-th pixel from the first on: all that a 1×1 convolution of that stride sees."""
    return x[:, ::stride, ::stride]


class DepthwiseConv(nnx.Module):
    """Depthwise 2-D convolution, NHWC, kernel (height, width, 1, channels).

    On CPU it is a sum of shifted products: XLA's grouped convolution is many times slower there, at 7×7 taps too (4 to
    20 times for ConvNeXt-T's sizes, forward and backward). ``form`` (``shifted``
    or ``grouped``) chooses by hand; both give the same numbers.
    """

    def __init__(
        self, channels: int, kernel: int, *, stride: int = 1, padding: str = "same", form: str | None = None,
        bias: bool = False, initialiser: Initialiser | None = None,
    ):  # fmt: skip
        normal = initialiser or Normal(math.sqrt(2.0 / (kernel * kernel)))
        self.kernel = parameter((kernel, kernel, 1, channels), normal)
        self.bias = parameter((channels,), zeros) if bias else None
        self.stride, self.padding, self.form = stride, padding, form

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
        y = self.convolved(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...]

    def convolved(self, x: Array, kernel: Array) -> Array:
        """The convolution, in the form that is fast here."""
        stride = self.stride
        size, channels = kernel.shape[0], kernel.shape[3]
        pads = _pads(x, size, stride, self.padding)
        form = self.form or ("shifted" if jax.default_backend() == "cpu" else "grouped")
        if form == "grouped":
            return jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=channels,
            )  # fmt: skip
        return _shifted_products(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted_products(padded: Array, kernel: Array, stride: int) -> Array:
    """Depthwise convolution without padding: for each tap, the pixels that it meets times the tap, summed."""
    size = kernel.shape[0]
    # Without the barrier XLA computes what came before (norm, activation) once for every tap.
    pixels = _met(jax.lax.optimization_barrier(padded), size, stride)
    total = jnp.zeros(pixels[0].shape, padded.dtype)
    for n, met in enumerate(pixels):
        total = total + met * kernel[n // size, n % size, 0]
    return total


def _met(padded: Array, size: int, stride: int) -> list[Array]:
    """The pixels that each tap meets, tap by tap along the kernel's rows: (…, rows, columns, channels)."""
    down, right = ((length - size) // stride * stride + 1 for length in padded.shape[-3:-1])
    return [padded[..., i : i + down : stride, j : j + right : stride, :] for i in range(size) for j in range(size)]


def _shifted_products_backward(stride: int, kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """Both gradients by hand: XLA's transpose of the strided slices is several times slower on CPU."""
    padded, kernel = kept
    size = kernel.shape[0]

    # The kernel's: one running sum a tap over the examples; each is summed over the picture once, at the end.
    def add(sums: list[Array], example: tuple[Array, Array]) -> tuple[list[Array], None]:
        pixels = _met(example[0], size, stride)
        return [total + (met * example[1]).astype(total.dtype) for total, met in zip(sums, pixels, strict=True)], None

    start = [jnp.zeros(dy.shape[1:], jnp.float32)] * size**2
    sums = jax.lax.scan(add, start, (padded, dy))[0]
    dkernel = jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel.shape).astype(kernel.dtype)

    # The input's: pixel stride * p + a meets tap i of output p - i // stride, for the taps i = a modulo the stride. So
    # the pixels of one remainder are a sum of shifted products too, and the remainders are interleaved.
    front = (size - 1) // stride
    rows, columns = (-(-length // stride) for length in padded.shape[1:3])
    slopes = jnp.pad(dy, ((0, 0), (front, rows - dy.shape[1]), (front, columns - dy.shape[2]), (0, 0)))
    slopes = jax.lax.optimization_barrier(slopes)

    def remainder(a: int, b: int) -> Array:
        total = jnp.zeros((dy.shape[0], rows, columns, dy.shape[3]), dy.dtype)
        for i in range(a, size, stride):
            for j in range(b, size, stride):
                u, v = front - i // stride, front - j // stride
                total = total + slopes[:, u : u + rows, v : v + columns] * kernel[i, j, 0]
        return total

    woven = jnp.stack([jnp.stack([remainder(a, b) for b in range(stride)], 3) for a in range(stride)], 2)
    dx = woven.reshape(dy.shape[0], rows * stride, columns * stride, dy.shape[3])
    return dx[:, : padded.shape[1], : padded.shape[2]], dkernel


_shifted_products.defvjp(  # pyright: ignore[reportFunctionMemberAccess]
    lambda padded, kernel, stride: (_shifted_products(padded, kernel, stride), (padded, kernel)),
    _shifted_products_backward,
)


def _pads(x: Array, kernel: int, stride: int, padding: str) -> tuple[tuple[int, int], tuple[int, int]]:
    if padding == "symmetric":
        side = (kernel - 1) // 2
        return (side, side), (side, side)
    return same_padding(x.shape[1], kernel, stride), same_padding(x.shape[2], kernel, stride)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015), statistics in float32.

    With a key the batch's statistics are used and the running ones move: ``new = (1 - momentum) · old + momentum ·
    batch`` (torch's convention; the biased variance, as TensorFlow keeps it). Rows whose ``weight`` is 0 are padding and
    count in neither. Without a key, or where ``frozen`` is set, the running statistics are used and stay: the plan sets
    it where scale and bias do not train, so that an adapter in the same stage does not move them.
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
            share = (rows / jnp.maximum(rows.sum(), 1.0)).reshape(-1, *[1] * (x.ndim - 1))
            axes, positions = tuple(range(x.ndim - 1)), math.prod(x.shape[1:-1])
            mean = (wide * share).sum(axes) / positions
            var = (jnp.square(wide - mean) * share).sum(axes) / positions
            # A part of a batch that is all padding has no statistics.
            moved = self.momentum * (rows.sum() > 0)
            self.mean[...] = (1 - moved) * self.mean[...] + moved * mean
            self.var[...] = (1 - moved) * self.var[...] + moved * var
        factor = jax.lax.rsqrt(var + self.eps) * self.scale[...]
        return (x * factor + (self.bias[...] - mean * factor)).astype(x.dtype)


def drop_path(x: Float[Array, "batch ..."], rate: float, key: Key | None) -> Float[Array, "batch ..."]:
    """Stochastic depth (Huang et al. 2016): zero whole examples of a residual branch, scale the rest."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], *[1] * (x.ndim - 1)))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
