"""Scores of predicted tokens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def language_scores(
    log_likelihood: Float[np.ndarray, " tokens"], correct: Float[np.ndarray, " tokens"], utf8_bytes: int | None = None
) -> dict[str, float]:
    """Return perplexity, cross-entropy and accuracy, pooled over all tokens, and bits per byte where bytes are given.

    Without tokens all of them are NaN.

    Args:
        log_likelihood: of each token, in nats.
        correct: 1 where the likeliest token was the right one.
        utf8_bytes: of the texts whose tokens these are.
    """
    entropy = float(-log_likelihood.astype(np.float64).mean()) if len(log_likelihood) else np.nan
    scores = {
        "perplexity": perplexity(entropy),
        "cross_entropy": entropy,
        "accuracy": float(correct.mean()) if len(correct) else np.nan,
    }
    if utf8_bytes is None:
        return scores
    bits = entropy * len(log_likelihood) / np.log(2)
    return {**scores, "bits_per_byte": float(bits / utf8_bytes) if utf8_bytes else np.nan}


def perplexity(cross_entropy: float) -> float:
    """Return e to the cross-entropy in nats per token; infinity where it is too large for a number."""
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(cross_entropy)))
