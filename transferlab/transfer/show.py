"""The plan as a table for people: collapsed by stage, with equal stages in one row; as wide as there is room, and never cut."""

from __future__ import annotations

import html
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from transferlab.errors import printable
from transferlab.transfer.leaf import Leaf


@runtime_checkable
class Shown(Protocol):
    """The part of :class:`transferlab.transfer.plan.Plan` that is shown."""

    @property
    def method(self) -> str: ...
    @property
    def leaves(self) -> tuple[Leaf, ...]: ...
    @property
    def stages(self) -> tuple[str, ...]: ...
    @property
    def frontier(self) -> int: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def unused(self) -> tuple[tuple[str, str], ...]: ...
    def totals(self) -> Mapping[str, Any]: ...


class FittedTable(Table):
    """A table that wraps its cells where there is little room; with too little for its columns, rows are lists of their fields.

    The room is the terminal's, and at most ``COLUMNS``, an environment variable, where output goes elsewhere too.
    """

    def __init__(self, title: str, caption: str, columns: Mapping[str, str]):
        """Title and caption are plain text; ``columns`` are names and ``left`` or ``right``."""
        super().__init__(
            title=escape(printable(title)), caption=escape(printable(caption)), title_justify="left", caption_justify="left",
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for name, side in columns.items():
            self.add_column(name, justify="right" if side == "right" else "left", overflow="fold")

    def add_plain_row(self, *cells: str, dim: bool = False) -> None:
        """Add a row of plain texts."""
        self.add_row(*(escape(printable(cell)) for cell in cells), style="dim" if dim else None)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = os.environ.get("COLUMNS", "")
        if columns.isdecimal() and int(columns) > 0:
            options = options.update(width=min(int(columns), options.max_width))
        widths = [
            max(cell_len(line) for cell in (column.header, *column.cells) for line in _plain(cell).split("\n"))
            for column in self.columns
        ]
        # A space on each side of a column, by padding and box.
        if options.max_width >= 1 + sum(2 + (width if width <= _SHORT else _FOLDED) for width in widths):
            # Short columns stay as they are; what is missing is taken from the long ones, which have paths, keys and sentences.
            for column, width in zip(self.columns, widths, strict=True):
                column.no_wrap = width <= _SHORT
            yield from super().__rich_console__(console, options)
            return
        for part in self._listed():
            yield from console.render(part, options)

    def _listed(self) -> Iterator[RenderableType]:
        """Title, a list of fields for each row, and caption."""
        yield Text.from_markup(str(self.title), style="italic")
        for row, cells in zip(self.rows, self._lines(), strict=True):
            fields = Table.grid(padding=(0, 2, 0, 0))
            fields.add_column(no_wrap=True)
            fields.add_column(overflow="fold")
            for column, cell in zip(self.columns, cells, strict=True):
                if cell:
                    fields.add_row(column.header, cell)
            yield Padding(fields, (1, 0, 0, 0), style=row.style or "none")
        yield Padding(Text.from_markup(str(self.caption), overflow="fold"), (1, 0, 0, 0))

    def _lines(self) -> Iterator[tuple[RenderableType, ...]]:
        return zip(*(column.cells for column in self.columns), strict=True)

    def html(self) -> str:
        """The table for notebooks."""

        def line(cells: tuple[Any, ...], kind: str, style: str = "") -> str:
            pairs = zip(cells, self.columns, strict=True)
            inner = (f"<{kind} style='text-align:{column.justify}'>{_html(cell)}</{kind}>" for cell, column in pairs)
            return f"<tr{style}>{''.join(inner)}</tr>"

        head = line(tuple(column.header for column in self.columns), "th")
        rows = zip(self.rows, self._lines(), strict=True)
        body = "".join(line(cells, "td", " style='opacity:0.6'" if row.style else "") for row, cells in rows)
        caption = _html(self.caption).replace("\n", "<br>")
        return f"<div><b>{_html(self.title)}</b></div><table><thead>{head}</thead><tbody>{body}</tbody></table><div>{caption}</div>"


_SHORT, _FOLDED = 12, 9
"""Characters of columns that are not folded, and to which the others may be."""


def _plain(cell: Any) -> str:
    return Text.from_markup(str(cell)).plain


def _html(cell: Any) -> str:
    return html.escape(_plain(cell))


def plan_table(plan: Shown, whole: bool) -> FittedTable:
    """Return the table; ``whole`` gives each leaf its row."""
    totals = plan.totals()
    fraction = totals["bytes_from_source"] / max(totals["bytes"], 1)
    frontier = plan.stages[plan.frontier] if plan.frontier < len(plan.stages) else "nothing trains"
    caption = (
        f"{totals['parameters']:,} parameters, {totals['trainable_parameters']:,} train "
        f"({totals['trainable_parameters'] / max(totals['parameters'], 1):.2%}); "
        f"{fraction:.1%} of the bytes come from the source; gradients stop before '{frontier}'"
    )
    notes = [*plan.notes, *_leftover(plan)]
    columns = {
        "leaf": "left", "shape": "right", "action": "left", "from": "left", "trains": "left", "lr ×": "right", "decay": "right",
        "size": "right",
    }  # fmt: skip
    table = FittedTable(f"Plan: {plan.method}", "\n".join([caption, *notes]), columns)
    for label, group in leaf_rows(plan.leaves, plan.stages, whole):
        first = group[0]
        shape = "×".join(map(str, first.shape)) if len(group) == 1 else f"{len(group)} leaves"
        cells = (
            label, shape, first.action, origin_of(group), _trains(first),
            _rate(first), _decay(group),
            human_bytes(sum(leaf.bytes for leaf in group)),
        )  # fmt: skip
        table.add_plain_row(*cells, dim=not first.trains)
    return table


def leaf_rows(leaves: tuple[Leaf, ...], stages: tuple[str, ...], whole: bool) -> list[tuple[str, list[Leaf]]]:
    """Return (label, leaves) of each row of a table: a stage's leaves that are treated alike, and equal stages, share one."""
    if whole:
        return [(leaf.path, [leaf]) for leaf in leaves]
    merged: dict[tuple, tuple[list[str], list[Leaf]]] = {}
    for group in collapse(leaves, stages):
        # Stages that differ in their number alone and get the same treatment share a row: layers/0 … layers/5.
        stage = _stage_of(group[0].path, stages)
        family = re.sub(r"\d+", "#", stage)
        kind = re.sub(r"\d+", "#", group[0].path) if len(group) == 1 else ""
        first = group[0]
        row = (
            family, kind, first.action, first.trains, first.lr_scale, first.schedule, first.phases,
            first.reason if len(group) == 1 else "",
        )  # fmt: skip
        names, sharing = merged.setdefault(row, ([], []))
        names.append(group[0].path if len(group) == 1 else stage)
        sharing.extend(group)
    return [(_span(names), sharing) for names, sharing in merged.values()]


def collapse(leaves: tuple[Leaf, ...], stages: tuple[str, ...]) -> list[list[Leaf]]:
    """Group neighbouring leaves of one stage that share action, training, learning-rate scale and schedule."""
    out: list[list[Leaf]] = []
    for leaf in leaves:
        if out and _treatment(leaf, stages) == _treatment(out[-1][0], stages):
            out[-1].append(leaf)
        else:
            out.append([leaf])
    return out


def _treatment(leaf: Leaf, stages: tuple[str, ...]) -> tuple:
    return _stage_of(leaf.path, stages), leaf.action, leaf.trains, leaf.lr_scale, leaf.schedule, leaf.phases


def _stage_of(path: str, stages: tuple[str, ...]) -> str:
    matches = [stage for stage in stages if path == stage or path.startswith(stage + "/")]
    return max(matches, key=len, default=path.split("/")[0])


def _span(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    return unique[0] if len(unique) == 1 else f"{unique[0]} … {unique[-1]}"


def origin_of(group: list[Leaf]) -> str:
    """Return where these leaves come from: keys, or the reasons why there are none."""
    keys = list(dict.fromkeys(key for leaf in group for key in leaf.source))
    if len(group) == 1:
        return " ".join([*keys, f"({group[0].reason})" if group[0].reason else ""]).strip()
    if keys:
        return f"{keys[0]} … ({len(keys)} keys)"
    reasons = list(dict.fromkeys(leaf.reason for leaf in group))
    return f"({'; '.join(reasons[:2])})"


def _trains(leaf: Leaf) -> str:
    """``trains 1, 2`` where it does in some phases of several."""
    if not leaf.trains:
        return "frozen"
    return " ".join(["trains", ", ".join(map(str, leaf.phases))]).strip()


def _rate(leaf: Leaf) -> str:
    if not leaf.trains or leaf.kind != "param":
        return ""
    return f"{leaf.lr_scale:g}" + (f" ({leaf.schedule})" if leaf.schedule else "")


def _decay(group: list[Leaf]) -> str:
    values = sorted({leaf.decay for leaf in group if leaf.trains})
    return "" if not values else f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} or {values[-1]:g}"


def _leftover(plan: Shown) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for key, reason in plan.unused:
        reasons.setdefault(reason, []).append(key)
    return [
        f"not used: {keys[0]}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''} ({reason})"
        for reason, keys in reasons.items()
    ]


def human_bytes(n: float | int) -> str:
    """Return a number of bytes as text: ``91.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def console(**options: Any) -> Console:
    """Return a console as wide as the terminal; where the output goes elsewhere, wide enough that no table is cut."""
    return Console(**options) if sys.stdout.isatty() else Console(width=_UNCUT, **options)


_UNCUT = 1 << 14


def as_text(table: Table) -> str:
    """Render a table without color: as wide as the terminal, or as the table where there is no terminal."""
    out = io.StringIO()
    Console(file=out, width=console().width, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
