"""CLIP's tokenizer from ``vocab.json`` and ``merges.txt``: byte-level pairs of lower-cased words that end in ``</w>``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from transferlab import limits
from transferlab.errors import TransferlabError
from transferlab.reading import check_file, read_object, reading

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_END = "</w>"


def is_clip_vocabulary(directory: Path) -> bool:
    """Return whether the directory has ``vocab.json`` and ``merges.txt`` whose words end as CLIP's do."""
    merges = directory / "merges.txt"
    if not merges.exists() or not (directory / "vocab.json").exists():
        return False
    with check_file(merges, limits.VOCABULARY_BYTES).open(encoding="utf-8", errors="replace") as file:
        return any(line.rstrip("\n").endswith(_END) for line in file)


def clip_tokenizer(directory: Path, settings: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer as transformers' ``CLIPTokenizerFast`` builds it; texts get a begin and an end token.

    Args:
        directory: with ``vocab.json`` and ``merges.txt``.
        settings: of ``tokenizer_config.json``; ``bos_token``, ``eos_token`` and ``unk_token`` are read.
    """
    vocabulary = read_object(directory / "vocab.json", limits.VOCABULARY_BYTES)
    with reading(directory / "merges.txt"):
        lines = (directory / "merges.txt").read_text("utf-8").splitlines()
    merges: Any = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    if bad := next((pair for pair in merges if len(pair) != 2), None):
        raise TransferlabError(f"{directory / 'merges.txt'}: {bad} is not a pair.")
    first, last, unknown = (_token(settings, name) for name in ("bos_token", "eos_token", "unk_token"))
    for token in (first, last):
        if token not in vocabulary:
            raise TransferlabError(f"{directory / 'vocab.json'} has no token '{token}'.")
    with reading(directory / "vocab.json"):
        model = models.BPE(
            vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix=_END, fuse_unk=False,
            unk_token=unknown,
        )  # fmt: skip
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (last, vocabulary[last]), (first, vocabulary[first]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([first, last])
    return tokenizer


def _token(settings: dict[str, Any], name: str) -> str:
    token = settings.get(name)
    token = token.get("content") if isinstance(token, dict) else token
    return token or ("<|startoftext|>" if name == "bos_token" else "<|endoftext|>")
