"""Packing: many texts laid end to end in rows of the same width, so that a feature pass computes hardly any padding.

A row's texts do not see each other: ``segments`` tells which text a token belongs to (Krell et al. 2021, section 3.2).
Rows are filled by best fit, the longest text first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from transferlab.data.text import Encoded

NARROWEST = 64
"""Tokens of the narrowest row: the cost of attention, a sixth of a layer's at this width, grows with the width."""

SHORT = 16
"""Mean length of the texts in a batch of as many as allowed; more at widths beyond 128, to bound memory when unpacking."""

WORTHWHILE = 8
"""Number of batches that narrower rows must fill to be worth a program of their own."""


@dataclass(frozen=True)
class Packed:
    """A batch of packed rows.

    Attributes:
        texts: indices of its texts among those packed, in the order of ``starts``.
        inputs: int32 arrays. (rows, width): ``input_ids``, ``position_ids``, ``segments`` (0 at padding, else the number of
            the text in its row, from 1) and, if the model has types, ``token_type_ids``. (texts,): ``starts``, where each
            text begins in the flattened rows, and ``lengths``; padded with zeros.
    """

    texts: list[int]
    inputs: dict[str, Int[np.ndarray, "..."]]


def pack(
    texts: Sequence[Encoded], width: int, tokens: int, *, pad: int, types: bool, first_position: int
) -> Iterator[Packed]:
    """Iterate over batches that contain every text once, in few shapes; each is made when it is reached.

    Args:
        texts: tokenised.
        width: of a row, in tokens; the longest text fits in it.
        tokens: of a batch, which has at least one row.
        pad: id of the padding token.
        types: whether the model has token types.
        first_position: position of a text's first token.
    """
    lengths = np.array([len(text.ids) for text in texts], np.int64)
    for wide, rows in _by_width(lengths, width, tokens):
        high, most = max(1, tokens // wide), _most(wide, tokens)
        for part in _deal(rows, high, most):
            yield _batch(texts, part, high, wide, most, pad, types, first_position)


def _most(width: int, tokens: int) -> int:
    """The number of texts that a batch has room for."""
    return max(1, tokens // width, tokens // max(SHORT, width // 8))


def _deal(rows: list[list[int]], high: int, most: int) -> list[list[list[int]]]:
    """Rows of each batch: at most ``high``, with at most ``most`` texts; rows of many and of few texts are spread evenly."""
    rows = sorted(rows, key=len)
    batches = max(-(-len(rows) // high), -(-sum(map(len, rows)) // most))
    while True:
        parts = [rows[number::batches] for number in range(batches)]
        if max(sum(map(len, part)) for part in parts) <= most:
            return parts
        batches += 1


def _by_width(lengths: Int[np.ndarray, " n"], width: int, tokens: int) -> list[tuple[int, list[list[int]]]]:
    """(width, rows) for a few widths, each half the one before; a row is a list of texts."""
    out, rest = [], np.argsort(-lengths, kind="stable").tolist()
    while rest:
        narrower = width // 2
        short = [text for text in rest if lengths[text] <= narrower]
        if narrower < NARROWEST or lengths[short].sum() < WORTHWHILE * tokens:
            narrower = 0
        rows, rest = _fill(rest, lengths, width, narrower, _most(width, tokens))
        if rows:
            out.append((width, rows))
        width = narrower
    return out


def _fill(
    texts: list[int], lengths: Int[np.ndarray, " n"], width: int, opens: int, most: int
) -> tuple[list[list[int]], list[int]]:
    """Best fit: (rows of at most ``most`` texts, texts left over). Texts come longest first; only those longer than
    ``opens`` open a row.
    """
    rows: list[list[int]] = []
    room: list[list[list[int]]] = [[] for _ in range(width + 1)]
    rest = []
    for text in texts:
        length = int(lengths[text])
        free = next((free for free in range(length, width + 1) if room[free]), None)
        if free is None:
            if opens > 0 and length <= opens:
                rest.append(text)
                continue
            free = width
            rows.append([])
            room[free].append(rows[-1])
        row = room[free].pop()
        row.append(text)
        if len(row) < most:
            room[free - length].append(row)
    return rows, rest


def best_fit(lengths: Int[np.ndarray, " n"], width: int) -> list[list[int]]:
    """Return rows of at most ``width`` tokens that hold each of these texts once, the longest first; each is a list of indices."""
    order = np.argsort(-lengths, kind="stable").tolist()
    return _fill(order, lengths, width, 0, max(1, len(order)))[0]


def _batch(
    texts: Sequence[Encoded], rows: list[list[int]], high: int, width: int, most: int, pad: int, types: bool, first: int
) -> Packed:
    shape = (high, width)
    ids, kinds = np.full(shape, pad, np.int32), np.zeros(shape, np.int32)
    positions, segments = np.full(shape, first, np.int32), np.zeros(shape, np.int32)
    starts, lengths, order = np.zeros(most, np.int32), np.zeros(most, np.int32), []
    for number, row in enumerate(rows):
        start = 0
        for segment, text in enumerate(row, 1):
            encoded = texts[text]
            own = slice(start, start + len(encoded.ids))
            ids[number, own], kinds[number, own], segments[number, own] = encoded.ids, encoded.types, segment
            positions[number, own] = np.arange(first, first + len(encoded.ids))
            starts[len(order)], lengths[len(order)] = number * width + start, len(encoded.ids)
            order.append(text)
            start = own.stop
    inputs = {"input_ids": ids, "position_ids": positions, "segments": segments, "starts": starts, "lengths": lengths}
    return Packed(order, {**inputs, "token_type_ids": kinds} if types else inputs)
