"""Low-rank adapters of kernels of somebody else's layers: what they compute, how they start, how they are merged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from string import ascii_letters
from types import SimpleNamespace, new_class
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.models.foreign.layouts import LAYERS, Layout
from transferlab.models.layers import Key, Normal, Uniform, zeros
from transferlab.trees import key_of

Map: TypeAlias = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Adapter:
    """``kernel + scale · a b``, without arrays; with ``magnitude`` each of its columns is scaled to that length (DoRA).

    Attributes:
        kernel: path of the kernel.
        folder: path of the folder of its leaves ``a`` (…, in, rank), ``b`` (…, rank, out) and ``magnitude`` (…, out).
        layout: which axes of the kernel are in and out.
        shape: of the kernel.
        dtype: of the adapter's leaves.
        rank, scale: width, and the factor on the product.
        dropout: rate on the adapter's input, where there is one.
        magnitude: whether it is DoRA.
    """

    kernel: str
    folder: str
    layout: Layout
    shape: tuple[int, ...]
    dtype: str
    rank: int
    scale: float
    dropout: float = 0.0
    magnitude: bool = False

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Path → shape of each leaf."""
        *layers, inputs, outputs = self.layout.shape(self.shape)
        sizes: dict[str, tuple[int, ...]] = {"a": (*layers, inputs, self.rank), "b": (*layers, self.rank, outputs)}
        if self.magnitude:
            sizes["magnitude"] = (*layers, outputs)
        return {f"{self.folder}/{name}": jax.ShapeDtypeStruct(size, self.dtype) for name, size in sizes.items()}

    def draw(self, key: Key, kernel: Float[Array, "..."]) -> dict[str, Float[Array, "..."]]:
        """The leaves as peft starts them, by path: ``a`` uniform and ``b`` zero; for a table ``a`` zero and ``b`` normal."""
        inputs = self.layout.shape(self.shape)[-2]
        starts = (zeros, Normal(1.0)) if self.layout.lookup else (Uniform(1.0 / math.sqrt(inputs)), zeros)
        starts = dict(zip((f"{self.folder}/a", f"{self.folder}/b"), starts, strict=True))
        leaves = {p: starts[p](key_of(key, p), s.shape, s.dtype) for p, s in self.shapes.items() if p in starts}
        if self.magnitude:
            leaves[f"{self.folder}/magnitude"] = lengths(self.layout.matrix(kernel)).astype(self.dtype)
        return leaves

    def merged(self, kernel: Float[Array, "..."], a: Array, b: Array, magnitude: Array | None) -> Float[Array, "..."]:
        """Return the kernel with the adapter in it, in the kernel's dtype."""
        product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        whole = kernel + self.scale * self.layout.fold(product, kernel.shape)
        if magnitude is not None:
            columns = self.layout.matrix(whole)
            factors = magnitude / jax.lax.stop_gradient(lengths(columns))
            whole = self.layout.fold(columns * factors[..., None, :].astype(columns.dtype), kernel.shape)
        return whole.astype(kernel.dtype)


def lengths(matrix: Float[Array, "... inputs outputs"]) -> Float[Array, "... outputs"]:
    """The length of each column, in float32 at least."""
    return jnp.linalg.norm(matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32)), axis=-2)


class Factors(nnx.Module):
    """The leaves of an adapter next to a kernel of an NNX layer, and the dropout on its input.

    They are of the kind that Flax's own LoRA has, so that ``nnx.split(module, nnx.LoRAParam, ...)`` finds them.
    """

    def __init__(self, adapter: Adapter, kernel: Float[Array, "..."], key: Key):
        leaves = adapter.draw(key, kernel)
        self.a = nnx.LoRAParam(leaves[f"{adapter.folder}/a"])
        self.b = nnx.LoRAParam(leaves[f"{adapter.folder}/b"])
        self.magnitude = nnx.LoRAParam(leaves[f"{adapter.folder}/magnitude"]) if adapter.magnitude else nnx.data(None)
        self.dropout = nnx.data(None)
        self.adapter = adapter
        if adapter.dropout and not adapter.layout.lookup:
            stream = key_of(key, f"{adapter.folder}/dropout")
            self.dropout = nnx.Dropout(adapter.dropout)
            layers = adapter.layout.layers(kernel.shape)
            self.dropout.rngs = nnx.data(
                nnx.RngStream(jax.random.split(stream, layers) if layers else stream, tag="dropout")
            )

    def delta(self, layer: Any, inputs: Any, first: Map, second: Map) -> Array:
        """``scale · second(first(inputs, a), b)``, in the layer's dtype if it has one."""
        x, a, b = inputs, self.a[...], self.b[...]
        if self.adapter.layout.lookup:
            a, b = layer.promote_dtype((a, b), dtype=layer.dtype)
        else:
            x = x if self.dropout is None else self.dropout(x)
            x, a, b = layer.promote_dtype((x, a, b), dtype=layer.dtype)
        return second(first(x, a), b) * self.adapter.scale

    def product(self) -> Float[Array, "... inputs outputs"]:
        """``a b``."""
        return jnp.matmul(self.a[...], self.b[...], precision=jax.lax.Precision.HIGHEST)

    def merged(self, kernel: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the kernel with the adapter in it."""
        magnitude = None if self.magnitude is None else self.magnitude[...]
        return self.adapter.merged(kernel, self.a[...], self.b[...], magnitude)


@cache
def adapted_class(cls: type) -> type:
    """The class of a layer of class ``cls`` that has an adapter: one for each, since graphs compare classes.

    It has one base: an object may only change to a class that stores it alike. ``plain`` is what it was.
    """
    added = {
        "plain": cls,
        "__call__": _call,
        "__reduce__": _reduce,
        "__module__": cls.__module__,
        **({"attend": _attend} if issubclass(cls, nnx.Embed) else {}),
    }
    return new_class(f"Adapted{cls.__name__}", (cls,), exec_body=lambda body: body.update(added))


def _reduce(self: Any) -> Any:
    """How it is pickled: the class is made anew from the one that has a name."""
    return _unpickled, (self.plain,), self.__getstate__()


def _unpickled(cls: type) -> Any:
    return object.__new__(adapted_class(cls))


def _call(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Array:
    """What the layer's own class computes, and the adapter's part."""
    if has_own_call(self.plain):
        return self.plain.__call__(_twin(self), inputs, *args, **kwargs)
    y = self.plain.__call__(self, inputs, *args, **kwargs)
    lora, layout = self.lora, self.lora.adapter.layout
    delta = lora.delta(self, inputs, *_maps(self)).astype(y.dtype)
    if lora.magnitude is None:
        return y + delta
    # Liu et al. 2024, equation 5, in a form that leaves y to the bit where the factor is 1.
    whole = layout.matrix(self.kernel[...]) + lora.adapter.scale * lora.product()
    factor = lora.magnitude[...] / jax.lax.stop_gradient(lengths(whole))
    factor = factor.reshape([self.kernel.shape[i] for i in layout.columns]).astype(y.dtype)
    plain = y if self.bias is None else y - self.bias[...].astype(y.dtype)
    return y + (factor - 1) * plain + factor * delta


def _attend(self: Any, query: Any, *args: Any, **kwargs: Any) -> Array:
    """The table as an output layer, with the adapter's part."""
    if has_own_call(self.plain):
        return self.plain.attend(_twin(self), query, *args, **kwargs)
    logits = self.plain.attend(self, query, *args, **kwargs)
    query, a, b = self.promote_dtype((query, self.lora.a[...], self.lora.b[...]), dtype=self.dtype)
    return logits + (self.lora.adapter.scale * ((query @ b.T) @ a.T)).astype(logits.dtype)


def has_own_call(cls: type) -> bool:
    """Whether a class on one of Flax's layers computes something of its own, to which an adapter's output cannot be added."""
    flax = next(one for one in cls.__mro__ if one in LAYERS)
    return any(getattr(cls, name, None) is not getattr(flax, name, None) for name in ("__call__", "attend"))


def _twin(layer: Any) -> Any:
    """The layer as it would be merged, as an object of its own: NNX never sees it."""
    twin = object.__new__(layer.plain)
    vars(twin).update(vars(layer))
    name = "embedding" if issubclass(layer.plain, nnx.Embed) else "kernel"
    vars(twin)[name] = kernel_of(layer).replace(layer.lora.merged(kernel_of(layer)[...]))
    return twin


def attach(layer: Any, adapter: Adapter, key: Key) -> None:
    """Give a layer this adapter, in place. It has no arrays where the layer's kernel has none."""
    kernel = kernel_of(layer).get_value()
    if isinstance(kernel, jax.ShapeDtypeStruct):
        layer.lora = nnx.eval_shape(lambda kernel: Factors(adapter, kernel, key), kernel)
    else:
        layer.lora = Factors(adapter, kernel, key)
    # NNX takes what is set for an attribute of the module.
    object.__setattr__(layer, "__class__", adapted_class(type(layer)))


def detach(layer: Any) -> None:
    """Merge a layer's adapter into its kernel and take it off, in place."""
    variable = kernel_of(layer)
    if not isinstance(kernel := variable.get_value(), jax.ShapeDtypeStruct):
        variable.set_value(layer.lora.merged(kernel))
    del layer.lora
    object.__setattr__(layer, "__class__", layer.plain)


def kernel_of(layer: Any) -> nnx.Param:
    """The kernel of one of Flax's layers."""
    return layer.embedding if isinstance(layer, nnx.Embed) else layer.kernel


def _maps(layer: Any) -> tuple[Map, Map]:
    """(inputs, a) → bottleneck and (bottleneck, b) → output of this layer."""
    precision = getattr(layer, "precision", None)
    layout = layer.lora.adapter.layout
    rank = layer.lora.adapter.rank

    def second(hidden: Array, b: Array) -> Array:
        return jnp.matmul(hidden, b, precision=precision)

    match layer:
        case nnx.Linear():
            return partial(jnp.matmul, precision=precision), second
        case nnx.Embed():
            return lambda ids, a: jnp.take(a, ids, axis=0), second
        case nnx.LinearGeneral():
            sizes = [layer.kernel.shape[i] for i in layout.rows]
            outputs = [layer.kernel.shape[i] for i in layout.columns]

            def contract(x: Array, a: Array) -> Array:
                axes = (layer.axis, tuple(range(len(sizes))))
                return jnp.tensordot(x, a.reshape(*sizes, rank), axes, precision=precision)

            return contract, lambda hidden, b: jnp.tensordot(hidden, b.reshape(rank, *outputs), 1, precision=precision)
        case nnx.Einsum():
            return _einsum_maps(layer, layout, rank)
    return partial(_convolve, layer), second


def _einsum_maps(layer: Any, layout: Layout, rank: int) -> tuple[Map, Map]:
    terms, output = layer.einsum_str.replace(" ", "").split("->")
    inputs, kernel = terms.split(",")
    rows, columns = ("".join(kernel[i] for i in axes) for axes in (layout.rows, layout.columns))
    letter = next(letter for letter in ascii_letters if letter not in terms)
    hidden = "".join(one for one in inputs if one not in rows) + letter
    sizes, outputs = ([layer.kernel.shape[i] for i in axes] for axes in (layout.rows, layout.columns))

    def first(x: Array, a: Array) -> Array:
        a = a.reshape(*sizes, rank)
        return jnp.einsum(f"{inputs},{rows}{letter}->{hidden}", x, a, precision=layer.precision)

    def second(h: Array, b: Array) -> Array:
        b = b.reshape(rank, *outputs)
        return jnp.einsum(f"{hidden},{letter}{columns}->{output}", h, b, precision=layer.precision)

    return first, second


def _convolve(layer: Any, x: Array, a: Array) -> Array:
    """The layer's own convolution, with its strides, padding and dilation, with ``a`` as a kernel of ``rank`` channels."""
    rank = a.shape[-1]
    shape = (*layer.kernel.shape[:-1], rank)
    changes = {"kernel": a.reshape(shape), "kernel_shape": shape, "out_features": rank, "bias": None, "use_bias": False}
    # x and a have been promoted already, with the bias that this one lacks.
    return nnx.Conv.__call__(SimpleNamespace(**{**vars(layer), **changes}), x)  # type: ignore[arg-type]
