"""A directory that is written whole, or not at all: under a temporary name until all of it is there."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transferlab.errors import TransferlabError
from transferlab.files import TEMPORARY, is_written, make_usual, sync_directory, sync_tree, temporary_sibling, writing
from transferlab.pretrained.auxiliary_files import check_replaceable


@contextmanager
def new_directory(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling; it takes the target's name when the block succeeds, else it is removed.

    Raises:
        TransferlabError: the target is a file, or a directory that is not empty without ``overwrite``, or one that holds
            files other than a model's.
    """
    _restore_old(target)
    if target.exists() and not target.is_dir():
        raise TransferlabError(f"{target} is a file, expected a directory. Pass the path of a new or empty directory.")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise TransferlabError(
            f"{target} is not empty. Pass another directory, or replace it: tl.save(…, overwrite=True), on the command line --overwrite."
        )
    if target.is_dir() and any(target.iterdir()):
        check_replaceable(target)
    with writing(target), temporary_sibling(target, directory=True) as temporary:
        old = temporary.with_name(temporary.name + _OLD)
        try:
            yield temporary
            sync_tree(temporary)
            make_usual(temporary, 0o777)
            if target.is_dir():
                os.replace(target, old)
            os.replace(temporary, target)
        except BaseException:
            if old.is_dir() and not target.exists():
                os.replace(old, target)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    sync_directory(target.parent)


_OLD = ".old"
"""Suffix of the name of a directory that is being replaced."""


def _restore_old(target: Path) -> None:
    """Restore what a killed writer was replacing; where the new directory is in place, remove the old one."""
    if not target.parent.is_dir():
        return
    for old in target.parent.glob(f".{glob.escape(target.name)}.*{TEMPORARY}{_OLD}"):
        if is_written(old.with_name(old.name.removesuffix(_OLD))):
            continue
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, target)
