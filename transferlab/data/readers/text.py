"""Plain texts: ``.txt`` files whose paragraphs, lines or wholes are examples, without a target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.tables import read_text
from transferlab.errors import TransferlabError


class TextReader(Reader):
    """A file of text. An example is a paragraph, up to an empty line, unless ``documents`` says otherwise."""

    name = "plain text (.txt)"
    takes = ("documents",)

    def recognises(self, source: Any) -> bool:
        return isinstance(source, Path) and not source.is_dir() and source.suffix.lower() in (".txt", ".text")

    def read(self, source: Path, options: Options) -> Table:
        documents = list(documents_of(source, options.documents or "paragraph"))
        if not documents:
            raise TransferlabError(f"'{source}' has no examples: it is empty.")
        return Table(
            str(source),
            {"text": [text for _, text in documents]},
            [f"line {line}" for line, _ in documents],
            roles={"text": "text"},
        )


def documents_of(path: Path, documents: str) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, text) of each document that is not blank; the line ends within it are kept."""
    text = read_text(path).replace("\r\n", "\n")
    if documents == "file":
        if text.strip():
            yield 1, text.strip("\n")
        return
    begin, lines = 0, []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            begin = begin if lines else number
            lines.append(line)
        if lines and (documents == "line" or not line.strip()):
            yield begin, "\n".join(lines)
            lines = []
