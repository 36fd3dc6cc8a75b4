"""What a task is: what is optimised, what is predicted and how that is scored. The step and the loop know no task by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from transferlab import trees
from transferlab.data.batches import Batch
from transferlab.data.columns import Target
from transferlab.data.inputs import Inputs, Transform, inputs_for
from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError, nearest
from transferlab.evaluate.baselines import Baseline
from transferlab.fields import check_fields
from transferlab.measure.named import metrics_by_kind, say_undefined
from transferlab.models.backbone import Carry
from transferlab.models.heads import HeadConfig, Problem
from transferlab.tasks.heads import classifier

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.methods.base import Method
    from transferlab.pretrained.source import Source
    from transferlab.transfer.plan import Plan

Predictions = dict[str, Any]
"""What a task predicts, by name: an array whose leading axis is the examples', or a :class:`~transferlab.data.ragged.Ragged`."""


class StepBatch(TypedDict):
    """The examples of one update, padded to the batch size.

    Attributes:
        inputs: of the program's first stage: model inputs, or the carry at the frontier; each (batch, …).
        targets: what the task compares with, by name; each (batch, …).
        weight: 1 for an example, 0 for padding; a task may weight its examples in other ways.
    """

    inputs: Carry
    targets: dict[str, Array]
    weight: Float[Array, " batch"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Base of all tasks: frozen dataclasses. The compiled step depends on their fields, but not on ``metric``.

    What is traced are sums: a batch that is computed in parts, or on several devices, adds up to the whole batch's loss,
    gradient and metrics, whatever the weights of its examples.

    Attributes:
        metric: the score that chooses the best state and is plotted, by name: one of :attr:`scores`, or of the metrics of
            its target (:mod:`transferlab.measure.named`). None takes the task's own (``primary``).
    """

    metric: str | None = field(default=None, compare=False)

    name: ClassVar[str] = ""
    target: ClassVar[str] = ""
    """The kind of target that it reads: ``classes``, ``numbers``, ``tags``, ``word_tags``, ``texts`` or ``none``
    (:mod:`transferlab.data.columns`)."""
    contents: ClassVar[tuple[str, ...]] = ("text", "pair", "image", "audio", "array")
    """What its examples may hold (:data:`transferlab.data.examples.Content`)."""
    texts_apart: ClassVar[bool] = False
    """Whether the two texts of a pair are read one by one, so that a single text is read as each of them was."""
    problem: ClassVar[Problem] = "single_label_classification"
    """What a classifier's outputs mean."""
    predicted: ClassVar[str] = "probabilities"
    """The name of what is predicted of an example: a number for each output."""
    true: ClassVar[str] = "target"
    """The name of what that is compared with, in :meth:`truth`."""
    primary: ClassVar[str] = ""
    scores: ClassVar[Mapping[str, int]] = {}
    """The scores of every run: 1 where larger is better, -1 where smaller is. ``metric`` may add another."""
    tie_break: ClassVar[str] = "cross_entropy"
    """A score that is never negative, always defined, and better where smaller."""
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """The least and the largest value that a score can have; those that are not named are numbers in units of their own."""
    proportions: ClassVar[tuple[str, ...]] = ()
    """Scores that are the fraction of examples that are right."""
    companion: ClassVar[str | None] = None
    """A score that reports show next to the one that chooses."""
    baselines: ClassVar[Mapping[str, Baseline]] = {}
    """Rows of a study's table without pretrained weights, by name; the level of chance comes first."""
    validation_loss: ClassVar[str | None] = None
    """The score that is the loss of a split, in the same units: figures draw it with the training loss."""
    loss_unit: ClassVar[str] = "loss"
    """What the loss is measured in, on an axis."""
    budget_unit: ClassVar[str] = "labels"
    """What the examples of a study's budget are called."""
    terms: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    """The terms of the loss, each with its coefficient."""
    additive: ClassVar[bool] = True
    """Whether the sums of parts of a batch add up to the batch's; if not, a batch is never computed in parts."""
    fixed_inputs: ClassVar[bool] = True
    """Whether :meth:`prepare` leaves the inputs as they are, so that what frozen stages make of them can be kept."""
    reads_targets: ClassVar[bool] = False
    """Whether evaluation needs the targets too, as likelihoods do."""
    ragged: ClassVar[bool] = False
    """Whether its predictions differ in shape between examples; :meth:`gather` then takes them out of a batch."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.metric is not None:
            _ = self.direction

    def record(self) -> dict[str, Any]:
        """The task as plain data, from which :func:`transferlab.tasks.task_from` makes it again."""
        return {"name": self.name, **asdict(self)}

    @property
    def writes(self) -> int:
        """Tokens of the longest text that the model writes, where what it predicts are texts; 0 where it predicts other things."""
        return 0

    @property
    def chooses(self) -> str:
        """The name of the score that chooses the best state."""
        return self.metric or self.primary

    @property
    def direction(self) -> int:
        """1 where more of the score that chooses is better, -1 where less is.

        Raises:
            TransferlabError: there is no such metric, it is one of other tasks, or of the test split alone; the nearest is named.
        """
        kinds = metrics_by_kind()
        if self.chooses in self.scores:
            return self.scores[self.chooses]
        if (metric := kinds.get(self.target, {}).get(self.chooses)) is not None:
            return 1 if metric.larger else -1
        choices = {*self.scores, *kinds.get(self.target, {})}
        if self.chooses in self.bounds:
            raise TransferlabError(
                f"metric is '{self.chooses}', which is measured on the test split alone, for which texts are written; a state is chosen "
                f"on the validation split, for which none are. Choose from: {', '.join(sorted(choices))}."
            )
        others = [
            f"tl.tasks.{task.__name__}"
            for task in Task.__subclasses__()
            if self.chooses in task.scores or self.chooses in kinds.get(task.target, {})
        ]
        whose = f", which {' and '.join(others)} {'have' if len(others) > 1 else 'has'}" if others else ""
        near = nearest(self.chooses, choices)
        raise TransferlabError(f"{type(self).__name__} has no metric '{self.chooses}'{whose}.{near}")

    # What is traced ------------------------------------------------------------------------------------------------

    def prepare(self, batch: StepBatch, key: Key[Array, ""]) -> StepBatch:
        """Change a whole training batch before the forward pass (masking, mixing); by default nothing."""
        return batch

    def evaluation(self, inputs: Carry, targets: Mapping[str, Array]) -> Carry:
        """The inputs of the forward pass in evaluation; by default as they are. It draws nothing but under a fixed key."""
        return inputs

    def weights(self, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """By term: the sum of the weights by which its sum is divided. It depends on the prepared batch alone."""
        return dict.fromkeys(self.terms, batch["weight"].sum())

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """By term: the weighted sum of the loss over the batch, in nats where it is a likelihood."""
        raise NotImplementedError

    def metrics(self, out: Carry, batch: StepBatch) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """By name: (weighted sum, sum of weights) of what is logged of a training batch."""
        return {}

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """By name: what is kept of each example in evaluation."""
        raise NotImplementedError

    # On the host ---------------------------------------------------------------------------------------------------

    def column(self, data: Dataset) -> Target:
        """The target as this task reads it.

        Raises:
            TransferlabError: it cannot be read so.
        """
        return getattr(data.target, self.target)()

    def outputs(self, data: Dataset) -> tuple[str, ...]:
        """Names of what the head puts out; a run records them. By default those of the target."""
        return self.column(data).names

    @classmethod
    def fits(cls, data: Dataset, source: Source) -> bool:
        """Whether it is the task for this data and source where none is given."""
        return cls.target == data.target.kind

    def resolved(self, data: Dataset) -> Task:
        """The task with what follows from the data filled in; a run has and records this one. By default as it is."""
        return self

    def check(self, data: Dataset, source: Source) -> None:
        """Raise a TransferlabError where this source cannot do the task, or the data does not hold what it needs."""
        if data.content not in self.contents:
            raise TransferlabError(
                f"{type(self).__name__} reads {' or '.join(self.contents)}, and '{data.name}' holds {data.content}: {data.summary}."
            )

    def check_plan(self, plan: Plan, data: Dataset) -> None:
        """Raise a TransferlabError where nothing can be learned with this plan; by default never."""

    def inputs(self, examples: Sequence[Mapping[str, Any]], transform: Transform, **names: Any) -> Inputs:
        """How examples become model inputs; by default see :func:`transferlab.data.inputs.inputs_for`, which takes the same
        arguments.
        """
        return inputs_for(examples, transform, **names)

    def head(self, source: Source, outputs: tuple[str, ...], method: Method) -> HeadConfig:
        """Return the head that the task puts on this source; by default see :func:`transferlab.tasks.heads.classifier`."""
        return classifier(source, outputs, method, self.problem)

    def fit(self, data: Dataset) -> dict[str, Any]:
        """What is learned of the targets of the training split before anything trains, as plain data; a run records it."""
        return {}

    def truth(self, data: Dataset) -> Predictions:
        """By name: the targets of all examples in the units of the data, in the order of ``data.records``."""
        return {"target": self.column(data).values}

    def targets(self, data: Dataset, fitted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """By name: the targets of all examples as :meth:`collate` takes them; by default as they are."""
        return {name: np.asarray(values) for name, values in self.truth(data).items()}

    def collate(
        self, columns: Mapping[str, np.ndarray], feed: Inputs, batch: Batch, rows: int
    ) -> dict[str, np.ndarray]:
        """By name: what the step compares a batch with, each (rows, …); by default an entry of each column (:meth:`targets`)
        for each example.
        """
        indices = feed.examples_of(batch.indices)
        return {
            name: np.concatenate([values[indices], np.zeros((rows - len(indices), *values.shape[1:]), values.dtype)])
            for name, values in columns.items()
        }

    def gather(
        self, predictions: Mapping[str, np.ndarray], feed: Inputs, batch: Batch
    ) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """Of a batch's predictions, each (rows, …): (example, where the part begins in it, the part by name)."""
        raise NotImplementedError

    def restore(self, predictions: Predictions, fitted: Mapping[str, Any]) -> Predictions:
        """Predictions in the units of the data; by default they are."""
        return predictions

    def export(self, trained: trees.Tree, fitted: Mapping[str, Any]) -> trees.Tree:
        """The trained leaves of a model whose outputs are in the units of the data; by default as they are."""
        return trained

    def shapes(self, outputs: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        """By name: the shape of one example's prediction; of a ragged one, without the axis that differs."""
        return {self.predicted: (len(outputs),)}

    def logged(self, means: Mapping[str, float]) -> dict[str, float]:
        """What follows from the means in a row of metrics and is logged with them; by default nothing."""
        return {}

    def example(self, text: str) -> Any:
        """An example from a text of the command line or a file; by default the text itself."""
        return text

    def present(
        self, prediction: np.ndarray, outputs: tuple[str, ...], example: Any = None
    ) -> tuple[dict[str, Any], str]:
        """One example's prediction (restored) for a user: as plain data, and in a line; ``example`` is its content."""
        raise NotImplementedError

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """Scores of the predictions (restored) for these examples, all of :attr:`scores`."""
        raise NotImplementedError

    def metrics_of_fields(self, predicted: Any, true: Any, names: Sequence[str]) -> dict[str, float]:
        """Metrics of its kind of target that its fields compute in another way than the functions of their names; by default none.

        Args:
            predicted: as metrics take it (:mod:`transferlab.measure.named`).
            true: likewise.
            names: of the outputs.
        """
        return {}

    def contributions(
        self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """By score: each example's part in it, for those scores that are the mean of such parts.

        Intervals over the test set resample examples: these means all at once, other scores one draw at a time.
        """
        return {}

    def explain(self, score: str, data: Dataset) -> str:
        """A sentence for reports on what a score is; empty where its name says it."""
        return ""

    def scored(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """:meth:`score`, and the score that chooses where it is none of those. Why one is NaN is logged once. NaN without
        examples, as of a trial's test.
        """
        if not len(indices):
            return dict.fromkeys([*self.scores, self.chooses], np.nan)
        scores, kind = self.score(predictions, data, indices), metrics_by_kind().get(self.target, {})
        # Why one is not defined is found out, and said, only where one is not.
        for name in [self.chooses, *(name for name, value in scores.items() if math.isnan(value))]:
            if name in kind and not math.isfinite(scores.get(name, math.nan)):
                true = self.column(data).values[indices]
                scores[name], reason = kind[name].explained(predictions[self.predicted], true, self.outputs(data))
                say_undefined(name, reason)
        return scores

    def selection(self, scores: Mapping[str, float], examples: int) -> float:
        """A number that is larger for the better of two states, from their scores on the validation split.

        Among states that are equal by the metric, or for which it is not defined, the smaller :attr:`tie_break` decides; one
        that is not defined is the largest. A state for which neither is defined is -inf, and never the best.
        """
        value, other = self.direction * scores[self.chooses], scores[self.tie_break]
        if math.isfinite(value):
            # Less than any difference that a table shows.
            return value - 1e-6 * tie(other)
        # Below every value that there is, in whatever unit. Next to so large a number a millionth would be lost to rounding.
        return -1e300 * (1 + tie(other)) if math.isfinite(other) else -math.inf

    def failed(self, outputs: tuple[str, ...], examples: int) -> tuple[Predictions, dict[str, float]]:
        """What is recorded of a run that predicts nothing: NaN for every prediction and score."""
        shapes = self.shapes(outputs).items()
        predictions: Predictions = {}
        for name, shape in shapes:
            missing = np.full((examples, *shape), np.nan, np.float32)
            predictions[name] = Ragged(missing, np.arange(examples + 1)) if self.ragged else missing
        return predictions, dict.fromkeys([*self.scores, self.chooses], np.nan)


def total_loss(
    task: Task, sums: Mapping[str, Float[Array, ""]], weights: Mapping[str, Float[Array, ""]]
) -> Float[Array, ""]:
    """Σ coefficient · sum / weight over the terms; a term without weight is 0, and so is its gradient."""
    return sum(
        (coefficient * sums[name] / jnp.where(weights[name] > 0, weights[name], 1.0) for name, coefficient in task.terms.items()),
        jnp.zeros(()),
    )  # fmt: skip


def tie(other: float) -> float:
    """A tie-break as a number from 0 to 1, larger for the worse; 1 where it is not defined."""
    return other / (1 + other) if math.isfinite(other) else 1.0


def means(pairs: Float[np.ndarray, "*steps 2"]) -> Float[np.ndarray, "*steps"]:
    """The means of (sum, sum of weights) on the host; the sum where nothing has a weight."""
    total, weight = pairs[..., 0], pairs[..., 1]
    return total / np.where(weight == 0, 1.0, weight)
