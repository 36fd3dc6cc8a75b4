"""Metrics of classes: probabilities (examples, labels) against the index of each example's label."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from transferlab.measure import metrics
from transferlab.measure.named import Undefined, metric

Probabilities = Float[np.ndarray, "examples labels"]
Labels = Int[np.ndarray, " examples"]

BINS = 15
"""Of the expected calibration error: as many as in Guo et al. 2017, section 4."""


@metric("classes", "scikit-learn: accuracy_score")
def accuracy(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Fraction of examples whose most probable label is the true one."""
    return metrics.accuracy(probabilities, labels)


@metric("classes", "scikit-learn: balanced_accuracy_score")
def balanced_accuracy(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Mean over the true labels of their recall."""
    return metrics.balanced_accuracy(probabilities, labels)


def _f1(probabilities: Probabilities, labels: Labels, average: str) -> float:
    from sklearn.metrics import f1_score

    return f1_score(labels, probabilities.argmax(-1), average=average)


@metric("classes", "scikit-learn: f1_score(average='macro')")
def f1_macro(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Mean of F1 over the labels that are true or predicted of some example."""
    return _f1(probabilities, labels, "macro")


@metric("classes", "scikit-learn: f1_score(average='micro')")
def f1_micro(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """F1 over all decisions; of one label an example it is the accuracy."""
    return _f1(probabilities, labels, "micro")


@metric("classes", "scikit-learn: f1_score(average='weighted')")
def f1_weighted(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Mean of F1 over the true labels, weighted by how many examples each has."""
    return _f1(probabilities, labels, "weighted")


@metric("classes", "scikit-learn: matthews_corrcoef")
def matthews(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Matthews' correlation of true and predicted labels; 0 where either is constant."""
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(labels, probabilities.argmax(-1))


def _one_against_rest(
    probabilities: Probabilities, labels: Labels, ranking: Callable[[Bool[np.ndarray, " n"], np.ndarray], float]
) -> float:
    """Of two labels that of the second; of more, the mean over those that some examples have and some have not."""
    if len(np.unique(labels)) < 2:
        raise Undefined("all examples have the same label")
    present = [1] if probabilities.shape[1] == 2 else np.unique(labels)
    return float(np.mean([ranking(labels == label, probabilities[:, label]) for label in present]))


@metric("classes", "scikit-learn: roc_auc_score(multi_class='ovr', average='macro')")
def auroc(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Area under the ROC curve of the second of two labels, or the mean of each label's against the rest."""
    from sklearn.metrics import roc_auc_score

    return _one_against_rest(probabilities, labels, roc_auc_score)


@metric("classes", "scikit-learn: average_precision_score(average='macro')")
def average_precision(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Average precision of the second of two labels, or the mean of each label's against the rest."""
    from sklearn.metrics import average_precision_score

    return _one_against_rest(probabilities, labels, average_precision_score)


@metric("classes", "Guo et al. 2017, equation 3", larger=False)
def calibration_error(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Expected calibration error of the most probable label: 15 bins of equal width, open below."""
    confidence = probabilities.max(-1).astype(np.float64)
    bins = np.ceil(confidence * BINS).clip(1, BINS).astype(np.int64)
    # |acc(B) - conf(B)| · |B|: the sums over a bin differ by as much.
    gaps = np.bincount(bins, probabilities.argmax(-1) == labels) - np.bincount(bins, confidence)
    return float(np.abs(gaps).sum() / len(labels))


@metric("classes", "scikit-learn: brier_score_loss; Brier 1950", larger=False)
def brier(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Mean squared distance of the probabilities from the truth, 0 to 2; of two labels half of it, 0 to 1."""
    truth = np.eye(probabilities.shape[1])[labels]
    squares = ((probabilities.astype(np.float64) - truth) ** 2).sum(-1).mean()
    return float(squares / (2 if probabilities.shape[1] == 2 else 1))


@metric("classes", "scikit-learn: log_loss", larger=False)
def cross_entropy(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Mean negative log-probability of the true label, in nats."""
    return metrics.cross_entropy(probabilities, labels)
