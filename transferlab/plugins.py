"""What is found by being there: the files of one of our folders, and what installed packages add to it by an entry point."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from transferlab.errors import TransferlabError


def members(package: str) -> Iterator[Any]:
    """Iterate over what the modules of a package contain, then over what entry points of the group of its name are or contain.

    Another distribution adds to ``transferlab.tasks`` with these lines of its ``pyproject.toml``::

        [project.entry-points."transferlab.tasks"]
        ranking = "my_package.ranking"

    Raises:
        TransferlabError: an entry point that cannot be loaded; it is named with its distribution.
    """
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        yield from vars(importlib.import_module(f"{package}.{module.name}")).values()
    for point in entry_points(group=package):
        value = _loaded(point)
        yield from vars(value).values() if isinstance(value, ModuleType) else (value,)


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        owner = point.dist.name if point.dist is not None else "a package"
        raise TransferlabError(
            f"The entry point '{point.name}' of {owner} in the group '{point.group}' cannot be loaded ({point.value}): "
            f"{type(error).__name__}: {error}. Mend {owner}, or remove it:\n  pip uninstall {owner}"
        ) from error
