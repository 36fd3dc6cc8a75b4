"""Metrics of numbers: (examples, columns) against (examples, columns); each is the mean over the columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy  # Its submodules load on use, which saves half a second at the start.
from jaxtyping import Float

from transferlab.measure.named import Undefined, metric

Values = Float[np.ndarray, "examples columns"]


def regression_scores(predicted: Values, true: Values) -> dict[str, float]:
    """Return :data:`rmse`, :data:`mae`, :data:`r2`, :data:`pearson` and :data:`spearman`; NaN where one is not defined."""
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    return {one.name: one(predicted, true) for one in (rmse, mae, r2, pearson, spearman)}


@metric("numbers", "scikit-learn: root_mean_squared_error", larger=False)
def rmse(predicted: Values, true: Values, names: Sequence[str]) -> float:
    """Root mean squared error, in the units of the data."""
    return float(np.sqrt(((predicted - true) ** 2).mean(0)).mean())


@metric("numbers", "scikit-learn: mean_absolute_error", larger=False)
def mae(predicted: Values, true: Values, names: Sequence[str]) -> float:
    """Mean absolute error, in the units of the data."""
    return float(np.abs(predicted - true).mean())


@metric("numbers", "scikit-learn: median_absolute_error", larger=False)
def median_error(predicted: Values, true: Values, names: Sequence[str]) -> float:
    """Median absolute error, in the units of the data."""
    return float(np.median(np.abs(predicted - true), axis=0).mean())


@metric("numbers", "scikit-learn: r2_score")
def r2(predicted: Values, true: Values, names: Sequence[str]) -> float:
    """Coefficient of determination: the fraction of the variance that is explained, 0 for the mean of these examples."""
    if (constant := np.ptp(true, axis=0) == 0).any():
        raise Undefined(f"{_named(names, constant)} is the same in all examples")
    error, spread = ((true - predicted) ** 2).sum(0), ((true - true.mean(0)) ** 2).sum(0)
    return float((1 - error / spread).mean())


def _correlation(predicted: Values, true: Values, names: Sequence[str], of: Callable[..., tuple]) -> float:
    if len(true) < 2:
        raise Undefined("there is one example")
    for what, values in (("", true), ("the prediction of ", predicted)):
        if (constant := np.ptp(values, axis=0) == 0).any():
            raise Undefined(f"{what}{_named(names, constant)} is the same in all examples")
    return float(np.mean([of(p, t)[0] for p, t in zip(predicted.T, true.T, strict=True)]))


@metric("numbers", "SciPy: stats.pearsonr")
def pearson(predicted: Values, true: Values, names: Sequence[str]) -> float:
    """Pearson's correlation, of the values."""
    return _correlation(predicted.astype(np.float64), true, names, scipy.stats.pearsonr)


@metric("numbers", "SciPy: stats.spearmanr")
def spearman(predicted: Values, true: Values, names: Sequence[str]) -> float:
    """Spearman's correlation, of the ranks."""
    return _correlation(predicted, true, names, scipy.stats.spearmanr)


@metric("numbers", "SciPy: stats.kendalltau")
def kendall(predicted: Values, true: Values, names: Sequence[str]) -> float:
    """Kendall's tau-b, of the order of each pair of examples."""
    return _correlation(predicted, true, names, scipy.stats.kendalltau)


def _named(names: Sequence[str], columns: np.ndarray) -> str:
    """The first of these columns by its name, as a clause's subject."""
    first = int(np.argmax(columns))
    return names[first] if first < len(names) else f"column {first}"
