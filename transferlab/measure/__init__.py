"""Pure functions of arrays: scores, intervals and paired tests, learning curves and data multipliers."""

from typing import TYPE_CHECKING

from transferlab.errors import face_of
from transferlab.measure.curves import Multiplier, area_under_learning_curve, data_multiplier
from transferlab.measure.metrics import accuracy, balanced_accuracy, cross_entropy, scores
from transferlab.measure.named import Metric, metric, metric_named, metrics_by_kind, score
from transferlab.measure.rows import confusion_matrix, score_rows
from transferlab.measure.statistics import (
    Paired,
    bootstrap_interval,
    mcnemar_exact,
    paired_difference,
    t_interval,
    wilson_interval,
)

__all__ = [
    "Metric",
    "Multiplier",
    "Paired",
    "accuracy",
    "area_under_learning_curve",
    "balanced_accuracy",
    "bootstrap_interval",
    "confusion_matrix",
    "cross_entropy",
    "data_multiplier",
    "mcnemar_exact",
    "metric",
    "metric_named",
    "metrics_by_kind",
    "paired_difference",
    "score",
    "score_rows",
    "scores",
    "t_interval",
    "wilson_interval",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_of(__name__, __all__)
