"""Numbers of ours against the origin's: held to a bound, and kept for the parity table.

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
    """The largest difference of two arrays, and the largest value of the origin's."""

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
    share: float = 2e-5,
    floor: float = 1.0,
    where: str = "",
) -> None:
    """Hold ours against the origin's: no difference beyond ``share`` of the largest value, or of ``floor`` if that is more.

    Args:
        got: ours; for ``written``, what the origin gives for the file that we wrote.
        want: the origin's.
        family: a row of the table, as a reader would look for it: ``Qwen3``.
        form: of the file: ``transformers``, ``timm``, ``GGUF``.
        way: ``read`` here what the origin wrote, or ``written`` here and read there.
        what: is compared. ``gradients`` may be called for each parameter.
        share: of the largest value of ``want`` that a difference may be.
        floor: the least value that ``share`` is taken of.
        where: begins the message of a failure.
    """
    got, want = (np.asarray(one.detach() if hasattr(one, "detach") else one, np.float64) for one in (got, want))
    assert got.shape == want.shape, f"{where} {got.shape} is compared with {want.shape}"
    assert got.size, f"{where} nothing is compared"
    scale, largest = float(np.abs(want).max()), float(np.abs(got - want).max())
    assert largest <= share * max(floor, scale), (
        f"{where} {family}, {form}, {way}: {what} differ by {largest:.2e}, on values to {scale:.2e}"
    )
    DIFFERENCES.append(Difference(family, form, way, what, largest, scale))


def table(differences: list[Difference]) -> str:
    """Return a Markdown table, a row for each family and form: of each kind the largest difference, and of what size."""
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
