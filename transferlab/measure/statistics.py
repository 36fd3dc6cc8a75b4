"""Intervals and paired tests for a few seeds and one test set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # Its submodules load on use, which saves half a second at the start.
from jaxtyping import Bool, Num


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval (low, high) of a mean; (NaN, NaN) for fewer than two values.

    Example:
        >>> low, high = tl.measure.t_interval([0.71, 0.74, 0.72])
    """
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return float("nan"), float("nan")
    half = scipy.stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (low, high) of a proportion (Wilson 1927): the variance of drawing the test set.

    Example:
        >>> low, high = tl.measure.wilson_interval(successes=80, n=100)
    """
    if n < 1:
        return float("nan"), float("nan")
    interval = scipy.stats.binomtest(int(successes), int(n)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Paired:
    """Differences of two arms over the same seeds, as :func:`paired_difference` returns them.

    Attributes:
        mean: of a − b.
        low, high: t interval of the mean.
        p_t: two-sided p of the paired t test.
        p_sign_flip: two-sided p of the exact sign-flip permutation test; five pairs cannot go below 2/32.
    """

    mean: float
    low: float
    high: float
    p_t: float
    p_sign_flip: float


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Paired:
    """Compare two arms run on the same seeds, in the same order.

    Raises:
        ValueError: sequences of different lengths.

    Example:
        >>> tl.measure.paired_difference([0.75, 0.74, 0.77], [0.71, 0.72, 0.73]).p_sign_flip
        0.25
    """
    if len(a) != len(b):
        raise ValueError(f"paired_difference needs as many values of a as of b; got {len(a)} and {len(b)}.")
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if len(difference) < 2:
        nan = float("nan")
        return Paired(float(difference.mean()) if len(difference) else nan, nan, nan, nan, nan)
    low, high = t_interval(difference.tolist(), level)
    if len(difference) <= 16:
        flips = np.array(list(itertools.product((1, -1), repeat=len(difference))))
    else:
        # Random flips, with the identity among them, so that p is never 0 (Phipson & Smyth 2010).
        signs = np.random.default_rng(0).choice((1, -1), size=(65535, len(difference)))
        flips = np.concatenate([np.ones((1, len(difference)), signs.dtype), signs])
    means = (flips * difference).mean(-1)
    p_flip = float((np.abs(means) >= abs(difference.mean()) - 1e-12).mean())
    constant = np.ptp(difference) == 0
    spread = difference.std(ddof=1) / np.sqrt(len(difference))
    p_t = float(2 * scipy.stats.t.sf(abs(difference.mean()) / spread, len(difference) - 1)) if not constant else 0.0
    if constant and difference[0] == 0:
        p_t = 1.0
    return Paired(float(difference.mean()), low, high, p_t, p_flip)


def mcnemar_exact(correct_a: Bool[np.ndarray, " n"], correct_b: Bool[np.ndarray, " n"]) -> float:
    """Return the two-sided exact p of McNemar's test of two models on one test set.

    Example:
        >>> tl.measure.mcnemar_exact(np.array([True, True, True]), np.array([False, False, True]))
        0.5
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return 1.0 if only_a + only_b == 0 else float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue)


def bootstrap_interval(
    values: Num[np.ndarray, " n"],
    statistic: Callable[[np.ndarray], float] = np.mean,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of a statistic of one sample.

    For a statistic of several arrays, ``values`` are the indices of their rows. Draws for which it is not defined (NaN) are
    left out; where that is more than one in twenty, so is the interval.

    Example:
        >>> low, high = tl.measure.bootstrap_interval(np.array([0.1, 0.4, 0.3]), np.median, draws=1000)
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(values), (draws, len(values)))
    statistics = values[rows].mean(-1) if statistic is np.mean else np.array([statistic(values[row]) for row in rows])
    defined = statistics[~np.isnan(statistics)]
    if len(defined) < 0.95 * draws:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
