"""``LazyLeaf``: a leaf of a source's tree, which knows its tensor in the file and is read on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from transferlab import trees
from transferlab.pretrained.formats.tensors import LazyTensor, check_finite
from transferlab.pretrained.names import Layout
from transferlab.pretrained.positions import Resize
from transferlab.reading import reading


@dataclass(frozen=True)
class LazyLeaf:
    """A leaf of the source's tree: its tensor in the file, and the array on demand (``np.asarray(leaf)``).

    Attributes:
        key: of its tensor in the file.
        tensor: the file's, unread.
        layout: from the tensor to the leaf.
        resize: to the inputs that the source reads, where the file is for other ones.
        trained: whether the array replaces the file's.
    """

    key: str
    tensor: LazyTensor = field(repr=False)
    layout: Layout = field(repr=False)
    resize: Resize | None = None
    trained: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the tree (after the layout, and resized)."""
        return self.resize.shape if self.resize else self.layout.shape(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype:
        """Dtype in the file."""
        return self.tensor.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Read the array, in the tree's layout and resized. It may be a read-only view of the mapped file.

        Raises:
            TransferlabError: it holds NaN or an infinity, or cannot be read; the file and the key are named.
        """
        with reading(self.tensor.file or "memory", f"'{self.key}'"):
            plain = self.layout.to_tree(self.tensor.read())
        check_finite(plain, f"{self._where}'{self.key}'")
        if self.resize is None:
            return plain
        with np.errstate(over="ignore"):
            resized = self.resize.apply(plain)
        check_finite(resized, f"{self._where}'{self.key}', resized,")
        return resized

    @property
    def _where(self) -> str:
        return f"{self.tensor.file}: " if self.tensor.file else ""

    def placed(self, dtype: Any) -> jax.Array:
        """Read the array onto the device, in this dtype, and release the file's pages."""
        array = trees.placed(self.read(), dtype, f"{self._where}'{self.key}'").block_until_ready()
        self.tensor.release()
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = self.read()
        return out if dtype is None else out.astype(dtype)
