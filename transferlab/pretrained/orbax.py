"""Trees as Orbax writes them, below any path: Orbax globs the whole of it, and takes a backslash for a slash."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.files import temporary_sibling

_PLAIN = re.compile(r"[\w/.,:+=@ -]*", re.ASCII)
"""What neither ``glob`` nor TensorStore's URLs read as something else."""


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """Yield a path to the same place that Orbax takes as it stands: ``path``, or one through a link in the temporary folder.

    Raises:
        TransferlabError: the temporary folder's own path is none.
    """
    whole = Path(os.path.abspath(path))
    if (os.name == "nt" and not set(str(whole)) & set("[]?*")) or _PLAIN.fullmatch(str(whole)):
        yield whole
        return
    base = Path(tempfile.gettempdir()).resolve()
    if not _PLAIN.fullmatch(str(base)):
        raise TransferlabError(
            f"Orbax can write neither to '{whole}' nor to the temporary folder '{base}': one of them must be without "
            "special characters, as '[', '*' and backslashes are. Set TMPDIR=/tmp, or rename the directory."
        )
    with temporary_sibling(base / "transferlab", directory=True) as folder:
        link = folder / "link"
        try:
            # What is still to be written has no name to link to yet.
            link.symlink_to(whole if whole.exists() else whole.parent, target_is_directory=True)
            yield link if whole.exists() else link / whole.name
        finally:
            link.unlink(missing_ok=True)
            folder.rmdir()


def write_tree(path: Path, tree: trees.Tree) -> None:
    """Write a tree of arrays as the new directory ``path``."""
    import orbax.checkpoint as ocp

    with plain_path(path) as plain, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(plain, args=ocp.args.StandardSave(tree))


def read_tree(path: Path) -> Any:
    """Read a tree as :func:`write_tree` wrote it: nested dicts of arrays."""
    import orbax.checkpoint as ocp

    with plain_path(path) as plain, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return checkpointer.restore(plain, args=ocp.args.StandardRestore())
