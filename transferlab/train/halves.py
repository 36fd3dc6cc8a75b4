"""A population cut in two, so that on CPU its halves step side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

HALVED = 8
"""Least members of a resident population whose halves step side by side on CPU."""


@dataclass(frozen=True)
class Halves:
    """Members in a grid of orders and those alike in their order, cut in two along one of these axes."""

    orders: int
    alike: int
    axis: int

    def apart(self, given: Any, rows: dict[str, np.ndarray]) -> list[tuple[Any, dict[str, np.ndarray]]]:
        """The halves of what has a leading axis of members, each with the rows of its orders."""

        def half(tree: Any, number: int) -> Any:
            return jax.tree.map(lambda x: self._cut(x.reshape(self.orders, self.alike, *x.shape[1:]), number), tree)

        n = self.orders // 2
        cut = [{name: x[k * n : (k + 1) * n] for name, x in rows.items()} for k in range(2)]
        return [(half(given, k), rows if self.axis else cut[k]) for k in range(2)]

    def _cut(self, x: np.ndarray, number: int) -> np.ndarray:
        part = np.split(x, 2, axis=self.axis)[number]
        return part.reshape(-1, *x.shape[2:])

    def together(self, halves: Sequence[Any]) -> Any:
        """Undo :meth:`apart`."""

        def join(*parts: np.ndarray) -> np.ndarray:
            orders = self.orders if self.axis else self.orders // 2
            grids = [part.reshape(orders, -1, *part.shape[1:]) for part in parts]
            whole = np.concatenate(grids, axis=self.axis)
            return whole.reshape(-1, *whole.shape[2:])

        return jax.tree.map(join, *halves)


def halves_of(orders: int, members: int) -> Halves | None:
    """How a population is cut in two equal halves; None where it cannot be, or is too small."""
    alike = members // orders
    if members < HALVED or (alike % 2 and orders % 2):
        return None
    return Halves(orders, alike, int(alike % 2 == 0))
