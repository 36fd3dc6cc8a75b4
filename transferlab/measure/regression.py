"""Scores of predicted numbers."""

from __future__ import annotations

import numpy as np
import scipy  # Its submodules load on use, which saves half a second at the start.
from jaxtyping import Float


def regression_scores(
    predicted: Float[np.ndarray, "examples targets"], true: Float[np.ndarray, "examples targets"]
) -> dict[str, float]:
    """Return root mean squared and mean absolute error, R², and Pearson's and Spearman's correlation.

    Each is the mean over the targets. A correlation with a constant is not defined: NaN.
    """
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    error = predicted - true
    spread = ((true - true.mean(0)) ** 2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 0, 1 - (error**2).sum(0) / spread, np.nan)
    pairs = list(zip(predicted.T, true.T, strict=True))
    defined = [(p, t) for p, t in pairs if len(p) > 1 and np.ptp(p) > 0 and np.ptp(t) > 0]
    whole = len(defined) == len(pairs)
    return {
        "rmse": float(np.sqrt((error**2).mean(0)).mean()),
        "mae": float(np.abs(error).mean()),
        "r2": float(r2.mean()),
        "pearson": float(np.mean([np.corrcoef(p, t)[0, 1] for p, t in defined])) if whole else np.nan,
        "spearman": float(
            np.mean([np.corrcoef(scipy.stats.rankdata(p), scipy.stats.rankdata(t))[0, 1] for p, t in defined])
        )
        if whole
        else np.nan,
    }
