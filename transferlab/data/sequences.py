"""Texts with the texts that are to be written for them, both tokenised once and padded to few pairs of lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from transferlab.data.inputs import Inputs, TextInputs

COVERED = 0.9
"""Of the targets of all texts of a padded length, this fraction is no longer than theirs; a longer one takes its text to a longer
padded length.
"""


@dataclass(eq=False)
class SequenceInputs(Inputs):
    """Texts, and a target for each.

    A batch's padded length is that of its texts; it decides the padded length of its targets too (:attr:`lengths`), so that
    there are as many shapes as padded lengths of texts, not of pairs.

    Attributes:
        texts: what is read.
        targets: what is written.
        longest: tokens of the longest target, with the one that ends it.
    """

    texts: TextInputs
    targets: TextInputs
    longest: int

    key: ClassVar[str] = ""

    @property
    def single(self) -> Inputs:
        return self.texts

    @property
    def shapes(self) -> tuple[Any, ...]:
        return tuple(self.lengths.items())

    @cached_property
    def lengths(self) -> dict[int, int]:
        """Padded length of texts → that of their targets; both rise."""
        every = np.arange(len(self.examples))
        sources = self.texts.buckets(every)
        targets = np.array([self._target_bucket(len(self.target(int(i)))) for i in every], np.int64)
        lengths, longest = {}, 0
        for bucket in np.unique(sources).tolist():
            here = targets[sources == bucket]
            longest = max(longest, int(np.quantile(here, COVERED, method="higher")))
            lengths[bucket] = longest
        if lengths:
            lengths[max(lengths)] = int(targets.max())
        return lengths

    def _target_bucket(self, length: int) -> int:
        return min(self.longest, self.texts.transform.bucket(max(length, 1)))

    def target(self, index: int) -> tuple[int, ...]:
        """Return the tokens of one target; the last, which ends it, stays where the others are cut."""
        ids = self.targets.encoded(index).ids
        return ids if len(ids) <= self.longest else (*ids[: self.longest - 1], ids[-1])

    def buckets(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        lengths, sources = self.lengths, self.texts.buckets(rows)
        needed = [len(self.target(int(i))) for i in rows]
        fits = [
            min(bucket for bucket, most in lengths.items() if bucket >= own and most >= length)
            for own, length in zip(sources.tolist(), needed, strict=True)
        ]
        return np.array(fits, np.int32)

    def truncated(self, indices: Int[np.ndarray, " n"]) -> int:
        self.texts.prepare(indices)
        self.targets.prepare(indices)
        return sum(self.texts.encoded(int(i)).cut > 0 or self._cut(int(i)) for i in indices)

    def _cut(self, index: int) -> bool:
        encoded = self.targets.encoded(index)
        return encoded.cut > 0 or len(encoded.ids) > self.longest

    def inputs(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> dict[str, np.ndarray]:
        return self.texts.inputs(rows, bucket, size)

    def labels(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> Int[np.ndarray, "size length"]:
        """Return the tokens of these rows' targets; -1 is padding."""
        labels = np.full((size, self.lengths[bucket]), -1, np.int32)
        for row, index in enumerate(rows):
            target = self.target(int(index))
            labels[row, : len(target)] = target
        return labels


class Targets(Sequence[dict[str, Any]]):
    """The targets of records, as records of texts."""

    def __init__(self, records: Sequence[Mapping[str, Any]]):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return {"text": self._records[int(index)]["target_text"]}
