"""Examples that are arrays of numbers, as features of one's own: read as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from transferlab.bounds import Count
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields


@dataclass(frozen=True)
class ArrayTransform:
    """Preprocessing of examples that are arrays: none; they are checked and put together.

    Attributes:
        shape: of one example.

    Example:
        >>> tl.data.ArrayTransform((3,))([1, 2, 3])
        array([1., 2., 3.], dtype=float32)
    """

    shape: tuple[Count, ...]

    def __post_init__(self) -> None:
        check_fields(self, "ArrayTransform")

    def __call__(self, example: Any, where: str = "The example") -> Float[np.ndarray, "*shape"]:
        """Return the example as float32.

        Raises:
            TransferlabError: it is no array of finite numbers of this shape.
        """
        array = array_of(example, where)
        if array.shape != self.shape:
            raise TransferlabError(f"{where} is of shape {array.shape}; expected {self.shape}.")
        return array

    def describe(self) -> dict[str, Any]:
        """The transform as plain data."""
        return {"kind": "array", "shape": list(self.shape)}


def array_of(value: Any, where: str) -> Float[np.ndarray, "..."]:
    """Return a value as an array of float32.

    Raises:
        TransferlabError: it is missing, no array of finite numbers, or a single number.
    """
    if value is None:
        raise TransferlabError(f"{where}: the array is missing.")
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise TransferlabError(f"{where} is {str(value)[:40]!r}, not an array of numbers.") from None
    if array.ndim == 0 or not array.size:
        raise TransferlabError(f"{where} is {str(value)[:40]!r}; an example is an array of at least one axis.")
    if not np.isfinite(array).all():
        raise TransferlabError(f"{where}: it holds NaN or an infinity. Remove the row, or fill it.")
    return array


def arrays_of(values: Sequence[tuple[str, Any]], name: str) -> Float[np.ndarray, "rows *shape"]:
    """Return a column's values, pairs of place and array, as one array.

    Raises:
        TransferlabError: a row that is no such array, or of another shape than the first; it is named.
    """
    arrays = [array_of(value, f"{name}, {place}") for place, value in values]
    for (place, _), array in zip(values, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise TransferlabError(
                f"{name}, {place}: the array is of shape {array.shape}, and that of {values[0][0]} of {arrays[0].shape}; all must "
                "be of one shape."
            )
    return np.stack(arrays)
