"""Tables in memory: DataFrames (pandas, polars), dicts of columns and lists of dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.values import plain
from transferlab.errors import TransferlabError


class FrameReader(Reader):
    """Columns, or rows, that are Python objects."""

    name = "DataFrame, dict of columns or list of dicts"
    takes = ("white",)
    last = True

    def recognises(self, source: Any) -> bool:
        return isinstance(source, Mapping) or hasattr(source, "columns") or (isinstance(source, (list, tuple)))

    def read(self, source: Any, options: Options) -> Table:
        del options
        columns = _of_rows(source) if isinstance(source, (list, tuple)) else _of_columns(source)
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
            raise TransferlabError(f"The columns have different numbers of values: {shown}.")
        rows = next(iter(lengths.values()), 0)
        return Table(type(source).__name__, columns, [f"row {i + 1}" for i in range(rows)])


def _of_columns(source: Any) -> dict[str, list[Any]]:
    names = list(source if isinstance(source, Mapping) else source.columns)
    _check_names(type(source).__name__, names)
    columns = {}
    for name in names:
        values = source[name]
        if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__"):
            raise TransferlabError(f"The column '{name}' is {str(values)[:60]!r}, not a list of values, one a row.")
        columns[str(name)] = list(values) if _is_array(values) else [plain(value) for value in values]
    return columns


def _is_array(values: Any) -> bool:
    """Whether a column is an array with an array of numbers that are no integers, as features, in each row."""
    return hasattr(values, "dtype") and getattr(values, "ndim", 1) > 1 and np.issubdtype(values.dtype, np.floating)


def _of_rows(rows: Sequence[Any]) -> dict[str, list[Any]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            texts = all(isinstance(row, str) for row in rows)
            advice = (
                "\n  >>> tl.dataset({'text': texts, 'label': labels})"
                if texts
                else ", as in [{'text': 'fine', 'label': 1}]."
            )
            what = "a dict of its fields, or columns:" if texts else "a dict of its fields"
            raise TransferlabError(f"row {number} is {str(row)[:60]!r}; expected {what}{advice}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    _check_names("list of dicts", names)
    return {str(name): [plain(row.get(name)) for row in rows] for name in names}


def _check_names(what: str, names: Sequence[Any]) -> None:
    """Check that no two columns have one name, as 0 and "0" have."""
    spelled = [str(name) for name in names]
    if repeated := next((name for name in spelled if spelled.count(name) > 1), None):
        raise TransferlabError(f"The {what} has {spelled.count(repeated)} columns '{repeated}'; rename all but one.")
