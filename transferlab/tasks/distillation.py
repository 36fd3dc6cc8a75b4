"""Distillation: classification that also learns another classifier's probabilities, which are computed once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from transferlab.bounds import Bounds, Positive
from transferlab.errors import TransferlabError, nearest, shown
from transferlab.evaluate.baselines import Baseline
from transferlab.models.backbone import Carry
from transferlab.pretrained.loading import load
from transferlab.pretrained.source import Source
from transferlab.tasks.base import StepBatch
from transferlab.tasks.classification import Classification
from transferlab.transfer.features import extract_features

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset


@dataclass(frozen=True)
class Distillation(Classification):
    """Knowledge distillation (Hinton et al. 2015, section 2): ``(1 − weight) · cross-entropy + weight · T² · KL(teacher ‖ student)``,
    the latter of probabilities at the temperature T. T² keeps its gradient of one size.

    The teacher's logits are computed once for each example and kept, as features are (:func:`transferlab.extract_features`): no
    step runs the teacher, and other runs, seeds and processes read them.

    Example:
        >>> teacher = tl.open_run("runs/large").adapted.merged()
        >>> tl.adapt("minilm-l3", data, task=tl.tasks.Distillation(teacher, temperature=4.0))

    Attributes:
        teacher: a source with a classifier of the same labels, in any order; or what :func:`transferlab.load` opens as one.
        temperature: T, which both sides' logits are divided by.
        weight: of the teacher; 1 learns nothing from the labels.
        label_smoothing, class_weights, metric: as of :class:`transferlab.tasks.Classification`.
    """

    teacher: Any = field(default=None, compare=False, repr=False)
    temperature: Positive = 2.0
    weight: Annotated[float, Bounds(0.0, 1.0, above=True)] = 0.5

    name: ClassVar[str] = "distillation"
    baselines: ClassVar[Mapping[str, Baseline]] = Classification.baselines

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.teacher, (Source, str, Path)) or self.teacher == "":
            raise TransferlabError(
                f"teacher is {shown(self.teacher)}; pass a classifier, as Distillation(tl.open_run('runs/large').adapted.merged()), or "
                "the directory of an exported one."
            )
        # Terms of the loss are an attribute of all tasks; these have coefficients that fields give.
        object.__setattr__(self, "terms", {"loss": 1.0 - self.weight, "distillation": self.weight})

    @classmethod
    def fits(cls, data: Dataset, source: Source) -> bool:
        """Never by itself: it needs a teacher."""
        return False

    def record(self) -> dict[str, Any]:
        """The task as plain data, with the name of the teacher; its hash is in what a run records of the targets."""
        return {
            **super().record(),
            "teacher": self.teacher.name if isinstance(self.teacher, Source) else str(self.teacher),
        }

    def weights(self, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """Of the labels' term, the sum of the weights of the rows' classes; of the teacher's, the number of rows."""
        return {**super().weights(batch), "distillation": batch["weight"].sum()}

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The labels' cross-entropy, and T² times the divergence from the teacher, each summed over the rows."""
        t = self.temperature
        teacher = jax.nn.log_softmax(batch["targets"]["teacher"] / t)
        student = jax.nn.log_softmax(out["logits"].astype(jnp.float32) / t)
        divergence = (jnp.exp(teacher) * (teacher - student)).sum(-1)
        return {**super().loss(out, batch), "distillation": t**2 * (divergence * batch["weight"]).sum()}

    def fit(self, data: Dataset) -> dict[str, Any]:
        """Weights of classes, and which teacher it is.

        Raises:
            TransferlabError: the teacher has no classifier, or one of other labels.
        """
        teacher, names = _opened(self.teacher), self.outputs(data)
        own = () if teacher.head is None else teacher.head.labels
        if sorted(own) != sorted(names):
            missing = next((name for name in names if name not in own), None)
            what = (
                f"lacks '{missing}'.{nearest(missing, own)}"
                if own and missing
                else f"has {len(own)} labels, and the data {len(names)}."
            )
            raise TransferlabError(f"The teacher {teacher.name} cannot teach '{data.name}': it {what}")
        return {**super().fit(data), "teacher": {"name": teacher.name, "sha256": teacher.sha256}}

    def targets(self, data: Dataset, fitted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Those of a classification, and ``teacher`` (examples, labels): its logits, with the labels in the data's order."""
        teacher, names = _opened(self.teacher), self.outputs(data)
        assert teacher.head is not None
        features = extract_features(teacher, data, "head")
        order = [teacher.head.labels.index(name) for name in names]
        logits = np.zeros((len(data.records), len(names)), np.float32)
        logits[features.examples] = features["head"][:, order]
        return {**super().targets(data, fitted), "teacher": logits}


def _opened(teacher: Any) -> Source:
    return teacher if isinstance(teacher, Source) else _loaded(str(teacher))


@lru_cache(maxsize=4)
def _loaded(name: str) -> Source:
    return load(name)
