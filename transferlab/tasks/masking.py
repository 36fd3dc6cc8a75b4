"""Which tokens a masked language model predicts, and what it sees in their places, drawn on the device."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

MASKED, RANDOM = 0.8, 0.1
"""Of the selected tokens, these fractions become the mask token and a random one; the others stay (Devlin et al. 2019, A.1)."""


class Masking(NamedTuple):
    """A batch with hidden tokens.

    Attributes:
        ids: what the model sees, (batch, length).
        labels: the tokens that it predicts, -1 where there are fewer than ``positions``.
        selected: where those are, -1 likewise.
    """

    ids: Int[Array, "batch length"]
    labels: Int[Array, "batch positions"]
    selected: Int[Array, "batch positions"]


def masked(
    ids: Int[Array, "batch length"],
    units: Int[Array, "batch length"],
    keys: Key[Array, " batch"],
    *,
    rate: float,
    mask_id: Int[Array, " batch"],
    vocabulary: Int[Array, " batch"],
) -> Masking:
    """Select ``max(1, round(rate · tokens))`` tokens of each row and hide them; of a row without text none.

    No unit is cut in two, so that they may be fewer; one that is longer than that number is passed over, as in BERT's
    ``create_pretraining_data.py``. Where all are longer, so many tokens of one are selected.

    What is drawn for a token depends on its row's key and on its number in the row's text, not on the padding.

    Args:
        ids: of all tokens.
        units: the number, in its row's text, of the token, or of the word, that is selected as one; -1 where there is no text.
        keys: of each row.
        rate: fraction of the tokens to select.
        mask_id: the mask token.
        vocabulary: how many tokens a random one is drawn from.
    """
    length = ids.shape[1]
    positions = min(length, math.ceil(rate * length))
    text = units >= 0
    tokens = text.sum(1)
    wanted = jnp.where(tokens > 0, jnp.maximum(1, jnp.floor(rate * tokens + 0.5)), 0).astype(jnp.int32)
    # Units that are too long come after all that are not, and what is no text comes last.
    later = jnp.where(_sizes(units) > wanted[:, None], jnp.uint32(2**31), jnp.uint32(0))
    order = jnp.where(text, (_bits(keys, 0, units) >> 2) + later, jnp.uint32(2**32 - 1))
    places = jnp.argsort(order, axis=1)
    wanted = _whole_units(jnp.take_along_axis(units, places, axis=1), wanted, positions)
    rank = jnp.argsort(places, axis=1)
    number = jnp.cumsum(text, axis=1)
    kind = _bits(keys, 1, number).astype(jnp.float32) / 2.0**32
    other = (_bits(keys, 2, number) % vocabulary[:, None].astype(jnp.uint32)).astype(ids.dtype)
    seen = jnp.where(kind < MASKED, mask_id[:, None].astype(ids.dtype), jnp.where(kind < MASKED + RANDOM, other, ids))
    kept = jnp.arange(positions) < wanted[:, None]
    selected = jnp.where(kept, places[:, :positions], -1)
    labels = jnp.where(kept, jnp.take_along_axis(ids, places[:, :positions], axis=1), -1)
    return Masking(jnp.where(rank < wanted[:, None], seen, ids), labels, selected)


def _whole_units(
    units: Int[Array, "batch length"], wanted: Int[Array, " batch"], positions: int
) -> Int[Array, " batch"]:
    """The largest number of tokens up to ``wanted`` that cuts no unit in two; ``wanted`` where the first is longer."""
    after = jnp.pad(units, ((0, 0), (0, 1)), constant_values=-1)[:, 1 : positions + 1]
    count = jnp.arange(1, positions + 1)
    ends = (units[:, :positions] != after) & (units[:, :positions] >= 0)
    below = jnp.where(ends & (count <= wanted[:, None]), count, 0).max(1)
    return jnp.where(below > 0, below, wanted)


def _sizes(units: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """How many tokens the unit of each token has; of what is no text, any number."""

    def sizes(row: Array) -> Array:
        return jax.ops.segment_sum(jnp.ones_like(row), row, num_segments=len(row))[row]

    return jax.vmap(sizes)(units)


def _bits(keys: Key[Array, " batch"], purpose: int, numbers: Int[Array, "batch length"]) -> Array:
    """32 random bits for each number of each row."""

    def one(key: Array, number: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(key, number.astype(jnp.uint32)))

    return jax.vmap(lambda key, row: jax.vmap(lambda n: one(jax.random.fold_in(key, purpose), n))(row))(keys, numbers)
