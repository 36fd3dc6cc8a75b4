"""How long the shortest programs of ``docs/compared.md`` are: statements and tokens of Python, for each kind of data and library.

python experiments/benchmarks/paths.py            # prints the table
python experiments/benchmarks/paths.py --write    # and puts it into the page
python experiments/benchmarks/paths.py --check    # fails if the page has another, or if ours is longer anywhere
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "compared.md"
OURS = "ours"
_BLOCK = re.compile(
    r"^## (?P<kind>[^\n]+)$|^```(?:python|py (?P<peer>[\w-]+))\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
_TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass(frozen=True)
class Length:
    """Of a program.

    Attributes:
        statements: those inside functions and loops too, without imports.
        tokens: names, numbers, texts and signs, of imports too.
    """

    statements: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.statements} / {self.tokens}"


def length_of(code: str) -> Length:
    statements = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt)]
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type not in _LAYOUT]
    # The formatter's comma in front of a bracket that stands on a line of its own.
    layout = sum(a.string == "," and b.string in ")]}" for a, b in pairwise(tokens))
    return Length(sum(not isinstance(node, ast.Import | ast.ImportFrom) for node in statements), len(tokens) - layout)


def programs(page: str) -> dict[str, dict[str, str]]:
    """The programs of a page: kind of data → library → code."""
    found: dict[str, dict[str, str]] = {}
    kind = ""
    for match in _BLOCK.finditer(page):
        kind = match["kind"] or kind
        if match["code"] is not None:
            library = match["peer"] or OURS
            if library in found.setdefault(kind, {}):
                raise ValueError(f"'{kind}' has two programs of {library}.")
            found[kind][library] = match["code"]
    return found


def lengths(page: str) -> dict[str, dict[str, Length]]:
    return {kind: {name: length_of(code) for name, code in of.items()} for kind, of in programs(page).items()}


def table(page: str) -> str:
    """The table as Markdown."""
    rows = lengths(page)
    libraries = list(dict.fromkeys(name for of in rows.values() for name in of))
    lines = [["statements / tokens", *libraries], ["---", *["---:"] * len(libraries)]]
    lines += [[kind, *[str(of.get(name, "–")) for name in libraries]] for kind, of in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def longer(page: str) -> list[str]:
    """The kinds of data for which a peer's program has fewer statements or fewer tokens than ours."""
    return [
        f"{kind}: ours {of[OURS]}, {name} {peer}"
        for kind, of in lengths(page).items()
        for name, peer in of.items()
        if peer.statements < of[OURS].statements or peer.tokens < of[OURS].tokens
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments, page = parser.parse_args(), PAGE.read_text("utf-8")
    print(table(page), end="")
    if arguments.write:
        PAGE.write_text(_TABLE.sub(lambda _: table(page), page), "utf-8")
    elif arguments.check and (problems := [*longer(page), *stale(page)]):
        raise SystemExit("\n".join(problems))


def stale(page: str) -> list[str]:
    """A sentence if the page's table is not what is counted."""
    found = _TABLE.search(page)
    right = found is not None and found[0] == table(page)
    return [] if right else ["The table is not what is counted: python experiments/benchmarks/paths.py --write"]


if __name__ == "__main__":
    main()
