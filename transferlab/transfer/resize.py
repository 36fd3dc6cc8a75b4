"""Which rows of a trained head stay where the labels change. Other leaves are resized where a source is resized."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float


def label_rows(source_labels: Sequence[str], target_labels: Sequence[str]) -> tuple[list[tuple[int, int]], str]:
    """Return the (target, source) index pairs of labels with the same name, and a sentence for the plan."""
    where = {name: i for i, name in enumerate(source_labels)}
    pairs = [(i, where[name]) for i, name in enumerate(target_labels) if name in where]
    kept = ", ".join(target_labels[i] for i, _ in pairs[:4]) + ("…" if len(pairs) > 4 else "")
    new = len(target_labels) - len(pairs)
    drawn = f", {new} new one{'s' if new > 1 else ''} drawn" if new else ""
    return pairs, f"rows of the {len(pairs)} label{'s' if len(pairs) > 1 else ''} that stay ({kept}){drawn}"


def take_rows(
    read: Callable[[], np.ndarray], pairs: Sequence[tuple[int, int]], drawn: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Put the kept labels' columns of a (features, labels) kernel, or entries of a bias, into one drawn for all labels."""
    old, new = read(), np.array(drawn)
    targets, sources = np.array(pairs, np.int64).reshape(-1, 2).T
    new[..., targets] = old[..., sources]
    return new
