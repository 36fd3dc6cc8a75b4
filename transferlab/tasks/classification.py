"""Single-label classification: cross-entropy over the head's logits, accuracy and balanced accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class Classification:
    """What is optimised and scored.

    Attributes:
        label_smoothing: mass moved from the true class to all classes evenly (Szegedy et al. 2016).
    """

    label_smoothing: float = 0.0

    def loss(
        self,
        logits: Float[Array, "batch labels"],
        labels: Int[Array, " batch"],
        weight: Float[Array, " batch"],
    ) -> Float[Array, ""]:
        """Mean cross-entropy (nats) over the rows whose weight is not zero; padding rows weigh nothing."""
        logp = jax.nn.log_softmax(logits.astype(jnp.float32))
        true = jnp.take_along_axis(logp, labels[:, None], axis=1)[:, 0]
        mixed = (1.0 - self.label_smoothing) * true + self.label_smoothing * logp.mean(-1)
        return -(mixed * weight).sum() / jnp.maximum(weight.sum(), 1.0)

    def correct(
        self,
        logits: Float[Array, "batch labels"],
        labels: Int[Array, " batch"],
        weight: Float[Array, " batch"],
    ) -> Float[Array, ""]:
        """Share of weighted rows whose largest logit is the label's."""
        hit = (logits.argmax(-1) == labels).astype(jnp.float32)
        return (hit * weight).sum() / jnp.maximum(weight.sum(), 1.0)
