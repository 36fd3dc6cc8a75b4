"""Lists of words as model inputs: each word is tokenised by itself, and a long list becomes several rows of whole words."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from transferlab.data.inputs import Examples, TextInputs
from transferlab.data.text import Encoded, TextTransform, TokenCache
from transferlab.errors import TransferlabError

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class WordInputs(TextInputs):
    """Lists of words. A row has as many words of an example as the model can read; the example's next row goes on after them.

    Only a word that is longer than a whole row is cut, and a word of which the tokenizer leaves nothing (a zero-width character) is
    read as its unknown token: every word has a sub-word, and no tag is lost.
    """

    key: ClassVar[str] = "windows of words"

    def prepare(self, indices: Int[np.ndarray, " n"]) -> None:
        new = [int(i) for i in indices if int(i) not in self.cache.encoded]
        lists = [list(self.examples[i]["words"]) for i in new]
        ids = [self.ids[i] if self.ids else f"examples[{i}]" for i in new]
        for i, text in zip(new, encoded_words(self.transform, lists, ids), strict=True):
            self.cache.encoded[i] = split(text, self.transform.max_length)

    def rows_of(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " rows"]:
        self.prepare(indices)
        n, counts = len(self.examples), [1 + len(self.cache.encoded[int(i)].windows) for i in indices]
        rows = [int(i) + n * np.arange(count) for i, count in zip(indices, counts, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *rows])

    def truncated(self, indices: Int[np.ndarray, " n"]) -> int:
        rows = self.rows_of(indices)
        return len({row % len(self.examples) for row in rows.tolist() if self.window(row).cut})

    def first_subwords(self, row: int, bucket: int) -> tuple[Int[np.ndarray, " words"], Int[np.ndarray, " words"]]:
        """Return (the words of this row, where each one's first sub-word is when the row is padded to ``bucket``)."""
        words, at = self.subwords(row, bucket)
        first = np.flatnonzero(np.diff(words, prepend=-1))
        return words[first], at[first]

    def subwords(self, row: int, bucket: int) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " tokens"]]:
        """Return (the word of each sub-word of this row, where it is when the row is padded to ``bucket``)."""
        words = np.array(self.window(row).words, np.int64)
        inside = np.flatnonzero(words >= 0)
        return words[inside], inside + self.span(row, bucket).start


def word_inputs(
    examples: Examples, transform: TextTransform, *, ids: Sequence[str] = (), sha256: str = ""
) -> WordInputs:
    """Return the inputs for lists of words; the arguments are those of :func:`transferlab.data.inputs.inputs_for`."""
    cache = transform.caches.setdefault(f"windows {sha256}", TokenCache()) if sha256 else TokenCache()
    return WordInputs(examples, transform, cache, ids=ids)


def encoded_words(transform: TextTransform, lists: Sequence[list[str]], ids: Sequence[str]) -> list[Encoded]:
    """Tokenise lists of words without a limit, so that each word has a token.

    Raises:
        TransferlabError: a list without words, or a word without tokens where the tokenizer has no unknown token; it is named.
    """
    for words, id in zip(lists, ids, strict=True):
        if not words:
            raise TransferlabError(f"{id} has no words. Leave it out.")
    out, again = transform.unlimited.encode(lists, ids), dict[int, list[str]]()
    for i, (words, text) in enumerate(zip(lists, out, strict=True)):
        if empty := sorted(set(range(len(words))) - set(text.words)):
            unknown = unknown_token(transform.tokenizer)
            if unknown is None:
                raise TransferlabError(
                    f"{ids[i]}: the tokenizer leaves nothing of word {empty[0]}, {words[empty[0]]!r}, and has no token for what it "
                    "does not know. Leave the word out, with its tag."
                )
            again[i] = [unknown if number in empty else word for number, word in enumerate(words)]
    if again:
        _LOG.warning(
            "%s: the tokenizer leaves nothing of a word; it is read as unknown (%d examples).",
            ids[min(again)],
            len(again),
        )
        for i, text in zip(
            again, transform.unlimited.encode(list(again.values()), [ids[i] for i in again]), strict=True
        ):
            out[i] = text
    return out


def unknown_token(tokenizer: Tokenizer) -> str | None:
    """Return the token for what the vocabulary lacks; None where there is none."""
    model = json.loads(tokenizer.to_str())["model"]
    id = model.get("unk_id")
    return model.get("unk_token") if id is None else tokenizer.id_to_token(id)


def split(text: Encoded, length: int) -> Encoded:
    """Return a text in windows of whole words of at most ``length`` tokens, each between the text's special tokens."""
    ids, types, words = (np.array(field, np.int64) for field in (text.ids, text.types, text.words))
    inside = np.flatnonzero(words >= 0)
    begin, end = int(inside[0]), int(inside[-1]) + 1
    room = length - begin - (len(ids) - end)
    starts = begin + np.flatnonzero(np.diff(words[begin:end], prepend=-1))
    windows: list[list[np.ndarray]] = []
    cuts: list[int] = []
    free = 0
    for start, size in zip(starts.tolist(), np.diff(starts, append=end).tolist(), strict=True):
        kept = min(size, room)
        if not windows or kept > free:
            windows.append([])
            cuts.append(0)
            free = room
        windows[-1].append(np.arange(start, start + kept))
        cuts[-1] += size - kept
        free -= kept

    def part(window: list[np.ndarray], cut: int) -> Encoded:
        at = np.concatenate([np.arange(begin), *window, np.arange(end, len(ids))])
        return Encoded(tuple(ids[at].tolist()), tuple(types[at].tolist()), cut, tuple(words[at].tolist()))

    first, *rest = map(part, windows, cuts)
    return replace(first, windows=tuple(rest))
