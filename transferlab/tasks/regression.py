"""Regression: one number an example or several, standardised for training and put back in what is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from transferlab import trees
from transferlab.bounds import Positive
from transferlab.fields import check_fields
from transferlab.measure.regression import regression_scores
from transferlab.models.backbone import Carry
from transferlab.models.heads import ClassifierConfig
from transferlab.tasks.base import Predictions, StepBatch, Task
from transferlab.tasks.heads import classifier

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.methods.base import Method
    from transferlab.pretrained.source import Source


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
    primary: ClassVar[str] = "rmse"
    scores: ClassVar[Mapping[str, int]] = {"rmse": -1, "mae": -1, "r2": 1, "pearson": 1, "spearman": 1}

    def __post_init__(self) -> None:
        check_fields(self, "Regression")

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The sum over examples of the mean over targets, in standard deviations."""
        distance = jnp.abs(out["logits"].astype(jnp.float32) - batch["targets"]["number"])
        kinds = {"squared": distance**2, "absolute": distance}
        huber = jnp.where(distance <= self.delta, distance**2 / 2, self.delta * (distance - self.delta / 2))
        return {"loss": (kinds.get(self.error, huber).mean(-1) * batch["weight"]).sum()}

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """``value`` (batch, targets)."""
        return {"value": out["logits"].astype(jnp.float32)}

    def outputs(self, data: Dataset) -> tuple[str, ...]:
        """The columns of numbers."""
        return data.target.numbers().names

    def head(self, source: Source, outputs: tuple[str, ...], method: Method) -> ClassifierConfig:
        """Return a linear map to the numbers: see :func:`transferlab.tasks.heads.classifier`."""
        return classifier(source, outputs, method, "regression")

    def fit(self, data: Dataset) -> dict[str, Any]:
        """``mean`` and ``deviation`` of each target over the training split."""
        values = data.target.numbers().values[data.train]
        deviation = values.std(0)
        return {"mean": values.mean(0).tolist(), "deviation": np.where(deviation > 0, deviation, 1.0).tolist()}

    def truth(self, data: Dataset) -> dict[str, np.ndarray]:
        """``number`` (examples, targets)."""
        return {"number": data.target.numbers().values}

    def targets(self, data: Dataset, fitted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """``number``, standardised."""
        standard = (data.target.numbers().values - fitted["mean"]) / fitted["deviation"]
        return {"number": standard.astype(np.float32)}

    def restore(self, predictions: Predictions, fitted: Mapping[str, Any]) -> Predictions:
        """``value`` in the units of the data."""
        return {"value": (predictions["value"] * fitted["deviation"] + fitted["mean"]).astype(np.float32)}

    def export(self, trained: trees.Tree, fitted: Mapping[str, Any]) -> trees.Tree:
        """The head in the units of the data: kernel · deviation, bias · deviation + mean."""
        flat = trees.flatten(trained)
        deviation, mean = np.float32(fitted["deviation"]), np.float32(fitted["mean"])
        kernel, bias = (np.asarray(flat[f"head/{name}"], np.float32) for name in ("kernel", "bias"))
        return trees.unflatten({**flat, "head/kernel": kernel * deviation, "head/bias": bias * deviation + mean})

    def shapes(self, outputs: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        """``value``: one for each target."""
        return {"value": (len(outputs),)}

    def present(
        self, prediction: Float[np.ndarray, " outputs"], outputs: tuple[str, ...]
    ) -> tuple[dict[str, Any], str]:
        """The number of each target."""
        values = dict(zip(outputs, map(float, prediction), strict=True))
        return values, "  ".join(f"{name} {value:.6g}" for name, value in values.items())

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """Means over the targets: see :func:`transferlab.measure.regression.regression_scores`."""
        return regression_scores(predictions["value"], data.target.numbers().values[indices])
