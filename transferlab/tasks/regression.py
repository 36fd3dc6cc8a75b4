"""Regression: one number an example or several, standardised for training and put back in what is predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from transferlab import trees
from transferlab.bounds import Positive
from transferlab.evaluate.baselines import MEAN, MEDIAN, PIXELS, TFIDF, Baseline
from transferlab.measure.regression import regression_scores
from transferlab.models.backbone import Carry
from transferlab.models.heads import Problem
from transferlab.tasks.base import Predictions, StepBatch, Task

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset


@dataclass(frozen=True)
class Regression(Task):
    """Numbers. Targets are standardised with the mean and the deviation of the training split.

    Attributes:
        error: ``squared``; ``absolute``; or ``huber``, squared up to ``delta`` and linear beyond (Huber 1964, section 3).
        delta: of ``huber``, in standard deviations of the target.
    """

    error: Literal["squared", "absolute", "huber"] = "squared"
    delta: Positive = 1.0

    name: ClassVar[str] = "regression"
    target: ClassVar[str] = "numbers"
    problem: ClassVar[Problem] = "regression"
    predicted: ClassVar[str] = "value"
    primary: ClassVar[str] = "rmse"
    tie_break: ClassVar[str] = "rmse"
    scores: ClassVar[Mapping[str, int]] = {"rmse": -1, "mae": -1, "r2": 1, "pearson": 1, "spearman": 1}
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "rmse": (0.0, math.inf), "mae": (0.0, math.inf), "r2": (-math.inf, 1.0), "pearson": (-1.0, 1.0), "spearman": (-1.0, 1.0),
        "kendall": (-1.0, 1.0),
    }  # fmt: skip
    companion: ClassVar[str | None] = "spearman"
    baselines: ClassVar[Mapping[str, Baseline]] = {"mean": MEAN, "median": MEDIAN, "tfidf": TFIDF, "pixels": PIXELS}
    loss_unit: ClassVar[str] = "loss, standardized targets"

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The sum over examples of the mean over targets, in standard deviations."""
        distance = jnp.abs(out["logits"].astype(jnp.float32) - batch["targets"]["target"])
        kinds = {"squared": distance**2, "absolute": distance}
        huber = jnp.where(distance <= self.delta, distance**2 / 2, self.delta * (distance - self.delta / 2))
        return {"loss": (kinds.get(self.error, huber).mean(-1) * batch["weight"]).sum()}

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """``value`` (batch, targets)."""
        return {"value": out["logits"].astype(jnp.float32)}

    def fit(self, data: Dataset) -> dict[str, Any]:
        """``mean`` and ``deviation`` of each target over the training split."""
        values = self.column(data).values[data.train]
        deviation = values.std(0)
        return {"mean": values.mean(0).tolist(), "deviation": np.where(deviation > 0, deviation, 1.0).tolist()}

    def targets(self, data: Dataset, fitted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """``target``, standardised."""
        standard = (self.column(data).values - fitted["mean"]) / fitted["deviation"]
        return {"target": standard.astype(np.float32)}

    def restore(self, predictions: Predictions, fitted: Mapping[str, Any]) -> Predictions:
        """``value`` in the units of the data, in float64: float32 has too few digits for a year in seconds."""
        return {"value": predictions["value"].astype(np.float64) * fitted["deviation"] + fitted["mean"]}

    def export(self, trained: trees.Tree, fitted: Mapping[str, Any]) -> trees.Tree:
        """The head in the units of the data: kernel · deviation, bias · deviation + mean."""
        flat = trees.flatten(trained)
        deviation, mean = np.float32(fitted["deviation"]), np.float32(fitted["mean"])
        kernel, bias = (np.asarray(flat[f"head/{name}"], np.float32) for name in ("kernel", "bias"))
        return trees.unflatten({**flat, "head/kernel": kernel * deviation, "head/bias": bias * deviation + mean})

    def present(
        self, prediction: np.ndarray, outputs: tuple[str, ...], example: Any = None
    ) -> tuple[dict[str, Any], str]:
        """The number of each target."""
        values = dict(zip(outputs, map(float, prediction), strict=True))
        return {"values": values}, "  ".join(f"{name} {value:.6g}" for name, value in values.items())

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """Means over the targets: see :func:`transferlab.measure.regression.regression_scores`."""
        return regression_scores(predictions["value"], self.column(data).values[indices])

    def contributions(
        self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """The mean absolute error of each example."""
        return {"mae": np.abs(predictions["value"] - self.column(data).values[indices]).mean(-1)}

    def explain(self, score: str, data: Dataset) -> str:
        """What the two correlations compare, and the unit of errors."""
        of = {
            "spearman": "Rank correlation of predictions and targets",
            "pearson": "Correlation of predictions and targets",
        }
        names = self.column(data).names
        mean = f", the mean over {len(names)} targets" if len(names) > 1 else ""
        if score in of:
            return f"{of[score]}{mean}; not defined for a constant prediction."
        return f"In the units of {', '.join(names[:5])}{mean}." if score in ("rmse", "mae") else ""
