"""A step's inputs and outputs: the keys of its state, batch, hyperparameters and metrics."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from jaxtyping import Array, Float, Int, UInt32

from transferlab import trees
from transferlab.models.backbone import Carry


class State(TypedDict):
    """A run's state after a step, from which it continues; checkpoints hold it. A population's has a leading axis of members.

    Attributes:
        params: trainable leaves, a nested dict by path.
        stats: batch statistics.
        optimizer: optax's state for the trainable leaves.
        step: number of updates so far, int32.
        ema: moving average of ``params``, where one is kept.
    """

    params: trees.Tree
    stats: trees.Tree
    optimizer: Any
    step: Int[Array, ""]
    ema: NotRequired[trees.Tree]


class StepBatch(TypedDict):
    """The examples of one update, padded to the batch size.

    Attributes:
        carry: the inputs of the program's first stage: model inputs, or the carry at the frontier; each (batch, …).
        label: index of each example's label.
        weight: 1 for an example, 0 for padding.
    """

    carry: Carry
    label: Int[Array, " batch"]
    weight: Float[Array, " batch"]


class HParams(TypedDict):
    """Hyperparameters that may differ between runs of one program: arguments, so that it is not recompiled for them.

    Attributes:
        learning_rate: peak, after warm-up; each leaf has a factor on it.
        weight_decay: each leaf has a factor on it.
        total: updates of the whole run.
        warmup: updates over which the learning rate rises.
        seed: of the order of examples and of dropout.
    """

    learning_rate: Float[Array, ""]
    weight_decay: Float[Array, ""]
    total: Float[Array, ""]
    warmup: Float[Array, ""]
    seed: UInt32[Array, ""]


class Metrics(TypedDict):
    """The metrics of one step.

    Attributes:
        loss: in nats, the mean over the batch's examples, before the update.
        accuracy: of the batch, before the update, with dropout.
        gradient_norm: before it is clipped.
        learning_rate: of this update.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]


METRICS = ("loss", "accuracy", "gradient_norm", "learning_rate")
"""The keys of :class:`Metrics`, in the order in which a scanned program stacks them."""


def evaluated(state: State) -> trees.Tree:
    """The trainable leaves that are validated, tested and kept: their moving average, where there is one."""
    return state.get("ema", state["params"])
