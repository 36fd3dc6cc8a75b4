"""Tokens named next to a vocabulary: in ``added_tokens.json``, ``special_tokens_map.json`` and ``tokenizer_config.json``.

transformers adds them when it loads a tokenizer, whichever file the vocabulary is in; new ones get the next free ids. The
rules are those of transformers 5 (``PreTrainedTokenizerBase._from_pretrained`` and ``TokenizersBackend.__init__``).
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
    """Return ``tokenizer_config.json``, overridden by ``special_tokens_map.json`` where it lists no added tokens."""
    settings = _object(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        return settings
    overrides = _object(directory / "special_tokens_map.json")
    if isinstance(extra := overrides.get("extra_special_tokens"), list):
        overrides["extra_special_tokens"] = [*_each(settings.get("extra_special_tokens")), *extra]
    return {**settings, **overrides}


def add_tokens(
    tokenizer: Tokenizer, directory: Path, settings: Mapping[str, Any], defaults: Iterable[AddedToken] = ()
) -> bool:
    """Add every token that the directory names to the tokenizer, each matched as a whole in a text.

    Args:
        tokenizer: changed in place.
        directory: with ``added_tokens.json``, where there is one.
        settings: as :func:`read_settings` returns them.
        defaults: special tokens of transformers' class, for those that the settings do not name. Those that the vocabulary
            lacks are not added: no row was trained for them.

    Returns:
        Whether the tokenizer changed.

    Raises:
        TransferlabError: a token that cannot have the id that the files give it; it is named.
    """
    if settings.get("split_special_tokens"):
        file = directory / "tokenizer_config.json"
        raise TransferlabError(f"{file}: split_special_tokens is true; only false, the default, is supported.")
    present = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    listed, file = _listed(directory, settings)
    if len(listed) > limits.ADDED_TOKENS:
        raise TransferlabError(
            f"{file}: {len(listed):,} tokens are added; at most {limits.ADDED_TOKENS:,} are read. To read them anyway:\n"
            f"  >>> transferlab.limits.ADDED_TOKENS = {len(listed)}"
        )
    named = [_added(value, True, directory) for value in _named(settings)]
    known = [token for token in defaults if tokenizer.token_to_id(token.content) is not None]
    special = {token.content for token in named}
    new: dict[str, AddedToken] = {}
    for _, token in sorted(listed.items()):
        if token.content not in present or _flags(token) != _flags(present[token.content]):
            token.special |= token.content in special
            new.setdefault(token.content, token)
    for token in (*named, *known):
        if token.content not in present:
            new.setdefault(token.content, token)
    tokenizer.add_tokens(list(new.values()))
    for id, token in listed.items():
        if (got := tokenizer.token_to_id(token.content)) != id:
            raise TransferlabError(
                f"{file}: the added token '{token.content}' should have id {id}, but gets {got} from the vocabulary of "
                f"{tokenizer.get_vocab_size()} entries. Save the tokenizer again with transformers, or correct the id there."
            )
    return bool(new)


def _object(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _listed(directory: Path, settings: Mapping[str, Any]) -> tuple[dict[int, AddedToken], Path]:
    """Tokens that are listed with their ids, and the file that lists them."""
    if "added_tokens_decoder" in settings:
        table = settings["added_tokens_decoder"] or {}
        path = directory / "tokenizer_config.json"
        return {int(id): _added(token, False, directory) for id, token in table.items()}, path
    path = directory / "added_tokens.json"
    # In this older file, a token is special if the settings name it as one.
    special = {_content(value) for value in _named(settings)}
    return {int(id): _added(text, text in special, directory) for text, id in _object(path).items()}, path


def _named(settings: Mapping[str, Any]) -> Iterator[Any]:
    """Every special token that the settings name: the usual seven, a model's own, and the unnamed extra ones."""
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
    """A token from its description in a file: a string, or a string and its flags."""
    content = _content(value)
    if not isinstance(content, str):
        raise TransferlabError(f"{directory}: expected a token; got {str(value)[:80]!r}.")
    flags = {name: bool(value[name]) for name in _FLAGS if name in value} if isinstance(value, Mapping) else {}
    special = flags.pop("special", False) or special
    return AddedToken(content, **{"normalized": not special, **flags}, special=special)


def _flags(token: AddedToken) -> tuple[bool, ...]:
    return tuple(getattr(token, name) for name in _FLAGS)
