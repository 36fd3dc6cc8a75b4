"""``LazyTensor``: a tensor of a file, unread; and the checks on files of every format."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from transferlab import limits
from transferlab.errors import TransferlabError, beyond_range


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that stays on disk until ``read``. ``np.asarray(tensor)`` reads it too.

    Attributes:
        shape, dtype: of what ``read`` returns.
        read: returns the array; it may be a read-only view of the mapped file.
        file: that holds it, for messages.
        release: releases the pages of the file that a read has mapped; until then they count as this process's memory.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    file: str = ""
    release: Callable[[], None] = lambda: None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = self.read()
        return out.astype(dtype) if dtype is not None and dtype != out.dtype else out.copy() if copy else out


def holds_nonfinite(array: np.ndarray) -> bool:
    """Whether any element of a floating-point array is NaN or infinite: one pass over its bits, without a copy.

    Read as a signed integer, a NaN without a sign bit is above infinity; as an unsigned one, with it, above minus infinity.
    """
    infinities = {np.dtype(ml_dtypes.bfloat16): 0x7F80, np.dtype(np.float16): 0x7C00, np.dtype(np.float32): 0x7F800000,
                  np.dtype(np.float64): 0x7FF0000000000000}  # fmt: skip
    if array.size == 0 or (array.dtype not in infinities and not array.dtype.name.startswith("float8")):
        return False
    if array.dtype not in infinities:
        return not bool(np.isfinite(array).all())
    infinity, size = infinities[array.dtype], array.dtype.itemsize
    sign = 1 << (8 * size - 1)
    flat = array.T if array.flags.f_contiguous else array
    if not flat.flags.c_contiguous:
        return not bool(np.isfinite(flat).all())
    signed, unsigned = flat.reshape(-1).view(f"i{size}"), flat.reshape(-1).view(f"u{size}")
    for first in range(0, len(signed), _IN_CACHE // size):
        piece = slice(first, first + _IN_CACHE // size)
        if signed[piece].max() >= infinity or unsigned[piece].max() >= sign + infinity:
            return True
    return False


_IN_CACHE = 1 << 20
"""Bytes that are still in the processor's cache at the second pass over them."""


def check_count(path: Path, tensors: int) -> None:
    """Refuse a file of more tensors than any model has."""
    if tensors > limits.TENSORS:
        raise TransferlabError(
            f"{path} holds {tensors:,} tensors, more than transferlab.limits.TENSORS = {limits.TENSORS:,}."
        )


def check_name(path: Path, name: str) -> None:
    """Refuse a name that is longer than any model's."""
    if len(name) > limits.NAME_CHARACTERS:
        raise TransferlabError(
            f"{path}: the name '{name[:40]}…' has {len(name):,} characters, more than "
            f"transferlab.limits.NAME_CHARACTERS = {limits.NAME_CHARACTERS}."
        )


def check_finite(array: np.ndarray, name: str) -> None:
    """Raise for a floating-point array with a NaN or an infinity; messages call it ``name``."""
    if holds_nonfinite(array):
        value = "NaN" if bool(np.isnan(array).any()) else "an infinity"
        raise TransferlabError(f"{name} holds {value}; every weight must be a finite number.")


def wrong_dtype(key: str, dtype: np.dtype) -> str:
    """Return what is wrong with the dtype of a weight, for an error; empty for a type of plain floats."""
    return "" if dtype.name in _FLOATS else f"key '{key}' is of dtype {dtype}, and must be of {', '.join(_FLOATS)}"


_FLOATS = ("float32", "float16", "bfloat16", "float64")
"""Types whose numbers need no scale."""


def narrowed(array: np.ndarray, dtype: np.dtype, key: str) -> np.ndarray:
    """Return the array in this floating-point type; a value beyond its range is an error, not an infinity in the file."""
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if holds_nonfinite(converted) and not holds_nonfinite(array):
        raise beyond_range(f"'{key}'", dtype.name, "write it")
    return converted
