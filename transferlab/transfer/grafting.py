"""``tl.graft``: leaves of one tree on another, each accounted for before anything is read, with any two kinds of tree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.models.network import Network
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.source import Source
from transferlab.pytrees import named_leaves
from transferlab.selectors import Selectable, owns, select, selector_text, stages_of
from transferlab.transfer.derived import Derived
from transferlab.transfer.leaf import Leaf
from transferlab.transfer.show import FittedTable, as_text, human_bytes, leaf_rows, origin_of

Sharding: TypeAlias = jax.sharding.Sharding
Placement: TypeAlias = Sharding | Callable[[str, tuple[int, ...]], Sharding] | None
"""Where leaves are put: one sharding for all, or a function (path, shape) → sharding; None is the default device."""


@dataclass(frozen=True)
class Graft:
    """What :func:`graft` worked out. ``print(graft)`` shows it; ``place`` reads and returns the arrays.

    Attributes:
        leaves: one row for each leaf of the target, in its order.
        unused: (path in the source, why it is not used).
    """

    leaves: tuple[Leaf, ...]
    unused: tuple[tuple[str, str], ...]
    target: _Target = field(repr=False)

    def place(self, seed: int = 0, *, sharding: Placement = None) -> Any:
        """Return the target with its arrays: a tree of the target's own kind, or (params, state) of a network or source.

        Leaves are read one after another, each straight into its shards; those that are initialised are drawn by one
        compiled program, into theirs.

        Args:
            seed: of the initialisation.
            sharding: one for all leaves, or a function (path, shape) → sharding.

        Raises:
            TransferlabError: a value beyond the range of the target's dtype, or that cannot be read.
        """
        where = {leaf.path: _sharding(sharding, leaf) for leaf in self.leaves}
        new = [leaf.path for leaf in self.leaves if leaf.action == "initialised"]
        values = self.target.initialise(new, seed, where) if new else {}
        for leaf in self.leaves:
            if leaf.read is not None:
                named = f"'{leaf.path}' (from '{', '.join(leaf.source) or 'the target'}')"
                values[leaf.path] = trees.placed(_fitting(leaf), leaf.dtype, named, where[leaf.path])
        return self.target.rebuild(values)

    def totals(self) -> dict[str, Any]:
        """Counts of leaves by action, and bytes."""
        actions: dict[str, int] = {}
        for leaf in self.leaves:
            actions[leaf.action] = actions.get(leaf.action, 0) + 1
        moved = sum(leaf.bytes for leaf in self.leaves if leaf.action in ("copied", "resized", "derived"))
        return {"leaves": len(self.leaves), "by_action": actions, "bytes": sum(leaf.bytes for leaf in self.leaves),
                "bytes_from_source": moved}  # fmt: skip

    def table(self, whole: bool = False) -> FittedTable:
        """Return a rich table, collapsed by layer unless ``whole``."""
        totals = self.totals()
        counts = ", ".join(f"{count} {action}" for action, count in totals["by_action"].items())
        fraction = totals["bytes_from_source"] / max(totals["bytes"], 1)
        lines = [f"{totals['leaves']} leaves: {counts}; {fraction:.1%} of the bytes come from the source"]
        lines += self.target.notes
        lines += [f"not used: {path} ({reason})" for path, reason in self.unused]
        columns = {"leaf": "left", "shape": "right", "action": "left", "from": "left", "size": "right"}
        table = FittedTable("Graft", "\n".join(lines), columns)
        for label, group in leaf_rows(self.leaves, self.target.stages, whole):
            shape = "×".join(map(str, group[0].shape)) if len(group) == 1 else f"{len(group)} leaves"
            size = human_bytes(sum(leaf.bytes for leaf in group))
            cells = (label, shape, group[0].action, origin_of(group), size)
            table.add_plain_row(*cells)
        return table

    def __str__(self) -> str:
        return as_text(self.table())

    def _repr_html_(self) -> str:
        return self.table().html()


@check_arguments
def graft(
    target: Any,
    source: Any,
    *,
    rename: Mapping[str, str] | None = None,
    derive: Mapping[str, Derived] | None = None,
    initialise: Selectable | None = None,
    unused: Selectable | None = None,
) -> Graft:
    """Work out how leaves of ``source`` become those of ``target``. Nothing is read or allocated.

    A leaf of the target takes the leaf of the same path, or what ``rename`` or ``derive`` says. Whatever else there is, on
    either side, is an error that names all of it.

    Args:
        target: a :class:`transferlab.models.network.Network`, a :class:`transferlab.pretrained.Source`, or any tree of arrays
            or shapes: nested dicts, an ``nnx.State``, Linen's ``params``, an Equinox module.
        source: a ``Source``, or any tree of arrays.
        rename: new path prefix → old one; the longest that fits decides, and ``""`` is the whole tree:
            ``{"encoder": "", "encoder/layers": "blocks"}``.
        derive: path in the target → how it is made.
        initialise: selector of leaves of the target that need not come from the source: a network draws them, and a tree
            keeps its own arrays.
        unused: selector of leaves of the source that may be left over.

    Returns:
        A :class:`Graft`, whose ``place`` gives the arrays.

    Raises:
        TransferlabError: every leaf of either side without a counterpart (the nearest is named), of another shape, or with
            no initial value; a prefix of ``rename`` that no leaf has; a selector that matches none.

    Example:
        >>> graft = tl.graft(params, tl.load("minilm-l6"), rename={"encoder": ""}, initialise="head")
        >>> print(graft)
        >>> params = graft.place(seed=0)
    """
    onto, leaves = _target(target), _source_leaves(source)
    renames, derived = dict(rename or {}), dict(derive or {})
    stages = stages_of(target)
    _check_renames(renames, onto.shapes, leaves)
    for path, rule in derived.items():
        if path not in onto.shapes:
            raise TransferlabError(f"derive names '{path}', which the target lacks.{nearest(path, onto.shapes)}")
        for name in rule.sources:
            if name not in leaves:
                raise TransferlabError(
                    f"derive makes '{path}' of '{name}', which the source lacks.{nearest(name, leaves)}"
                )
    allowed = _matching(initialise, "initialise", onto.shapes, stages)
    left = _matching(unused, "unused", leaves, stages_of(source))
    rows, problems, used = [], [], set()
    for path, shape in onto.shapes.items():
        origin = _origin(path, renames)
        row = Leaf.plain(path, onto.kind(path), shape)
        if path in derived:
            rule = derived[path]
            used |= set(rule.sources)
            rows.append(
                replace(row, action="derived", source=rule.sources, reason=rule.how, read=_derivation(rule, leaves))
            )
        elif origin in leaves and tuple(leaves[origin].shape) == row.shape:
            used.add(origin)
            rows.append(_copied(row, origin, leaves[origin]))
        elif path in allowed and path in onto.values:
            reason = f"the target's own, as initialise='{initialise}' allows"
            rows.append(replace(row, action="kept", reason=reason, read=_reader(onto.values[path])))
        elif path in allowed and onto.draws:
            rows.append(replace(row, action="initialised", reason=f"as initialise='{initialise}' allows"))
        else:
            problems.append(_problem(path, row.shape, origin, leaves, path in allowed))
            if origin in leaves:
                used.add(origin)
    for path, leaf in leaves.items():
        if path not in used and path not in left:
            problems.append(
                f"'{path}' {tuple(leaf.shape)} of the source has no place in the target.{nearest(path, onto.shapes)}"
            )
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise TransferlabError(
            f"This source cannot be grafted onto this target as it is: {count}:\n  "
            + "\n  ".join([*problems[:_SHOWN], *more])
            + "\nrename={new: old} takes a leaf from another path, initialise='…' starts leaves of the target anew, unused='…' leaves "
            "leaves of the source behind."
        )
    by_path = {row.path: row for row in rows}
    for targets, rule in onto.derived.items():
        by_path |= _as_derived(targets, rule, by_path)
    rows = [by_path[row.path] for row in rows]
    over = [(path, f"unused='{unused}' allows that") for path in leaves if path not in used]
    return Graft(tuple(rows), (*over, *getattr(source, "unused", ())), onto)


_SHOWN = 20
"""Most problems that an error lists."""


@dataclass(frozen=True)
class _Target:
    """What is grafted onto, whatever kind of tree it is.

    Attributes:
        shapes: path → shape and dtype.
        values: path → the array that the target has of its own.
        state: paths of what is no parameter.
        stages: names of its stages, to show it by.
        draws: whether it can draw leaves.
        initialise: (paths, seed, path → sharding) → leaves.
        rebuild: path → array of all leaves → a tree of the target's kind.
        notes: what its table says below.
        derived: paths of leaves → how they start, of leaves of the target as it is placed.
    """

    shapes: Mapping[str, Any]
    values: Mapping[str, Any]
    state: Collection[str]
    stages: tuple[str, ...]
    draws: bool
    initialise: Callable[[list[str], int, Mapping[str, Sharding | None]], dict[str, Any]]
    rebuild: Callable[[Mapping[str, Any]], Any]
    notes: tuple[str, ...] = ()
    derived: Mapping[tuple[str, ...], Derived] = field(default_factory=dict)

    def kind(self, path: str) -> Any:
        """``param`` or ``state``."""
        return "state" if path in self.state else "param"


def _target(target: Any) -> _Target:
    own, definition = (target.leaves, target.definition) if isinstance(target, Source) else ({}, target)
    if isinstance(definition, Network | trees.Definition):
        params, state = trees.flatten(definition.params), trees.flatten(definition.state)

        def initialise(paths: list[str], seed: int, where: Mapping[str, Sharding | None]) -> dict[str, Any]:
            shardings = {path: where[path] for path in paths}
            draw = jax.jit(lambda key: definition.initialise(paths, key), out_shardings=shardings)
            return draw(jax.random.key(seed))

        def rebuild(values: Mapping[str, Any]) -> Any:
            return tuple(trees.unflatten({path: values[path] for path in part}) for part in (params, state))

        names = tuple(stage.name for stage in getattr(definition, "stages", ()))
        notes, derived = getattr(definition, "notes", ()), getattr(definition, "derived", {})
        return _Target({**params, **state}, own, state, names, True, initialise, rebuild, notes, derived)
    leaves, rebuild_tree = named_leaves(target)
    _check_arrays(leaves, "target")

    def nothing(paths: list[str], seed: int, where: Mapping[str, Sharding | None]) -> dict[str, Any]:
        raise AssertionError("a tree draws nothing")

    values = {path: leaf for path, leaf in leaves.items() if not isinstance(leaf, jax.ShapeDtypeStruct)}
    return _Target(leaves, values, (), (), False, nothing, rebuild_tree)


def _source_leaves(source: Any) -> Mapping[str, Any]:
    if isinstance(source, Source):
        return source.leaves
    if isinstance(source, Network):
        raise TransferlabError(
            "The source is a network, which has no weights. Pass its tree of arrays, as nnx.state(module, nnx.Param) or params."
        )
    leaves, _ = named_leaves(source)
    _check_arrays(leaves, "source")
    for path, leaf in leaves.items():
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TransferlabError(f"'{path}' of the source is a shape without values; pass a tree of arrays.")
    return leaves


def _check_arrays(leaves: Mapping[str, Any], side: str) -> None:
    if not leaves:
        raise TransferlabError(f"The {side} has no leaves.")
    for path, leaf in leaves.items():
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TransferlabError(
                f"'{path}' of the {side} is {str(leaf)[:40]!r}, not an array. Pass arrays alone, as eqx.filter(model, eqx.is_array) or "
                "nnx.state(module, nnx.Param)."
            )
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TransferlabError(
                f"'{path}' of the {side} is a random key; pass parameters alone, as nnx.state(module, nnx.Param)."
            )


def _check_renames(renames: Mapping[str, str], target: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    for new, old in renames.items():
        for prefix, paths, side in ((new, target, "target"), (old, source, "source")):
            if prefix and not any(owns((prefix,), path) for path in paths):
                raise TransferlabError(
                    f"rename={{'{new}': '{old}'}}: no leaf of the {side} is at or below '{prefix}'.{nearest(prefix, _folders(paths))} It maps "
                    "new prefixes, of the target, to old ones, of the source."
                )


def _folders(paths: Collection[str]) -> list[str]:
    folders = {"/".join(parts[:n]) for path in paths for parts in [path.split("/")] for n in range(1, len(parts) + 1)}
    return sorted(folders)


def _origin(path: str, renames: Mapping[str, str]) -> str:
    """The path in the source that stands for one of the target."""
    fitting = [new for new in renames if not new or owns((new,), path)]
    if not fitting:
        return path
    new = max(fitting, key=len)
    rest = path[len(new) :].lstrip("/")
    return "/".join(part for part in (renames[new], rest) if part)


def _matching(selector: Selectable | None, name: str, paths: Mapping[str, Any], stages: Any) -> set[str]:
    return set() if selector is None else select(selector_text(selector, name)).match(paths, stages)


def _copied(row: Leaf, origin: str, leaf: Any) -> Leaf:
    resize = leaf.resize if isinstance(leaf, LazyLeaf) else None
    notes = [] if resize is None else [resize.how]
    if (dtype := str(np.dtype(leaf.dtype))) != row.dtype:
        notes.append(f"{dtype} to {row.dtype}")
    action = "copied" if resize is None else "resized"
    return replace(row, action=action, source=(origin,), reason=", ".join(notes), read=_reader(leaf))


def _as_derived(targets: tuple[str, ...], rule: Derived, rows: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """The rows of leaves that the target itself makes of others: of those that are placed, not of those that a network draws."""
    sources = [rows[path] for path in rule.sources]
    if any(row.read is None for row in sources) or any(rows[path].read for path in targets if path not in rule.sources):
        return {}

    @cache
    def values() -> tuple[np.ndarray, ...]:
        return rule.make(*(np.asarray(_reading(row), jnp.dtype(row.dtype)) for row in sources))

    keys = tuple(key for row in sources for key in row.source)
    return {
        path: replace(
            rows[path], action="derived", source=keys, reason=rule.how, read=lambda number=number: values()[number]
        )
        for number, path in enumerate(targets)
    }


def _reading(row: Leaf) -> Any:
    assert row.read is not None
    return row.read()


def _reader(leaf: Any) -> Callable[[], Any]:
    return leaf.read if isinstance(leaf, LazyLeaf) else lambda: leaf


def _derivation(rule: Derived, leaves: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    return lambda: np.asarray(rule.make(*(np.asarray(_reader(leaves[name])()) for name in rule.sources)))


def _fitting(leaf: Leaf) -> np.ndarray:
    """The leaf's value, which a rule of one's own may have given another shape."""
    assert leaf.read is not None
    value = np.asarray(leaf.read())
    if value.shape != leaf.shape:
        raise TransferlabError(f"'{leaf.path}' ({leaf.reason}) is {value.shape}; the target has {leaf.shape} there.")
    return value


def _problem(path: str, shape: tuple[int, ...], origin: str, leaves: Mapping[str, Any], allowed: bool) -> str:
    if allowed:
        return (
            f"'{path}' {shape} has no initial value: the target has a shape alone there. Give it arrays, or a network."
        )
    here = "" if origin == path else f" (as '{origin}')"
    if origin in leaves:
        return f"'{path}' is {tuple(leaves[origin].shape)} in the source{here} and {shape} in the target."
    return f"'{path}' {shape} is not in the source{here}.{nearest(origin, leaves)}"


def _sharding(placement: Placement, leaf: Leaf) -> Sharding | None:
    if placement is None or isinstance(placement, Sharding):
        return placement
    return placement(leaf.path, leaf.shape)
