"""CoNLL files: a word and its tags a line, an empty line between sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.tables import read_text
from transferlab.errors import TransferlabError

SUFFIXES = (".conll", ".conllu", ".iob", ".iob2", ".bio")
"""Suffixes of CoNLL files, in any case."""
UNIVERSAL = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""Columns of CoNLL-U (universaldependencies.org/format.html)."""
_COMMENT = re.compile(r"#\s*(id|sent_id|text|newdoc|newpar|global)\b")

Line = tuple[int, list[str]]


class ConllReader(Reader):
    """Sentences of words with tags.

    Columns are called ``1``, ``2``, …: the first is the words and the last the target. In ``.conllu`` they have the format's
    names: ``form`` is the words and ``upos`` the target; words that span several (``1-2``) and empty ones (``1.1``) are left out.
    """

    name = "CoNLL (.conll, .conllu, .iob, .bio)"

    def recognises(self, source: Any) -> bool:
        return isinstance(source, Path) and not source.is_dir() and source.suffix.lower() in SUFFIXES

    def read(self, source: Path, options: Options) -> Table:
        del options
        universal = source.suffix.lower() == ".conllu"
        sentences = list(_sentences(source, universal))
        if not sentences:
            raise TransferlabError(f"'{source}' has no examples: no line holds a word.")
        width, counts = len(UNIVERSAL), Counter(len(fields) for lines in sentences for _, fields in lines)
        if not universal:
            width = counts.most_common(1)[0][0]
        for number, fields in (line for lines in sentences for line in lines):
            if len(fields) != width:
                raise TransferlabError(
                    f"{source}, line {number}: {len(fields)} fields, where other lines have {width}: {' '.join(fields)[:40]!r}."
                )
        names = UNIVERSAL if universal else [str(place + 1) for place in range(width)]
        columns = {
            name: [[_value(fields[place], name, universal) for _, fields in lines] for lines in sentences]
            for place, name in enumerate(names)
        }
        columns.pop("id", None)
        words, target = ("form", "upos") if universal else ("1", str(width))
        roles = {"words": words} | ({} if target == words else {"target": target})
        return Table(str(source), columns, [f"sentence {i + 1}" for i in range(len(sentences))], roles, typed=False)


def _sentences(path: Path, universal: bool) -> Iterator[list[Line]]:
    """The lines of each sentence, with their numbers."""
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    tabs = universal or all("\t" in line for line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-")))
    sentence: list[Line] = []
    for number, line in enumerate([*lines, ""], 1):
        if not line.strip():
            if sentence:
                yield sentence
            sentence = []
        elif line.startswith("-DOCSTART-") or (
            line.startswith("#") and (universal or (not sentence and _COMMENT.match(line)))
        ):
            continue
        else:
            # Only at what separates fields: a word may contain other characters that Unicode calls white space.
            fields = line.rstrip("\t ").split("\t") if tabs else re.split("[ \t]+", line.strip(" \t"))
            if not universal or not re.search("[-.]", fields[0]):
                sentence.append((number, fields))


def _value(field: str, column: str, universal: bool) -> str | None:
    """A field; of CoNLL-U, None for what is not stated."""
    return None if universal and field == "_" and column != "form" else field
