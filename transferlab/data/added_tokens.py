"""Tokens that a directory names next to its vocabulary: ``added_tokens.json``, ``special_tokens_map.json`` and those of the settings.

The reference implementation adds them when it loads a tokenizer, whichever file the vocabulary is in; what is new gets the next free ids. Its rules
are those of transformers 5 (``PreTrainedTokenizerBase._from_pretrained`` and ``TokenizersBackend.__init__``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from transferlab import limits
from transferlab.errors import TransferlabError
from transferlab.reading import read_object

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Settings that name one special token each, in the order in which new ones get their ids."""

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def read_settings(directory: Path) -> dict[str, Any]:
    """Return ``tokenizer_config.json``, with ``special_tokens_map.json`` over it where the former lists no added tokens."""
    settings = _object(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        return settings
    over = _object(directory / "special_tokens_map.json")
    if isinstance(extra := over.get("extra_special_tokens"), list):
        over["extra_special_tokens"] = [*_each(settings.get("extra_special_tokens")), *extra]
    return {**settings, **over}


def add_tokens(
    tokenizer: Tokenizer, directory: Path, settings: Mapping[str, Any], defaults: Iterable[AddedToken] = ()
) -> bool:
    """Give the tokenizer every token that the directory names, each found whole in a text.

    Args:
        tokenizer: changed in place.
        directory: with ``added_tokens.json``, where there is one.
        settings: as :func:`read_settings` gives them.
        defaults: special tokens of the reference implementation's class, for those that the settings do not name. What the vocabulary lacks
            of them is not added: no row was trained for it.

    Returns:
        Whether the tokenizer is another now.

    Raises:
        TransferlabError: a token that the files give an id which it cannot have here; it is named.
    """
    if settings.get("split_special_tokens"):
        file = directory / "tokenizer_config.json"
        raise TransferlabError(
            f"{file}: split_special_tokens is true; only false, as nearly all have it, is supported."
        )
    there = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    listed, file = _listed(directory, settings)
    if len(listed) > limits.ADDED_TOKENS:
        raise TransferlabError(
            f"{file}: {len(listed):,} tokens are added; {limits.ADDED_TOKENS:,} are the most (transferlab.limits)."
        )
    named = [_added(value, True, directory) for value in _named(settings)]
    known = [token for token in defaults if tokenizer.token_to_id(token.content) is not None]
    special = {token.content for token in named}
    wanted: dict[str, AddedToken] = {}
    for _, token in sorted(listed.items()):
        if token.content not in there or _flags(token) != _flags(there[token.content]):
            token.special |= token.content in special
            wanted.setdefault(token.content, token)
    for token in (*named, *known):
        if token.content not in there:
            wanted.setdefault(token.content, token)
    tokenizer.add_tokens(list(wanted.values()))
    for id, token in listed.items():
        if (got := tokenizer.token_to_id(token.content)) != id:
            raise TransferlabError(
                f"{file}: the added token '{token.content}' should have id {id}, but gets {got} from the vocabulary of "
                f"{tokenizer.get_vocab_size()} entries. Save the tokenizer again with the reference implementation, or correct the id there."
            )
    return bool(wanted)


def _object(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _listed(directory: Path, settings: Mapping[str, Any]) -> tuple[dict[int, AddedToken], Path]:
    """Tokens that are listed with their ids, and the file that lists them."""
    if "added_tokens_decoder" in settings:
        table = settings["added_tokens_decoder"] or {}
        path = directory / "tokenizer_config.json"
        return {int(id): _added(token, False, directory) for id, token in table.items()}, path
    path = directory / "added_tokens.json"
    # Before there were settings for it, a token was special if the special tokens named it.
    special = {_content(value) for value in _named(settings)}
    return {int(id): _added(text, text in special, directory) for text, id in _object(path).items()}, path


def _named(settings: Mapping[str, Any]) -> Iterator[Any]:
    """Every special token that the settings name: the usual seven, a model's own, and the nameless ones."""
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    own = [value for key, value in settings.items() if key.endswith("_token") and key not in NAMED]
    if isinstance(extra, Mapping) and "content" not in extra:
        own, extra = [*own, *extra.values()], None
    for value in (*(settings.get(key) for key in NAMED), *own, *_each(extra)):
        # ``add_bos_token`` and the like are switches.
        if value is not None and not isinstance(value, bool):
            yield value


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _content(value: Any) -> Any:
    return value.get("content") if isinstance(value, Mapping) else value


def _added(value: Any, special: bool, directory: Path) -> AddedToken:
    """A token as a file describes it: a text, or a text and its flags."""
    content = _content(value)
    if not isinstance(content, str):
        raise TransferlabError(f"{directory}: {str(value)[:80]!r} is given where a token is expected.")
    given = {name: bool(value[name]) for name in _FLAGS if name in value} if isinstance(value, Mapping) else {}
    special = given.pop("special", False) or special
    return AddedToken(content, **{"normalized": not special, **given}, special=special)


def _flags(token: AddedToken) -> tuple[bool, ...]:
    return tuple(getattr(token, name) for name in _FLAGS)
