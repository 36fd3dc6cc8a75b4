"""Pure functions of arrays: scores, intervals and paired tests, learning curves and data multipliers."""

from transferlab.measure.curves import Multiplier, area_under_learning_curve, data_multiplier
from transferlab.measure.metrics import accuracy, balanced_accuracy, cross_entropy, scores
from transferlab.measure.statistics import (
    Paired,
    bootstrap_interval,
    mcnemar_exact,
    paired_difference,
    t_interval,
    wilson_interval,
)

__all__ = [
    "Multiplier",
    "Paired",
    "accuracy",
    "area_under_learning_curve",
    "balanced_accuracy",
    "bootstrap_interval",
    "cross_entropy",
    "data_multiplier",
    "mcnemar_exact",
    "paired_difference",
    "scores",
    "t_interval",
    "wilson_interval",
]
