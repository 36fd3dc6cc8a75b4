"""Texts without a target, and language models that read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import transferlab as tl
from support.checkpoints import WORDS, write_bert, write_decoder
from transferlab.data.columns import NoTarget
from transferlab.data.dataset import Dataset


def corpus(texts: Sequence[str], test: int = 0, validation: int = 0) -> Dataset:
    """A data set of these texts, of which the last are tested, and those before them validated."""
    n = len(texts) - test - validation
    records = [{"id": f"row {i}", "text": text} for i, text in enumerate(texts)]
    target, order = NoTarget((), np.zeros((len(texts), 0), np.int32)), np.arange(len(texts))
    return Dataset(
        "corpus", "text", target, records, tuple(record["id"] for record in records), train=order[:n],
        validation=order[n : n + validation], test=order[n + validation :], sha256=str(hash(tuple(texts))),
    )  # fmt: skip


def sentences(count: int = 60, seed: int = 0, longest: int = 30) -> list[str]:
    """Texts in which each word suggests the next one."""
    rng, texts = np.random.default_rng(seed), []
    for _ in range(count):
        word, words = int(rng.integers(len(WORDS))), []
        for _ in range(int(rng.integers(2, longest))):
            words.append(WORDS[word])
            word = (word + 1) % len(WORDS) if rng.random() < 0.8 else int(rng.integers(len(WORDS)))
        texts.append(" ".join(words))
    return texts


def write_words(folder: Path, specials: Sequence[str], template: str | None = None) -> None:
    """Write a tokenizer of whole words, after these special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate((*specials, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=specials[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(specials))
    if template is not None:
        named = [(token, vocabulary[token]) for token in template.split() if token in vocabulary]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": specials[0], "model_max_length": 48}))


def masked_source(folder: Path, **changes) -> tl.Source:
    """A tiny BERT with a mask token."""
    write_bert(folder, **changes)
    write_words(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "[CLS] $A [SEP]")
    return tl.load(folder)


def decoder_source(folder: Path, kind: str = "gpt2", **changes) -> tl.Source:
    """A tiny decoder; Llama's tokenizer puts a token before every text."""
    write_decoder(folder, kind, scale=0.1, **changes)
    specials = ("<pad>", "<unk>", "<s>", "</s>")
    write_words(folder, specials, None if kind == "gpt2" else "<s> $A")
    return tl.load(folder)
