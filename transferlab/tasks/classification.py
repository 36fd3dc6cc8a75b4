"""Single-label classification: cross-entropy over the head's logits, accuracy and balanced accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from transferlab.bounds import Rate
from transferlab.evaluate.baselines import MAJORITY, PIXELS, TFIDF, Baseline
from transferlab.measure import metrics as measure
from transferlab.models.backbone import Carry
from transferlab.tasks.base import Predictions, StepBatch, Task, tie
from transferlab.tasks.heads import ranked
from transferlab.tasks.weights import ClassWeights, class_weights

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Single-label classification.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.LoRA(), task=tl.tasks.Classification(label_smoothing=0.1))

    Attributes:
        label_smoothing: probability moved from the true class to all classes evenly (Szegedy et al. 2016, section 7).
        class_weights: of each example, by its label: a mapping (1 for labels that it leaves out), or ``balanced``: such that
            all classes of the training split weigh the same. Weights are data, not part of the compiled step.
    """

    label_smoothing: Rate = 0.0
    class_weights: ClassWeights = field(default=None, compare=False)

    name: ClassVar[str] = "classification"
    target: ClassVar[str] = "classes"
    true: ClassVar[str] = "label"
    primary: ClassVar[str] = "accuracy"
    scores: ClassVar[Mapping[str, int]] = {"accuracy": 1, "balanced_accuracy": 1, "cross_entropy": -1}
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        **dict.fromkeys(
            ("accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "f1_weighted", "auroc", "average_precision", "calibration_error"),
            (0.0, 1.0),
        ),
        "matthews": (-1.0, 1.0),
    }  # fmt: skip
    proportions: ClassVar[tuple[str, ...]] = ("accuracy",)
    companion: ClassVar[str | None] = "balanced_accuracy"
    baselines: ClassVar[Mapping[str, Baseline]] = {"majority": MAJORITY, "tfidf": TFIDF, "pixels": PIXELS}
    validation_loss: ClassVar[str | None] = "cross_entropy"
    loss_unit: ClassVar[str] = "cross-entropy, nats"

    def weights(self, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The sum of the weights of the rows' classes."""
        return {"loss": (batch["weight"] * batch["targets"].get("weight", 1.0)).sum()}

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The sum of the cross-entropy in nats, weighted; padding rows have weight 0.

        As in PyTorch's ``CrossEntropyLoss``, what smoothing moves to a class has the weight of that class.
        """
        targets = batch["targets"]
        own, each = targets.get("weight", 1.0), targets.get("class_weights", 1.0)
        logp = jax.nn.log_softmax(out["logits"].astype(jnp.float32))
        true = jnp.take_along_axis(logp, targets["label"][:, None], axis=1)[:, 0]
        mixed = (1.0 - self.label_smoothing) * own * true + self.label_smoothing * (each * logp).mean(-1)
        return {"loss": -(mixed * batch["weight"]).sum()}

    def metrics(self, out: Carry, batch: StepBatch) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """``accuracy``: the fraction of the rows whose largest logit is the label's, whatever their classes weigh."""
        hit = (out["logits"].argmax(-1) == batch["targets"]["label"]).astype(jnp.float32)
        return {"accuracy": ((hit * batch["weight"]).sum(), batch["weight"].sum())}

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """``probabilities`` (batch, labels)."""
        return {"probabilities": jax.nn.softmax(out["logits"].astype(jnp.float32))}

    def truth(self, data: Dataset) -> Predictions:
        """``label``: each example's index into the label names."""
        return {"label": self.column(data).values.astype(np.int32)}

    def fit(self, data: Dataset) -> dict[str, Any]:
        """``class_weights`` by label, where there are any."""
        if self.class_weights is None:
            return {}
        column = self.column(data)
        return {"class_weights": class_weights(self.class_weights, column.names, column.values[data.train])}

    def targets(self, data: Dataset, fitted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """``label``; with class weights ``weight``, of its class, and with smoothing ``class_weights`` (labels) too."""
        targets = self.truth(data)
        if "class_weights" not in fitted:
            return targets
        weights = np.array([fitted["class_weights"][name] for name in self.outputs(data)], np.float32)
        targets["weight"] = weights[targets["label"]]
        if self.label_smoothing:
            # A view of one row, of which each batch has copies.
            targets["class_weights"] = np.broadcast_to(weights, (len(targets["label"]), len(weights)))
        return targets

    def present(
        self, prediction: np.ndarray, outputs: tuple[str, ...], example: Any = None
    ) -> tuple[dict[str, Any], str]:
        """The label of the largest probability, and the probabilities."""
        probabilities, line = ranked(prediction, outputs)
        return {"label": next(iter(probabilities)), "probabilities": probabilities}, line

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """Accuracy, balanced accuracy and cross-entropy (nats)."""
        return measure.scores(predictions["probabilities"], self.column(data).values[indices])

    def contributions(
        self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Whether an example is recognized, and the negative log-probability of its label."""
        return measure.per_example(predictions["probabilities"], self.column(data).values[indices])

    def explain(self, score: str, data: Dataset) -> str:
        """What balanced accuracy is, and its value for a constant prediction."""
        if score != "balanced_accuracy":
            return ""
        classes = len(np.unique(self.column(data).values[data.test]))
        chance = f"{1 / classes:.3g}".removeprefix("0")
        return (
            f"Mean over the {classes:,} classes of the test split of the fraction that is recognized: {chance} for a constant "
            "prediction."
        )

    def selection(self, scores: Mapping[str, float], examples: int) -> float:
        """Accuracy decides, in examples; among equals the smaller cross-entropy, which never weighs as much as one example."""
        if self.chooses != "accuracy" or not math.isfinite(scores["accuracy"]):
            return super().selection(scores, examples)
        return round(scores["accuracy"] * examples) - tie(scores["cross_entropy"])
