"""GGUF files, written by hand."""

from __future__ import annotations

import struct


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(
    pairs: tuple[bytes, ...],
    tensors: tuple[tuple[str, tuple[int, ...], int, bytes], ...],
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """Write a file by hand: pairs as bytes, tensors as (name, shape in the file's order, type, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    data = b""
    for name, shape, number, raw in tensors:
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, len(data))
        data += raw + bytes(-len(raw) % alignment)
    return out + bytes(-len(out) % alignment) + data
