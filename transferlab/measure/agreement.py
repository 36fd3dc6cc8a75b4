"""Agreement of predicted and true labels beyond chance."""

from __future__ import annotations

from collections.abc import Sequence

from transferlab.measure.classes import Labels, Probabilities
from transferlab.measure.named import metric


@metric("classes", "scikit-learn: cohen_kappa_score")
def kappa(probabilities: Probabilities, labels: Labels, names: Sequence[str]) -> float:
    """Cohen's kappa of true and most probable labels (Cohen 1960)."""
    from sklearn.metrics import cohen_kappa_score

    return cohen_kappa_score(labels, probabilities.argmax(-1))
