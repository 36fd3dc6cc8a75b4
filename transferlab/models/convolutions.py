"""Convolutions of images, NHWC, with their padding and pooling."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.models.layers import Initialiser, Linear, Normal, TruncatedNormal, parameter, zeros


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding of one axis: (before, after), one more after where the total is odd."""
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
    """2-D convolution, as in :class:`Conv`, with any kernel (height, width, in / groups, out)."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), _pads(x, kernel.shape[0], stride, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


class Patches(nnx.Module):
    """Square patches, each mapped to a vector: a convolution whose stride is its kernel's side, computed as one matmul.

    Kernel (height, width, in, out). Pixels left over at the right and bottom are not seen.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int,
        *,
        bias: bool = True,
        initialiser: Initialiser = TruncatedNormal(0.02),
    ):
        self.kernel = parameter((side, side, inputs, outputs), initialiser)
        self.bias = parameter((outputs,), zeros) if bias else None
        self.side = side

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows columns outputs"]:
        batch, height, width, channels = x.shape
        rows, columns, side = height // self.side, width // self.side, self.side
        whole = x[:, : rows * side, : columns * side]
        patches = whole.reshape(batch, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
        kernel = self.kernel[...]
        flat = patches.reshape(batch * rows * columns, -1) @ kernel.reshape(-1, kernel.shape[-1])
        flat = flat if self.bias is None else flat + self.bias[...]
        return flat.reshape(batch, rows, columns, -1)


def pointwise(inputs: int, outputs: int, *, bias: bool = False) -> Linear:
    """Return a 1×1 convolution as a linear map of the channels: one matmul over all positions."""
    return Linear(inputs, outputs, bias=bias, initialiser=Normal(math.sqrt(2.0 / outputs)))


def max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    """3×3 max pooling at stride 2, padded by one pixel of minus infinity on each side (as torch pads)."""
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), border)


def every(stride: int, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    """Every ``stride``-th pixel from the first on: all that a 1×1 convolution of that stride sees."""
    return x[:, ::stride, ::stride]


class DepthwiseConv(nnx.Module):
    """Depthwise 2-D convolution, NHWC, kernel (height, width, 1, channels).

    On CPU it is a sum of shifted products: XLA's grouped convolution is many times slower there, also with 7×7 taps (4 to
    20 times for ConvNeXt-T's sizes, forward and backward). ``form`` (``shifted`` or ``grouped``) chooses by hand; both
    give the same numbers.
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
        """The convolution, in the form that is fast on this device."""
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
    """Depthwise convolution without padding: the sum over all taps of the tap times the pixels that it meets."""
    size = kernel.shape[0]
    # Without the barrier XLA computes the operations before it (norm, activation) once for every tap.
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

    # The kernel's: one running sum per tap over the examples; each is summed over the image once, at the end.
    def add(sums: list[Array], example: tuple[Array, Array]) -> tuple[list[Array], None]:
        pixels = _met(example[0], size, stride)
        return [total + (met * example[1]).astype(total.dtype) for total, met in zip(sums, pixels, strict=True)], None

    start = [jnp.zeros(dy.shape[1:], jnp.float32)] * size**2
    sums = jax.lax.scan(add, start, (padded, dy))[0]
    dkernel = jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel.shape).astype(kernel.dtype)

    # The input's: pixel stride * p + a meets tap i of output p - i // stride, for the taps i = a modulo the stride. So
    # the pixels of each remainder are also a sum of shifted products, and the remainders are interleaved.
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
