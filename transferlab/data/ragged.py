"""Arrays of different lengths, one for each example, kept as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Int

from transferlab.errors import TransferlabError


@dataclass(frozen=True, eq=False)
class Ragged(Sequence[np.ndarray]):
    """A sequence of arrays that differ in their first axis. ``ragged[i]`` is a view of the i-th.

    Example:
        >>> tags = Ragged.of([np.array([1, 2, 3]), np.array([4])])
        >>> tags[1], tags.values, tags.offsets
        (array([4]), array([1, 2, 3, 4]), array([0, 3, 4]))

    Attributes:
        values: all of them end to end, (total, …).
        offsets: the i-th is ``values[offsets[i] : offsets[i + 1]]``.

    Raises:
        TransferlabError: offsets that do not rise from 0 to the number of values.
    """

    values: np.ndarray
    offsets: Int[np.ndarray, " examples_and_one"]

    def __post_init__(self) -> None:
        offsets = self.offsets
        if not len(offsets) or offsets[0] or offsets[-1] != len(self.values) or (np.diff(offsets) < 0).any():
            raise TransferlabError(
                f"offsets must rise from 0 to {len(self.values)}, the number of values; they are {str(offsets)[:60]}."
            )

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> Ragged:
        """Join arrays of equal trailing axes; without any there are no values."""
        lengths = [len(array) for array in arrays]
        values = np.concatenate(arrays) if arrays else np.zeros(0, np.float32)
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))
