"""Code of a user's own, executed from a file that the user names: a config, or what ``--code`` names, and the files next to it.

Its folder becomes a package under a private name, and is never on ``sys.path``: a ``types.py`` there replaces nothing, whoever
imports ``types``. In the files of that folder alone, ``import helpers`` finds ``helpers.py`` next to them, at any time and in
any thread: they have an ``__import__`` of their own. ``from . import helpers`` is the same.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from transferlab.errors import TransferlabError

_PRIVATE = "_transferlab_code_"
_NUMBERS = count(1)


def execute(path: str | Path) -> ModuleType:
    """Execute a Python file; return its module. A file that is executed again is read again, with the files next to it.

    Raises:
        TransferlabError: no Python file, an exception in it, or an import that files next to it and an installed package answer.
    """
    file = Path(path).expanduser().resolve()
    if file.suffix != ".py" or not file.is_file():
        raise TransferlabError(f"{path} is not a Python file.")
    package = f"{_PRIVATE}{next(_NUMBERS)}"
    folder = ModuleSpec(package, None, is_package=True)
    folder.submodule_search_locations = [str(file.parent)]
    sys.modules[package] = importlib.util.module_from_spec(folder)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    PathFinder.invalidate_caches()
    name = f"{package}.{re.sub(r'[^0-9a-zA-Z_]', '_', file.stem)}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        _forget(package)
        kind = "" if isinstance(error, TransferlabError) else f"{type(error).__name__}: "
        raise TransferlabError(f"{path}: {kind}{error}") from error
    return module


def with_neighbors(module: ModuleType) -> list[ModuleType]:
    """Return the module of an executed file, and those of the files next to it that were imported so far."""
    start = f"{module.__name__.partition('.')[0]}."
    return [module, *(one for name, one in list(sys.modules.items()) if name.startswith(start) and one is not module)]


def origin(thing: type) -> dict[str, str]:
    """Return where a class is from, as plain data: its module and name, and of a file that was executed here its name and SHA-256."""
    module, name = sys.modules.get(thing.__module__), thing.__module__
    if name.startswith(_PRIVATE):
        name = name.partition(".")[2]
    out = {"module": name, "class": thing.__qualname__}
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if isinstance(loader, _Loader):
        return {**out, "file": Path(loader.path).name, "sha256": loader.sha256}
    if name == "__main__" and (file := getattr(module, "__file__", None)):
        return {**out, "file": Path(file).name}
    return out


def same_place(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two origins are those of one class, whatever its file holds now. A script is ``__main__`` where it was started."""
    same = any(one.get(name, 1) == other.get(name, 2) for name in ("module", "file"))
    return same and one["class"] == other["class"]


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


class _Loader(SourceFileLoader):
    """Executes what the file holds now, without compiled files in the user's folder, and knows its hash."""

    sha256 = ""

    def get_code(self, fullname: str) -> Any:
        source = self.get_data(self.path)
        self.sha256 = hashlib.sha256(source).hexdigest()
        return self.source_to_code(source, self.path)

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": partial(_import, package)}
        super().exec_module(module)


class _Finder:
    """Finds modules of our private packages, and no others."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(_PRIVATE) or path is None:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader, spec.cached = _Loader(fullname, spec.loader.path), None
        return spec


def _import(
    package: str,
    name: str,
    globals: Mapping[str, Any] | None = None,  # named as those of the function that it takes the place of
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """The import statement in a file of a private package: what is next to it is found after what is Python's own."""
    top = name.partition(".")[0]
    own = None if level or top == "transferlab" else PathFinder.find_spec(f"{package}.{top}", _path(package))
    if own is None or _imported(top, own):
        return __import__(name, globals, locals, fromlist, level)
    wanted, what = ", ".join(fromlist or ()), f"{Path(str((globals or {}).get('__file__'))).name} imports '{name}'"
    line = f"from .{name} import {wanted}" if wanted else f"from . import {name}"
    if top in sys.stdlib_module_names:
        module = __import__(name, globals, locals, fromlist, level)
        if missing := [one for one in fromlist or () if one != "*" and not hasattr(module, one)]:
            raise TransferlabError(
                f"{what}, which is a module of Python's own and has no '{missing[0]}'. Rename the file next to it, or import that: {line}"
            )
        return module
    other = _other(top, own)
    if other and own.origin is None:  # a folder of data, as wandb leaves one
        return __import__(name, globals, locals, fromlist, level)
    if other:
        raise TransferlabError(
            f"{what}, which is an installed module ({other}) and also a file next to it. Rename the file, or say that it is the one "
            f"that is meant: {line}"
        )
    module = __import__(f"{package}.{name}", globals, locals, fromlist, 0)
    return module if fromlist else sys.modules[f"{package}.{top}"]


def _path(package: str) -> list[str]:
    return list(sys.modules[package].__path__)


def _imported(top: str, own: ModuleSpec) -> bool:
    """Whether the file was imported in the ordinary way before, as by a script in its folder: it is then one module, not two."""
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and own.origin is not None and Path(file).resolve() == Path(own.origin).resolve()


def _other(top: str, own: ModuleSpec) -> str:
    """Where another module of this name is, imported or not; empty where there is none."""
    if (module := sys.modules.get(top)) is not None:
        return str(getattr(module, "__file__", None) or "in memory")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ""
    # A folder on the path without an __init__.py, as any of the working directory, is no installed module.
    same = spec is not None and spec.origin and own.origin and Path(spec.origin).resolve() == Path(own.origin).resolve()
    return "" if spec is None or spec.origin is None or same else spec.origin
