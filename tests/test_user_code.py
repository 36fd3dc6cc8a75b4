"""Files of a user's own: what is next to them is found, what is Python's or installed stays, and nothing is put on ``sys.path``."""

from __future__ import annotations

import subprocess
import sys
import threading
from argparse import ArgumentParser
from pathlib import Path

import pytest

from transferlab import user_code
from transferlab.errors import TransferlabError


def write(folder: Path, main: str, **files: str) -> Path:
    """Write ``main.py`` and other Python files; ``_in_`` separates a file's name from its folder's."""
    for name, text in {"main": main, **files}.items():
        file, _, parent = name.partition("_in_")
        path = folder / parent / f"{file}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "main.py"


def test_what_is_next_to_a_file_is_found_from_anywhere_in_it_at_any_time(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        main="import helper_of_test\nfrom helper_of_test import one\nimport parts.deep\nfrom . import other\nx = one + parts.deep.two + other.three",
        helper_of_test="from .other import three\none = three - 2\ndef late():\n    import later\n    return later.four",
        other="three = 3",
        later="four = 4",
        __init___in_parts="",
        deep_in_parts="from helper_of_test import one\nfrom .near import n\ntwo = one + n",
        near_in_parts="n = 1",
    )
    before = list(sys.path), set(sys.modules)
    module = user_code.execute(file)
    assert module.x == 6
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(module.helper_of_test.late()))
    thread.start()
    thread.join()
    assert found == [4]
    assert sys.path == before[0] and not {"helper_of_test", "parts", "later"} & sys.modules.keys()
    assert {name.partition(".")[0] for name in set(sys.modules) - before[1]} == {module.__name__.partition(".")[0]}
    assert not list(tmp_path.rglob("__pycache__"))


def test_files_with_the_names_of_pythons_own_modules_break_nothing(tmp_path: Path) -> None:
    names = ("types", "random", "enum", "json", "dataclasses", "typing")
    (tmp_path / "numpy").mkdir()  # a folder of data is no module
    file = write(
        tmp_path,
        main="import types, random, numpy\nfrom dataclasses import dataclass\nfrom .random import mine\n"
        "@dataclass\nclass A:\n    x: int = 1\nmade = A(), types.SimpleNamespace(y=random.random())",
        **{name: "mine = 1\nraise_if_read = True" for name in names},
    )
    module = user_code.execute(file)
    assert module.made[0].x == 1 and module.mine == 1 and module.random.__name__ == "random" and module.numpy.ndarray
    # The same in a new process, where nothing is imported yet.
    code = f"from transferlab import user_code\nassert user_code.execute({str(file)!r}).mine == 1\nimport random; random.random()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from random import mine", r"main\.py imports 'random', which is a module of Python's own and has no 'mine'\..*: from \.random import mine"),
        ("import numpy", r"main\.py imports 'numpy', which is an installed module \(.*numpy.__init__\.py\) and also a file next to it\..*: from \. import numpy"),
        ("from numpy import mine", r"say that it is the one that is meant: from \.numpy import mine"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("from damaged import x", r"main\.py: SyntaxError: .*damaged\.py"),
    ],
)  # fmt: skip
def test_an_import_that_may_mean_two_things_is_refused_with_the_line_that_mends_it(
    tmp_path: Path, line: str, said: str
) -> None:
    file = write(tmp_path, main=line, random="mine = 1", numpy="mine = 1", damaged="x = (")
    before = set(sys.modules)
    with pytest.raises(TransferlabError, match=said):
        user_code.execute(file)
    assert not {name for name in set(sys.modules) - before if name.startswith("_transferlab_code_")}


def test_a_file_that_a_script_imported_already_is_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, main="from imported_before_by_test import Mine", imported_before_by_test="class Mine: ...")
    monkeypatch.syspath_prepend(tmp_path)
    import imported_before_by_test  # pyright: ignore[reportMissingImports]

    try:
        assert user_code.execute(file).Mine is imported_before_by_test.Mine
    finally:
        del sys.modules["imported_before_by_test"]
    # The working directory of a script is no other package than the folder itself.
    assert user_code.execute(file).Mine.__module__.startswith("_transferlab_code_")


def test_a_changed_file_is_read_again_and_its_hash_is_that_of_what_ran(tmp_path: Path) -> None:
    file = write(tmp_path, main="class A:\n    n = 1")
    first = user_code.execute(file)
    write(tmp_path, main="class A:\n    n = 2")
    second = user_code.execute(file)
    assert (first.A.n, second.A.n) == (1, 2)
    one, two = user_code.origin(first.A), user_code.origin(second.A)
    assert (one["module"], one["class"], one["file"]) == ("main", "A", "main.py") and user_code.same_place(one, two)
    assert one["sha256"] != two["sha256"] and len(two["sha256"]) == 64
    assert user_code.origin(ArgumentParser) == {"module": "argparse", "class": "ArgumentParser"}
