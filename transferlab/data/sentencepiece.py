"""SentencePiece's ``.model`` files: the few fields of their protocol buffer that define a unigram tokenizer.

The layout is sentencepiece's ``sentencepiece_model.proto``; the encoding is that of protocol buffers (a key of field
number and wire type, then a varint, eight bytes, a length and that many bytes, or four bytes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transferlab import limits
from transferlab.errors import TransferlabError
from transferlab.reading import check_file


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary.

    Attributes:
        text, score: of the piece; the score is a log-probability.
        kind: 1 normal, 2 unknown, 3 control, 4 user-defined, 6 byte.
    """

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """The fields that are read from a model.

    Attributes:
        pieces: the vocabulary, in the order of its ids.
        unigram: whether it is a unigram language model (Kudo 2018), not BPE, words or characters.
        byte_fallback: whether unknown characters become bytes.
        charsmap: the compiled normalisation; empty for none.
    """

    pieces: tuple[Piece, ...]
    unigram: bool
    byte_fallback: bool
    charsmap: bytes


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a ``.model`` file.

    Raises:
        TransferlabError: anything that is not a readable SentencePiece model.
    """
    pieces, kind, fallback, charsmap = [], 1, False, b""
    check_file(path, limits.SENTENCEPIECE_BYTES)
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                piece = dict(_fields(_bytes(value)))
                score = struct.unpack("<f", _bytes(piece.get(2, b"\0\0\0\0")))[0]
                if len(pieces) == limits.PIECES:
                    raise ValueError(f"more than {limits.PIECES:,} pieces")
                pieces.append(Piece(_bytes(piece[1]).decode("utf-8"), score, _number(piece.get(3, 1))))
            elif number == 2:
                trainer = dict(_fields(_bytes(value)))
                kind, fallback = _number(trainer.get(3, 1)), bool(trainer.get(35, 0))
            elif number == 3:
                charsmap = _bytes(dict(_fields(_bytes(value))).get(2, b""))
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise TransferlabError(
            f"{path}: not a readable SentencePiece model ({type(error).__name__}: {str(error)[:100]})."
        ) from None
    if not pieces:
        raise TransferlabError(f"{path}: not a readable SentencePiece model (it has no pieces).")
    return SentencePieceModel(tuple(pieces), kind == 1, fallback, charsmap)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Iterate over (field number, value): an integer for varints, bytes for everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("the data end early")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes are expected")
    return value


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number is expected")
    return value
