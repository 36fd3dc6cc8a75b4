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


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{path: leaf}`` in the tree's own order; integer keys are written as their digits."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """Return the nested dict of ``{path: leaf}``. A path that is also a folder of another is an error."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise TransferlabError(f"'{path}' lies below '{folder}', which is itself a leaf of the tree.")
        if name in node:
            raise TransferlabError(f"'{path}' stands twice in the tree, or is both a leaf and a folder.")
        node[name] = leaf
    return tree


def split_by(tree: Mapping[str, Any], chosen: Iterable[str]) -> tuple[Tree, Tree]:
    """Return (the chosen leaves, the others) as two trees. A path that the tree lacks is an error."""
    flat, wanted = flatten(tree), set(chosen)
    for path in wanted - flat.keys():
        raise TransferlabError(f"The tree has no leaf '{path}'.{nearest(path, flat)}")
    inside = {path: leaf for path, leaf in flat.items() if path in wanted}
    outside = {path: leaf for path, leaf in flat.items() if path not in wanted}
    return unflatten(inside), unflatten(outside)


def join(*trees: Mapping[str, Any]) -> Tree:
    """Return the union of trees that share no leaf; a leaf in two of them is an error."""
    flat: dict[str, Any] = {}
    for tree in trees:
        for path, leaf in flatten(tree).items():
            if path in flat:
                raise TransferlabError(f"Two trees hold the leaf '{path}'.")
            flat[path] = leaf
    return unflatten(flat)


def stack_layers(tree: Mapping[str, Any], path: str) -> Tree:
    """Return the tree with the layers ``path/0 … path/n-1`` stacked to one folder whose leaves have n as first axis.

    That is how code that runs its layers by ``lax.scan`` keeps them. :func:`unstack_layers` is the inverse, exactly.

    Raises:
        TransferlabError: no layers there, a number missing, or layers that differ in their leaves, shapes or dtypes.
    """
    layers: dict[str, dict[int, Any]] = {}
    rest = {}
    for place, leaf in flatten(tree).items():
        number, _, inside = place.removeprefix(f"{path}/").partition("/")
        if place.startswith(f"{path}/") and number.isdigit() and inside:
            layers.setdefault(inside, {})[int(number)] = leaf
        else:
            rest[place] = leaf
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
            said = " and ".join(f"{kinds[i][0]} {kinds[i][1]} in '{path}/{i}'" for i in (0, other))
            raise TransferlabError(f"'{inside}' is {said}; layers that differ cannot be stacked.")
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
    stacked = {place.removeprefix(f"{path}/"): leaf for place, leaf in flat.items() if place.startswith(f"{path}/")}
    if not stacked:
        raise TransferlabError(f"The tree has no folder '{path}' to unstack.{nearest(path, tree)}")
    lengths = {tuple(leaf.shape)[:1] for leaf in stacked.values()}
    if len(lengths) != 1 or lengths == {()}:
        raise TransferlabError(
            f"The leaves below '{path}' do not share a first axis: its lengths are {sorted(lengths)}."
        )
    out = {place: leaf for place, leaf in flat.items() if not place.startswith(f"{path}/")}
    for i in range(lengths.pop()[0]):
        out |= {f"{path}/{i}/{inside}": leaf[i] for inside, leaf in stacked.items()}
    return unflatten(out)


def count(tree: Mapping[str, Any]) -> int:
    """Return the number of scalars in the tree."""
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
    """Return the array in C order. A transposed matrix is copied a strip at a time, which is ten times as fast."""
    if array.flags.c_contiguous:
        return array
    if array.ndim != 2 or array.size < 1 << 16:
        return np.ascontiguousarray(array)
    out, strip = np.empty(array.shape, array.dtype), 64
    for first in range(0, len(array), strip):
        out[first : first + strip] = array[first : first + strip]
    return out


def placed(array: np.ndarray, dtype: Any, name: str = "An array") -> jax.Array:
    """Return a host array on the device in this dtype: one copy, whatever its order, and no view of the host's.

    On CPU jax takes a contiguous array over instead of copying it, and that may be a mapped file.

    Raises:
        TransferlabError: finite values of the array, whose ``name`` is given, are beyond the range of this dtype.
    """
    if array.flags.c_contiguous and jax.default_backend() == "cpu":
        raw = np.empty(array.nbytes + 64, np.uint8)
        start = -raw.ctypes.data % 64  # jax takes over what lies so, and copies once more what does not
        own = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(own, array)
        array = own
    with np.errstate(over="ignore"):
        made = jax.device_put(array)  # which makes float32 of float64
    made = made if made.dtype == jnp.dtype(dtype) else made.astype(dtype)
    if _narrows(array.dtype, made.dtype) and not bool(jnp.isfinite(made).all()) and np.isfinite(array).all():
        raise beyond_range(name, made.dtype.name, "load it")
    return made


def _narrows(old: Any, new: Any) -> bool:
    """Whether the largest number of one floating type is beyond the other's."""
    floating = jnp.issubdtype(old, jnp.floating) and jnp.issubdtype(new, jnp.floating)
    return old != new and floating and float(jnp.finfo(old).max) > float(jnp.finfo(new).max)


def key_of(key: jax.Array, name: str) -> jax.Array:
    """Return ``key`` folded with a hash of ``name``: adding other names never changes what this name draws."""
    return jax.random.fold_in(key, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))


# ---------------------------------------------------------------------------------------------------------------
# NNX modules


@dataclass(frozen=True)
class Definition:
    """A module without its arrays: the graph, and a table from each readable path to its place in the graph.

    ``params`` and ``state`` are trees of ``jax.ShapeDtypeStruct``; ``merge`` puts arrays back *by path*, never by
    order, and refuses a missing path, an unknown one, or one of another shape or dtype.
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
        """The abstract parameters (``nnx.Param``)."""
        return unflatten({p: _abstract(v) for p, _, v in self.places if isinstance(v, nnx.Param)})

    @cached_property
    def state(self) -> Tree:
        """The abstract rest: batch statistics."""
        return unflatten({p: _abstract(v) for p, _, v in self.places if not isinstance(v, nnx.Param)})

    @cached_property
    def initialisers(self) -> dict[str, Callable[..., jax.Array]]:
        """How each leaf is drawn when nothing is transferred into it."""
        return {p: v.get_metadata()["initialiser"] for p, _, v in self.places}

    @cached_property
    def module(self) -> Any:
        """The module without arrays, to ask for its stages and names; not to be changed."""
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
            partial: leaves that are not given stay abstract; a stage that touches one fails at trace time.
            compute: dtype that parameters of a floating type are cast to; they may be given in it already.

        Raises:
            TransferlabError: a path is missing, unknown, or of another shape or dtype.
        """
        given = flatten(params)
        for path, leaf in flatten(state or {}).items():
            given[path] = leaf
        allowed = () if compute is None else (jnp.dtype(compute),)
        table = {path: variable for path, _, variable in self.places}
        unknown = [path for path in given if path not in table][:20]
        problems = [f"'{path}' is not in this module.{nearest(path, table)}" for path in unknown]
        for path, variable in table.items():
            want = _abstract(variable)
            if path not in given:
                if not partial:
                    problems.append(f"'{path}' {want.shape} is missing.")
            elif tuple(given[path].shape) != want.shape or given[path].dtype not in (want.dtype, *allowed):
                got = given[path]
                problems.append(f"'{path}' is {tuple(got.shape)} {got.dtype}, expected {want.shape} {want.dtype}.")
        if problems:
            raise TransferlabError("Parameters do not fit the module:\n  " + "\n  ".join(problems[:20]))
        if compute is not None:
            floating = {p for p, v in table.items() if isinstance(v, nnx.Param) and _is_floating(v)}
            given = {p: leaf.astype(compute) if p in floating else leaf for p, leaf in given.items()}
        flat = [
            (place, variable.replace(given.get(path, _abstract(variable)))) for path, place, variable in self.places
        ]
        return nnx.merge(self.graph, nnx.from_flat_state(flat), copy=True)

    def initialise(self, paths: Iterable[str], key: jax.Array) -> dict[str, jax.Array]:
        """Return ``{path: array}`` for these leaves only, each drawn from ``key`` folded with a hash of its path."""
        wanted = tuple(sorted(paths))
        return _initialise(self, wanted)(key) if wanted else {}


@check_arguments
def define(module: nnx.Module) -> Definition:
    """Take a module apart into a :class:`Definition`; arrays it holds are left behind.

    Raises:
        TransferlabError: a leaf without an initialiser (use ``transferlab.models.layers.parameter``).
    """
    graph, state = nnx.split(module)
    places = []
    for place, variable in nnx.to_flat_state(state):
        path = "/".join(str(part) for part in place)
        if "initialiser" not in variable.get_metadata():
            raise TransferlabError(f"'{path}' was not made with transferlab.models.layers.parameter: no initialiser.")
        places.append((path, place, variable.replace(_abstract(variable))))
    return Definition(graph, tuple(places))


def state_of(module: nnx.Module) -> Tree:
    """Return the module's batch statistics (all that is no parameter) as a tree of arrays."""
    state = nnx.split(module)[1]
    rest = [(place, v) for place, v in nnx.to_flat_state(state) if not isinstance(v, nnx.Param)]
    return unflatten({"/".join(map(str, place)): v.get_value() for place, v in rest})


def submodule(module: nnx.Module, path: str) -> Any:
    """Return the module (or leaf) at ``path``, as ``layers/3/attention/query``."""
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
    """Return the tree (or carry) with its leaves of a floating type in this one; what is so already is not copied."""

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
