"""Documents for language models that continue text: whole, laid end to end in rows of one length.

A document begins with the token that its source has before every text, else with the one that ends a text, as the documents before
it did when the source was trained, and ends with that token. A row holds, for each of its tokens, the next one as its label: a
document of n tokens takes n - 1 places. One that is longer than a row is split over several. A part after the first begins with the
last label of the part before, so that each token is predicted once, and sees nothing of what came before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from transferlab.data.inputs import TextInputs
from transferlab.data.packing import best_fit
from transferlab.data.text import BUCKETS
from transferlab.errors import TransferlabError


@dataclass(frozen=True)
class Part:
    """The part of a document that is in one row.

    Attributes:
        example: the document.
        start: the number of its first label among the document's.
        tokens: those that are read and, one further, those that are predicted: one more than its places.
    """

    example: int
    start: int
    tokens: Int[np.ndarray, " places_and_one"]

    def __len__(self) -> int:
        return len(self.tokens) - 1


@dataclass(eq=False)
class Documents(TextInputs):
    """Texts as rows of several documents each, filled by best fit. Every choice of texts has rows of its own.

    Attributes:
        width: of the longest row, in tokens.
    """

    width: int = field(default=1024, kw_only=True)
    _rows: list[list[Part]] = field(default_factory=list, init=False, repr=False)
    _choices: dict[bytes, Int[np.ndarray, " rows"]] = field(default_factory=dict, init=False, repr=False)

    @property
    def packs(self) -> bool:
        """False: its rows are packed already."""
        return False

    @property
    def key(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What rows of these numbers hold: it depends on which texts were chosen before."""
        return f"documents {self.width} {hashlib.sha256(b'|'.join(self._choices)).hexdigest()}"

    def document(self, index: int) -> Int[np.ndarray, " tokens"]:
        """Return all tokens of one text.

        Raises:
            TransferlabError: a text without tokens, or with a single one in all, which nothing follows; it is named.
        """
        ids, end, special = self.encoded(index).ids, self.transform.end_id, self.transform.special_ids
        name = self.ids[index] if self.ids else f"Text {index}"
        if all(id in special for id in ids):
            raise TransferlabError(
                f"{name} is empty: it has no token to predict. Leave out such rows: frame = frame[frame.text.str.strip() != '']."
            )
        ends = () if end is None else (end,)
        begins = () if ids[0] in special else ends
        tokens = (*begins, *ids, *(ends if ids[-1] != end else ()))
        if len(tokens) < 2:
            raise TransferlabError(
                f"{name} is a single token, which nothing follows, and its source has no token that ends a text. Leave out texts "
                "of one token."
            )
        return np.array(tokens, np.int32)

    def rows_of(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " rows"]:
        choice = np.ascontiguousarray(indices, np.int64).tobytes()
        if choice not in self._choices:
            self.prepare(indices)
            parts = [part for index in indices for part in self._parts(int(index))]
            rows = best_fit(np.array([len(part) for part in parts], np.int64), self.width)
            self._choices[choice] = np.arange(len(self._rows), len(self._rows) + len(rows))
            self._rows += [[parts[number] for number in row] for row in rows]
        return self._choices[choice]

    def _parts(self, index: int) -> list[Part]:
        tokens = self.document(index)
        starts = range(0, len(tokens) - 1, self.width)
        return [Part(index, start, tokens[start : start + self.width + 1]) for start in starts]

    def parts(self, row: int) -> list[Part]:
        """Return what is in a row, in its order."""
        return self._rows[row]

    def examples_of(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Return the first document of each row."""
        return np.array([self._rows[int(row)][0].example for row in rows], np.int64)

    def buckets(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        longest = max((self.length(int(row)) for row in rows), default=1)
        # One length for all: nearly all rows are full.
        width = min(size for size in (*BUCKETS, self.width) if size >= longest)
        return np.full(len(rows), width, np.int32)

    def length(self, row: int) -> int:
        """Return the number of tokens of a row."""
        return sum(map(len, self._rows[row]))

    def truncated(self, indices: Int[np.ndarray, " n"]) -> int:
        """Return 0: long documents are split."""
        return 0

    def span(self, row: int, bucket: int) -> slice:
        return slice(0, self.length(row))

    def inputs(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> dict[str, np.ndarray]:
        """``input_ids``, ``position_ids``, which begin again with each document, and ``segments``, the number of the document in its
        row, from 1; 0 at padding.
        """
        ids = np.full((size, bucket), self.transform.pad_id, np.int32)
        positions, segments = np.zeros((size, bucket), np.int32), np.zeros((size, bucket), np.int32)
        for line, row in enumerate(rows):
            at = 0
            for number, part in enumerate(self._rows[int(row)], 1):
                own = slice(at, at := at + len(part))
                ids[line, own], segments[line, own] = part.tokens[:-1], number
                positions[line, own] = np.arange(len(part))
        mask = (segments > 0).astype(np.int32)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "segments": segments}

    def labels(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> Int[np.ndarray, "size bucket"]:
        """The token that follows each one in its document; -1 at padding."""
        labels = np.full((size, bucket), -1, np.int32)
        for line, row in enumerate(rows):
            tokens = np.concatenate([part.tokens[1:] for part in self._rows[int(row)]])
            labels[line, : len(tokens)] = tokens
        return labels
