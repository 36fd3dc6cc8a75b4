"""What a reader is, and what it returns: the rows of a source as named columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from transferlab.data.examples import Examples

Documents = Literal["paragraph", "line", "file"]
"""What is one example of a plain text: a paragraph up to an empty line, a line, or the file."""


@dataclass(frozen=True)
class Options:
    """What a reader may need of :func:`transferlab.data.dataset.dataset`'s arguments.

    Attributes:
        columns: that were asked for by name, in the order content, target, groups, splits.
        target: the first column of the target, if it was named.
        documents: what is one example of a plain text; None for a paragraph.
        white: of images of more than 8 bits.
    """

    columns: tuple[str, ...] = ()
    target: str | None = None
    documents: str | None = None
    white: float | int | None = None


@dataclass(frozen=True)
class Table:
    """Rows of named columns.

    Attributes:
        name: of the source, as errors and the summary call it.
        columns: name → the value of each row: texts, numbers, lists, bytes, paths, None where it is missing.
        places: of each row, as errors and ids call it: ``row 5``.
        roles: the columns whose role the source itself states: ``{"text": "text", "target": "label"}``.
        classes: of columns of indices: the name of each index; an index of -1 is a missing label.
        typed: whether it tells numbers from texts, as JSON does.
        folder: relative to which the paths in its cells are, of all rows or of each.
        absent: columns that only some splits have, and a split without it.
        about, notes: as in :class:`~transferlab.data.Dataset`.
    """

    name: str
    columns: Mapping[str, Sequence[Any]]
    places: Sequence[str]
    roles: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    typed: bool = True
    folder: Path | Sequence[Path | None] | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Sequence[int]) -> Table:
        """Return these rows alone."""
        return replace(
            self,
            columns={name: [values[row] for row in rows] for name, values in self.columns.items()},
            places=[self.places[row] for row in rows],
            folder=self.folder
            if self.folder is None or isinstance(self.folder, Path)
            else [self.folder[row] for row in rows],
        )

    def folder_of(self, row: int) -> Path | None:
        """Relative to which the paths in a row are."""
        return self.folder if self.folder is None or isinstance(self.folder, Path) else self.folder[row]


class Reader:
    """Base of all readers: a file in this folder with a subclass that says what it recognises and reads it.

    Attributes:
        name: of what it reads, as an error lists it; empty for a class that is none.
        takes: which of the arguments ``documents`` and ``white`` mean something to it.
        last: whether it is asked after the others: it recognises whatever has no better reader.
    """

    name: ClassVar[str] = ""
    takes: ClassVar[tuple[str, ...]] = ()
    last: ClassVar[bool] = False

    def recognises(self, source: Any) -> bool:
        """Whether this source (a path that exists, a text that is none, or an object) is of the kind that it reads."""
        raise NotImplementedError

    def read(self, source: Any, options: Options) -> Table | Examples:
        """Return the source's rows.

        Raises:
            TransferlabError: a row or file that cannot be read; it is named.
        """
        raise NotImplementedError
