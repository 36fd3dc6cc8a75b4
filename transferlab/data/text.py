"""Text preprocessing: the source's own tokenizer, its length limit, and padding to a few fixed lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from transferlab.errors import TransferlabError
from transferlab.files import read_json, sha256_file

BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Lengths that texts are padded to, so that at most a third is padding; each costs one compilation where it occurs."""


@dataclass(frozen=True)
class Encoded:
    """One tokenised text: ids, token types, and how many tokens the limit cut off."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    cut: int


@dataclass(frozen=True)
class TextTransform:
    """A tokenizer with the length that its model was trained for.

    ``transform(text)`` returns an :class:`Encoded`; ``pad`` makes a batch of a fixed length. Truncation is never
    silent: it is counted per text and reported with the run.
    """

    tokenizer: Tokenizer = field(repr=False, compare=False)
    max_length: int
    pad_id: int = 0
    sha256: str = ""
    kept: dict[str, dict[int, Encoded]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Texts that were tokenised, by data set (its hash) and index: they are small, and every run asks for them."""

    def __call__(self, text: str) -> Encoded:
        return self.encode([text])[0]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise many texts; an empty text has only its special tokens."""
        out = []
        for one in self.tokenizer.encode_batch(list(texts)):
            cut = sum(len(part.ids) for part in one.overflowing)
            out.append(Encoded(tuple(one.ids), tuple(one.type_ids), cut))
        return out

    def describe(self) -> dict[str, object]:
        """What identifies this preprocessing, as plain data."""
        return {"kind": "text", "tokenizer": self.sha256, "max_length": self.max_length}

    def bucket(self, length: int) -> int:
        """The smallest padded length that holds ``length`` tokens."""
        return min(size for size in (*BUCKETS, self.max_length) if length <= size <= self.max_length)

    def pad(self, encoded: Sequence[Encoded], length: int, rows: int) -> dict[str, Int[np.ndarray, "rows length"]]:
        """Return ``input_ids``, ``attention_mask``, ``token_type_ids`` (int32), padded on the right and with empty rows."""
        ids = np.full((rows, length), self.pad_id, np.int32)
        mask = np.zeros((rows, length), np.int32)
        types = np.zeros((rows, length), np.int32)
        for row, one in enumerate(encoded):
            n = len(one.ids)
            ids[row, :n], mask[row, :n], types[row, :n] = one.ids, 1, one.types
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def read_tokenizer(directory: Path, limit: int) -> TextTransform | None:
    """Read a Hugging Face directory's tokenizer; None where it has none.

    ``tokenizer.json`` is used where there is one, else ``vocab.txt`` with ``tokenizer_config.json``. The length is the
    smallest of ``limit`` (the model's positions), sentence-transformers' ``max_seq_length`` and ``model_max_length``.
    """
    settings = _json(directory / "tokenizer_config.json")
    sentence = _json(directory / "sentence_bert_config.json")
    if (directory / "tokenizer.json").exists():
        path = directory / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise TransferlabError(f"{path}: not a readable tokenizer ({error}).") from None
    elif (directory / "vocab.txt").exists():
        path = directory / "vocab.txt"
        tokenizer = _wordpiece(path, settings)
    else:
        return None
    lengths = [limit, sentence.get("max_seq_length"), settings.get("model_max_length")]
    longest = min(int(length) for length in lengths if length)
    pad_token = settings.get("pad_token", "[PAD]")
    pad_token = pad_token.get("content", "[PAD]") if isinstance(pad_token, dict) else pad_token
    pad_id = tokenizer.token_to_id(pad_token or "[PAD]") or 0
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return TextTransform(tokenizer, longest, pad_id, sha256_file(path))


def _wordpiece(path: Path, settings: dict) -> Tokenizer:
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    lower = bool(settings.get("do_lower_case", True))
    accents = settings.get("strip_accents")
    made = BertWordPieceTokenizer(str(path), lowercase=lower, strip_accents=accents)
    return Tokenizer.from_str(made.to_str())


def _json(path: Path) -> dict:
    return read_json(path) if path.exists() else {}
