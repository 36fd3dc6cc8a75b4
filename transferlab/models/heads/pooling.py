"""From hidden states to one vector per example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from transferlab.models.backbone import Carry, last_token

if TYPE_CHECKING:
    from transferlab.models.backbone import Model

Pooling = Literal["mean", "first", "last", "first and mean", "pooler", "embedding", "stages", "weighted stages"]


def pool(model: Model, carry: Carry, pooling: Pooling) -> Float[Array, "batch features"]:
    """Pool a carry: ``first`` token, ``last``, the family's ``mean``, first and mean concatenated, or what a stage pooled."""
    if pooling == "pooler":
        return carry["pooled"]
    if pooling == "embedding":
        return carry["embedding"]
    if pooling == "first":
        return read_hidden(carry)[:, 0]
    if pooling == "last":
        return jnp.take_along_axis(carry["hidden"], last_token(carry["mask"])[:, None, None], axis=1)[:, 0]
    if pooling == "first and mean":
        return jnp.concatenate([read_hidden(carry)[:, 0], model.pool_hidden(carry)], axis=-1)
    return model.pool_hidden(carry)


def read_hidden(carry: Carry) -> Float[Array, "batch length features"]:
    """The hidden states to pool: ``normal`` where a family keeps them apart from what its reference model returns."""
    return carry.get("normal", carry["hidden"])


def unit_length(x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
    """Scale each row to Euclidean length 1; a row of zeros stays."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
