"""Splits that a source has, as one table with a column that says which split a row is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from transferlab.data.examples import SPLITS, Split
from transferlab.data.readers.base import Table
from transferlab.errors import TransferlabError


def joined(parts: Mapping[Split, Table]) -> Table:
    """Return one table of several splits, with a column that says which each row is in."""
    mixed = {
        name
        for part in parts.values()
        for name, classes in part.classes.items()
        if any(other.classes.get(name) != classes for other in parts.values() if name in other.columns)
    }
    parts = {split: _named(part, mixed) for split, part in parts.items()}
    first = next(iter(parts.values()))
    names = list(dict.fromkeys(name for part in parts.values() for name in part.columns))
    where = "split" if "split" not in names else "split of the row"
    columns = {
        name: [v for part in parts.values() for v in part.columns.get(name, [None] * len(part))] for name in names
    }
    columns[where] = [split for split, part in parts.items() for _ in part.places]
    return replace(
        first,
        name=", ".join(f"{split} {Path(part.name).name}" for split, part in parts.items()),
        columns=columns,
        places=[f"{place} of {split}" for split, part in parts.items() for place in part.places],
        roles={**first.roles, "splits": where},
        typed=all(part.typed for part in parts.values()),
        folder=[part.folder_of(row) for part in parts.values() for row in range(len(part))],
        notes=tuple(dict.fromkeys(note for part in parts.values() for note in part.notes)),
        absent={name: split for split, part in parts.items() for name in names if name not in part.columns},
    )  # fmt: skip


def _named(table: Table, columns: set[str]) -> Table:
    """A table whose columns of indices are these columns' names of classes."""
    names = {
        name: [classes[i] if i is not None and i >= 0 else None for i in table.columns[name]]
        for name, classes in table.classes.items()
        if name in columns
    }
    classes = {name: of for name, of in table.classes.items() if name not in columns}
    return replace(table, columns={**table.columns, **names}, classes=classes)


def of_splits(name: str, parts: Mapping[str, Table]) -> Table:
    """Return the table of a source that has splits by name; a single one that is none of ours is the whole table.

    Splits that are not for training, validation or test (``unsupervised``) are left out, and the summary says so.

    Raises:
        TransferlabError: two splits that are the same one of ours.
    """
    if len(parts) == 1:
        return replace(next(iter(parts.values())), name=name)
    known: dict[Split, Table] = {}
    for split, part in parts.items():
        if (ours := SPLITS.get(split.lower())) is None:
            continue
        if ours in known:
            raise TransferlabError(
                f"{name} has two splits for {ours}: {', '.join(parts)}. Open one by one:\n"
                f"  >>> tl.dataset({{'train': …, 'test': …}})"
            )
        known[ours] = part
    others = [f"'{split}' ({len(part):,} rows)" for split, part in parts.items() if split.lower() not in SPLITS]
    if not known:
        raise TransferlabError(f"{name} has the splits {', '.join(parts)}; none is called train, validation or test.")
    table = joined(known)
    left = (f"the splits {', '.join(others)} are left out",) if others else ()
    return replace(table, name=name, notes=(*table.notes, *left))
