"""Which rows of a trained head are kept when the labels change. Other leaves are resized where a source is resized."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float


def label_rows(source_labels: Sequence[str], target_labels: Sequence[str]) -> tuple[list[tuple[int, int]], str]:
    """Return the (target, source) index pairs of labels with the same name, and a sentence for the plan."""
    rows = {name: i for i, name in enumerate(source_labels)}
    pairs = [(i, rows[name]) for i, name in enumerate(target_labels) if name in rows]
    kept = ", ".join(target_labels[i] for i, _ in pairs[:4]) + ("…" if len(pairs) > 4 else "")
    new = len(target_labels) - len(pairs)
    rest = f", {new} new one{'s' if new > 1 else ''} initialised" if new else ""
    return pairs, f"rows of the {len(pairs)} label{'s' if len(pairs) > 1 else ''} that both have ({kept}){rest}"


def take_rows(
    read: Callable[[], np.ndarray], pairs: Sequence[tuple[int, int]], initial: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Copy the kept labels' columns of a (features, labels) kernel, or entries of a bias, into the ``initial`` one."""
    old, new = read(), np.array(initial)
    targets, sources = np.array(pairs, np.int64).reshape(-1, 2).T
    new[..., targets] = old[..., sources]
    return new
