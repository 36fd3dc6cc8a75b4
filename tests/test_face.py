"""The public face: what ``import transferlab as tl`` offers, whatever was imported before."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize(
    ("place", "name", "said"),
    [
        ("", "datset", "Did you mean 'dataset'?"),
        ("", "adpat", "Did you mean 'adapt'?"),
        ("", "LoRA", "it is tl.methods.LoRA"),
        ("", "Settings", "it is tl.train.Settings"),
        ("tasks", "Regresion", "Did you mean 'Regression'?"),
        ("methods", "Lora", "Did you mean 'LoRA'?"),
        ("train", "Setings", "Did you mean 'Settings'?"),
        ("data", "Datset", "Did you mean 'Dataset'?"),
        ("measure", "acuracy", "Did you mean 'accuracy'?"),
    ],
)
def test_a_misspelt_name_is_an_error_with_the_nearest(place: str, name: str, said: str) -> None:
    module = getattr(tl, place) if place else tl
    with pytest.raises(AttributeError) as error:
        getattr(module, name)
    assert str(error.value).startswith(f"module '{module.__name__}' has no attribute '{name}'")
    assert said in str(error.value)
    assert not hasattr(module, "_repr_html_")  # what notebooks ask for


def test_what_a_module_lists_is_what_it_offers() -> None:
    for name in ("tasks", "methods", "train", "data", "measure", "models", "pretrained", "transfer", "evaluate"):
        module = getattr(tl, name)
        assert set(dir(module)) >= set(module.__all__) and "annotations" not in dir(module)


def test_importing_the_package_does_not_import_jax() -> None:
    code = (
        "import sys, transferlab, transferlab.cli.main; assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
