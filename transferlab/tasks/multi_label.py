"""Multi-label classification: any number of tags an example, each by its own sigmoid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from transferlab.evaluate.baselines import PIXELS, PRIOR, TFIDF, Baseline
from transferlab.measure.tags import tag_scores
from transferlab.models.backbone import Carry
from transferlab.models.heads import Problem
from transferlab.tasks.base import Predictions, StepBatch, Task
from transferlab.tasks.heads import ranked
from transferlab.tasks.weights import PositiveWeights, positive_weights

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset


@dataclass(frozen=True)
class MultiLabel(Task):
    """Tags: binary cross-entropy of each, and a tag is predicted where its probability is at least a half.

    Example:
        >>> tl.adapt(source, data, task=tl.tasks.MultiLabel(positive_weights={"rare": 5.0}))

    Attributes:
        positive_weights: of the examples that have a tag, by the tag: a mapping (1 for tags that it leaves out), or
            ``balanced``: such that those with and without a tag weigh the same. Weights are data, not part of the compiled step.
    """

    positive_weights: PositiveWeights = field(default=None, compare=False)

    name: ClassVar[str] = "multi_label"
    target: ClassVar[str] = "tags"
    problem: ClassVar[Problem] = "multi_label_classification"
    true: ClassVar[str] = "tags"
    primary: ClassVar[str] = "f1_micro"
    scores: ClassVar[Mapping[str, int]] = {
        "f1_micro": 1, "f1_macro": 1, "average_precision": 1, "exact_match": 1, "cross_entropy": -1,
    }  # fmt: skip
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = dict.fromkeys(
        ("f1_micro", "f1_macro", "f1_weighted", "average_precision", "auroc_macro", "exact_match", "hamming", "brier"),
        (0.0, 1.0),
    )
    proportions: ClassVar[tuple[str, ...]] = ("exact_match",)
    companion: ClassVar[str | None] = "f1_macro"
    baselines: ClassVar[Mapping[str, Baseline]] = {"prior": PRIOR, "tfidf": TFIDF, "pixels": PIXELS}
    validation_loss: ClassVar[str | None] = "cross_entropy"
    loss_unit: ClassVar[str] = "cross-entropy, nats"

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The sum over examples of the mean over tags, in nats; weights are those of PyTorch's ``pos_weight``."""
        logits, tags = out["logits"].astype(jnp.float32), batch["targets"]["tags"]
        # log(1 + exp(x)) without overflow: softplus.
        each = jax.nn.softplus(logits) - logits * tags
        each = each * batch["targets"].get("weight", 1.0)
        return {"loss": (each.mean(-1) * batch["weight"]).sum()}

    def metrics(self, out: Carry, batch: StepBatch) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """``exact_match``: the weighted fraction of the rows whose tags are all right."""
        right = ((out["logits"] >= 0) == (batch["targets"]["tags"] > 0.5)).all(-1).astype(jnp.float32)
        return {"exact_match": ((right * batch["weight"]).sum(), batch["weight"].sum())}

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """``probabilities`` (batch, tags)."""
        return {"probabilities": jax.nn.sigmoid(out["logits"].astype(jnp.float32))}

    def truth(self, data: Dataset) -> Predictions:
        """``tags`` (examples, tags), 0 or 1."""
        return {"tags": self.column(data).values.astype(np.float32)}

    def fit(self, data: Dataset) -> dict[str, Any]:
        """``positive_weights`` by tag, where there are any."""
        if self.positive_weights is None:
            return {}
        column = self.column(data)
        return {"positive_weights": positive_weights(self.positive_weights, column.names, column.values[data.train])}

    def targets(self, data: Dataset, fitted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """``tags``, and with weights ``weight`` (examples, tags)."""
        targets = self.truth(data)
        if "positive_weights" in fitted:
            weights = np.array([fitted["positive_weights"][name] for name in self.outputs(data)], np.float32)
            targets["weight"] = np.where(targets["tags"] > 0, weights, np.float32(1.0))
        return targets

    def present(
        self, prediction: np.ndarray, outputs: tuple[str, ...], example: Any = None
    ) -> tuple[dict[str, Any], str]:
        """The tags whose probability is at least a half, and the probabilities."""
        probabilities, line = ranked(prediction, outputs)
        return {"tags": [tag for tag, p in probabilities.items() if p >= 0.5], "probabilities": probabilities}, line

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """See :func:`transferlab.measure.tags.tag_scores`."""
        return tag_scores(predictions["probabilities"], self.column(data).values[indices])

    def contributions(
        self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Whether all tags of an example are right."""
        right = (predictions["probabilities"] >= 0.5) == self.column(data).values[indices]
        return {"exact_match": right.all(1).astype(np.float64)}

    def explain(self, score: str, data: Dataset) -> str:
        """What each score of tags is a mean of."""
        return {
            "f1_micro": "F1 over all tags of all examples; a tag is predicted where its probability is at least a half.",
            "f1_macro": f"Mean over the {len(self.column(data).names):,} tags of each one's F1.",
            "exact_match": "Fraction of examples all of whose tags are right.",
        }.get(score, "")
