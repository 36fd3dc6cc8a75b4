"""safetensors, read as views of the mapped file, and written with the same bytes as its own library writes."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from transferlab import limits, trees
from transferlab.errors import TransferlabError, nearest
from transferlab.files import write_json
from transferlab.pretrained.formats.tensors import LazyTensor, check_count, check_name
from transferlab.reading import check_file

_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
SAFETENSORS_DTYPES = {name: np.dtype(getattr(ml_dtypes, ours, ours)) for name, ours in _SAFETENSORS_DTYPES.items()}
"""Type names of a safetensors header → numpy's types."""


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Read one ``.safetensors`` file; its tensors are views of the mapped file.

    The format: https://github.com/huggingface/safetensors#format.

    Raises:
        TransferlabError: the file is truncated, corrupt, or has a tensor of an unknown type.
    """
    header, start, size = _safetensors_header(path)
    tensors, end = {}, 0
    check_count(path, len(header))
    entries = [(key, *_safetensors_entry(path, key, entry)) for key, entry in header.items() if key != "__metadata__"]
    for key, dtype, shape, first, last in sorted(entries, key=lambda entry: entry[3:]):
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            raise _unreadable(
                path, f"'{key}' {shape} {dtype} is at bytes {first} to {last}, expected to begin at {end}"
            )
        end = last
        tensors[key] = (dtype, shape, first)
    if start + end != size:
        raise _unreadable(path, f"its tensors end at byte {start + end}, but the file has {size}")
    if not tensors:
        return {}
    mapped = _Mapped(path)
    return {
        key: LazyTensor(shape, dtype, _reader(mapped, key, (dtype, shape, start + first)), str(path),
                        mapped.releaser(start + first, math.prod(shape) * dtype.itemsize))
        for key, (dtype, shape, first) in ((key, tensors[key]) for key, *_ in entries)
    }  # fmt: skip


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the metadata that a safetensors file has besides its tensors."""
    return dict(_safetensors_header(path)[0].get("__metadata__", {}))


def _safetensors_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return (header, where the tensors begin, the file's size)."""
    try:
        size = check_file(path).stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, limits.HEADER_BYTES):
                raise _unreadable(path, f"a header of {length:,} bytes in a file of {size:,}")
            header = json.loads(file.read(length), object_pairs_hook=_each_once)
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        texts = header.get("__metadata__", {})
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("its __metadata__ has values that are not strings")
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(path, error) from None
    return header, 8 + length, size


def _safetensors_entry(path: Path, key: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Return (dtype, shape, first byte, last byte + 1)."""
    try:
        kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = (first, last, *shape)
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < limits.SIDE for n in numbers):
            raise ValueError
        check_name(path, key)
        if len(shape) > limits.AXES or math.prod(shape) > limits.SIDE:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise _unreadable(path, f"'{key}' has an invalid shape, dtype or data_offsets") from None
    if not isinstance(kind, str) or kind not in SAFETENSORS_DTYPES:
        raise TransferlabError(
            f"{path}: '{key}' has the unknown type {str(kind)[:40]}.{nearest(str(kind), SAFETENSORS_DTYPES)}"
        )
    return SAFETENSORS_DTYPES[kind], tuple(shape), first, last


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name occurs twice")
    return names


def _unreadable(path: Path, why: object) -> TransferlabError:
    return TransferlabError(f"{path}: not a readable safetensors file ({why}).")


class _Mapped:
    """A memory-mapped file, paged in on access."""

    def __init__(self, path: Path):
        try:
            with path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise TransferlabError(f"{path}: cannot be opened ({error}).") from None

    def get(self, dtype: np.dtype, shape: tuple[int, ...], start: int) -> np.ndarray:
        """A read-only view."""
        return np.frombuffer(self.map, dtype, math.prod(shape), start).reshape(shape)

    def releaser(self, start: int, length: int) -> Callable[[], None]:
        """Return what releases the pages within this range; a later read maps them again."""

        def release() -> None:
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            pages = (start + length - first) // mmap.PAGESIZE * mmap.PAGESIZE
            if pages > 0 and hasattr(mmap, "MADV_DONTNEED"):
                self.map.madvise(mmap.MADV_DONTNEED, first, pages)

        return release


def _reader(mapped: _Mapped, key: str, place: tuple[np.dtype, tuple[int, ...], int]) -> Callable[[], np.ndarray]:
    return lambda: mapped.get(*place)


def write_weights(
    directory: Path, tensors: Mapping[str, LazyTensor], shard_bytes: int, metadata: Mapping[str, str]
) -> None:
    """Write ``model.safetensors``, or shards of at most ``shard_bytes`` (a larger tensor gets its own) and their index."""
    shards: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        write_safetensors(directory / "model.safetensors", tensors, metadata)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(directory / name, shard, metadata)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / "model.safetensors.index.json", index)


_ORDER = (
    "bool", "uint8", "int8", "float8_e5m2", "float8_e4m3fn", "int16", "uint16", "float16", "bfloat16", "int32", "uint32",
    "float32", "float64", "int64", "uint64",
)  # fmt: skip
"""The order of the safetensors library, reversed: wide types first keep every tensor aligned."""


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
    """Write a file as the safetensors library does, byte for byte, with one tensor in memory at a time.

    Raises:
        TransferlabError: a tensor is of a type that the format does not have.
    """
    names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    for key, tensor in tensors.items():
        if tensor.dtype not in names:
            raise TransferlabError(f"'{key}' is of dtype {tensor.dtype}, which safetensors cannot hold.")
    keys = sorted(tensors, key=lambda key: (-_ORDER.index(tensors[key].dtype.name), key))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for key in keys:
        tensor = tensors[key]
        entry = {"dtype": names[tensor.dtype], "shape": list(tensor.shape)}
        header[key] = entry | {"data_offsets": [place, place := place + tensor.nbytes]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in keys:
            tensor = tensors[key]
            array = trees.contiguous(np.asarray(tensor.read()))
            if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
                raise TransferlabError(
                    f"'{key}' was read as {array.shape} {array.dtype}, expected {tensor.shape} {tensor.dtype}."
                )
            file.write(array.reshape(-1).view(np.uint8).data)
            tensor.release()
        file.flush()
        os.fsync(file.fileno())
