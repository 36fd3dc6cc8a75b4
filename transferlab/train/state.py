"""A step's inputs and outputs: the keys of its state, hyperparameters and metrics."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

import jax
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
        settled: leaves that an earlier phase trained and this one does not, where there are any.
    """

    params: trees.Tree
    stats: trees.Tree
    optimizer: Any
    step: Int[Array, ""]
    ema: NotRequired[trees.Tree]
    settled: NotRequired[trees.Tree]


class HParams(TypedDict):
    """Hyperparameters that may differ between runs of one program: arguments, so that it is not recompiled for them.

    Attributes:
        learning_rate: peak, after warm-up; each leaf has a factor on it.
        weight_decay: each leaf has a factor on it.
        first: updates before this phase of the run.
        total: updates of this phase.
        warmup: updates over which the learning rate rises.
        seed: of the order of examples and of dropout.
        penalties: the weight of each penalty, where there are any.
    """

    learning_rate: Float[Array, ""]
    weight_decay: Float[Array, ""]
    first: Float[Array, ""]
    total: Float[Array, ""]
    warmup: Float[Array, ""]
    seed: UInt32[Array, ""]
    penalties: NotRequired[Float[Array, " penalties"]]


Metrics = dict[str, Float[Array, "..."]]
"""The metrics of one step, before its update and with dropout: ``loss``, its terms where it has several, and the task's, each
as (weighted sum, sum of weights); and two plain numbers, ``gradient_norm`` before it is clipped and ``learning_rate``.
"""

GAUGES = ("gradient_norm", "learning_rate")
"""The metrics that are plain numbers."""


def evaluated(state: State) -> trees.Tree:
    """The leaves that are validated, tested and kept: what trains, or its moving average where there is one, and what did."""
    return trees.join(state.get("ema", state["params"]), state.get("settled", {}))


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(readable path, leaf) of every leaf of a pytree, as of optax's state."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return [("/".join(_part(key) for key in path), leaf) for path, leaf in pairs]


def _part(key: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


def next_phase(new: State, old: State) -> State:
    """The first state of a phase, from that after its last step of the one before.

    Args:
        new: with the values of all leaves, and an optimizer's state that has seen nothing.
        old: of the phase before.

    Returns:
        ``new`` with the moments and averages of the leaves that ``old`` trained too, by path, and its number of steps.
    """
    before = dict(named_leaves(old["optimizer"]))
    leaves = [before.get(name, leaf) for name, leaf in named_leaves(new["optimizer"])]
    out: State = {
        **new, "step": old["step"], "optimizer": jax.tree.unflatten(jax.tree.structure(new["optimizer"]), leaves),
    }  # fmt: skip
    if "ema" in new:
        averages = trees.flatten(old.get("ema", {}))
        out["ema"] = trees.unflatten({path: averages.get(path, leaf) for path, leaf in trees.walk(new["ema"])})
    return out
