"""``tokenizer.json``, read within limits: rules that would lengthen a text too much are refused before any text is read."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers

from transferlab import limits
from transferlab.errors import TransferlabError
from transferlab.reading import check_file, reading


def read_tokenizer_json(path: Path) -> Tokenizer:
    """Read the file.

    Raises:
        TransferlabError: not a tokenizer, a file larger than :data:`transferlab.limits.VOCABULARY_BYTES`, or rules that can
            make a text more than :data:`transferlab.limits.TEXT_GROWTH` times as long.
    """
    check_file(path, limits.VOCABULARY_BYTES)
    with reading(path, "not a readable tokenizer"):
        tokenizer = Tokenizer.from_file(str(path))
    check_growth(tokenizer, path)
    return tokenizer


def check_growth(tokenizer: Tokenizer, path: Path) -> None:
    """Refuse a tokenizer whose rules, one after another, can lengthen a text (or a decoded one) too much."""
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        with reading(path, name):
            part = getattr(tokenizer, name)
            growth = 1.0
            for rule in _rules(json.loads(part.__getstate__()) if part is not None else None):
                growth *= max(1.0, _growth(rule))
        if growth > limits.TEXT_GROWTH:
            raise TransferlabError(
                f"{path}: the rules of its {name} can make a text {growth:,.0f} times as long; {limits.TEXT_GROWTH} times is "
                "the most (transferlab.limits)."
            )


def _rules(part: Any) -> Iterator[dict[str, Any]]:
    """The rules of a sequence, in order."""
    if isinstance(part, dict) and part.get("type") == "Sequence":
        for inner in next((value for value in part.values() if isinstance(value, list)), ()):
            yield from _rules(inner)
    elif isinstance(part, dict):
        yield part


def _growth(rule: dict[str, Any]) -> float:
    """The factor by which a rule can lengthen a text."""
    kind = rule.get("type")
    if kind == "ByteLevel":
        return 2.0
    if kind == "Prepend":
        return float(len(rule.get("prepend", "")))
    if kind == "Precompiled":
        charsmap = base64.b64decode(rule.get("precompiled_charsmap") or "")
        return float(max(map(len, charsmap[4 + int.from_bytes(charsmap[:4], "little") :].split(b"\0")), default=1))
    if kind != "Replace":
        return 1.0
    content, pattern = float(len(rule.get("content", ""))), rule.get("pattern", {})
    if (plain := pattern.get("String")) is not None:
        return content / len(plain) if plain else 1.0 + content
    return 1.0 + content if _matches_nothing(str(pattern.get("Regex", ""))) else content


def _matches_nothing(pattern: str) -> bool:
    """Whether a regular expression can match between two characters, and so inserts into a text instead of replacing."""
    if re.search(r"\(\?[<=!]|\\[bBAzZGK]|[$]|(?<!\[)\^", pattern):
        return True  # it depends on its context, so that no single text can tell
    return len(normalizers.Replace(Regex(pattern), "x").normalize_str("\ue000")) > 1
