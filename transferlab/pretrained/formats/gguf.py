"""GGUF, the files of llama.cpp, versions 2 and 3: memory-mapped, metadata as a dict, tensors dequantized when read.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the blocks: ``ggml-common.h`` of llama.cpp.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from transferlab import limits
from transferlab.errors import TransferlabError, nearest
from transferlab.pretrained.formats.tensors import LazyTensor, check_count, check_name
from transferlab.reading import check_file


@dataclass(frozen=True)
class Gguf:
    """An open GGUF file.

    Attributes:
        path: of the file.
        version: 2 or 3.
        metadata: its keys and values as plain data: numbers, strings, lists.
        types: ``{tensor name: its type in the file}``, as ``Q4_K``.
        tensors: ``{tensor name: LazyTensor}``. Shapes are in numpy's order, the reverse of the file's: a linear map's
            weight is (out, in). Quantized ones are read as float32; F32, F16 and BF16 keep their type.
    """

    path: Path
    version: int
    metadata: dict[str, Any] = field(repr=False)
    types: dict[str, str] = field(repr=False)
    tensors: dict[str, LazyTensor] = field(repr=False)

    def value(self, key: str, kind: type | tuple[type, ...] = (int, float, str, bool, list)) -> Any:
        """Return a metadata value of this kind.

        Raises:
            TransferlabError: it is absent, or of another kind; it is named.
        """
        if key not in self.metadata:
            raise TransferlabError(f"{self.path}: its metadata has no '{key}'.{nearest(key, self.metadata)}")
        value = self.metadata[key]
        if not isinstance(value, kind):
            raise TransferlabError(f"{self.path}: metadata '{key}' is {str(value)[:60]!r}, which has the wrong type.")
        return value


def read_gguf(path: Path) -> Gguf:
    """Open a GGUF file. Only its header is read, and every length in it is checked against the file's size.

    Raises:
        TransferlabError: not a GGUF file, another version, truncated or corrupt, a tensor of an unknown type (tensor and
            type are named), or one part of several.
    """
    try:
        if check_file(path).stat().st_size < 24:
            raise TransferlabError(f"{path}: not a GGUF file: it has {path.stat().st_size} bytes.")
        data = np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise TransferlabError(f"{path}: cannot be opened ({error}).") from None
    cursor = _Cursor(path, data)
    if bytes(data[:4]) != b"GGUF":
        raise TransferlabError(f"{path}: not a GGUF file: it does not begin with 'GGUF'.")
    cursor.place = 4
    version = cursor.number("<I")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3)
        reason = "it is big-endian" if swapped else f"its version is {version}"
        raise TransferlabError(f"{path} is not supported: {reason}; expected version 2 or 3, little-endian.")
    tensor_count, pair_count = cursor.number("<Q"), cursor.number("<Q")
    check_count(path, tensor_count)
    cursor.count(pair_count)
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.name("a metadata key")
        if key in metadata:
            raise TransferlabError(f"{path}: the metadata key '{key}' occurs twice.")
        metadata[key] = cursor.value(cursor.number("<I"), key)
    if metadata.get("split.count", 0) not in (0, 1):
        raise TransferlabError(
            f"{path} is one of {metadata['split.count']} parts. Join them first: llama-gguf-split --merge"
        )
    entries = {}
    for _ in range(tensor_count):
        name, entry = cursor.tensor()
        if name in entries:
            raise TransferlabError(f"{path}: the tensor '{name}' occurs twice.")
        entries[name] = entry
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
        raise TransferlabError(f"{path}: general.alignment is {alignment!r}, expected a multiple of 8.")
    start = -(-cursor.place // alignment) * alignment
    tensors, types = {}, {}
    for name, (shape, number, offset) in entries.items():
        types[name], tensors[name] = _tensor(path, data, name, shape, number, start, offset, alignment)
    return Gguf(path, version, metadata, types, tensors)


# ---------------------------------------------------------------------------------------------------------------


_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Formats of numeric metadata values, by the number of their type."""
_STRING, _ARRAY = 8, 9
_DEEPEST = 4
"""Bound on arrays within arrays; no file of llama.cpp has any."""


class _Cursor:
    """A position in the header; every step is checked against the file's end."""

    def __init__(self, path: Path, data: np.ndarray):
        self.path, self.data, self.place, self.items = path, memoryview(data.data), 0, 0

    def take(self, length: int) -> memoryview:
        """The next bytes."""
        if length > len(self.data) - self.place:
            raise TransferlabError(f"{self.path}: truncated or corrupt: its header extends past the end of the file.")
        self.place += length
        return self.data[self.place - length : self.place]

    def count(self, items: int) -> None:
        """Refuse metadata of more items than any model's."""
        if items > len(self.data) - self.place:  # each takes at least a byte
            self.take(items)
        self.items += items
        if self.items > limits.GGUF_ITEMS:
            raise TransferlabError(
                f"{self.path}: its metadata has more than transferlab.limits.GGUF_ITEMS = {limits.GGUF_ITEMS:,} items."
            )

    def number(self, form: str) -> Any:
        """The next number."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        """The next string. Bytes that are not UTF-8, which a token may have, are kept as surrogates."""
        return str(self.take(self.number("<Q")), "utf-8", "surrogateescape")

    def name(self, what: str) -> str:
        """The next string, as a name: short and valid."""
        name = self.string()
        check_name(self.path, name)
        if not name.isprintable():
            raise TransferlabError(f"{self.path}: corrupt: {what} is {name[:40]!r}.")
        return name

    def value(self, kind: int, key: str, depth: int = 0) -> Any:
        """The next metadata value."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth > _DEEPEST:
            raise TransferlabError(f"{self.path}: metadata '{key}' has the unknown type {kind}.")
        inner, length = self.number("<I"), self.number("<Q")
        self.count(length)
        if inner in _NUMBERS:
            dtype = np.dtype(_NUMBERS[inner])
            return np.frombuffer(self.take(length * dtype.itemsize), dtype).tolist()
        return [self.value(inner, key, depth + 1) for _ in range(length)]

    def tensor(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        """The next tensor's name, and (shape in numpy's order, number of its type, offset)."""
        name = self.name("a tensor's name")
        axes = self.number("<I")
        if axes > 8:
            raise TransferlabError(f"{self.path}: corrupt: the tensor '{name}' has {axes} axes.")
        shape = tuple(self.number("<Q") for _ in range(axes))[::-1]
        return name, (shape, self.number("<I"), self.number("<Q"))


def _tensor(
    path: Path,
    data: np.ndarray,
    name: str,
    shape: tuple[int, ...],
    number: int,
    start: int,
    offset: int,
    alignment: int,
) -> tuple[str, LazyTensor]:
    if number not in _TYPES:
        known = _UNREAD.get(number, f"number {number}")
        choices = ", ".join(kind.name for kind in _TYPES.values())
        raise TransferlabError(
            f"{path}: the tensor '{name}' has the type {known}, which is not supported; expected one of {choices}."
        )
    kind = _TYPES[number]
    count = math.prod(shape)
    row = shape[-1] if shape else 1
    length = count // kind.values * kind.size
    if row % kind.values or count == 0:
        raise TransferlabError(
            f"{path}: the tensor '{name}' of shape {shape} is not a whole number of {kind.name} blocks."
        )
    if offset % alignment or start + offset + length > len(data):
        raise TransferlabError(
            f"{path}: truncated or corrupt: the tensor '{name}' {shape} {kind.name} extends past the end of the file."
        )

    decode = kind.decode

    def read() -> np.ndarray:
        raw = np.asarray(data[start + offset : start + offset + length])
        if decode is None:
            return raw.view(kind.dtype).reshape(shape)
        blocks = raw.reshape(-1, kind.size)
        out = np.empty((len(blocks), kind.values), np.float32)
        # In pieces: a formula's intermediate arrays are many times a block's size.
        for first in range(0, len(blocks), _PIECE // kind.values):
            piece = slice(first, first + _PIECE // kind.values)
            out[piece] = decode(blocks[piece]).reshape(-1, kind.values)
        return out.reshape(shape)

    return kind.name, LazyTensor(shape, kind.dtype, read, str(path))


_PIECE = 1 << 20
"""Values that are dequantized at once."""


# ---------------------------------------------------------------------------------------------------------------
# Blocks: uint8 (blocks, bytes) → float32, blocks first. The values of a block are contiguous in a row of the tensor.


def _halves(block: np.ndarray, *at: int) -> Iterator[np.ndarray]:
    """The float16 numbers that begin at these bytes of each block, as float32 columns."""
    return (np.ascontiguousarray(block[:, n : n + 2]).view(np.float16).astype(np.float32) for n in at)


def _bits(packed: np.ndarray, run: int, width: int) -> np.ndarray:
    """Unpack integers of ``width`` bits: for each run of bytes all the lowest bits, then all the next higher ones."""
    places = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    apart = (packed.reshape(len(packed), -1, 1, run) >> places) & np.uint8(2**width - 1)
    return apart.reshape(len(packed), -1)


def _fifth_bits(block: np.ndarray) -> np.ndarray:
    """32 bits, one for each value of the block, as 0 or 16."""
    return np.unpackbits(np.ascontiguousarray(block), axis=1, bitorder="little") << 4


def _q4_0(block: np.ndarray) -> np.ndarray:
    (scale,) = _halves(block, 0)
    return scale * (_bits(block[:, 2:], 16, 4).astype(np.int8) - np.int8(8))


def _q4_1(block: np.ndarray) -> np.ndarray:
    scale, least = _halves(block, 0, 2)
    return scale * _bits(block[:, 4:], 16, 4) + least


def _q5_0(block: np.ndarray) -> np.ndarray:
    (scale,) = _halves(block, 0)
    number = _bits(block[:, 6:], 16, 4) | _fifth_bits(block[:, 2:6])
    return scale * (number.astype(np.int8) - np.int8(16))


def _q5_1(block: np.ndarray) -> np.ndarray:
    scale, least = _halves(block, 0, 2)
    return scale * (_bits(block[:, 8:], 16, 4) | _fifth_bits(block[:, 4:8])) + least


def _q8_0(block: np.ndarray) -> np.ndarray:
    (scale,) = _halves(block, 0)
    return scale * block[:, 2:].view(np.int8)


def _parts(scales: np.ndarray, numbers: np.ndarray, least: np.ndarray | None = None) -> np.ndarray:
    """Dequantize a block of 256 in parts, each with its own scale (and minimum, which is subtracted)."""
    parts = numbers.reshape(len(numbers), scales.shape[1], -1)
    out = scales[..., None] * parts
    return out if least is None else out - least[..., None]


def _q2_k(block: np.ndarray) -> np.ndarray:
    scale, least = _halves(block, 80, 82)
    packed = block[:, :16]
    return _parts(scale * (packed & 15), _bits(block[:, 16:80], 32, 2), least * (packed >> 4))


def _q3_k(block: np.ndarray) -> np.ndarray:
    (scale,) = _halves(block, 108)
    # 16 scales of 6 bits: their low 4 in eight bytes, their high 2 in four.
    scales = _bits(block[:, 96:104], 8, 4) | (_bits(block[:, 104:108], 4, 2) << 4)
    # A third bit that is not set subtracts 4.
    high = _bits(block[:, :32], 32, 1) ^ 1
    number = _bits(block[:, 32:96], 32, 2).astype(np.int8) - (high << 2).astype(np.int8)
    return _parts(scale * (scales.astype(np.int8) - np.int8(32)), number)


def _scales_and_least(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight scales and eight minimums of 6 bits from the twelve bytes after d and dmin in Q4_K and Q5_K."""
    scale, least = _halves(block, 0, 2)
    first, second, third = block[:, 4:8], block[:, 8:12], block[:, 12:16]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 2) & 48)], axis=1)
    leasts = np.concatenate([second & 63, (third >> 4) | ((second >> 2) & 48)], axis=1)
    return scale * scales, least * leasts


def _q4_k(block: np.ndarray) -> np.ndarray:
    scales, least = _scales_and_least(block)
    return _parts(scales, _bits(block[:, 16:], 32, 4), least)


def _q5_k(block: np.ndarray) -> np.ndarray:
    scales, least = _scales_and_least(block)
    number = _bits(block[:, 48:], 32, 4) | (_bits(block[:, 16:48], 32, 1) << 4)
    return _parts(scales, number, least)


def _q6_k(block: np.ndarray) -> np.ndarray:
    (scale,) = _halves(block, 208)
    number = _bits(block[:, :128], 64, 4) | (_bits(block[:, 128:192], 32, 2) << 4)
    return _parts(scale * block[:, 192:208].view(np.int8), number.astype(np.int8) - np.int8(32))


@dataclass(frozen=True)
class _Type:
    """A type of tensor: the values and the bytes (``size``) of a block; plain types have blocks of one value."""

    name: str
    values: int
    size: int
    decode: Callable[[np.ndarray], np.ndarray] | None = None
    plain: type = np.float32

    @property
    def dtype(self) -> np.dtype:
        """The dtype that it is read as."""
        return np.dtype(self.plain)


_TYPES = {
    0: _Type("F32", 1, 4),
    1: _Type("F16", 1, 2, plain=np.float16),
    30: _Type("BF16", 1, 2, plain=ml_dtypes.bfloat16),
    28: _Type("F64", 1, 8, plain=np.float64),
    24: _Type("I8", 1, 1, plain=np.int8),
    25: _Type("I16", 1, 2, plain=np.int16),
    26: _Type("I32", 1, 4, plain=np.int32),
    27: _Type("I64", 1, 8, plain=np.int64),
    2: _Type("Q4_0", 32, 18, _q4_0),
    3: _Type("Q4_1", 32, 20, _q4_1),
    6: _Type("Q5_0", 32, 22, _q5_0),
    7: _Type("Q5_1", 32, 24, _q5_1),
    8: _Type("Q8_0", 32, 34, _q8_0),
    10: _Type("Q2_K", 256, 84, _q2_k),
    11: _Type("Q3_K", 256, 110, _q3_k),
    12: _Type("Q4_K", 256, 144, _q4_k),
    13: _Type("Q5_K", 256, 176, _q5_k),
    14: _Type("Q6_K", 256, 210, _q6_k),
}
_UNREAD = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
"""Types that are known by name only."""
