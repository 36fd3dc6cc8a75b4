"""CTranslate2's ``model.bin``: named tensors one after another, each with its shape and type; read lazily.

The layout is that of version 6 (``ctranslate2/specs/model_spec.py``): little-endian, strings with their length and a
closing zero, then the variables, then pairs of names that share one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from transferlab.errors import TransferlabError
from transferlab.pretrained.formats.tensors import LazyTensor, check_count
from transferlab.reading import check_file

_DTYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
_VERSION = 6
_RANK, _NAME = 8, 512
"""More than any model has: a file beyond them is damaged."""


def is_ctranslate2(path: Path) -> bool:
    """Whether the file begins as CTranslate2's do: its version, and the name of a specification."""
    with check_file(path).open("rb") as file:
        head = file.read(64)
    if len(head) < 6:
        return False
    version, length = struct.unpack("<IH", head[:6])
    return version <= 64 and 4 < length < 64 and head[6 : 6 + length].endswith(b"Spec\0")


def read_ctranslate2(path: Path) -> dict[str, LazyTensor]:
    """Read the tensors of a ``model.bin``; scalars (as ``num_heads``) are tensors without axes.

    Raises:
        TransferlabError: another version, a truncated or inconsistent file, an unknown type.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            version = _number(file, "I")
            if version != _VERSION:
                raise TransferlabError(f"{path}: CTranslate2 version {version} is not supported, expected {_VERSION}.")
            _string(file)
            _number(file, "I")
            tensors = {}
            check_count(path, count := _number(file, "I"))
            for _ in range(count):
                name, tensor, end = _variable(file, path)
                if end > size:
                    raise ValueError(f"'{name}' ends at byte {end}, beyond the file's {size}")
                if name in tensors:
                    raise ValueError(f"'{name}' occurs twice")
                tensors[name] = tensor
                file.seek(end)
            check_count(path, count := _number(file, "I"))
            for _ in range(count):
                alias, name = _string(file), _string(file)
                if name not in tensors:
                    raise ValueError(f"'{alias}' is an alias of '{name}', which is missing")
                tensors[alias] = tensors[name]
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise TransferlabError(f"{path}: not a readable CTranslate2 file ({error}).") from None
    return tensors


def _variable(file: BinaryIO, path: Path) -> tuple[str, LazyTensor, int]:
    """Return (name, tensor, where the next one begins)."""
    name, rank = _string(file), _number(file, "B")
    if rank > _RANK:
        raise ValueError(f"'{name}' has {rank} axes")
    shape = tuple(_number(file, "I") for _ in range(rank))
    kind, length = _number(file, "B"), _number(file, "I")
    if kind >= len(_DTYPES):
        raise ValueError(f"'{name}' has the unknown type {kind}")
    dtype = np.dtype(getattr(ml_dtypes, _DTYPES[kind], None) or _DTYPES[kind])
    count = math.prod(shape)
    if count * dtype.itemsize != length:
        raise ValueError(f"'{name}' {shape} of {dtype} takes {count * dtype.itemsize} bytes, not {length}")
    return (
        name,
        LazyTensor(shape, dtype, _reader(path, name, file.tell(), shape, dtype), str(path)),
        file.tell() + length,
    )


def _reader(path: Path, name: str, start: int, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        count = int(np.prod(shape)) if shape else 1
        with path.open("rb") as file:
            file.seek(start)
            raw = file.read(count * dtype.itemsize)
        if len(raw) < count * dtype.itemsize:
            raise TransferlabError(f"{path}: truncated within '{name}'.")
        return np.frombuffer(raw, dtype).reshape(shape)

    return read


def _number(file: BinaryIO, kind: str) -> int:
    (value,) = _unpack(file, kind)
    return value


def _string(file: BinaryIO) -> str:
    length = _number(file, "H")
    if not 0 < length <= _NAME:
        raise ValueError(f"a name of {length} bytes")
    (raw,) = _unpack(file, f"{length}s")
    if not raw.endswith(b"\0"):
        raise ValueError("a name without its closing zero")
    return raw[:-1].decode("utf-8")


def _unpack(file: BinaryIO, kind: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))
