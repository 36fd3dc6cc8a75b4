"""Trees as Orbax writes them, at any path: Orbax itself globs the whole path, and reads a backslash as a slash."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.files import temporary_sibling
from transferlab.pretrained.formats.tensors import LazyTensor, check_count

_PLAIN = re.compile(r"[\w/.,:+=@ -]*", re.ASCII)
"""Characters that have no special meaning in ``glob`` and TensorStore's URLs."""


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """Yield a path to the same place that Orbax reads literally: ``path``, or one through a link in the temporary folder.

    Raises:
        TransferlabError: the temporary folder's own path has special characters too.
    """
    whole = Path(os.path.abspath(path))
    if (os.name == "nt" and not set(str(whole)) & set("[]?*")) or _PLAIN.fullmatch(str(whole)):
        yield whole
        return
    base = Path(tempfile.gettempdir()).resolve()
    if not _PLAIN.fullmatch(str(base)):
        raise TransferlabError(
            f"Orbax can write neither to '{whole}' nor to the temporary folder '{base}': one of them must be without "
            "special characters, as '[', '*' and backslashes. Set TMPDIR=/tmp, or rename the directory."
        )
    with temporary_sibling(base / "transferlab", directory=True) as folder:
        link = folder / "link"
        try:
            # A directory yet to be written does not exist, so its parent is linked to.
            link.symlink_to(whole if whole.exists() else whole.parent, target_is_directory=True)
            yield link if whole.exists() else link / whole.name
        finally:
            link.unlink(missing_ok=True)
            folder.rmdir()


def write_tree(path: Path, tree: trees.Tree) -> None:
    """Write a tree of arrays as the new directory ``path``; :func:`read_tree` reads it."""
    import orbax.checkpoint as ocp

    with plain_path(path) as plain, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(plain, args=ocp.args.StandardSave(tree))


def read_tree(path: Path) -> Any:
    """Read a tree as :func:`write_tree` wrote it: nested dicts of arrays."""
    import orbax.checkpoint as ocp

    with plain_path(path) as plain, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return checkpointer.restore(plain, args=ocp.args.StandardRestore())


def read_orbax(path: Path, check: Callable[[], object] | None = None) -> dict[str, LazyTensor]:
    """Read an Orbax checkpoint of a tree, ``{path: tensor}``; integer keys become their digits.

    Each array is restored alone, on demand; ``check`` is called before the first.

    Raises:
        TransferlabError: the checkpoint cannot be read, or holds more tensors than any model.
    """
    import orbax.checkpoint as ocp

    try:
        with plain_path(path) as plain:
            metadata: Any = ocp.StandardCheckpointer().metadata(plain).item_metadata
        tree = getattr(metadata, "tree", metadata)
        flat = dict(_leaves_of(tree))
        check_count(path, len(flat))
        shapes = {key: (tuple(leaf.shape), np.dtype(leaf.dtype)) for key, (_, leaf) in flat.items()}
    except TransferlabError:
        raise
    except Exception as error:
        raise TransferlabError(
            f"{path} is not a readable Orbax checkpoint ({type(error).__name__}: {str(error)[:200]})."
        ) from None

    checked = cache(check) if check is not None else None

    def reader(key: str, place: tuple[Any, ...]) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            if checked is not None:
                checked()
            item, args = None, None
            for part in reversed(place):
                item = {part: jax.ShapeDtypeStruct(*shapes[key]) if item is None else item}
                args = {part: ocp.RestoreArgs(restore_type=np.ndarray) if args is None else args}
            try:
                restore = ocp.args.PyTreeRestore(item=item, restore_args=args, partial_restore=True)
                with plain_path(path) as plain:
                    restored: Any = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(plain, args=restore)
                for part in place:
                    restored = restored[part]
            except Exception as error:
                raise TransferlabError(f"{path}: cannot read '{key}' ({str(error)[:200]}).") from None
            return np.asarray(restored)

        return read

    return {key: LazyTensor(*shapes[key], reader(key, place), str(path)) for key, (place, _) in flat.items()}


def _leaves_of(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[str, tuple[tuple[Any, ...], Any]]]:
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, (list, tuple)) else None
    if pairs is None:
        yield "/".join(map(str, place)), (place, tree)
        return
    for key, inner in pairs:
        yield from _leaves_of(inner, (*place, key))
