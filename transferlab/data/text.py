"""Text preprocessing: the source's own tokenizer, its length limit, and padding to a few fixed lengths."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, normalizers

from transferlab.bounds import Count, Natural
from transferlab.data.added_tokens import add_tokens, read_settings
from transferlab.data.clip_bpe import clip_tokenizer, is_clip_vocabulary
from transferlab.data.special_tokens import continues_word, mask_id, special_ids
from transferlab.data.tables import checked_text
from transferlab.data.tokenizer_json import read_tokenizer_json
from transferlab.data.vocabularies import apply_settings, default_tokens, gives_types, tokenizer_from_vocabulary
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields, given_fields
from transferlab.files import sha256_file
from transferlab.reading import read_object, reading

BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Lengths to which texts are padded, so that at most a third is padding; each one used costs a compilation."""


@dataclass(frozen=True)
class Encoded:
    """One tokenised text.

    Attributes:
        ids, types: of its tokens.
        cut: how many tokens the length limit cut off.
        words: of a list of words: the index of each token's word, -1 for special tokens; empty otherwise.
        windows: the further parts of a text that is longer than the limit and read in windows (:attr:`TextTransform.overlap`).
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    cut: int
    words: tuple[int, ...] = ()
    windows: tuple[Encoded, ...] = ()


Text = str | tuple[str, str] | list[str]
"""What is tokenised at once: a text, a pair of texts, or a list of words."""


@dataclass
class TokenCache:
    """What all runs on a data set need of its texts.

    Attributes:
        encoded: tokenised texts, by index.
        buckets, truncated: padded lengths of a choice of texts, and how many of them are cut, by the bytes of its indices.
    """

    encoded: dict[int, Encoded] = field(default_factory=dict)
    buckets: dict[bytes, Int[np.ndarray, " n"]] = field(default_factory=dict)
    truncated: dict[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenTable:
    """The embedding table in which a tokenizer's ids are looked up. A device would clamp an id beyond it.

    Attributes:
        rows: number of tokens.
        model: name of the model, for errors.
        grows: whether ``Source.with_tokenizer`` can change its rows.
        types: number of token types; 0 for a model without them.
        no_pairs: why it reads no pairs of texts; empty where it does.
    """

    rows: int
    model: str
    grows: bool
    types: int = 0
    no_pairs: str = ""

    def lacks(self, token: str | None) -> str:
        """Return the rest of an error about an id beyond the table, of which ``token`` is the text, if it has one."""
        fix = ""
        if token is not None:
            fix = " It is read with another tokenizer than it was trained with."
            if self.grows:
                fix = " source = source.with_tokenizer() gives it a row for each token of its tokenizer."
        name = "" if token is None else f", the token '{token}'"
        return f"{name}, but {self.model} has {self.rows} tokens in its vocabulary (0 to {self.rows - 1}).{fix}"


@dataclass(frozen=True)
class TextTransform:
    """A tokenizer with the length that its model was trained for.

    ``transform(text)`` returns an :class:`Encoded`; :meth:`pad` makes a batch of a fixed length. Truncation is never
    silent: it is counted per text and reported with the run.

    Attributes:
        tokenizer: without padding; it cuts at ``max_length``.
        max_length: tokens of the longest text, special ones included.
        pad_id: id of the padding token.
        sha256: of the tokenizer's file.
        types: whether the model has token types, which batches then contain.
        side: on which texts are padded.
        table: the model's embedding table, where there is a model.
        prompt: put before each text, and before the first of a pair (sentence-transformers' default prompt).
        overlap: a longer text is read in windows of ``max_length`` tokens, of which neighbors have this many in common; None cuts
            it (:meth:`transferlab.pretrained.Source.with_windows`).
        end_id: token that ends a text, where the model was trained with one.

    Example:
        >>> source.transform("A fine film.").ids  # doctest: +SKIP
        (101, 1037, 2986, 2143, 1012, 102)
    """

    tokenizer: Tokenizer = field(repr=False, compare=False)
    max_length: Count
    pad_id: Natural = 0
    sha256: str = ""
    types: bool = True
    side: Literal["right", "left"] = "right"
    table: TokenTable | None = field(default=None, repr=False, compare=False)
    prompt: str = ""
    overlap: Natural | None = None
    end_id: int | None = field(default=None, repr=False, compare=False)
    caches: dict[str, TokenCache] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By the data set's hash."""

    def __post_init__(self) -> None:
        check_fields(self, "TextTransform")
        special = self.tokenizer.num_special_tokens_to_add(False)
        if self.overlap is not None and self.overlap >= self.max_length - special:
            raise TransferlabError(
                f"TextTransform: overlap is {self.overlap}; a window has {self.max_length - special} tokens of the text, so it must be "
                "less."
            )

    def __call__(self, text: str) -> Encoded:
        """Tokenise one text, for inspection; :meth:`encode` also checks that the model has a row for each id."""
        return self._tokenise([text])[0]

    def encode(self, texts: Sequence[Any], ids: Sequence[str] = ()) -> list[Encoded]:
        """Tokenise many texts; an empty text has only its special tokens.

        A pair is put together as the tokenizer's own template says: separators, token types. Where it is too long, the longer text
        is cut first, as in transformers. Of a list of words, each is tokenised by itself as within a text: with a space before it,
        the first too, where the tokenizer makes that part of a word (``add_prefix_space=True`` of transformers' RoBERTa and GPT-2).
        All are of one kind.

        Args:
            texts: to tokenise.
            ids: names of the texts for errors; by default their numbers.

        Raises:
            TransferlabError: a text that is not a string, contains half of a character, makes the tokenizer fail, or has a
                token without a row in the model's table; a pair of which a text is empty, or that the source does not read
                (:meth:`check_pairs`). The text is named.
        """
        for i, text in enumerate(texts):
            if isinstance(text, tuple) and not (len(text) == 2 and all(isinstance(t, str) and t.strip() for t in text)):
                self._check_sides(text, ids[i] if ids else f"texts[{i}]")
        if any(isinstance(text, tuple) for text in texts):
            self.check_pairs()
        out = self._tokenise(texts)
        if self.table is None:
            return out
        if self.pad_id >= self.table.rows:
            raise TransferlabError(f"Texts are padded with {self._lacks(self.pad_id)}")
        for i, encoded in enumerate(out):
            if max(encoded.ids, default=0) >= self.table.rows:
                shown = texts[i] if isinstance(texts[i], str) else " ".join(texts[i])
                text = shown if len(shown) <= 60 else f"{shown[:60]}…"
                first = next(id for id in encoded.ids if id >= self.table.rows)
                raise TransferlabError(f"{ids[i] if ids else f'Text {i}'} ({text!r}) holds {self._lacks(first)}")
            if self.types and 0 < self.table.types <= (last := max(encoded.types, default=0)):
                raise TransferlabError(
                    f"{ids[i] if ids else f'Text {i}'} has tokens of the type {last}, but {self.table.model} has "
                    f"{self.table.types} (0 to {self.table.types - 1}). Its tokenizer.json is of another model."
                )
        return out

    def check_pairs(self) -> None:
        """Raise a TransferlabError where the source reads no pairs of texts, or its tokenizer would join them without a separator."""
        name = "this source" if self.table is None else self.table.model
        both = "one text with a separator of your own between the two: f'{first}\\n{second}'"
        if self.table is not None and self.table.no_pairs:
            raise TransferlabError(f"{name} reads no pairs of texts: {self.table.no_pairs}. Make them {both}.")
        alone, together = (self.tokenizer.num_special_tokens_to_add(pair) for pair in (False, True))
        if together <= alone:
            raise TransferlabError(
                f"The tokenizer of {name} puts nothing between the two texts of a pair, so that its model cannot tell where the "
                f"first ends. Make them {both}."
            )
        if self.max_length < together + 2:
            raise TransferlabError(
                f"{name} reads {self.max_length} tokens; a pair has {together} special ones, and one of each text."
            )

    def _check_sides(self, pair: tuple[Any, ...], name: str) -> None:
        if len(pair) != 2:
            raise TransferlabError(f"{name} has {len(pair)} texts; a pair has two.")
        for part in pair:
            checked_text(part, name)
        side = "first" if not pair[0].strip() else "second"
        raise TransferlabError(
            f"{name}: the {side} text of the pair is empty. Leave the pair out, or fill it in; where many are empty, train on "
            "single texts."
        )

    def _tokenise(self, texts: Sequence[Any]) -> list[Encoded]:
        if isinstance(texts, str):
            raise TransferlabError(f"Texts must be a list, even a single one: [{texts[:40]!r}].")
        for i, text in enumerate(texts):
            for part in [text] if isinstance(text, str) or not isinstance(text, (tuple, list)) else text:
                checked_text(part, f"texts[{i}]")
        out = []
        for text, encoding in zip(texts, self._encodings([self._prompted(text) for text in texts]), strict=True):
            parts = encoding.overflowing
            if self.overlap is not None:
                if parts and isinstance(text, tuple):
                    raise TransferlabError(
                        f"The pair {str(text)[:60]}… is longer than {self.max_length} tokens; only single texts are read in windows. "
                        "Use the source without with_windows, which cuts the longer text of a pair."
                    )
                out.append(replace(_encoded(encoding, text), windows=tuple(_encoded(part, text) for part in parts)))
                continue
            cut = sum(sum(part.attention_mask) - sum(part.special_tokens_mask) for part in parts)
            if parts and isinstance(text, tuple):
                # The overflowing parts of a pair overlap.
                cut = len(self._whole.encode(*self._prompted(text)).ids) - len(encoding.ids)
            out.append(_encoded(encoding, text, cut))
        return out

    def _prompted(self, text: Any) -> Any:
        if isinstance(text, list):
            before = self._before_words
            return [word if word[:1].isspace() else before + word for word in text] if before else text
        if not self.prompt:
            return text
        return (self.prompt + text[0], text[1]) if isinstance(text, tuple) else self.prompt + text

    @cached_property
    def _before_words(self) -> str:
        """What stands before a word that is tokenised by itself, so that it has the tokens that it has within a text: nothing, or
        the space that byte-level tokenizers keep as part of a word.
        """
        text = self._whole.encode("a a", add_special_tokens=False).ids
        parts = [
            self._whole.encode(["a", f"{before}a"], is_pretokenized=True, add_special_tokens=False).ids
            for before in ("", " ")
        ]
        return " " if parts[0] != text and parts[1] == text else ""

    @cached_property
    def unlimited(self) -> TextTransform:
        """The same tokenizer without a limit."""
        return replace(self, tokenizer=self._whole, overlap=None)

    @cached_property
    def _whole(self) -> Tokenizer:
        """The tokenizer without a limit."""
        whole = Tokenizer.from_str(self.tokenizer.to_str())
        whole.no_truncation()
        return whole

    def untruncated(self) -> TextTransform:
        """The same tokens of texts of any length, without the prompt of a sentence encoder."""
        return replace(self, tokenizer=self._whole, max_length=sys.maxsize, prompt="", overlap=None)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that are no text: see :func:`transferlab.data.special_tokens.special_ids`."""
        return special_ids(self.tokenizer, self.pad_id)

    @cached_property
    def mask_id(self) -> int | None:
        """Id of the token that stands for one to be predicted, where the tokenizer and the model have one."""
        id = mask_id(self.tokenizer)
        return None if id is None or id >= self.vocabulary else id

    @cached_property
    def continues_word(self) -> Bool[np.ndarray, " vocabulary"]:
        """Of each token, whether it continues a word."""
        return continues_word(self.tokenizer)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that both the tokenizer and the model have."""
        size = self.tokenizer.get_vocab_size()
        return size if self.table is None else min(size, self.table.rows)

    @cached_property
    def _reader(self) -> Tokenizer:
        """The tokenizer, which returns windows where they are wanted."""
        if self.overlap is None:
            return self.tokenizer
        reader = Tokenizer.from_str(self.tokenizer.to_str())
        side = (self.tokenizer.truncation or {}).get("direction", "right")
        reader.enable_truncation(self.max_length, stride=self.overlap, direction=side)
        return reader

    def _encodings(self, texts: list[Any]) -> list[Any]:
        words = any(isinstance(text, list) for text in texts)
        try:
            with reading("tokenizer"):
                return self._reader.encode_batch(texts, is_pretokenized=words)
        except TransferlabError as error:
            if len(texts) == 1:
                raise TransferlabError(f"The tokenizer cannot read {str(texts[0])[:60]!r}: {error.__cause__}") from None
            # All at once are faster; one by one, the text at fault is found.
            return [self._encodings([text])[0] for text in texts]

    def _lacks(self, id: int) -> str:
        assert self.table is not None
        return f"the id {id}{self.table.lacks(self.tokenizer.id_to_token(id))}"

    def describe(self) -> dict[str, object]:
        """Return the fields that identify this preprocessing, as plain data."""
        side = {} if self.side == "right" else {"side": self.side}
        prompt = {"prompt": self.prompt} if self.prompt else {}
        windows = {} if self.overlap is None else {"overlap": self.overlap}
        return {"kind": "text", "tokenizer": self.sha256, "max_length": self.max_length, **side, **prompt, **windows}

    def bucket(self, length: int) -> int:
        """Return the smallest padded length of at least ``length`` tokens."""
        return min(size for size in (*BUCKETS, self.max_length) if length <= size <= self.max_length)

    def pad(self, encoded: Sequence[Encoded], length: int, rows: int) -> dict[str, Int[np.ndarray, "rows length"]]:
        """Return ``input_ids``, ``attention_mask`` and, if the model has types, ``token_type_ids`` (int32).

        Texts are padded on the tokenizer's side; the batch is padded with empty rows.
        """
        ids = np.full((rows, length), self.pad_id, np.int32)
        mask = np.zeros((rows, length), np.int32)
        types = np.zeros((rows, length), np.int32)
        for row, text in enumerate(encoded):
            n = len(text.ids)
            own = slice(0, n) if self.side == "right" else slice(length - n, length)
            ids[row, own], mask[row, own], types[row, own] = text.ids, 1, text.types
        batch = {"input_ids": ids, "attention_mask": mask}
        return {**batch, "token_type_ids": types} if self.types else batch


def _encoded(encoding: Any, text: Any, cut: int = 0) -> Encoded:
    words = tuple(-1 if i is None else i for i in encoding.word_ids) if isinstance(text, list) else ()
    return Encoded(tuple(encoding.ids), tuple(encoding.type_ids), cut, words)


def read_tokenizer(
    directory: Path, limit: int, *, kind: str = "bert", types: bool = True, whole_length: bool = False
) -> TextTransform | None:
    """Read a Hugging Face directory's tokenizer; None where it has none.

    ``tokenizer.json`` is used where there is one, else the vocabulary
    (:func:`~transferlab.data.vocabularies.tokenizer_from_vocabulary`). Where ``tokenizer_config.json`` differs from
    ``tokenizer.json``, it wins, as in transformers, and tokens that it or another file names next to the vocabulary are
    added (:func:`~transferlab.data.added_tokens.add_tokens`). The length is sentence-transformers' ``max_seq_length`` if
    there is one, else ``model_max_length``, and at most ``limit`` (the model's positions).

    Args:
        directory: of the model.
        limit: tokens of the longest text.
        kind: ``model_type`` of its ``config.json``.
        types: whether the model has token types.
        whole_length: whether every text is padded to that length, with the padding as part of the text, as the model was
            trained.

    Raises:
        TransferlabError: files that cannot be read, or from which no tokenizer can be made.
    """
    settings = read_settings(directory)
    (place, sentence), changed = read_sentence_settings(directory), False
    # A string is true, whatever it says: "false" would be taken for the opposite.
    given_fields(_FLAGS, settings, where=str(directory / "tokenizer_config.json"))
    given_fields({"do_lower_case": bool}, sentence, where=str(place))
    if (directory / "tokenizer.json").exists():
        paths = (directory / "tokenizer.json",)
        tokenizer = read_tokenizer_json(paths[0])
        with reading(directory / "tokenizer_config.json"):
            # A directory without a model has no class except the one that its settings name.
            own = kind if (directory / "config.json").exists() else ""
            changed = apply_settings(tokenizer, own, settings)
            changed |= add_tokens(tokenizer, directory, settings, default_tokens(own, settings))
    elif is_clip_vocabulary(directory):
        tokenizer, paths = clip_tokenizer(directory, settings), (directory / "vocab.json", directory / "merges.txt")
        add_tokens(tokenizer, directory, settings)
    else:
        pair = tokenizer_from_vocabulary(directory, kind, settings)
        if pair is None:
            return None
        tokenizer, paths = pair
    if sentence.get("do_lower_case"):
        # sentence-transformers lower-cases the text itself, before the tokenizer sees it.
        before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer, changed = normalizers.Sequence([normalizers.Lowercase(), *before]), True
    length = sentence.get("max_seq_length") or settings.get("model_max_length") or settings.get("max_len")
    longest = min(limit, int(length or limit))
    if longest <= (special := tokenizer.num_special_tokens_to_add(False)):
        raise TransferlabError(
            f"{directory}: a text can have {longest} tokens (model_max_length of tokenizer_config.json, max_seq_length of "
            f"sentence_bert_config.json); the tokenizer adds {special} special ones."
        )
    padding = tokenizer.padding or {}
    side = settings.get("padding_side") or padding.get("direction") or "right"
    if side not in ("right", "left"):
        raise TransferlabError(
            f"{directory / 'tokenizer_config.json'}: padding_side '{side}' is neither 'right' nor 'left'."
        )
    pad_id = _pad_id(tokenizer, settings.get("pad_token"), padding.get("pad_id"))
    tokenizer.no_padding()
    if whole_length:
        token = tokenizer.id_to_token(pad_id) or "[PAD]"
        tokenizer.enable_padding(direction=side, length=longest, pad_id=pad_id, pad_token=token)
    cut = settings.get("truncation_side") or (tokenizer.truncation or {}).get("direction") or "right"
    if cut not in ("right", "left"):
        raise TransferlabError(
            f"{directory / 'tokenizer_config.json'}: truncation_side '{cut}' is neither 'right' nor 'left'."
        )
    tokenizer.enable_truncation(longest, direction=cut)
    digests = [sha256_file(path) for path in paths]
    if changed or cut != "right" or paths[0].name != "tokenizer.json":
        # The settings' changes to a file, such as lower case, identify the tokenizer as much as the file.
        digests.append(hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return TextTransform(tokenizer, longest, pad_id, sha256, types and gives_types(kind, settings), side)


_FLAGS: dict[str, type] = dict.fromkeys(
    ("do_lower_case", "tokenize_chinese_chars", "strip_accents", "add_prefix_space"), bool
)
"""Settings of tokenizers that are true or false."""


def _pad_id(tokenizer: Tokenizer, token: Any, id: int | None) -> int:
    """The id of the padding token that the settings name, else that of ``tokenizer.json``, else of a usual name."""
    name = token.get("content") if isinstance(token, dict) else token
    if name and (match := tokenizer.token_to_id(str(name))) is not None:
        return match
    usual = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
    return id if id is not None else next((match for match in usual if match is not None), 0)


_SENTENCE = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Files in which sentence-transformers looks for a model's settings, in its order; before version 1 the model named them."""


def read_sentence_settings(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return (file, settings): sentence-transformers' settings of the model in this directory, ``{}`` without any."""
    for path in (directory / name for name in _SENTENCE):
        if path.exists() and (raw := read_object(path)):
            return path, raw
    return directory / _SENTENCE[0], {}
