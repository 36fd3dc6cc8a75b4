"""``LazyLeaf``: a leaf of a source's tree, which knows its place in the file and is read when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.pretrained.formats.tensors import LazyTensor, holds_nonfinite
from transferlab.pretrained.names import Layout
from transferlab.pretrained.positions import Resize
from transferlab.reading import reading


@dataclass(frozen=True)
class LazyLeaf:
    """A leaf of the source's tree: where it is in the file, and the array on demand (``np.asarray(leaf)``).

    ``resize`` is set where the source reads images of another size than the file was written for, ``trained`` where the
    array came in place of the file's.
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
            TransferlabError: it holds a NaN or an infinity; the file and the key are named.
        """
        with reading(self.tensor.file or "memory", f"'{self.key}'"):
            plain = self.layout.to_tree(self.tensor.read())
        if holds_nonfinite(plain):
            where = f"{self.tensor.file}: " if self.tensor.file else ""
            what = "NaN" if bool(np.isnan(plain).any()) else "an infinity"
            raise TransferlabError(f"{where}'{self.key}' holds {what}; every weight must be a finite number.")
        return self.resize.apply(plain) if self.resize else plain

    def placed(self, dtype: Any) -> jax.Array:
        """Read the array onto the device, in this dtype. The file's pages do not stay in memory."""
        array = self.read()
        made = trees.placed(array, dtype).block_until_ready()
        if made.dtype == jnp.float16 and array.dtype != np.float16 and not bool(jnp.isfinite(made).all()):
            raise TransferlabError(
                f"'{self.key}' has values beyond the range of float16; load it with dtype='bfloat16'."
            )
        self.tensor.release()
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = self.read()
        return out if dtype is None else out.astype(dtype)
