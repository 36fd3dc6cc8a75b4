"""The house: a lower floor that imports a higher one, or two files that import each other, tie everything to everything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import transferlab

FLOORS = (
    {"bounds", "errors", "fields", "limits", "notebook", "trees", "selectors", "files", "reading", "fetching", "manifest", "plugins", "unpickle"}, {"compute"}, {"models", "data", "measure"}, {"pretrained"}, {"transfer"},
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
