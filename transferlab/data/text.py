"""Text preprocessing: the source's own tokenizer, its length limit, and padding to a few fixed lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer, normalizers

from transferlab.data.clip_bpe import clip_tokenizer, is_clip_vocabulary
from transferlab.data.tokenizer_json import read_tokenizer_json
from transferlab.data.vocabularies import apply_settings, tokenizer_from_vocabulary
from transferlab.errors import TransferlabError
from transferlab.files import read_object, reading, sha256_file

BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Lengths that texts are padded to, so that at most a third is padding; each costs one compilation where it occurs."""


@dataclass(frozen=True)
class Encoded:
    """One tokenised text: ids, token types, and how many tokens the limit cut off."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    cut: int


@dataclass
class Kept:
    """What every run on a data set asks for again: its tokenised texts by index, and of choices of them the padded lengths
    and how many are cut.
    """

    encoded: dict[int, Encoded] = field(default_factory=dict)
    buckets: dict[bytes, Int[np.ndarray, " n"]] = field(default_factory=dict)
    truncated: dict[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TextTransform:
    """A tokenizer with the length that its model was trained for.

    ``transform(text)`` returns an :class:`Encoded`; ``pad`` makes a batch of a fixed length. Truncation is never
    silent: it is counted per text and reported with the run.

    Attributes:
        tokenizer: without padding; it cuts at ``max_length``.
        max_length: tokens of the longest text, special ones included.
        pad_id: what stands where a text is padded.
        sha256: of the tokenizer's file.
        types: whether the model has token types: a batch holds them then.
        side: on which batches are padded.
    """

    tokenizer: Tokenizer = field(repr=False, compare=False)
    max_length: int
    pad_id: int = 0
    sha256: str = ""
    types: bool = True
    side: Literal["right", "left"] = "right"
    kept: dict[str, Kept] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By data set (its hash)."""

    def __call__(self, text: str) -> Encoded:
        return self.encode([text])[0]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise many texts; an empty text has only its special tokens.

        Raises:
            TransferlabError: a text that the tokenizer fails at; it is named.
        """
        out = []
        for one in self._encodings(list(texts)):
            cut = sum(sum(part.attention_mask) - sum(part.special_tokens_mask) for part in one.overflowing)
            out.append(Encoded(tuple(one.ids), tuple(one.type_ids), cut))
        return out

    def _encodings(self, texts: list[str]) -> list[Any]:
        try:
            with reading("tokenizer"):
                return self.tokenizer.encode_batch(texts)
        except TransferlabError as error:
            if len(texts) == 1:
                raise TransferlabError(f"The tokenizer cannot read {texts[0][:60]!r}: {error.__cause__}") from None
            # All at once are quicker; one by one, the text is found.
            return [self._encodings([text])[0] for text in texts]

    def describe(self) -> dict[str, object]:
        """What identifies this preprocessing, as plain data."""
        side = {} if self.side == "right" else {"side": self.side}
        return {"kind": "text", "tokenizer": self.sha256, "max_length": self.max_length, **side}

    def bucket(self, length: int) -> int:
        """The smallest padded length that holds ``length`` tokens."""
        return min(size for size in (*BUCKETS, self.max_length) if length <= size <= self.max_length)

    def pad(self, encoded: Sequence[Encoded], length: int, rows: int) -> dict[str, Int[np.ndarray, "rows length"]]:
        """Return ``input_ids``, ``attention_mask`` and, if the model has types, ``token_type_ids`` (int32).

        Texts are padded on the tokenizer's side, the batch with empty rows.
        """
        ids = np.full((rows, length), self.pad_id, np.int32)
        mask = np.zeros((rows, length), np.int32)
        types = np.zeros((rows, length), np.int32)
        for row, one in enumerate(encoded):
            n = len(one.ids)
            own = slice(0, n) if self.side == "right" else slice(length - n, length)
            ids[row, own], mask[row, own], types[row, own] = one.ids, 1, one.types
        batch = {"input_ids": ids, "attention_mask": mask}
        return {**batch, "token_type_ids": types} if self.types else batch


def read_tokenizer(
    directory: Path, limit: int, *, kind: str = "bert", types: bool = True, whole_length: bool = False
) -> TextTransform | None:
    """Read a Hugging Face directory's tokenizer; None where it has none.

    ``tokenizer.json`` is used where there is one, else the vocabulary
    (:func:`~transferlab.data.vocabularies.tokenizer_from_vocabulary`). Where ``tokenizer_config.json`` says otherwise than
    ``tokenizer.json``, it is followed as the origin does it. The length is the smallest of ``limit`` (the
    model's positions), sentence-transformers' ``max_seq_length`` and ``model_max_length``.

    Args:
        directory: of the model.
        limit: tokens of the longest text.
        kind: ``model_type`` of its ``config.json``.
        types: whether the model has token types.
        whole_length: whether every text is padded to that length, and its padding is part of it: the model was trained
            so.

    Raises:
        TransferlabError: files that cannot be read, or of a kind that no tokenizer can be made from.
    """
    settings = {**_json(directory / "special_tokens_map.json"), **_json(directory / "tokenizer_config.json")}
    sentence, changed = _json(directory / "sentence_bert_config.json"), False
    if (directory / "tokenizer.json").exists():
        paths = (directory / "tokenizer.json",)
        tokenizer = read_tokenizer_json(paths[0])
        with reading(directory / "tokenizer_config.json"):
            # A directory that is no model's has no class but the one that its settings name.
            changed = apply_settings(tokenizer, kind if (directory / "config.json").exists() else "", settings)
    elif is_clip_vocabulary(directory):
        tokenizer, paths = clip_tokenizer(directory, settings), (directory / "vocab.json", directory / "merges.txt")
    else:
        made = tokenizer_from_vocabulary(directory, kind, settings)
        if made is None:
            return None
        tokenizer, paths = made
    if sentence.get("do_lower_case"):
        # sentence-transformers' own lower case: of the text, before its tokenizer sees it.
        before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer, changed = normalizers.Sequence([normalizers.Lowercase(), *before]), True
    lengths = [limit, sentence.get("max_seq_length"), settings.get("model_max_length")]
    longest = min(int(length) for length in lengths if length)
    if longest <= (special := tokenizer.num_special_tokens_to_add(False)):
        raise TransferlabError(
            f"{directory}: a text can have {longest} tokens (model_max_length of tokenizer_config.json, max_seq_length of "
            f"sentence_bert_config.json); the tokenizer adds {special} of its own."
        )
    padding = tokenizer.padding or {}
    side = settings.get("padding_side") or padding.get("direction") or "right"
    if side not in ("right", "left"):
        raise TransferlabError(
            f"{directory / 'tokenizer_config.json'}: padding_side '{side}' is not 'right' or 'left'."
        )
    pad_id = _pad_id(tokenizer, settings.get("pad_token"), padding.get("pad_id"))
    tokenizer.no_padding()
    if whole_length:
        token = tokenizer.id_to_token(pad_id) or "[PAD]"
        tokenizer.enable_padding(direction=side, length=longest, pad_id=pad_id, pad_token=token)
    cut = settings.get("truncation_side") or (tokenizer.truncation or {}).get("direction") or "right"
    if cut not in ("right", "left"):
        raise TransferlabError(
            f"{directory / 'tokenizer_config.json'}: truncation_side '{cut}' is not 'right' or 'left'."
        )
    tokenizer.enable_truncation(longest, direction=cut)
    digests = [sha256_file(path) for path in paths]
    if changed or cut != "right" or paths[0].name != "tokenizer.json":
        # What the settings make of a file, lower case among it, is no less the tokenizer than the file.
        digests.append(hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return TextTransform(tokenizer, longest, pad_id, sha256, types, side)


def _pad_id(tokenizer: Tokenizer, token: Any, id: int | None) -> int:
    """The id of the padding token that the settings name, else that of ``tokenizer.json``, else of a usual name."""
    named = token.get("content") if isinstance(token, dict) else token
    if named and (found := tokenizer.token_to_id(str(named))) is not None:
        return found
    usual = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
    return id if id is not None else next((found for found in usual if found is not None), 0)


def _json(path: Path) -> dict:
    return read_object(path) if path.exists() else {}
