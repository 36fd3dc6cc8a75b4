"""Rows without a content, a target or a group: named in an error, or left out and counted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from transferlab.data.labels import MISSING
from transferlab.data.readers.base import Table
from transferlab.data.roles import Roles
from transferlab.errors import TransferlabError

Missing = Literal["error", "drop"]
"""What a row without one of its columns is."""


def complete(table: Table, roles: Roles, missing: str = "error") -> Table:
    """Return the table without rows that lack a column they need; its notes count them.

    A validation or test split of which no row has a target is left out in either case: many published test sets keep theirs
    secret.

    Args:
        table: as read.
        roles: what its columns are for.
        missing: ``drop`` leaves other rows out too; with ``error``, reading them names the first.

    Raises:
        TransferlabError: every row lacks one.
    """
    if roles.splits is not None and roles.target:
        table = _labelled(table, roles)
    if missing == "error":
        return table
    left, notes = np.ones(len(table), bool), []
    for column in (*roles.columns, *roles.target, *([roles.groups] if roles.groups else [])):
        gaps = _gaps(
            table,
            column,
            spelled=column in roles.target,
            blank=column not in roles.columns or roles.content in ("pair", "words"),
            unlisted=column in roles.columns,
        )
        if count := int((gaps & left).sum()):
            notes.append(f"{len(table):,} rows: {count:,} without {column} left out")
        left &= ~gaps
    if not left.any():
        raise TransferlabError(f"{table.name}: every row lacks one of {', '.join((*roles.columns, *roles.target))}.")
    return replace(table.take(np.flatnonzero(left).tolist()), notes=(*table.notes, *notes))


def _labelled(table: Table, roles: Roles) -> Table:
    splits = np.array([str(split) for split in table.columns[roles.splits or ""]])
    gaps = _gaps(table, roles.target[0], spelled=True, blank=True)
    notes = []
    for split in dict.fromkeys(splits.tolist()):
        inside = splits == split
        if gaps[inside].all() and not gaps.all():
            notes.append(f"no row of '{split}' has a target: {int(inside.sum()):,} rows left out")
            gaps[inside], splits[inside] = True, ""
    if not notes:
        return table
    return replace(table.take(np.flatnonzero(splits != "").tolist()), notes=(*table.notes, *notes))


def _gaps(table: Table, column: str, *, spelled: bool, blank: bool, unlisted: bool = False) -> np.ndarray:
    """Which rows have no value there.

    Args:
        table: of the rows.
        column: its name.
        spelled: whether ``NA`` and its like are missing values, too.
        blank: whether an empty text is one.
        unlisted: whether an empty list is one.
    """
    classes = column in table.classes

    def gap(value: Any) -> bool:
        if isinstance(value, str):
            return (blank and not value.strip()) or (spelled and value.strip() in MISSING)
        if isinstance(value, (list, tuple)):
            return unlisted and not value
        return value is None or (classes and value == -1) or (isinstance(value, float) and math.isnan(value))

    return np.array([gap(value) for value in table.columns[column]], bool)
