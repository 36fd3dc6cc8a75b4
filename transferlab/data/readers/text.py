"""Plain texts: ``.txt`` files whose paragraphs, lines or wholes are examples, without a target."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.readers.conll import UNIVERSAL
from transferlab.data.tables import read_text
from transferlab.errors import TransferlabError


class TextReader(Reader):
    """A file of text. An example is a paragraph, up to an empty line, unless ``documents`` says otherwise."""

    name = "plain text (.txt)"
    takes = ("documents",)

    def recognises(self, source: Any) -> bool:
        return isinstance(source, Path) and not source.is_dir() and source.suffix.lower() in (".txt", ".text")

    def read(self, source: Path, options: Options) -> Table:
        if options.documents is None:
            check_prose(source)
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


_SPAN = re.compile(r"O|[BIOESLUM]-\S+")
"""The tag of a word in or outside a span."""
_SPEECH = re.compile(r"[A-Z$.,:;'`\"#()-]+")
"""The tag of a part of speech, in most sets of tags."""


def check_prose(path: Path) -> None:
    """Check that a file of text is no file of words with tags, or table, by another name: its lines would be read as texts.

    Raises:
        TransferlabError: each line is a word and its tags, or has the fields of a table.
    """
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    lines = [line for line in lines if not line.startswith(("-DOCSTART-", "# "))]
    tabs = all("\t" in line for line in lines)
    rows = [line.split("\t") if tabs else line.split() for line in lines]
    width = len(rows[0]) if rows else 0
    if len(lines) < 3 or width < 2 or any(len(fields) != width for fields in rows):
        return
    what, suffix = "a word and its tags", ".conllu" if tabs and width == len(UNIVERSAL) else ".conll"
    if not _tagged([fields[0] for fields in rows], [fields[-1] for fields in rows], tabs):
        if not tabs:
            return
        what, suffix = f"{width} fields of a table, with tabs between them", ".tsv"
    raise TransferlabError(
        f"{path}: each line is {what}, as {lines[0][:60]!r}, which a {path.suffix} file is not. Give it a name that ends in "
        f"{suffix}; or, to read its lines as texts, say so: documents='line'."
    )


def _tagged(words: Sequence[str], tags: Sequence[str], tabs: bool) -> bool:
    """Whether these are words, each with a tag: those of spans, of parts of speech, or next to a tab any that are few."""
    if any(" " in word for word in words):
        return False
    if all(map(_SPAN.fullmatch, tags)):
        return any("-" in tag for tag in tags)
    few, lower = 2 * len(set(tags)) <= len(tags), any(word.islower() for word in words)
    return few and (tabs or (lower and all(map(_SPEECH.fullmatch, tags))))
