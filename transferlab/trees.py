"""Named parameter trees: readable paths, and the one place where an NNX module is taken apart and put together.

A tree is a plain nested dict of arrays. A path joins its keys with ``/``: ``layers/3/attention/query/kernel``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transferlab.errors import TransferlabError, beyond_range, check_arguments, nearest

Tree = dict[str, Any]
"""A nested dict whose leaves are arrays, ``jax.ShapeDtypeStruct`` or lazily read arrays."""


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{path: leaf}`` in the tree's own order; integer keys are written as their digits.

    :func:`unflatten` is the inverse.

    Example:
        >>> flatten({"head": {"bias": 1}, "layers": {0: 2}})
        {'head/bias': 1, 'layers/0': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """Return the nested dict of ``{path: leaf}``, the inverse of :func:`flatten`.

    Raises:
        TransferlabError: a path that is also a folder of another.
    """
    tree: Tree = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise TransferlabError(f"'{path}' is below '{folder}', which is itself a leaf of the tree.")
        if name in node:
            raise TransferlabError(f"'{path}' is in the tree twice, or is both a leaf and a folder.")
        node[name] = leaf
    return tree


def split_by(tree: Mapping[str, Any], paths: Iterable[str]) -> tuple[Tree, Tree]:
    """Return two trees: the leaves at these paths and the rest. :func:`join` puts them together again.

    Raises:
        TransferlabError: a path that the tree lacks; the nearest is named.
    """
    flat, paths = flatten(tree), set(paths)
    for path in paths - flat.keys():
        raise TransferlabError(f"The tree has no leaf '{path}'.{nearest(path, flat)}")
    inside = {path: leaf for path, leaf in flat.items() if path in paths}
    outside = {path: leaf for path, leaf in flat.items() if path not in paths}
    return unflatten(inside), unflatten(outside)


def join(*trees: Mapping[str, Any]) -> Tree:
    """Return the union of trees that have no leaf in common.

    Raises:
        TransferlabError: a leaf that two of them have.
    """
    flat: dict[str, Any] = {}
    for tree in trees:
        for path, leaf in flatten(tree).items():
            if path in flat:
                raise TransferlabError(f"The leaf '{path}' is in two of the trees; each must be in one.")
            flat[path] = leaf
    return unflatten(flat)


def stack_layers(tree: Mapping[str, Any], path: str) -> Tree:
    """Return the tree with the layers ``path/0 … path/n-1`` stacked into one folder whose leaves have n as first axis.

    Code that runs its layers with ``lax.scan`` keeps them this way. :func:`unstack_layers` is the exact inverse.

    Raises:
        TransferlabError: no layers there, a missing number, or layers that differ in their leaves, shapes or dtypes.
    """
    layers: dict[str, dict[int, Any]] = {}
    rest = {}
    for name, leaf in flatten(tree).items():
        number, _, inside = name.removeprefix(f"{path}/").partition("/")
        if name.startswith(f"{path}/") and number.isdigit() and inside:
            layers.setdefault(inside, {})[int(number)] = leaf
        else:
            rest[name] = leaf
    if not layers:
        raise TransferlabError(f"The tree has no layers '{path}/0', '{path}/1' … to stack.")
    depth = 1 + max(max(numbers) for numbers in layers.values())
    for inside, numbers in layers.items():
        missing = next((i for i in range(depth) if i not in numbers), None)
        if missing is not None:
            raise TransferlabError(f"'{path}/{missing}' has no '{inside}', which '{path}/{min(numbers)}' has.")
        kinds = {i: (tuple(leaf.shape), np.dtype(leaf.dtype)) for i, leaf in numbers.items()}
        other = next((i for i in range(depth) if kinds[i] != kinds[0]), None)
        if other is not None:
            both = " and ".join(f"{kinds[i][0]} {kinds[i][1]} in '{path}/{i}'" for i in (0, other))
            raise TransferlabError(f"'{inside}' is {both}; layers that differ cannot be stacked.")
        ordered = [numbers[i] for i in range(depth)]
        stack = jnp.stack if all(isinstance(leaf, jax.Array) for leaf in ordered) else np.stack
        rest[f"{path}/{inside}"] = stack([leaf if stack is jnp.stack else np.asarray(leaf) for leaf in ordered])
    return unflatten(rest)


def unstack_layers(tree: Mapping[str, Any], path: str) -> Tree:
    """Return the tree with the folder ``path`` of stacked leaves (layers first) as folders ``path/0 … path/n-1``.

    Raises:
        TransferlabError: nothing there, or leaves whose first axes differ in length.
    """
    flat = flatten(tree)
    stacked = {name.removeprefix(f"{path}/"): leaf for name, leaf in flat.items() if name.startswith(f"{path}/")}
    if not stacked:
        raise TransferlabError(f"The tree has no folder '{path}' to unstack.{nearest(path, tree)}")
    lengths = {tuple(leaf.shape)[:1] for leaf in stacked.values()}
    if len(lengths) != 1 or lengths == {()}:
        raise TransferlabError(
            f"The leaves below '{path}' do not share a first axis: its lengths are {sorted(lengths)}."
        )
    out = {name: leaf for name, leaf in flat.items() if not name.startswith(f"{path}/")}
    for i in range(lengths.pop()[0]):
        out |= {f"{path}/{i}/{inside}": leaf[i] for inside, leaf in stacked.items()}
    return unflatten(out)


def count(tree: Mapping[str, Any]) -> int:
    """Return the number of elements of all leaves of the tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def nbytes(tree: Mapping[str, Any]) -> int:
    """Return the tree's size in bytes."""
    return sum(leaf_bytes(leaf) for leaf in flatten(tree).values())


def leaf_bytes(leaf: Any) -> int:
    """Return the size in bytes of anything with a shape and a dtype."""
    return int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize


def sha256(tree: Mapping[str, Any]) -> str:
    """Return the SHA-256 over the sorted (path, dtype, shape, bytes) of every leaf, as hexadecimal digits."""
    digest = hashlib.sha256()
    flat = flatten(tree)
    for path in sorted(flat):
        leaf = contiguous(np.asarray(flat[path]))
        digest.update(f"{path}\0{leaf.dtype}\0{leaf.shape}\0".encode())
        digest.update(leaf.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def contiguous(array: np.ndarray) -> np.ndarray:
    """Return the array in C order. A transposed matrix is copied strip by strip, which is ten times as fast."""
    if array.flags.c_contiguous:
        return array
    if array.ndim != 2 or array.size < 1 << 16:
        return np.ascontiguousarray(array)
    out, strip = np.empty(array.shape, array.dtype), 64
    for first in range(0, len(array), strip):
        out[first : first + strip] = array[first : first + strip]
    return out


def placed(
    array: np.ndarray, dtype: Any, name: str = "An array", sharding: jax.sharding.Sharding | None = None
) -> jax.Array:
    """Return a host array on the device in this dtype: one copy, whatever its order, and never a view of host memory.

    On CPU, JAX takes over a contiguous array instead of copying it, and that may be a mapped file. With a ``sharding`` each
    device of this process gets its part alone.

    Raises:
        TransferlabError: the array, called ``name`` in the message, has finite values beyond the range of this dtype.
    """
    if sharding is None and array.flags.c_contiguous and jax.default_backend() == "cpu":
        raw = np.empty(array.nbytes + 64, np.uint8)
        start = -raw.ctypes.data % 64  # JAX takes over aligned memory, and copies anything else once more
        own = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(own, array)
        array = own
    with np.errstate(over="ignore"):
        if sharding is None:
            out = jax.device_put(array)  # which makes float32 of float64
        else:
            single = jax.dtypes.canonicalize_dtype(array.dtype)
            out = jax.make_array_from_callback(array.shape, sharding, lambda part: np.array(array[part], single))
    out = out if out.dtype == jnp.dtype(dtype) else out.astype(dtype)
    if _narrows(array.dtype, out.dtype) and not bool(jnp.isfinite(out).all()) and np.isfinite(array).all():
        raise beyond_range(name, out.dtype.name, "load it")
    return out


def _narrows(old: Any, new: Any) -> bool:
    """Whether the largest number of one floating type is beyond the other's."""
    floating = jnp.issubdtype(old, jnp.floating) and jnp.issubdtype(new, jnp.floating)
    return old != new and floating and float(jnp.finfo(old).max) > float(jnp.finfo(new).max)


def key_of(key: jax.Array, name: str) -> jax.Array:
    """Return ``key`` folded with a hash of ``name``, so that other names never change what this one draws."""
    return jax.random.fold_in(key, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))


# ---------------------------------------------------------------------------------------------------------------
# NNX modules


@dataclass(frozen=True)
class Definition:
    """A module without its arrays, as :func:`define` returns it. :meth:`merge` puts arrays back *by path*, never by order.

    Attributes:
        graph: the module's structure, as ``nnx.split`` returns it.
        places: for each leaf its readable path, its path in the graph and its abstract variable.
    """

    graph: Any
    places: tuple[tuple[str, tuple[Any, ...], nnx.Variable], ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.graph, tuple((path, place) for path, place, _ in self.places)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Definition)
            and self.graph == other.graph
            and self.params == other.params
            and self.state == other.state
        )

    @cached_property
    def params(self) -> Tree:
        """The parameters (``nnx.Param``), as a tree of ``jax.ShapeDtypeStruct``."""
        return unflatten({p: _abstract(v) for p, _, v in self.places if isinstance(v, nnx.Param)})

    @cached_property
    def state(self) -> Tree:
        """Everything else, that is batch statistics, as a tree of ``jax.ShapeDtypeStruct``."""
        return unflatten({p: _abstract(v) for p, _, v in self.places if not isinstance(v, nnx.Param)})

    @cached_property
    def initialisers(self) -> dict[str, Callable[..., jax.Array]]:
        """How each leaf is drawn when nothing is transferred into it."""
        return {p: v.get_metadata()["initialiser"] for p, _, v in self.places}

    @cached_property
    def module(self) -> Any:
        """The module without arrays, to read its stages and names from; do not change it."""
        return self.merge({}, {}, partial=True)

    def merge(
        self,
        params: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        partial: bool = False,
        compute: Any = None,
    ) -> Any:
        """Return the module with these arrays. Leaves are matched by path, shape and dtype.

        Args:
            params: nested dict of arrays (or tracers).
            state: nested dict of batch statistics; needed where the module has any.
            partial: leave missing leaves abstract; a stage that touches one fails at trace time.
            compute: dtype to which parameters of a floating type are cast; they may have it already.

        Raises:
            TransferlabError: a path that is missing, unknown, or of another shape or dtype.
        """
        leaves = flatten(params)
        for path, leaf in flatten(state or {}).items():
            leaves[path] = leaf
        allowed = () if compute is None else (jnp.dtype(compute),)
        table = {path: variable for path, _, variable in self.places}
        unknown = [path for path in leaves if path not in table][:20]
        problems = [f"'{path}' is not in this module.{nearest(path, table)}" for path in unknown]
        for path, variable in table.items():
            want = _abstract(variable)
            if path not in leaves:
                if not partial:
                    problems.append(f"'{path}' {want.shape} is missing.")
            elif tuple(leaves[path].shape) != want.shape or leaves[path].dtype not in (want.dtype, *allowed):
                got = leaves[path]
                problems.append(f"'{path}' is {tuple(got.shape)} {got.dtype}; expected {want.shape} {want.dtype}.")
        if problems:
            raise TransferlabError("Parameters do not fit the module:\n  " + "\n  ".join(problems[:20]))
        if compute is not None:
            floating = {p for p, v in table.items() if isinstance(v, nnx.Param) and _is_floating(v)}
            leaves = {p: leaf.astype(compute) if p in floating else leaf for p, leaf in leaves.items()}
        flat = [
            (place, variable.replace(leaves.get(path, _abstract(variable)))) for path, place, variable in self.places
        ]
        return nnx.merge(self.graph, nnx.from_flat_state(flat), copy=True)

    def initialise(self, paths: Iterable[str], key: jax.Array) -> dict[str, jax.Array]:
        """Return ``{path: array}`` for these leaves only, each drawn from ``key`` folded with a hash of its path."""
        ordered = tuple(sorted(paths))
        return _initialise(self, ordered)(key) if ordered else {}


@check_arguments
def define(module: nnx.Module) -> Definition:
    """Take a module apart into a :class:`Definition`; arrays that it holds are left behind.

    Raises:
        TransferlabError: a leaf that was not declared with :func:`transferlab.models.layers.parameter`.

    Example:
        >>> config = tl.models.BertConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        >>> tl.define(config.build()).params["layers"]["0"]["attention"]["query"]["kernel"]
        ShapeDtypeStruct(shape=(4, 4), dtype=float32)
    """
    graph, state = nnx.split(module)
    places = []
    for place, variable in nnx.to_flat_state(state):
        path = "/".join(str(part) for part in place)
        if "initialiser" not in variable.get_metadata():
            raise TransferlabError(
                f"'{path}' has no initialiser. Declare it in its module with transferlab.models.layers:\n"
                f"  >>> self.{path.rpartition('/')[2]} = parameter({tuple(variable.get_value().shape)}, initialiser)"
            )
        places.append((path, place, variable.replace(_abstract(variable))))
    return Definition(graph, tuple(places))


def state_of(module: nnx.Module) -> Tree:
    """Return the module's batch statistics (everything but its parameters) as a tree of arrays."""
    state = nnx.split(module)[1]
    rest = [(place, v) for place, v in nnx.to_flat_state(state) if not isinstance(v, nnx.Param)]
    return unflatten({"/".join(map(str, place)): v.get_value() for place, v in rest})


def submodule(module: nnx.Module, path: str) -> Any:
    """Return the module (or leaf) at ``path``, such as ``layers/3/attention/query``."""
    node: Any = module
    for part in path.split("/"):
        node = node[int(part)] if part.isdigit() else getattr(node, part)
    return node


def walk(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Iterate over (path, leaf)."""
    yield from flatten(tree).items()


def _is_floating(variable: nnx.Variable) -> bool:
    return jnp.issubdtype(_abstract(variable).dtype, jnp.floating)


def cast(tree: Mapping[str, Any], dtype: Any) -> Tree:
    """Return the tree (or carry) with its floating leaves in ``dtype``; those that have it already are not copied."""

    def one(leaf: Any) -> Any:
        other = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != jnp.dtype(dtype)
        return leaf.astype(dtype) if other else leaf

    return jax.tree.map(one, dict(tree))


def _abstract(variable: nnx.Variable) -> jax.ShapeDtypeStruct:
    value = variable.get_value()
    return jax.ShapeDtypeStruct(tuple(value.shape), value.dtype)


def _initialise(definition: Definition, paths: tuple[str, ...]) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """One compiled program per (module, leaves): seeds do not recompile."""
    shapes = {**flatten(definition.params), **flatten(definition.state)}
    return _drawing(tuple((p, definition.initialisers[p], shapes[p].shape, shapes[p].dtype) for p in paths))


@lru_cache(maxsize=64)
def _drawing(spec: tuple[tuple[str, Any, tuple[int, ...], Any], ...]) -> Callable[[jax.Array], dict[str, jax.Array]]:
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        return {path: init(key_of(key, path), shape, dtype) for path, init, shape, dtype in spec}

    return jax.jit(draw)
