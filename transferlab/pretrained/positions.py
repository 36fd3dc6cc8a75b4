"""Position tables for another grid of patches: a rule per reference implementation, a matrix along each axis, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from transferlab.errors import TransferlabError, nearest


@dataclass(frozen=True)
class Resize:
    """How a leaf is made to fit another shape.

    Attributes:
        how: what the plan prints.
        shape: afterwards.
        apply: the array of the file → the array of this shape.
    """

    how: str
    shape: tuple[int, ...]
    apply: Callable[[np.ndarray], np.ndarray] = field(repr=False)


def position_resize(shape: tuple[int, ...], slots: int, grid: int, rule: str) -> Resize | None:
    """Return the resize of a table (slots + patches, features) to ``grid`` × ``grid`` patches; None if it fits already.

    Args:
        shape: of the table in the file; its patches form a square.
        slots: rows at the start that belong to tokens before the patches; they are kept as they are.
        grid: patches along one side in the target.
        rule: a key of :data:`RULES`.

    Raises:
        TransferlabError: the rule is unknown, or the file's patches do not form a square.
    """
    if rule not in RULES:
        raise TransferlabError(f"Unknown rule '{rule}' for resizing positions.{nearest(rule, RULES)}")
    old = round((shape[0] - slots) ** 0.5)
    if old**2 != shape[0] - slots:
        raise TransferlabError(
            f"A table of {shape[0]} positions, {slots} of them before the patches, does not form a square grid."
        )
    if old == grid:
        return None
    suffix = f", the first {slots} kept" if slots else ""

    def apply(table: np.ndarray) -> np.ndarray:
        return resized_positions(table, slots, grid, rule)

    return Resize(f"{old}×{old} to {grid}×{grid} patches, {rule}{suffix}", (slots + grid**2, *shape[1:]), apply)


def resized_positions(
    table: Float[np.ndarray, "old features"], slots: int, grid: int, rule: str
) -> Float[np.ndarray, "new features"]:
    """Return the table for ``grid`` × ``grid`` patches; the first ``slots`` rows are kept."""
    old = round((table.shape[0] - slots) ** 0.5)
    matrix = RULES[rule](old, grid)
    square = table[slots:].astype(np.float64).reshape(old, old, -1)
    new = np.einsum("ui,vj,ijf->uvf", matrix, matrix, square, optimize=True).reshape(grid**2, -1)
    return np.concatenate([table[:slots], new.astype(table.dtype)])


def _bicubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """As torch's ``interpolate(mode="bicubic", align_corners=False)``: Keys' kernel with a = -0.75, edges repeated.

    What Hugging Face's ``interpolate_pos_encoding`` calls in ViT, DeiT and DINOv2.
    """
    matrix = np.zeros((new, old))
    for row, centre in enumerate((np.arange(new) + 0.5) * old / new - 0.5):
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            matrix[row, min(max(tap, 0), old - 1)] += _keys(centre - tap, -0.75)
    return matrix


def _antialias(kernel: Callable[[float], float], reach: int) -> Callable[[int, int], Float[np.ndarray, "new old"]]:
    """Return a kernel as wide as a new patch. As in Pillow, taps beyond the edge are dropped and the others sum to 1."""

    def matrix_of(old: int, new: int) -> Float[np.ndarray, "new old"]:
        matrix = np.zeros((new, old))
        scale = old / new
        width = max(scale, 1.0)
        for row, centre in enumerate((np.arange(new) + 0.5) * scale):
            first, last = max(int(centre - reach * width + 0.5), 0), min(int(centre + reach * width + 0.5), old)
            for tap in range(first, last):
                matrix[row, tap] = kernel((tap - centre + 0.5) / width)
        return matrix / matrix.sum(1, keepdims=True)

    return matrix_of


def _linear_zoom(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """``scipy.ndimage.zoom(order=1)``: linear between corners that stay corners; big_vision's ``resample_posemb``."""
    matrix = np.zeros((new, old))
    for row, centre in enumerate(np.linspace(0, old - 1, new)):
        first = min(int(centre), max(old - 2, 0))
        matrix[row, first] += 1 - (centre - first)
        matrix[row, min(first + 1, old - 1)] += centre - first
    return matrix


RULES: dict[str, Callable[[int, int], np.ndarray]] = {
    "bicubic": _bicubic,
    # As torch's interpolate(mode="bicubic", antialias=True): timm's resample_abs_pos_embed, and Hugging Face's DINOv2
    # with registers.
    "bicubic antialias": _antialias(lambda x: _keys(x, -0.5), 2),
    # As jax.image.resize(method="bilinear"), with which FlexiViT resizes patches.
    "bilinear antialias": _antialias(lambda x: max(1 - abs(x), 0.0), 1),
    "linear zoom": _linear_zoom,
}
"""Rule → (old side, new side) → the matrix (new, old) along one axis."""


def _keys(distance: float, a: float) -> float:
    """Cubic convolution kernel (Keys 1981)."""
    x = abs(distance)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0
