"""The house: a lower floor that imports a higher one, or two files that import each other, tie everything to everything."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import transferlab

FLOORS = (
    {"bounds", "errors", "fields", "limits", "notebook", "trees", "selectors", "files", "reading", "fetching", "manifest", "plugins", "pytrees", "unpickle", "user_code"}, {"compute"}, {"models", "data", "measure"}, {"pretrained"}, {"transfer"},
    {"methods", "tasks", "evaluate"}, {"train"}, {"studies"}, {"config", "cli"},
)  # fmt: skip
ROOT = Path(transferlab.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imports(path: Path, *, hints: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import from the package, late ones too; those for type checkers only if asked for."""
    tree = ast.parse(path.read_text("utf-8"))
    checking = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in checking and not hints:
            continue
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name if name in FILES else str(node.module) for name in inside]
        else:
            continue
        yield from ((node.lineno, module) for module in modules if module.split(".")[0] == "transferlab")


def floor(module: str) -> int:
    room = module.split(".")[1]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_no_module_imports_from_a_higher_floor() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in FILES.items()
        if module not in ("transferlab", "transferlab.__main__")
        for line, target in imports(path, hints=False)
        if target != "transferlab" and floor(target) > floor(module)
    ]
    assert not wrong, wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    # The face imports every folder, when it is asked for a name; what type checkers alone read counts too.
    graph = {
        module: {target for _, target in imports(path, hints=True) if target in FILES} - {module}
        for module, path in FILES.items()
        if module != "transferlab"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " → ".join(error.args[1])
        raise AssertionError(f"{circle} is a circle") from None


def test_no_test_imports_at_its_top_what_the_extra_test_does_not_install() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text("utf-8"))["project"]
    named = [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        *project["optional-dependencies"]["tables"],
    ]
    installed = {re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-") for requirement in named}
    # What these bring with them and is their interface: jax's arrays, Flax's state, Orbax's files.
    installed |= {"jaxlib", "ml-dtypes", "absl-py"}
    distributions = packages_distributions()
    wrong = [
        f"{path.relative_to(ROOT.parent)}:{node.lineno} imports {module}; pytest.importorskip skips the file without it"
        for path in (ROOT.parent / "tests").rglob("*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)])
        for top in [module.split(".")[0]]
        if top in distributions and not installed & {name.lower().replace("_", "-") for name in distributions[top]}
    ]
    assert not wrong, wrong
