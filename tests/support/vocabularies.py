"""Small vocabularies of the three kinds, trained or written for the tests of tokenizers."""

from __future__ import annotations

import struct
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

CORPUS = [
    "the cat sat on the mat", "a naïve café in Ångström", "don't stop now", "hello world hello there",
    "the films were great and the day was bad", "lower newer wider lowest", "1234 5678 and 90%", "日本 漢字 text",
]  # fmt: skip
AWKWARD = [
    "",
    " ",
    "Hello  World\n\tthere ",
    "CAFÉ naïve Ångström cafe\u0301",
    "I 💚 this 👩‍👩‍👧!!",
    "don't... stop-now (1234,5678)",
    "漢字 and 日本",
    "x" * 120,
    "the cat sat " * 20,
    "\x00null\u200bzero\ufeffwidth\xa0space",
    "ﬁne ½ ａｂｃ",
]
"""Texts on which tokenizers differ; none contains a special token."""


def write_wordpiece(folder: Path, special: tuple[str, ...]) -> None:
    """``vocab.txt``: the special tokens, then pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    vocabulary = tokenizer.get_vocab()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text(
        "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.__getitem__)), "utf-8"
    )


def write_bpe(folder: Path, special: tuple[str, ...]) -> None:
    """``vocab.json`` and ``merges.txt`` over bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))


def pieces() -> list[tuple[str, float]]:
    """A unigram vocabulary as SentencePiece keeps it: its three special tokens first."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=[], unk_token=None, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    vocabulary = tokenizer.get_vocab()
    texts = sorted(vocabulary, key=vocabulary.__getitem__)
    return [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((text, -1.0 - i / 10) for i, text in enumerate(texts))]


def write_sentencepiece(path: Path, entries: list[tuple[str, float]], model_type: int = 1) -> None:
    """A ``.model`` file: the protocol buffer of sentencepiece, with the fields that are read and one that is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    body = b""
    for text, score in entries:
        piece = _bytes(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score)
        if text in kinds:
            piece += _number(3, kinds[text])
        body += _bytes(1, piece)
    trainer = _bytes(1, b"corpus.txt") + _number(3, model_type) + _number(4, 32000) + _number(40, 0)
    path.write_bytes(body + _bytes(2, trainer) + _bytes(3, _bytes(1, b"identity")))


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)
