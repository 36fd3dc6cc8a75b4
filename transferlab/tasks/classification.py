"""Single-label classification: cross-entropy over the head's logits, accuracy and balanced accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class Classification:
    """Single-label classification.

    Example:
        >>> tl.tasks.Classification(0.1).loss(jnp.zeros((2, 3)), jnp.array([0, 2]), jnp.ones(2))  # log 3

    Attributes:
        label_smoothing: probability moved from the true class to all classes evenly (Szegedy et al. 2016, section 7).
    """

    label_smoothing: float = 0.0

    def loss(
        self,
        logits: Float[Array, "batch labels"],
        labels: Int[Array, " batch"],
        weight: Float[Array, " batch"],
    ) -> Float[Array, ""]:
        """Mean cross-entropy in nats, weighted; padding rows have weight 0."""
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
        """Weighted fraction of the rows whose largest logit is the label's: accuracy in [0, 1]."""
        hit = (logits.argmax(-1) == labels).astype(jnp.float32)
        return (hit * weight).sum() / jnp.maximum(weight.sum(), 1.0)
