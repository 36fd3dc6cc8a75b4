"""Our numbers compared with the reference implementation's: checked against a bound, and kept for the parity table.

pytest tests/parity --parity-table parity.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Way = Literal["read", "written"]
What = Literal["hidden", "pooled", "embedding", "logits", "gradients", "input"]


@dataclass(frozen=True)
class Difference:
    """The largest difference of two arrays, and the largest value of the reference."""

    family: str
    form: str
    way: Way
    what: What
    largest: float
    scale: float


DIFFERENCES: list[Difference] = []


def compare(
    got: Any,
    want: Any,
    *,
    family: str,
    form: str,
    way: Way = "read",
    what: What = "logits",
    tolerance: float = 2e-5,
    floor: float = 1.0,
    where: str = "",
) -> None:
    """Check ours against the reference: no difference beyond ``tolerance`` times its largest value, or ``floor`` if that is more.

    Args:
        got: ours; for ``written``, the reference's outputs for the file that we wrote.
        want: the reference's.
        family: row of the table, under the name that readers look for: ``Qwen3``.
        form: of the file: ``transformers``, ``timm``, ``GGUF``.
        way: ``read`` here from the reference's file, or ``written`` here and read there.
        what: the outputs compared. For ``gradients``, call it for each parameter.
        tolerance: largest allowed difference, as a fraction of the largest value of ``want``.
        floor: the smallest value to which ``tolerance`` applies.
        where: starts the message of a failure.
    """
    got, want = (np.asarray(one.detach() if hasattr(one, "detach") else one, np.float64) for one in (got, want))
    assert got.shape == want.shape, f"{where} {got.shape} is compared with {want.shape}"
    assert got.size, f"{where} nothing is compared"
    scale, largest = float(np.abs(want).max()), float(np.abs(got - want).max())
    assert largest <= tolerance * max(floor, scale), (
        f"{where} {family}, {form}, {way}: {what} differ by {largest:.2e}, on values to {scale:.2e}"
    )
    DIFFERENCES.append(Difference(family, form, way, what, largest, scale))


def table(differences: list[Difference]) -> str:
    """Return a Markdown table with a row per family and form: for each kind the largest difference, and the scale of the values."""
    columns = list(
        dict.fromkeys((d.way, d.what) for d in sorted(differences, key=lambda d: (d.way, _ORDER.index(d.what))))
    )
    heads = [what if way == "read" else f"written: {what}" for way, what in columns]
    lines = [f"| model | file | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(heads)]
    for family, form in sorted({(d.family, d.form) for d in differences}, key=lambda row: (row[0].lower(), row[1])):
        cells = []
        for way, what in columns:
            here = [d for d in differences if (d.family, d.form, d.way, d.what) == (family, form, way, what)]
            worst = max(here, key=lambda d: d.largest, default=None)
            cells.append("" if worst is None else f"{worst.largest:.1e} of {worst.scale:.2g}" if worst.largest else "0")
        lines.append(f"| {family} | {form} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_ORDER: tuple[What, ...] = ("hidden", "pooled", "embedding", "logits", "gradients", "input")
