"""The house: a lower floor that imports a higher one would tie everything to everything."""

from __future__ import annotations

import ast
from pathlib import Path

import transferlab

FLOORS = (
    {"bounds", "errors", "host", "trees", "selectors", "files", "unpickle"}, {"models", "data", "measure"}, {"pretrained"}, {"transfer"},
    {"methods", "tasks"}, {"evaluate"}, {"train"}, {"studies"}, {"config", "cli"},
)  # fmt: skip


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def test_no_module_imports_from_a_higher_floor() -> None:
    root = Path(transferlab.__file__).parent
    wrong = []
    for path in root.rglob("*.py"):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        hints = {
            id(n)
            for i in ast.walk(tree)
            if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test)
            for n in ast.walk(i)
        }
        for node in ast.walk(tree):
            if (
                id(node) in hints
                or not isinstance(node, ast.ImportFrom)
                or not (node.module or "").startswith("transferlab")
            ):
                continue
            parts = (node.module or "").split(".")
            for target in [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]:
                if not target.startswith("_") and floor(target) > floor(room):
                    wrong.append(f"{path.relative_to(root)}:{node.lineno} imports {target}")
    assert not wrong, wrong
