"""Pairs of texts whose two sides are read one by one: the views that a contrastive loss compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from transferlab.data.inputs import Inputs, TextInputs


@dataclass(eq=False)
class PairViews(Inputs):
    """The two texts of each pair: rows 2 i and 2 i + 1 of the model's inputs are the first and the second of row i.

    Attributes:
        texts: of all pairs, one after another.
    """

    texts: TextInputs

    key: ClassVar[str] = "views"
    views: ClassVar[int] = 2

    @property
    def single(self) -> Inputs:
        return self.texts

    def buckets(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        return self.texts.buckets(self.views_of(rows)).reshape(-1, self.views).max(1, initial=0)

    def truncated(self, indices: Int[np.ndarray, " n"]) -> int:
        views = self.views_of(indices)
        self.texts.prepare(views)
        cut = np.array([self.texts.encoded(int(view)).cut > 0 for view in views], bool)
        return int(cut.reshape(-1, self.views).any(1).sum())

    def inputs(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> dict[str, np.ndarray]:
        return self.texts.inputs(self.views_of(rows), bucket, self.views * size)


class Sides(Sequence[dict[str, Any]]):
    """Records of pairs as twice as many records of texts."""

    def __init__(self, pairs: Sequence[Mapping[str, Any]]):
        self._pairs = pairs

    def __len__(self) -> int:
        return 2 * len(self._pairs)

    def __getitem__(self, index: Any) -> Any:
        pair, side = divmod(int(index), 2)
        return {"text": self._pairs[pair]["text_pair" if side else "text"]}
