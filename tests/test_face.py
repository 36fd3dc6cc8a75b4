"""The public face: what ``import transferlab as tl`` offers, whatever was imported before."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import transferlab as tl


def test_a_public_function_is_not_replaced_by_a_module_of_its_name() -> None:
    before = {name: getattr(tl, name) for name in tl.__all__}
    modules = [found.name for found in pkgutil.walk_packages(tl.__path__, "transferlab.")]
    for name in modules:
        if name != "transferlab.__main__":
            importlib.import_module(name)
    for name, thing in before.items():
        assert getattr(tl, name) is thing, name
    rooms = {name.removeprefix("transferlab.") for name in modules}
    functions = {name for name, thing in before.items() if callable(thing)}
    assert not functions & rooms


def test_every_public_name_exists() -> None:
    assert set(tl.__all__) <= set(dir(tl))
    for name in tl.__all__:
        assert getattr(tl, name) is not None


def test_importing_the_package_does_not_import_jax() -> None:
    code = (
        "import sys, transferlab, transferlab.cli.main; assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
