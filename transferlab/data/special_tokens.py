"""What a language model needs to know of a tokenizer: which tokens are no text, which one masks, which begin a word."""

from __future__ import annotations

import json

import numpy as np
from jaxtyping import Bool
from tokenizers import Tokenizer

MASKS = ("[MASK]", "<mask>")
"""What families call the token that stands for one to be predicted."""


def special_ids(tokenizer: Tokenizer, pad_id: int) -> frozenset[int]:
    """Return the ids of tokens that are no text: padding, unknown, what the template adds, and those that are marked special."""
    marked = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    unknown = getattr(tokenizer.model, "unk_token", None)
    ids = {tokenizer.token_to_id(name) for name in (unknown, *MASKS) if name is not None}
    return frozenset(id for id in {pad_id, *marked, *tokenizer.encode("").ids, *ids} if id is not None)


def mask_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of the mask token; None where the tokenizer has none."""
    return next((id for name in MASKS if (id := tokenizer.token_to_id(name)) is not None), None)


def continues_word(tokenizer: Tokenizer) -> Bool[np.ndarray, " vocabulary"]:
    """Return of each token whether it continues a word: ``##ing`` of WordPiece; elsewhere one without a space (Ġ, ▁) in front."""
    tokens = [tokenizer.id_to_token(id) or "" for id in range(tokenizer.get_vocab_size())]
    prefix = json.loads(tokenizer.to_str())["model"].get("continuing_subword_prefix")
    if prefix or not any(token.startswith(_SPACES) for token in tokens):
        return np.array([bool(prefix) and token.startswith(prefix) for token in tokens])
    return np.array([not token.startswith(_SPACES) for token in tokens])


_SPACES = ("Ġ", "▁")
