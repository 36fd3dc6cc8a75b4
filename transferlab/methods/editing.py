"""``tl.edit``: adapters on somebody else's module or network; ``tl.merge``: off again, added to the kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Never, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.core import Tracer

from transferlab import trees
from transferlab.errors import TransferlabError, check_arguments
from transferlab.methods.base import Method
from transferlab.methods.lora import LoRA, LowRank
from transferlab.models.backbone import Model
from transferlab.models.foreign.adapters import Adapter, Factors, detach
from transferlab.models.foreign.edited import EditedNetwork, attach_all, edited, kernels_of, network_kernels
from transferlab.models.foreign.layouts import Layout
from transferlab.models.foreign.network import ForeignNetwork
from transferlab.models.foreign.nnx_module import NnxModule
from transferlab.pretrained.source import Source
from transferlab.selectors import owns, select, stages_of, union_parts
from transferlab.transfer.derived import Derived

AnyModule = TypeVar("AnyModule", bound=nnx.Module)


@overload
def edit(module: ForeignNetwork, method: Method, *, seed: Any = 0) -> EditedNetwork: ...
@overload
def edit(module: AnyModule, method: Method, *, seed: Any = 0) -> AnyModule: ...
@check_arguments
def edit(module: Any, method: Method, *, seed: Any = 0) -> Any:
    """Put the method's adapters on a module or network that was not written for transferlab. What it computes stays the same.

    An ``nnx.Module`` is changed in place, and returned. Its layers (``nnx.Linear``, ``LinearGeneral``, ``Einsum``, ``Conv`` and
    ``Embed``, and classes on them) that ``targets`` selects get a ``lora`` with the Params ``a`` (in, rank) and ``b`` (rank,
    out); every path that it has stays, as does what its constructor drew. Axes of a kernel that are summed with the input
    count as one, in; all others as one, out. ``method.dropout`` is an ``nnx.Dropout`` at ``lora/dropout``: ``module.train()``
    and ``module.eval()`` switch it. An adapter acts when its layer is called: a kernel that is read without that stays as it is.
    A class with a ``__call__`` of its own computes that with the adapter added to its kernel.

    A network of :func:`transferlab.network` has its module's layers edited so. One of :func:`transferlab.linen_network` or
    :func:`transferlab.function_network` is called with ``kernel + scale · a b`` in place of each kernel: without dropout on the
    adapters' input, as ``notes`` and the table of a graft say; in bfloat16 the sum is rounded to that. The leaves are
    ``lora/a`` and ``lora/b`` next to the kernel (``lora/NAME/a`` where a folder has several kernels).

    Leaves below ``head`` are not adapted: a head trains as a whole.

    Args:
        module: an ``nnx.Module``, with arrays or (under ``nnx.eval_shape``) without, or a network.
        method: :class:`transferlab.methods.LoRA`, ``DoRA`` or ``PiSSA``; its ``targets`` selects the kernels, each part of a
            union at least one. What a method makes of kernels (``derive``) it makes of those that a graft places.
        seed: of the adapters of a module: an integer, a key, or ``nnx.Rngs``. A network draws its own when it is placed.

    Returns:
        The module itself; or a network, whose ``merge(params)`` adds the adapters to the kernels.

    Raises:
        TransferlabError: ``targets`` selects no kernel, or one that cannot have an adapter (a convolution with groups, a kernel
            for each index of a batch axis, a Param that two layers share); there are adapters already.

    Example:
        >>> tl.edit(module, tl.methods.LoRA(rank=4, targets="layers/**"))
        >>> network = tl.edit(tl.network(lambda rngs: MLP(rngs=rngs)), tl.methods.LoRA(targets="**/kernel"))
        >>> graft = tl.graft(network, weights, initialise="**/lora/** | head")
    """
    method = _adapter_method(method)
    if isinstance(module, EditedNetwork):
        raise TransferlabError(
            "This network has adapters already. Edit what it was made of: tl.edit(network.base, method)."
        )
    if isinstance(module, ForeignNetwork):
        paths = {path: (shape.shape, shape.dtype) for path, shape in trees.walk(module.params)}
        beside = isinstance(module.module, NnxModule)
        kernels = network_kernels(module)
        chosen = _chosen(method, kernels, paths, stages_of(module), "network", beside)
        adapters = [_adapter(method, path, layout, paths, kernels) for path, layout in chosen.items()]
        return edited(module, adapters, _derived(method, adapters))
    if isinstance(module, Model) or not isinstance(module, nnx.Module):
        raise TransferlabError(_not_editable(module))
    paths = {
        "/".join(map(str, place)): (tuple(leaf.shape), leaf.dtype)
        for place, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))
    }
    kernels = kernels_of(module)
    chosen = _chosen(method, kernels, paths, (), "module", True)
    adapters = [_adapter(method, path, layout, paths, kernels) for path, layout in chosen.items()]
    derived = _derived(method, adapters)
    _start(attach_all(module, adapters, _key(seed)), derived)
    return module


@overload
def merge(module: ForeignNetwork) -> Never: ...
@overload
def merge(module: AnyModule) -> AnyModule: ...
@check_arguments
def merge(module: Any) -> Any:
    """Take the adapters of :func:`transferlab.edit` off a module again, each added to its kernel, in place.

    The module has the classes and paths that it had, and computes what it did with its adapters in evaluation. A network
    merges parameters: ``network.merge(params)``.

    Returns:
        The module itself.

    Raises:
        TransferlabError: it has no adapters.

    Example:
        >>> tl.merge(module)
    """
    if isinstance(module, ForeignNetwork):
        raise TransferlabError("A network has no arrays; it merges parameters: params = network.merge(params).")
    if not isinstance(module, nnx.Module):
        raise TransferlabError(f"tl.merge takes an nnx.Module, got a {type(module).__name__}.")
    layers = [part for _, part in nnx.iter_modules(module) if isinstance(getattr(part, "lora", None), Factors)]
    if not layers:
        raise TransferlabError("This module has no adapters of tl.edit to merge.")
    for layer in layers:
        detach(layer)
    return module


def _adapter_method(method: Any) -> LoRA:
    if isinstance(method, LoRA):
        return method
    name = type(method).__name__ if isinstance(method, Method) else repr(method)[:40]
    raise TransferlabError(
        f"{name} is no method with adapters: tl.edit(module, tl.methods.LoRA(targets='**/kernel')). What trains is said to "
        "tl.train_step or optax, as tl.select('head')."
    )


def _low_rank(method: LoRA, inputs: int = 1, outputs: int = 1) -> LowRank:
    """The adapter that the method would give a linear map of ours."""
    adapter = method.adapter(inputs, outputs)
    if type(method).edit is not LoRA.edit or type(adapter) is not LowRank:
        raise TransferlabError(
            f"{type(method).__name__} edits models of transferlab in a way of its own; tl.edit puts low-rank adapters where 'targets' says, as "
            "tl.methods.LoRA, DoRA and PiSSA do."
        )
    return adapter


def _derived(method: LoRA, adapters: Sequence[Adapter]) -> dict[tuple[str, ...], Derived]:
    """How leaves start that the method makes of kernels, by their paths here; its own rules are about matrices."""
    out: dict[tuple[str, ...], Derived] = {}
    for adapter in adapters:
        paths = {"layer/kernel": adapter.kernel}
        paths |= {f"layer/lora/{path.rpartition('/')[2]}": path for path in adapter.shapes}
        *_, inputs, outputs = adapter.layout.shape(adapter.shape)
        shapes = {
            "layer/kernel": jax.ShapeDtypeStruct((inputs, outputs), adapter.dtype),
            **dict.fromkeys(list(paths)[1:]),
        }
        for targets, rule in method.derive(shapes).items():
            names = (targets,) if isinstance(targets, str) else targets
            make = partial(_of_matrices, adapter, [name == "layer/kernel" for name in names], rule.make)
            out[tuple(paths[name] for name in names)] = Derived(
                tuple(paths[name] for name in rule.sources), rule.how, make
            )
    return out


def _of_matrices(
    adapter: Adapter, folds: Sequence[bool], make: Callable[..., Any], kernel: np.ndarray
) -> tuple[np.ndarray, ...]:
    """What ``make`` makes of a kernel as a matrix, of each layer if there are several; folded back where it is a kernel."""
    layout = adapter.layout
    matrix = np.asarray(layout.matrix(jnp.asarray(kernel)))
    made = [make(one) for one in matrix.reshape(-1, *matrix.shape[-2:])]
    parts = zip(*(one if isinstance(one, tuple) else (one,) for one in made), strict=True)
    stacked = [np.stack(part).reshape(*layout.layers(adapter.shape), *part[0].shape) for part in parts]
    return tuple(
        np.asarray(layout.fold(jnp.asarray(value), adapter.shape)) if fold else value
        for value, fold in zip(stacked, folds, strict=True)
    )


def _start(leaves: Mapping[str, nnx.Param], derived: Mapping[tuple[str, ...], Derived]) -> None:
    """Give leaves that have arrays the values that a method makes of kernels."""
    for targets, rule in derived.items():
        kernels = [leaves[path].get_value() for path in rule.sources]
        if not set(targets) & set(rule.sources) or any(isinstance(one, jax.ShapeDtypeStruct) for one in kernels):
            continue  # a magnitude is drawn as the lengths already; shapes have no values
        if any(isinstance(one, Tracer) for one in kernels):
            raise TransferlabError(
                f"'{targets[0]}' starts as {rule.how}, which needs the kernel's values: edit the module outside of jit and eval_shape."
            )
        values = rule.make(*(np.asarray(one) for one in kernels))
        for path, value in zip(targets, values, strict=True):
            leaves[path].set_value(jnp.asarray(value, leaves[path].dtype))


def _not_editable(module: Any) -> str:
    if isinstance(module, Source):
        return "A source is adapted with data: tl.adapt(source, data, method=tl.methods.LoRA(rank=8))."
    if isinstance(module, Model):
        return (
            "A model of transferlab is edited by its method: tl.adapt(source, data, method=tl.methods.LoRA(rank=8)), or method.edit(model) "
            "before it has weights."
        )
    if isinstance(module, linen.Module):
        return (
            "A Linen module has no arrays to put adapters next to: tl.edit(tl.linen_network(module, example), method)."
        )
    if callable(module):
        return (
            f"tl.edit takes an nnx.Module or a network, got {str(module)[:40]!r}. Of Equinox or a function: "
            "tl.edit(tl.function_network(apply, params), method)."
        )
    return f"tl.edit takes an nnx.Module or a network of tl.network and its kin, got a {type(module).__name__}."


def _chosen(
    method: LoRA,
    kernels: Mapping[str, Layout | str],
    paths: Collection[str],
    stages: Sequence[Sequence[str]],
    what: str,
    beside: bool,
) -> dict[str, Layout]:
    """The kernels that ``targets`` selects outside the head, with their layouts. ``beside`` is next to a layer of NNX."""
    outside = {path: layout for path, layout in kernels.items() if not owns(("head",), path)}
    chosen: dict[str, Layout] = {}
    for part in union_parts(select(str(method.targets))):
        try:
            matches = part.match(paths, stages)
        except TransferlabError as error:
            raise TransferlabError(f"{error}{_shown(method, outside, what)}") from None
        selected = {path: layout for path, layout in outside.items() if path in matches}
        for path, layout in selected.items():
            if isinstance(layout, str):
                raise TransferlabError(
                    f"'{path}' cannot have an adapter: {layout}. Leave it out: "
                    f"tl.edit({what}, tl.methods.{type(method).__name__}(targets='({method.targets}) & ~{path}'))."
                )
            if _low_rank(method).magnitude is not None and (layout.lookup or (beside and not layout.last)):
                raise TransferlabError(
                    f"'{path}' cannot have an adapter of {type(method).__name__}: "
                    + (
                        "its rows are looked up"
                        if layout.lookup
                        else "its outputs are not the last axes of the layer's"
                    )
                    + f". Leave it out: targets='({method.targets}) & ~{path}'."
                )
            chosen[path] = layout
        if not selected:
            first = min(matches)
            raise TransferlabError(
                f"targets '{method.targets}' selects no kernel outside the head, only such as '{first}'."
                + _shown(method, outside, what)
            )
    return dict(sorted(chosen.items()))


def _shown(method: LoRA, kernels: Mapping[str, Layout | str], what: str) -> str:
    """Which kernels there are, and the line that adapts those of the commonest name."""
    usable = [path for path, layout in kernels.items() if not isinstance(layout, str)]
    if not usable:
        return f" This {what} has no kernel outside the head that can have an adapter."
    (name, _), *_ = Counter(path.rpartition("/")[2] for path in usable).most_common(1)
    more = f" and {len(usable) - 4} more" if len(usable) > 4 else ""
    return (
        f" The kernels of this {what}: {', '.join(usable[:4])}{more}.\n"
        f"  >>> tl.edit({what}, tl.methods.{type(method).__name__}(targets='**/{name}'))"
    )


def _adapter(
    method: LoRA,
    path: str,
    layout: Layout,
    paths: Mapping[str, tuple[tuple[int, ...], Any]],
    kernels: Collection[str],
) -> Adapter:
    """The adapter of one kernel, in a folder that tells it from those of other kernels next to it."""
    shape, dtype = paths[path]
    parent, _, name = path.rpartition("/")
    folder = f"{parent}/lora" if parent else "lora"
    if sum(other.rpartition("/")[0] == parent for other in kernels) > 1:
        folder = f"{folder}/{name}"
    low_rank = _low_rank(method, *layout.shape(shape)[-2:])
    return Adapter(
        path,
        folder,
        layout,
        shape,
        jnp.promote_types(dtype, jnp.float32).name,
        low_rank.a.shape[1],
        low_rank.scale,
        low_rank.dropout,
        low_rank.magnitude is not None,
    )


def _key(seed: Any) -> jax.Array:
    if isinstance(seed, nnx.Rngs):
        return seed.params()
    return seed if isinstance(seed, jax.Array) else jax.random.key(int(seed))
