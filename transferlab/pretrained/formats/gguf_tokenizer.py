"""The tokenizer that a GGUF file holds: byte-level BPE, with the pre-tokenizer that the metadata names.

llama.cpp's own is ``llm_tokenizer_bpe`` in ``src/llama-vocab.cpp``; words are split as by each model's ``tokenizer.json``.
"""

from __future__ import annotations

import hashlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from transferlab.data.text import TextTransform
from transferlab.pretrained.formats.gguf import Gguf
from transferlab.reading import reading

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Llama 3 and Qwen 2 split text into words; they differ in how many digits stay together."""

_CONTROL, _USER_DEFINED = 3, 4
"""Values of ``tokenizer.ggml.token_type``: a special token, and an added token that is ordinary text."""


def _words(digits: int) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_WORDS.replace("DIGITS", str(digits))), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _digits_alone() -> pre_tokenizers.PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


_PRE_TOKENIZERS = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": _digits_alone,
    "llama-bpe": lambda: _words(3),
    "qwen2": lambda: _words(1),
}
"""Supported values of ``tokenizer.ggml.pre``."""


def tokenizer_from_gguf(file: Gguf, limit: int) -> TextTransform | str:
    """Return the tokenizer in the metadata, truncating at ``limit`` tokens, or the reason why it is not supported."""
    model, pre = (file.metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if model != "gpt2":
        return f"tokenizer.ggml.model is '{model}'; only 'gpt2' (byte-level BPE) is supported"
    if pre not in _PRE_TOKENIZERS:
        return f"tokenizer.ggml.pre is '{pre}'; expected one of {', '.join(_PRE_TOKENIZERS)}"
    tokens = file.value("tokenizer.ggml.tokens", list)
    merges = [tuple(merge.split(" ")) for merge in file.value("tokenizer.ggml.merges", list)]
    types = file.metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    with reading(file.path, "tokenizer.ggml.merges does not match the tokens"):
        bpe = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe")
    tokenizer = Tokenizer(bpe)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    added = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, k in added if k == _CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, k in added if k == _USER_DEFINED])
    first = file.metadata.get("tokenizer.ggml.bos_token_id")
    if file.metadata.get("tokenizer.ggml.add_bos_token", pre == "llama-bpe") and first is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[first]} $A", special_tokens=[(tokens[first], first)]
        )
    digest = hashlib.sha256(tokenizer.to_str().encode("utf-8", "surrogatepass")).hexdigest()
    tokenizer.enable_truncation(limit)
    pad = file.metadata.get("tokenizer.ggml.padding_token_id", file.metadata.get("tokenizer.ggml.eos_token_id", 0))
    return TextTransform(tokenizer, limit, pad, digest)
