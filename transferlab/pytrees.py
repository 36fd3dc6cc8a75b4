"""Leaves of any pytree by path: nested dicts, ``nnx.State``, Linen's params, Equinox modules, lists of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from transferlab.errors import TransferlabError


def named_leaves(tree: Any) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], Any]]:
    """Return ``{path: leaf}`` in the tree's order, and the function that puts leaves back: ``{path: leaf}`` → tree.

    A path joins the names on the way with ``/``, whatever makes them: keys (``0`` and ``"0"`` read the same), positions in
    a list, attributes. The ``.value`` of an ``nnx.Variable`` is no part of it.

    Args:
        tree: any pytree; something with ``params``, such as a :class:`transferlab.pretrained.Source`, stands for those.

    Raises:
        TransferlabError: two leaves with one path, as those of the keys ``0`` and ``"0"``.

    Example:
        >>> leaves, rebuild = named_leaves({"layers": [{"bias": 1}, {"bias": 2}]})
        >>> leaves
        {'layers/0/bias': 1, 'layers/1/bias': 2}
        >>> rebuild({path: path for path in leaves})
        {'layers': [{'bias': 'layers/0/bias'}, {'bias': 'layers/1/bias'}]}
    """
    tree = parameters_of(tree)
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves: dict[str, Any] = {}
    for keys, leaf in flat:
        path = _path(keys)
        if path in leaves:
            raise TransferlabError(f"Two leaves of the tree have the path '{path}'; rename one of their keys.")
        leaves[path] = leaf

    def rebuild(values: Mapping[str, Any]) -> Any:
        return jax.tree_util.tree_unflatten(structure, [values[path] for path in leaves])

    return leaves, rebuild


def parameters_of(tree: Any) -> Any:
    """Return the parameters of a source or network, and any other tree as it is."""
    # A module that is a pytree itself may well have a field of that name.
    params = getattr(tree, "params", None) if jax.tree_util.all_leaves([tree]) else None
    return params if isinstance(params, Mapping) else tree


def _path(keys: tuple[Any, ...]) -> str:
    names = [_name(key) for key in keys]
    # An nnx.Variable is a node with one leaf, whose name says nothing.
    if len(names) > 1 and names[-1] == "value" and isinstance(keys[-1], jax.tree_util.GetAttrKey):
        names.pop()
    return "/".join(names)


def _name(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
