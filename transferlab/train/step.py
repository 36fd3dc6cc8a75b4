"""``tl.train_step``: one update as a pure function, for a loop, a mesh and an optimizer of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from transferlab import trees
from transferlab.errors import TransferlabError, check_arguments
from transferlab.models.backbone import key_for, training_stages
from transferlab.models.network import Network
from transferlab.selectors import Selectable, select, selector_text, stages_of
from transferlab.tasks import Task
from transferlab.tasks.base import StepBatch, total_loss
from transferlab.train.optimizers import global_norm
from transferlab.trees import Tree


class LoopState(TypedDict):
    """What a step changes.

    Attributes:
        params: the leaves that train, a nested dict by path.
        stats: the network's state, as batch statistics.
        optimizer: optax's state for the leaves that train.
        step: number of updates so far, int32.
    """

    params: Tree
    stats: Tree
    optimizer: Any
    step: Int[Array, ""]


@dataclass(frozen=True)
class TrainStep:
    """(state, frozen, batch, seed) → (state, metrics); :func:`train_step` makes one. Compiling it is the caller's.

    Attributes:
        network: the model.
        task: what is optimised.
        trainable: paths of the leaves that train, sorted.
        optimizer: any optax transformation; it sees the leaves that train alone.
    """

    network: Network
    task: Task
    trainable: tuple[str, ...]
    optimizer: optax.GradientTransformation

    @cached_property
    def training(self) -> frozenset[str]:
        """Names of the stages that run as in training: those that own a leaf that trains."""
        return training_stages(self.network.stages, set(self.trainable))

    def init(self, params: Mapping[str, Any], stats: Mapping[str, Any] | None = None) -> tuple[LoopState, Tree]:
        """Return (state before the first step, frozen leaves).

        Args:
            params: all parameters of the network, as :meth:`transferlab.transfer.Graft.place` returns them.
            stats: its state, if it has any.
        """
        trains, frozen = trees.split_by(params, self.trainable)
        state: LoopState = {
            "params": trains,
            "stats": dict(stats or {}),
            "optimizer": self.optimizer.init(trains),
            "step": jnp.zeros((), jnp.int32),
        }
        return state, frozen

    def __call__(
        self, state: LoopState, frozen: Mapping[str, Any], batch: Mapping[str, Any], seed: Any = 0
    ) -> tuple[LoopState, dict[str, Float[Array, ""]]]:
        """One update; to be traced.

        Args:
            state: from :meth:`init`, or the step before. It may be donated.
            frozen: the leaves that do not train.
            batch: ``inputs`` of the network by name, ``targets`` of the task by name (``label`` of a classification), each
                (batch, …), and, where rows are padding, ``weight`` (batch,), 0 for those.
            seed: of dropout; each step draws from it anew.

        Returns:
            The state after the update; and ``loss``, the task's metrics and ``gradient_norm``, of the batch before it.
        """
        key = key_for(seed, state["step"])
        inputs, targets = dict(batch["inputs"]), dict(batch["targets"])
        rows = len(next(iter(inputs.values())))
        weight = batch.get("weight", jnp.ones(rows, jnp.float32))
        prepared = self.task.prepare(StepBatch(inputs=inputs, targets=targets, weight=weight), key)
        weights = self.task.weights(prepared)

        def objective(params: Tree) -> tuple[jax.Array, Any]:
            carry = {**prepared["inputs"], "weight": prepared["weight"]}
            whole = trees.join(params, frozen)
            out, stats = self.network.run(whole, state["stats"], carry, key=key, training=self.training)
            loss = total_loss(self.task, self.task.loss(out, prepared), weights)
            return loss, (self.task.metrics(out, prepared), stats)

        (loss, (metrics, stats)), grads = jax.value_and_grad(objective, has_aux=True)(state["params"])
        updates, optimizer = self.optimizer.update(grads, state["optimizer"], state["params"])
        params: Any = optax.apply_updates(state["params"], updates)
        after: LoopState = {
            "params": params,
            "stats": stats,
            "optimizer": optimizer,
            "step": state["step"] + 1,
        }
        means = {name: total / jnp.maximum(weight, 1e-30) for name, (total, weight) in metrics.items()}
        return after, {"loss": loss, **means, "gradient_norm": global_norm(grads)}


@check_arguments
def train_step(
    network: Network, task: Task, trainable: Selectable, optimizer: optax.GradientTransformation
) -> TrainStep:
    """Return the step of a network as a pure function, for one's own loop under one's own ``jit`` and mesh.

    Gradients exist for the leaves that train alone; stages that own none run in evaluation.

    Args:
        network: from :func:`transferlab.network` and its kin, with ``logits`` as output.
        task: one of :mod:`transferlab.tasks`.
        trainable: selector of the leaves that train; :func:`transferlab.labels` and ``optax.partition`` give them different rules.
        optimizer: any optax transformation.

    Raises:
        TransferlabError: a selector that matches no parameter, or a network without logits.

    Example:
        >>> step = tl.train_step(mine, tl.tasks.Classification(), "head", optax.adam(1e-3))
        >>> state, frozen = step.init(*graft.place())
        >>> update = jax.jit(step, donate_argnums=0)
        >>> state, metrics = update(state, frozen, {"inputs": {"x": x}, "targets": {"label": y}}, seed)
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TransferlabError(
            f"optimizer is {str(optimizer)[:60]!r}; pass an optax transformation, as optax.adam(1e-3)."
        )
    if getattr(network, "output", "logits") != "logits":
        raise TransferlabError(
            "This network's output is 'hidden', and a loss needs logits: give its module a head, and output='logits'."
        )
    paths = trees.flatten(network.params)
    trains = select(selector_text(trainable, "trainable")).match(paths, stages_of(network))
    return TrainStep(network, task, tuple(sorted(trains)), optimizer)
