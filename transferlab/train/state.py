"""A step's inputs and outputs: the keys of its state, hyperparameters and metrics."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from jaxtyping import Array, Float, Int, UInt32

from transferlab import trees


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


Metrics = dict[str, Float[Array, "..."]]
"""The metrics of one step, before its update and with dropout: ``loss``, its terms where it has several, and the task's, each
as (weighted sum, sum of weights); and two plain numbers, ``gradient_norm`` before it is clipped and ``learning_rate``.
"""

GAUGES = ("gradient_norm", "learning_rate")
"""The metrics that are plain numbers."""


def evaluated(state: State) -> trees.Tree:
    """The trainable leaves that are validated, tested and kept: their moving average, where there is one."""
    return state.get("ema", state["params"])
