"""Likelihoods of tokens without the logits of all of them: a few rows at a time, computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transferlab.models.backbone import Carry

LOGITS = 1 << 23
"""How many logits exist at once: 32 MiB in float32. A batch of 32 × 128 tokens has 125 million of them in BERT's vocabulary."""

Finish = Callable[[Float[Array, "tokens vocabulary"]], Float[Array, "tokens vocabulary"]]
"""What follows the product with the kernel: a bias, a soft cap."""


def token_likelihoods(
    hidden: Float[Array, "batch positions features"],
    labels: Int[Array, "batch positions"],
    kernel: Float[Array, "features vocabulary"],
    finish: Finish = lambda logits: logits,
) -> tuple[Float[Array, "batch positions"], Float[Array, "batch positions"]]:
    """Return (log-likelihood of each label in nats, 1 where it is the likeliest token), both 0 where a label is -1.

    Memory depends neither on the batch nor on its length: at most :data:`LOGITS` logits exist at once, in the forward and in the
    backward pass. The gradient of the kernel is summed in float32.
    """
    batch, positions, features = hidden.shape
    wide, tokens = kernel.astype(jnp.float32), batch * positions

    def part(rows: tuple[Array, Array]) -> tuple[Array, Array]:
        x, own = rows
        logits = finish(x @ wide.astype(x.dtype)).astype(jnp.float32)
        # Not a gather, whose gradient would be scattered into zeros as large as the logits.
        at = jnp.where(jnp.arange(logits.shape[1]) == own[:, None], logits, 0.0).sum(-1)
        likelihood = jnp.where(own >= 0, at - jax.nn.logsumexp(logits, axis=-1), 0.0)
        return likelihood, (logits.argmax(-1) == own).astype(jnp.float32)

    flat = hidden.reshape(tokens, features), labels.reshape(tokens)
    parts = -(-tokens // max(1, LOGITS // kernel.shape[1]))
    if parts <= 1:
        out = part(flat)
    else:
        size = -(-tokens // parts)
        x = jnp.pad(flat[0], ((0, parts * size - tokens), (0, 0))).reshape(parts, size, features)
        own = jnp.pad(flat[1], (0, parts * size - tokens), constant_values=-1).reshape(parts, size)
        out = tuple(values.reshape(-1)[:tokens] for values in jax.lax.map(jax.checkpoint(part), (x, own)))
    return out[0].reshape(batch, positions), out[1].reshape(batch, positions)


def selected_hidden(carry: Carry) -> Float[Array, "batch positions features"]:
    """The hidden states at the carry's ``selected`` positions, of which those that are -1 select nothing; all without it."""
    if "selected" not in carry:
        return carry["hidden"]
    return jnp.take_along_axis(carry["hidden"], jnp.maximum(carry["selected"], 0)[..., None], axis=1)
