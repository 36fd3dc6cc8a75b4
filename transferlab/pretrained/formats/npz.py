"""numpy's ``.npz``, without pickled objects, one array at a time."""

from __future__ import annotations

import math
import struct
import threading
import zipfile
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np

from transferlab import limits
from transferlab.errors import TransferlabError
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.reading import check_zip


def read_npz(path: Path) -> dict[str, LazyTensor]:
    """Read a numpy ``.npz`` (no pickled objects), one array at a time, on demand.

    bfloat16, which numpy writes as two raw bytes (``|V2``), is read as bfloat16.

    Raises:
        TransferlabError: the file is damaged, or holds anything but arrays.
    """
    tensors, packed = {}, 0
    check_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    raise ValueError(f"'{member.filename}' is not an array")
                key = member.filename.removesuffix(".npy")
                if key in tensors:
                    raise ValueError(f"'{key}' occurs twice")
                tensors[key] = _npz_tensor(path, archive, member, key)
                packed += member.compress_size
        if packed > path.stat().st_size:
            raise ValueError("its arrays overlap")
    except ZIP_DAMAGE as error:
        raise TransferlabError(f"{path}: not a readable npz file ({error}).") from None
    return tensors


ZIP_DAMAGE = (
    zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error, zlib.error,
    SyntaxError, OverflowError, TypeError, MemoryError, IndexError, KeyError,
)  # fmt: skip
"""What ``zipfile`` and numpy's header reader raise at damaged bytes."""
_DEFLATE_AT_MOST = 1032
"""Highest ratio at which deflated bytes can expand."""


_PARSING = threading.Lock()
"""numpy parses an array's header as Python, and two threads that parse at once can fail (CPython 3.11, gh-106905)."""


def _npz_tensor(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str) -> LazyTensor:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"'{key}' has the npy version {version}, expected (1, 0) or (2, 0)")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject or len(shape) > limits.AXES or not all(0 <= n < limits.SIDE for n in shape):
            raise ValueError(f"'{key}' holds pickled objects, or a shape {shape}")
        size = math.prod(shape) * dtype.itemsize
        if file.tell() + size != member.file_size or size > (member.compress_size + 1) * _DEFLATE_AT_MOST:
            raise ValueError(f"'{key}' {shape} {dtype} is not of {member.file_size} bytes")
    brain = dtype == np.dtype("V2")

    def read() -> np.ndarray:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as file, _PARSING:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except ZIP_DAMAGE as error:
            raise TransferlabError(f"{path}: cannot read '{key}' ({error}).") from None
        return array.view(ml_dtypes.bfloat16) if brain else array

    return LazyTensor(shape, np.dtype(ml_dtypes.bfloat16) if brain else dtype, read, str(path))
