"""Tokenizers made from vocabulary files, where a directory has no ``tokenizer.json``; settings that override one.

``vocab.txt`` is WordPiece (BERT, DistilBERT, MPNet), ``vocab.json`` with ``merges.txt`` byte-level BPE (RoBERTa, GPT-2),
``sentencepiece.bpe.model`` and ``spiece.model`` a SentencePiece unigram model (XLM-R, CamemBERT; T5). The steps between text
and vocabulary (normalisation, splitting, special tokens) are in no file: they are specific to each model, and follow its
class in transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from transferlab import limits
from transferlab.data.added_tokens import add_tokens
from transferlab.data.sentencepiece import SentencePieceModel, read_sentencepiece
from transferlab.data.tokenizer_json import check_growth
from transferlab.errors import TransferlabError
from transferlab.reading import check_file, reading

WORDPIECE, BPE, UNIGRAM = ("vocab.txt",), ("vocab.json", "merges.txt"), ("sentencepiece.bpe.model",)
SENTINELS = ("spiece.model",)

Scheme = Literal["always", "never"]

_BERT = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
_ROBERTA = {"unk": "<unk>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
_T5 = {"unk": "<unk>", "eos": "</s>", "pad": "<pad>"}


@dataclass(frozen=True)
class Kind:
    """How a model's tokenizer is made.

    Attributes:
        files: of the vocabulary.
        special: default special tokens, by name.
    """

    files: tuple[str, ...]
    special: Mapping[str, str]


KINDS = {
    "bert": Kind(WORDPIECE, _BERT),
    "distilbert": Kind(WORDPIECE, _BERT),
    "mpnet": Kind(WORDPIECE, _ROBERTA | {"unk": "[UNK]"}),
    "roberta": Kind(BPE, _ROBERTA),
    "gpt2": Kind(BPE, {"unk": "<|endoftext|>"}),
    "xlm-roberta": Kind(UNIGRAM, _ROBERTA),
    "camembert": Kind(UNIGRAM, _ROBERTA),
    "t5": Kind(SENTINELS, _T5),
    "mt5": Kind(SENTINELS, _T5),
}
"""By Hugging Face's ``model_type``."""


def tokenizer_from_vocabulary(
    directory: Path, kind: str, settings: Mapping[str, Any]
) -> tuple[Tokenizer, tuple[Path, ...]] | None:
    """Make the tokenizer of a directory from its vocabulary; None where it has none.

    Args:
        directory: of a Hugging Face model.
        kind: its ``model_type``; ``tokenizer_class`` in ``settings``, where given, overrides it.
        settings: ``tokenizer_config.json``.

    Returns:
        The tokenizer, and the files it was made from.

    Raises:
        TransferlabError: an unknown kind, or a file that cannot be read.
    """
    files = [name for name in ("vocab.txt", "vocab.json", "merges.txt") if (directory / name).exists()]
    files += sorted(path.name for path in directory.glob("*.model"))
    if not files:
        return None
    name = _kind(settings.get("tokenizer_class"), kind)
    known = KINDS.get(name)
    if known is None or not all((directory / file).exists() for file in known.files):
        needed = f"; a tokenizer of '{name}' is made from {' and '.join(known.files)}" if known else ""
        raise TransferlabError(
            f"{directory}: no tokenizer.json, and none can be made from {', '.join(files)} for '{name}'{needed}. Write one "
            "with transformers:\n"
            f"  >>> AutoTokenizer.from_pretrained({str(directory)!r}).save_pretrained({str(directory)!r})"
        )
    special = {name: _token(settings.get(f"{name}_token"), default) for name, default in known.special.items()}
    if known.files == SENTINELS:
        # Pre-training replaced spans of text by these; the last of the vocabulary is the first.
        count = settings.get("extra_ids", 100)
        if type(count) is not int or not 0 <= count <= 10_000:
            raise TransferlabError(
                f"{directory / 'tokenizer_config.json'}: extra_ids is {str(count)[:40]!r}; it must be an integer from 0 to "
                "10000."
            )
        special |= {name: _token(None, f"<{name}>") for name in (f"extra_id_{i}" for i in reversed(range(count)))}
    paths = tuple(directory / file for file in known.files)
    for path in paths:
        check_file(path, limits.VOCABULARY_BYTES)
    with reading(paths[0], "not a readable vocabulary"):
        tokenizer = _MAKERS[known.files](paths, name, special, settings)
    check_growth(tokenizer, paths[0])
    add_tokens(tokenizer, directory, settings, special.values())
    _frame(tokenizer, name, special, bool(settings.get("add_prefix_space", False)))
    return tokenizer, paths


_PREFIXED = {"roberta": False, "gpt2": False, "qwen2": False, "qwen3": False, "xlm-roberta": True, "camembert": True}
"""Kinds whose class reads ``add_prefix_space``, and its default."""


def default_tokens(kind: str, settings: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    """Return the special tokens of transformers' class that the settings do not name.

    Args:
        kind: ``model_type``, used if ``settings`` name no ``tokenizer_class``. A general class has none.
        settings: ``tokenizer_config.json``.
    """
    cls = settings.get("tokenizer_class")
    known = KINDS.get(_kind(cls, "" if cls else kind))
    missing = {} if known is None else {n: t for n, t in known.special.items() if settings.get(f"{n}_token") is None}
    return tuple(_token(None, text) for text in dict.fromkeys(missing.values()))


def gives_types(kind: str, settings: Mapping[str, Any]) -> bool:
    """Return whether transformers' tokenizer gives token types to the model; one that does not leaves them all 0.

    Args:
        kind: ``model_type``, used if ``settings`` name no ``tokenizer_class``. A general class gives them.
        settings: ``tokenizer_config.json``, whose ``model_input_names`` decide where there are any.
    """
    if isinstance(names := settings.get("model_input_names"), list):
        return "token_type_ids" in names
    cls = settings.get("tokenizer_class")
    return _kind(cls, "" if cls else kind) not in _WITHOUT_TYPES


_WITHOUT_TYPES = {*KINDS} - {"bert"}


def apply_settings(tokenizer: Tokenizer, kind: str, settings: Mapping[str, Any]) -> bool:
    """Override ``tokenizer.json`` by the settings, and their defaults, as transformers' class does when it is loaded.

    Args:
        tokenizer: read from ``tokenizer.json``; its parts are changed in place.
        kind: its ``model_type``, used if ``settings`` name no ``tokenizer_class``. A general class changes nothing.
        settings: ``tokenizer_config.json``.

    Returns:
        Whether anything differs from the file.
    """
    cls = settings.get("tokenizer_class")
    name, changed = _kind(cls, "" if cls else kind).lower(), False
    if name in KINDS and KINDS[name].files == WORDPIECE:
        for part in _parts(tokenizer.normalizer):
            if isinstance(part, normalizers.BertNormalizer):
                changed |= _set(part, **_bert_settings(settings))
    elif name in _PREFIXED:
        prefixed = bool(settings.get("add_prefix_space", _PREFIXED[name]))
        for part in _parts(tokenizer.pre_tokenizer):
            if isinstance(part, pre_tokenizers.ByteLevel):
                changed |= _set(part, add_prefix_space=prefixed)
            elif isinstance(part, pre_tokenizers.Metaspace):
                changed |= _set(part, prepend_scheme="always" if prefixed else "never")
    return changed


def _bert_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """BERT's settings, as arguments of its normaliser."""
    return {
        "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": bool(settings.get("do_lower_case", True)),
    }


def _parts(whole: Any) -> Iterator[Any]:
    """The normalisers or splitters of a sequence, at any depth."""
    if isinstance(whole, (normalizers.Sequence, pre_tokenizers.Sequence)):
        for part in whole:
            yield from _parts(part)
    elif whole is not None:
        yield whole


def _set(part: Any, **values: Any) -> bool:
    differs = {name: value for name, value in values.items() if getattr(part, name) != value}
    for name, value in differs.items():
        setattr(part, name, value)
    return bool(differs)


def _kind(cls: Any, model_type: str) -> str:
    """``XLMRobertaTokenizerFast`` → ``xlm-roberta``; without a class, or with a general one, the ``model_type``."""
    plain = re.sub(r"Tokenizer(Fast)?$", "", str(cls or ""))
    if plain in ("", "PreTrained", "PreTrainedTokenizerFast", "TokenizersBackend"):
        return model_type
    by_class = {name.replace("-", ""): name for name in KINDS}
    return by_class.get(plain.lower(), plain)


def _token(raw: Any, default: str) -> AddedToken:
    """A special token from its description in ``tokenizer_config.json``."""
    if isinstance(raw, Mapping):
        flags = {name: bool(raw[name]) for name in ("lstrip", "rstrip", "single_word", "normalized") if name in raw}
        return AddedToken(str(raw["content"]), **{"normalized": False, **flags}, special=True)
    return AddedToken(str(raw or default), normalized=False, special=True)


def _wordpiece(paths: tuple[Path, ...], kind: str, special: Mapping[str, AddedToken], settings: Mapping) -> Tokenizer:
    model = models.WordPiece.from_file(str(paths[0]), unk_token=special["unk"].content)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **_bert_settings(settings))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _bpe(paths: tuple[Path, ...], kind: str, special: Mapping[str, AddedToken], settings: Mapping) -> Tokenizer:
    model = models.BPE.from_file(str(paths[0]), str(paths[1]), continuing_subword_prefix="", end_of_word_suffix="")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space", False)))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigram(paths: tuple[Path, ...], kind: str, special: Mapping[str, AddedToken], settings: Mapping) -> Tokenizer:
    """Ids are fairseq's, not SentencePiece's: special tokens come before the pieces, the mask after them."""
    read, pieces = _pieces(paths[0], kind)
    pad, unk, mask = (special[name].content for name in ("pad", "unk", "mask"))
    if kind == "camembert":
        first = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unk, 0.0), ("<unk>NOTUSED", -100.0)]
        vocabulary = [*first, *pieces[1:], (mask, 0.0)]
    else:
        first = [(special["cls"].content, 0.0), (pad, 0.0), (special["sep"].content, 0.0), (unk, 0.0)]
        vocabulary = [*first, *pieces[3:], (mask, 0.0)]
    return _over(read, vocabulary, 3, "always" if settings.get("add_prefix_space", True) else "never")


def _sentinels(paths: tuple[Path, ...], kind: str, special: Mapping[str, AddedToken], settings: Mapping) -> Tokenizer:
    """SentencePiece's ids; the sentinels come after the pieces."""
    read, pieces = _pieces(paths[0], kind)
    sentinels = [(token.content, 0.0) for name, token in special.items() if name.startswith("extra_id_")]
    unknown = [i for i, (text, _) in enumerate(pieces) if text == special["unk"].content]
    if not unknown:
        raise TransferlabError(f"{paths[0]} lacks the unknown token '{special['unk'].content}'.")
    return _over(read, [*pieces, *sentinels], unknown[0], "always")


def _pieces(path: Path, kind: str) -> tuple[SentencePieceModel, list[tuple[str, float]]]:
    read = read_sentencepiece(path)
    if not read.unigram or read.byte_fallback:
        raise TransferlabError(
            f"{path}: expected a unigram model without bytes, as '{kind}' has. Use the model's tokenizer.json instead."
        )
    return read, [(piece.text, piece.score) for piece in read.pieces]


def _over(read: SentencePieceModel, vocabulary: list[tuple[str, float]], unknown: int, scheme: Scheme) -> Tokenizer:
    """The tokenizer of these entries: the model's normalisation, then words with ``▁`` before them."""
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown, byte_fallback=False))
    if read.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(read.charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return tokenizer


_MAKERS = {WORDPIECE: _wordpiece, BPE: _bpe, UNIGRAM: _unigram, SENTINELS: _sentinels}


def _frame(tokenizer: Tokenizer, kind: str, special: Mapping[str, AddedToken], prefix_space: bool) -> None:
    """Put the special tokens around a text, and between two."""
    if kind == "gpt2":
        return
    ids = {}
    for name in ("eos",) if kind in ("t5", "mt5") else ("cls", "sep"):
        id = tokenizer.token_to_id(special[name].content)
        if id is None:
            raise TransferlabError(f"The vocabulary lacks the {name} token '{special[name].content}'.")
        ids[name] = (special[name].content, id)
    if "eos" in ids:
        end = ids["eos"][0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[ids["eos"]]
        )
    elif kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(ids["sep"], ids["cls"], True, prefix_space)
    elif kind in ("bert", "distilbert"):
        tokenizer.post_processor = processors.BertProcessing(ids["sep"], ids["cls"])
    else:
        tokenizer.post_processor = processors.RobertaProcessing(ids["sep"], ids["cls"], True, False)
