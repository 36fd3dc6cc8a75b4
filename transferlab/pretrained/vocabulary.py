"""Token tables for another tokenizer: rows of tokens that both have are copied by token, the others made by a named rule."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer

from transferlab import limits
from transferlab.errors import TransferlabError, nearest
from transferlab.pretrained.positions import Resize

NEW_ROWS: dict[str, str] = {
    "mean": "the mean of all old rows (Hewitt 2021): a new token is as likely as the old ones are on average",
    "normal": "drawn around that mean with 1e-9 of the old covariance, as Hugging Face's resize_token_embeddings does",
    "pieces": "the mean of the rows of the old tokenizer's pieces of the new token; the mean of all where it has none",
}
"""Rule for new rows → what it does."""


@dataclass(frozen=True)
class TokenMap:
    """Where each row of a new vocabulary comes from.

    Attributes:
        kept: (new,), for each new row the old row of the same token; -1 where there is none.
        pieces: for each new row without an old one, the old rows of its pieces; empty where there are none.
        tokens: (new,), for each new row whether a token has it: ids may have gaps.
    """

    kept: Int[np.ndarray, " new"]
    pieces: dict[int, tuple[int, ...]]
    tokens: np.ndarray


def token_map(old: Tokenizer, new: Tokenizer, rows: int, new_rows: str) -> TokenMap:
    """Match two vocabularies by token string.

    Args:
        old: the tokenizer of the table.
        new: the one to read text by.
        rows: of the old table; it may have more than its tokenizer has tokens (T5 pads its own) or fewer.
        new_rows: a key of :data:`NEW_ROWS`; pieces are computed only for ``pieces``.

    Raises:
        TransferlabError: the rule is unknown, or an id is larger than any model's.
    """
    if new_rows not in NEW_ROWS:
        raise TransferlabError(f"new_rows='{new_rows}' is unknown.{nearest(new_rows, NEW_ROWS)}")
    before = {token: i for token, i in old.get_vocab().items() if i < rows}
    after = new.get_vocab()
    if (last := max(after.values())) > limits.PIECES:
        raise TransferlabError(
            f"The new tokenizer has a token with id {last}, above transferlab.limits.PIECES = {limits.PIECES:,}."
        )
    kept = np.full(last + 1, -1)
    tokens = np.zeros(len(kept), bool)
    for token, i in after.items():
        kept[i], tokens[i] = before.get(token, -1), True
    pieces = {}
    if new_rows == "pieces":
        unknown = _unknown(old)
        for token, i in after.items():
            if kept[i] < 0:
                ids = old.encode(surface(token, new), add_special_tokens=False).ids
                pieces[i] = tuple(p for p in ids if p < rows and p not in unknown)
    return TokenMap(kept, pieces, tokens)


def vocabulary_resize(shape: tuple[int, ...], axis: int, tokens: TokenMap, new_rows: str) -> Resize | None:
    """Return the resize of a leaf whose ``axis`` is the vocabulary; None if no row moves."""
    old, new = shape[axis], len(tokens.kept)
    if old == new and (tokens.kept == np.arange(old)).all():
        return None
    kept = int((tokens.kept >= 0).sum())
    fresh, holes = int(((tokens.kept < 0) & tokens.tokens).sum()), int((~tokens.tokens).sum())
    summary = f"{old} to {new} tokens: {kept} kept by name, {fresh} new by {new_rows}, {old - kept} dropped"
    if new_rows == "pieces":
        alone = sum(not p for p in tokens.pieces.values())
        summary += f" ({alone} of the new without pieces: the mean)" if alone else ""
    summary += f", {holes} rows that no token has" if holes else ""

    def apply(leaf: np.ndarray) -> np.ndarray:
        table = np.moveaxis(leaf, axis, 0)
        rows = resized_table(table.reshape(old, -1), tokens, new_rows).reshape(new, *table.shape[1:])
        return np.moveaxis(rows, 0, axis)

    return Resize(summary, (*shape[:axis], new, *shape[axis + 1 :]), apply)


def resized_table(
    table: Float[np.ndarray, "old features"], tokens: TokenMap, new_rows: str
) -> Float[np.ndarray, "new features"]:
    """Return the table of the new vocabulary. Random rows are the same at every read."""
    fresh = np.flatnonzero(tokens.kept < 0)
    new = np.empty((len(tokens.kept), table.shape[1]), table.dtype)
    new[tokens.kept >= 0] = table[tokens.kept[tokens.kept >= 0]]
    if not len(fresh):
        return new
    wide = table.astype(np.float64)
    mean = wide.mean(0)
    if new_rows == "normal":
        new[fresh] = mean + _like(wide - mean, len(fresh))
    else:
        new[fresh] = mean
    for i, ids in tokens.pieces.items():
        if ids:
            new[i] = wide[list(ids)].mean(0)
    return new


def surface(token: str, tokenizer: Tokenizer) -> str:
    """Return the text of a token: of ``Ġfilm``, ``▁film`` and ``film`` it is ``film``, of ``##ing`` it is ``ing``."""
    text = tokenizer.decode([tokenizer.token_to_id(token) or 0], skip_special_tokens=False)
    return unicodedata.normalize("NFC", text.removeprefix("##")).strip()


def with_tokens(tokenizer: Tokenizer, add: Sequence[str]) -> Tokenizer:
    """Return a copy of the tokenizer that keeps each of these strings in one token, with new ids at the end.

    Raises:
        TransferlabError: one of them is a token already, or is no text.
    """
    known = tokenizer.get_vocab()
    if isinstance(add, str):
        raise TransferlabError(f"add is {add!r}; it must be a list of texts, as with_tokenizer(add=[{add!r}]).")
    if wrong := [token for token in add if not isinstance(token, str) or not token.strip()]:
        raise TransferlabError(f"add holds {wrong[0]!r}; each token must be a text that is not empty.")
    for token in add:
        if token in known:
            raise TransferlabError(
                f"'{token}' is a token of this tokenizer already (id {known[token]}). Omit it from add."
            )
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_tokens(list(dict.fromkeys(add)))
    return copy


def _like(centred: np.ndarray, count: int) -> np.ndarray:
    """Draw rows with 1e-9 of the covariance of these rows: they differ, but stay at the mean."""
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    noise = np.random.default_rng(0).normal(size=(count, len(values)))
    return noise * np.sqrt(1e-9 * values.clip(0)) @ vectors.T


def _unknown(tokenizer: Tokenizer) -> set[int]:
    """Ids of the unknown token."""
    ids = {tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>", "<|unk|>")}
    name = getattr(tokenizer.model, "unk_token", None)
    ids |= {tokenizer.token_to_id(name)} if name else set()
    return {i for i in ids if i is not None}
