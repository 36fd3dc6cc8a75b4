"""Which axes of a kernel are summed with the input, for layers of Flax NNX and Linen and for arrays known by name alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jaxtyping import Array, Float

KERNELS = ("kernel", "embedding")
"""What Flax calls the kernel of a layer."""
LAYERS = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.Embed)
"""Layers of Flax NNX next to whose kernels adapters are put."""


@dataclass(frozen=True)
class Layout:
    """A kernel as a matrix (in, out), whatever its axes are. More axes, before those that are named, count layers, as ``nnx.scan``
    and ``nn.scan`` stack them.

    Attributes:
        rows: axes of one layer's kernel that are summed with the input, or looked up.
        columns: axes of the output.
        lookup: whether rows are looked up by an integer.
        last: whether the columns are the last axes of the layer's output, in this order.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    lookup: bool = False
    last: bool = True

    def shape(self, kernel: tuple[int, ...]) -> tuple[int, ...]:
        """(layers …, in, out) of a kernel of this shape."""
        layers = self.layers(kernel)
        own = kernel[len(layers) :]
        return (*layers, *(math.prod(own[i] for i in axes) for axes in (self.rows, self.columns)))

    def layers(self, kernel: tuple[int, ...]) -> tuple[int, ...]:
        """The numbers of layers that a kernel of this shape stacks; empty for one alone."""
        return kernel[: len(kernel) - len(self.rows) - len(self.columns)]

    def matrix(self, kernel: Float[Array, "..."]) -> Float[Array, "... inputs outputs"]:
        """The kernel as a matrix for each layer."""
        return kernel.transpose(self._order(kernel.shape)).reshape(self.shape(kernel.shape))

    def fold(self, matrix: Float[Array, "... inputs outputs"], kernel: tuple[int, ...]) -> Float[Array, "..."]:
        """A matrix for each layer as a kernel of this shape: the inverse of :meth:`matrix`."""
        order = self._order(kernel)
        return matrix.reshape([kernel[i] for i in order]).transpose(np.argsort(order))

    def _order(self, kernel: tuple[int, ...]) -> tuple[int, ...]:
        layers = len(self.layers(kernel))
        return (*range(layers), *(i + layers for i in (*self.rows, *self.columns)))


DENSE, TABLE = Layout((0,), (1,)), Layout((0,), (1,), lookup=True)


def _general(inputs: int, outputs: int) -> Layout:
    return Layout(tuple(range(inputs)), tuple(range(inputs, inputs + outputs)))


def einsum_layout(equation: str) -> Layout | str:
    """The layout of the kernel, the second operand of ``equation``; text where no adapter fits it, and why."""
    operands, output = equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    for letter in kernel:
        if letter == "." or kernel.count(letter) > 1 or inputs.count(letter) > 1:
            return f"'{equation}' has an axis without a letter of its own"
        if letter in inputs and letter in output:
            return f"'{equation}' has a kernel for each '{letter}' of the input: an adapter would need one too"
        if letter not in inputs and letter not in output:
            return f"'{equation}' sums the kernel over '{letter}' alone"
    rows = tuple(i for i, letter in enumerate(kernel) if letter in inputs)
    columns = tuple(i for i, letter in enumerate(kernel) if letter not in inputs)
    if not rows or not columns:
        return f"'{equation}' has no axis of the kernel that is {'an output' if rows else 'summed with the input'}"
    return Layout(rows, columns, last=output.endswith("".join(kernel[i] for i in columns)))


def _convolution(layer: Any, axes: int) -> Layout | str:
    if layer.feature_group_count > 1:
        return (
            f"it has {layer.feature_group_count} groups of channels, and an adapter across groups could not be merged"
        )
    if layer.mask is not None:
        return "it has a mask"
    return Layout(tuple(range(axes + 1)), (axes + 1,))


def layout_of(layer: Any, shape: tuple[int, ...], dtype: Any) -> Layout | str:
    """The layout of a layer's kernel; text where no adapter fits it, and why.

    Args:
        layer: a module of Flax NNX or Linen.
        shape: of its kernel.
        dtype: of its kernel.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        return f"it is {np.dtype(dtype).name}"
    layout, declared = _layout_and_shape(layer)
    if isinstance(layout, str):
        return layout
    if len(shape) < len(layout.rows) + len(layout.columns) or shape[len(shape) - len(declared) :] != declared:
        return f"its shape is {shape}; its layer states (…, {', '.join(map(str, declared))})"
    return layout


def _layout_and_shape(layer: Any) -> tuple[Layout | str, tuple[int, ...]]:
    """The layout of one layer, and the last axes of its kernel as far as the layer itself states them."""
    match layer:
        case nnx.Linear():
            return DENSE, (layer.in_features, layer.out_features)
        case nnx.LinearGeneral():
            if layer.batch_axis:
                return f"it has a kernel for each index of axes {tuple(layer.batch_axis)} of the input", ()
            sizes = (*layer.in_features, *layer.out_features)
            return _general(len(layer.in_features), len(layer.out_features)), sizes
        case nnx.Einsum():
            return einsum_layout(layer.einsum_str), tuple(layer.kernel_shape)
        case nnx.Conv():
            return _convolution(layer, len(layer.kernel_size)), tuple(layer.kernel_shape)
        case nnx.Embed():
            return TABLE, (layer.num_embeddings, layer.features)
        case linen.Dense():
            return DENSE, (layer.features,)
        case linen.DenseGeneral():
            axes, features = (np.atleast_1d(value).tolist() for value in (layer.axis, layer.features))
            if np.size(layer.batch_dims):
                return f"it has a kernel for each index of axes {tuple(layer.batch_dims)} of the input", ()
            return _general(len(axes), len(features)), tuple(features)
        case linen.Einsum() if layer.einsum_str is not None:
            return einsum_layout(layer.einsum_str), tuple(layer.shape)
        case linen.Conv():
            sizes = np.atleast_1d(layer.kernel_size).tolist()
            return _convolution(layer, len(sizes)), (layer.features,)
        case linen.Embed():
            return TABLE, (layer.num_embeddings, layer.features)
        case _:
            return f"no adapter fits a {type(layer).__name__}", ()


def named_layout(path: str, shape: tuple[int, ...], dtype: Any) -> Layout | None:
    """The layout of an array of which only the name is known; None where it is no kernel.

    ``weight`` is (out, in, …), as Equinox and PyTorch have it; any other name is (…, in, out), as Haiku's ``w`` and Flax's ``kernel`` are.
    """
    name = path.rpartition("/")[2]
    if len(shape) < 2 or name in ("bias", "scale") or not jnp.issubdtype(dtype, jnp.floating):
        return None
    if name == "weight":
        return Layout(tuple(range(1, len(shape))), (0,))
    return _general(len(shape) - 1, 1)
