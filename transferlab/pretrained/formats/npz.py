"""numpy's ``.npz``, without pickled objects, an array at a time."""

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
    """Read a numpy ``.npz`` (no pickled objects), an array at a time when it is asked for.

    bfloat16, which numpy writes as raw bytes of two (``|V2``), comes back as such.
    """
    tensors, packed = {}, 0
    check_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    raise ValueError(f"'{member.filename}' is no array")
                key = member.filename.removesuffix(".npy")
                if key in tensors:
                    raise ValueError(f"'{key}' stands twice")
                tensors[key] = _npz_tensor(path, archive, member, key)
                packed += member.compress_size
        if packed > path.stat().st_size:
            raise ValueError("its arrays lie over one another")
    except ZIP_DAMAGE as error:
        raise TransferlabError(f"{path}: not a readable npz file ({error}).") from None
    return tensors


ZIP_DAMAGE = (
    zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error, zlib.error,
    SyntaxError, OverflowError, TypeError, MemoryError, IndexError, KeyError,
)  # fmt: skip
"""What ``zipfile`` and numpy's reader of headers raise at bytes that were changed."""
_DEFLATE_AT_MOST = 1032
"""How many times its size a deflated run of bytes can unpack to."""


_PARSING = threading.Lock()
"""numpy parses an array's header as Python, and two threads that parse at once can fail (CPython 3.11, gh-106905)."""


def _npz_tensor(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str) -> LazyTensor:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"'{key}' is of the npy version {version}")
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
