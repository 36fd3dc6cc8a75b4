"""The compiled step: one program per (architecture, what trains, optimizer) and batch shape, shared by every run.

Learning rate, decay, seed and length of the run are arguments, so that seeds and tuning trials do not recompile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from transferlab import trees
from transferlab.compute.compiled import Compiled
from transferlab.compute.flags import plain_attention
from transferlab.models.backbone import Carry, key_for
from transferlab.models.network import Network
from transferlab.selectors import owns
from transferlab.tasks.base import StepBatch, Task, total_loss
from transferlab.train.optimizers import Optimizer, apply_updates, global_norm, learning_rate
from transferlab.train.settings import Settings
from transferlab.train.state import HParams, Metrics, State
from transferlab.transfer.frontier import packed_function, prefix_function
from transferlab.transfer.groups import LeafSettings
from transferlab.transfer.penalties import Penalty
from transferlab.transfer.plan import Plan

ANCHORS = "anchors"
"""Where the frozen leaves of a step have what penalties compare with: ``{path: value before the first step}``."""


@dataclass(frozen=True)
class Execution:
    """How a run's step is computed; results are the same up to rounding (and up to dropout, where parts differ).

    Attributes:
        remat: whether activations are recomputed, stage by stage, in the backward pass.
        accumulate: number of parts that a batch is computed in, one after another.
    """

    remat: bool
    accumulate: int

    def __str__(self) -> str:
        again = ["activations computed again"] if self.remat else []
        parts = [f"batches in {self.accumulate} parts"] if self.accumulate > 1 else []
        return " and ".join([*again, *parts]) or "whole batches, activations kept"


@dataclass(frozen=True)
class Program:
    """The compiled functions of one kind of run. Runs with equal fields share one instance through :func:`program_for`.

    Their arguments are a :class:`transferlab.train.state.State`, the frozen leaves, a
    :class:`transferlab.train.state.StepBatch` and :class:`transferlab.train.state.HParams`.

    Attributes:
        network: the model, and the shapes of its leaves.
        trainable: path and settings of each leaf that trains, sorted by path.
        frontier: index of the first stage that the step runs; those before it are frozen, and their carry is cached.
        training: names of the stages that run as in training (dropout, batch statistics).
        task: what is optimised and predicted.
        optimizer: rule and constants.
        schedule: of the learning rate, after warm-up.
        accumulate: number of parts that a batch is computed in.
        compute: dtype that stages compute in.
        remat: whether activations are recomputed in the backward pass.
        ema: decay of the moving average of what trains; None keeps none.
        births: of each trainable leaf, the phase since which it trains; empty for a run of one phase.
        penalties: terms of the loss on the leaves that train.
    """

    network: Network
    trainable: tuple[tuple[str, LeafSettings], ...]
    frontier: int
    training: frozenset[str]
    task: Task
    optimizer: Optimizer
    schedule: str
    accumulate: int = 1
    compute: str = "float32"
    remat: bool = False
    ema: float | None = None
    births: tuple[int, ...] = ()
    penalties: tuple[Penalty, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the trainable leaves."""
        return tuple(path for path, _ in self.trainable)

    @cached_property
    def rule(self) -> Any:
        """The optimizer as optax has it."""
        return self.optimizer.rule(dict(zip(self.paths, self.births, strict=True)) if self.births else None)

    def anchors(self, params: trees.Tree) -> trees.Tree:
        """Copies of the leaves that penalties compare with, from the values before the first step of the run."""
        leaves = trees.flatten(params)
        return {
            path: jnp.copy(leaves[path]) for path in sorted({path for each in self.penalties for path in each.anchors})
        }

    def needed(self, frozen: trees.Tree) -> trees.Tree:
        """Return the frozen leaves that stages from the frontier on use; the others never enter the step."""
        return trees.unflatten({path: leaf for path, leaf in trees.walk(frozen) if owns(self._prefixes, path)})

    @cached_property
    def entering(self) -> frozenset[str]:
        """Paths of the parameters that enter the step: those that train, and those used by stages from the frontier on."""
        paths = trees.flatten(self.network.params)
        return frozenset(self.paths) | {path for path in paths if owns(self._prefixes, path)}

    @cached_property
    def _prefixes(self) -> list[str]:
        return [prefix for stage in self.network.stages[self.frontier :] for prefix in stage.owns + stage.borrows]

    def initial(self, params: trees.Tree, stats: trees.Tree) -> State:
        """Return the state before the first step; optimizer moments for trainable leaves only."""
        return self._initial(params, stats)

    @cached_property
    def _initial(self) -> Callable[[trees.Tree, trees.Tree], State]:
        def initial(params: trees.Tree, stats: trees.Tree) -> State:
            # Copied, since the state is donated to the step and the placed arrays may be shared between runs.
            params, stats = jax.tree.map(jnp.copy, (params, stats))
            state: State = {
                "params": params,
                "stats": stats,
                "optimizer": self.rule.init(params),
                "step": jnp.zeros((), jnp.int32),
            }
            if self.ema is not None:
                state["ema"] = jax.tree.map(jnp.copy, params)
            return state

        return jax.jit(initial)

    def advance(self, state: State, frozen: trees.Tree, batch: StepBatch, hparams: HParams) -> tuple[State, Metrics]:
        """One update, to be traced: (state, frozen, batch, hparams) → (state, metrics)."""
        key = key_for(hparams["seed"], state["step"])
        anchors = frozen.get(ANCHORS, {})
        # Leaves of an earlier phase are frozen now, and stay in the state, so that checkpoints have them.
        fixed: dict[str, Any] = {"settled": state["settled"]} if "settled" in state else {}
        frozen = trees.join(_leaves(frozen), fixed.get("settled", {}))
        metrics, stats, grads = self._gradients(state["params"], frozen, state["stats"], batch, key)
        if self.penalties and "penalties" in hparams:
            values, slopes = self._penalised(state["params"], anchors, hparams["penalties"])
            grads = jax.tree.map(jnp.add, grads, slopes)
            metrics |= {name: jnp.stack([value, jnp.ones(())]) for name, value in values.items()}
        moving: dict[str, Any] = {name: part for name, part in state.items() if name not in ("stats", "settled")}
        moved, norm, rate = self._update(grads, moving, hparams)
        return cast(State, {**moved, "stats": stats, **fixed}), {
            **metrics,
            "gradient_norm": norm,
            "learning_rate": rate,
        }

    def _penalised(
        self, params: trees.Tree, anchors: trees.Tree, weights: jax.Array
    ) -> tuple[dict[str, jax.Array], trees.Tree]:
        """(each penalty's value times its weight, gradients of their sum): once a step, in float32."""

        def total(params: trees.Tree) -> tuple[jax.Array, dict[str, jax.Array]]:
            flat = trees.flatten(params)
            values = {
                each.name: each(flat, anchors) * weight for each, weight in zip(self.penalties, weights, strict=True)
            }
            return sum(values.values(), jnp.zeros(())), values

        slopes, values = jax.grad(total, has_aux=True)(params)
        return values, slopes

    @cached_property
    def _update(self) -> Callable[[trees.Tree, dict[str, Any], HParams], tuple[dict[str, Any], jax.Array, jax.Array]]:
        """(gradients, state without its statistics, hparams) → (that state after the update, gradient's norm, learning rate).

        It is the same for batches of every shape, so it is traced once.
        """
        return jax.jit(self._updated, inline=True)

    def _updated(
        self, grads: trees.Tree, state: dict[str, Any], hparams: HParams
    ) -> tuple[dict[str, Any], jax.Array, jax.Array]:
        done = state["step"].astype(jnp.float32)
        now = done - hparams["first"]
        rate = learning_rate(self.schedule, now, hparams["learning_rate"], hparams["total"], hparams["warmup"])
        updates: Any
        updates, optimizer = self.rule.update(grads, state["optimizer"], state["params"])
        decays = {
            path: hparams["weight_decay"] * settings.decay if settings.decay else 0.0
            for path, settings in self.trainable
        }
        params = apply_updates(state["params"], updates, self._rates(rate, now, hparams), decays)
        new = {"params": params, "optimizer": optimizer, "step": state["step"] + 1}
        if self.ema is not None:
            kept = jnp.minimum(self.ema, (1.0 + done) / (10.0 + done))
            new["ema"] = jax.tree.map(lambda old, p: kept * old + (1.0 - kept) * p, state["ema"], params)
        return new, global_norm(grads), rate

    def _rates(self, rate: jax.Array, now: jax.Array, hparams: HParams) -> dict[str, jax.Array]:
        """The learning rate of each leaf: the run's, or by its group's own schedule, times the group's scale."""
        kinds: dict[tuple, jax.Array] = {(None, None): rate}
        rates = {}
        for path, settings in self.trainable:
            kind = (settings.schedule, settings.warmup)
            if kind not in kinds:
                warmup = hparams["warmup"] if settings.warmup is None else jnp.round(settings.warmup * hparams["total"])
                schedule = settings.schedule or self.schedule
                kinds[kind] = learning_rate(schedule, now, hparams["learning_rate"], hparams["total"], warmup)
            rates[path] = kinds[kind] if settings.lr_scale == 1.0 else kinds[kind] * settings.lr_scale
        return rates

    def _gradients(
        self, params: trees.Tree, frozen: trees.Tree, stats: trees.Tree, batch: StepBatch, key: jax.Array
    ) -> tuple[Metrics, trees.Tree, trees.Tree]:
        """(metrics, batch statistics, gradients) of a batch, in ``accumulate`` parts one after another.

        A part's loss is divided by the weights of the whole batch, so that what parts give is added up.
        """
        batch = self.task.prepare(batch, key)
        weights = self.task.weights(batch)

        def part(stats: trees.Tree, batch: StepBatch, key: jax.Array) -> tuple[Any, trees.Tree]:
            def objective(params: trees.Tree) -> tuple[jax.Array, tuple]:
                carry = {**trees.cast(batch["inputs"], self.compute), "weight": batch["weight"]}
                out, moved = self._forward(params, frozen, stats, carry, key)
                sums = self.task.loss(out, batch)
                return total_loss(self.task, sums, weights), (sums, self.task.metrics(out, batch), moved)

            (_, (sums, metrics, stats)), grads = jax.value_and_grad(objective, has_aux=True)(params)
            return (sums, metrics, grads), stats

        if self.accumulate == 1:
            (sums, metrics, grads), stats = part(stats, batch, key)
        else:

            def one(kept: tuple, piece: tuple) -> tuple[tuple, None]:
                total, stats = kept
                number, batch = piece
                found, stats = part(stats, batch, jax.random.fold_in(key, number))
                return (jax.tree.map(jnp.add, total, found), stats), None

            pieces = jax.tree.map(lambda x: x.reshape(self.accumulate, -1, *x.shape[1:]), batch)
            first = jax.tree.map(lambda x: x[0], pieces)
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part, stats, first, key)[0])
            steps = (jnp.arange(self.accumulate), pieces)
            ((sums, metrics, grads), stats), _ = jax.lax.scan(one, (nothing, stats), steps)
        logged = {name: jnp.stack(pair) for name, pair in metrics.items()}
        logged |= {name: jnp.stack([sums[name], weights[name]]) for name in sums}
        if len(sums) > 1:
            weight = next(iter(weights.values()))
            logged["loss"] = jnp.stack([total_loss(self.task, sums, weights) * weight, weight])
        return logged, stats, grads

    def _forward(
        self, params: trees.Tree, frozen: trees.Tree, stats: trees.Tree, carry: Carry, key: jax.Array
    ) -> tuple[Carry, trees.Tree]:
        """(last carry, batch statistics) of the stages from the frontier on, in training."""
        return self.network.run(
            trees.join(params, frozen), stats, carry, start=self.frontier, key=key, training=self.training,
            compute=self.compute, remat=self.remat,
        )  # fmt: skip

    @cached_property
    def step(self) -> Compiled:
        """(state, frozen, batch, hparams) → (state, metrics). The state is donated; the frozen tree is not."""
        return Compiled(self.advance, varies=(2,), donate=(0,), counted=True)

    @cached_property
    def scanned_steps(self) -> Compiled:
        """(states, frozen, table, rows, hparams) → (states, metrics): many steps of many members in one call.

        Every leaf of ``states`` and ``hparams`` has a leading axis of members. ``table`` holds the carries of all
        examples, one row each. ``rows`` has each step's examples: ``index`` into the table, ``targets`` and
        ``weight``, all (orders, steps, batch, …), and ``live`` (orders, steps): where it is False the members of that order
        have stopped, and do not change. Members are sorted by order, equally many of each: they share its batches,
        which are gathered once. The metrics are (members, steps, …).
        """

        def member(
            state: State, frozen: trees.Tree, table: dict, rows: dict, hparams: HParams
        ) -> tuple[State, Metrics]:
            def one(state: State, row: dict) -> tuple[State, jax.Array]:
                inputs = {name: values[row["index"]] for name, values in table.items()}
                batch: StepBatch = {"inputs": inputs, "targets": row["targets"], "weight": row["weight"]}
                new, metrics = self.advance(state, frozen, batch, hparams)
                kept = jax.tree.map(lambda a, b: jnp.where(row["live"], a, b), new, state)
                # In one vector, so that each step writes one row and not one per metric.
                vector, separate = ravel_pytree(metrics)
                unravel.append(separate)
                return kept, vector

            unravel: list[Callable[[jax.Array], Metrics]] = []
            state, metrics = jax.lax.scan(one, state, rows)
            return state, jax.vmap(unravel[0])(metrics)

        def all_(states: State, frozen: trees.Tree, table: dict, rows: dict, hparams: HParams) -> tuple[State, Metrics]:
            orders = len(rows["live"])
            states, hparams = jax.tree.map(lambda x: x.reshape(orders, -1, *x.shape[1:]), (states, hparams))
            order = jax.vmap(member, in_axes=(0, None, None, None, 0))
            results = jax.vmap(order, in_axes=(0, None, None, 0, 0))(states, frozen, table, rows, hparams)
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)

        return Compiled(all_, varies=(2, 3, 4), donate=(0,))

    @cached_property
    def vmapped_step(self) -> Compiled:
        """(states, frozen, batches, live, hparams) → (states, metrics): one step of many members, each on its own batch.

        All but ``frozen`` have a leading axis of members; where ``live`` is False a member has stopped and does not change.
        """

        def member(
            state: State, frozen: trees.Tree, batch: StepBatch, live: jax.Array, hparams: HParams
        ) -> tuple[State, Metrics]:
            with plain_attention():
                new, metrics = self.advance(state, frozen, batch, hparams)
            return jax.tree.map(lambda a, b: jnp.where(live, a, b), new, state), metrics

        return Compiled(jax.vmap(member, in_axes=(0, None, 0, 0, 0)), varies=(2,), donate=(0,))

    @cached_property
    def scanned_predict(self) -> Compiled:
        """(params, frozen, stats, table, index) → predictions, each (members, rows, …).

        ``index`` is (sets, rows): members are sorted by the set of examples that they predict, equally many for each set.
        """

        def member(params: trees.Tree, frozen: trees.Tree, stats: trees.Tree, table: dict, index: jax.Array) -> Any:
            carry = {name: values[index] for name, values in table.items()}
            return self.predictions(params, frozen, stats, carry, {})

        def all_(params: trees.Tree, frozen: trees.Tree, stats: trees.Tree, table: dict, index: jax.Array) -> Any:
            params, stats = jax.tree.map(lambda x: x.reshape(len(index), -1, *x.shape[1:]), (params, stats))
            same = jax.vmap(member, in_axes=(0, None, 0, None, None))
            out = jax.vmap(same, in_axes=(0, None, 0, None, 0))(params, frozen, stats, table, index)
            # Not -1: without examples it could not be inferred.
            return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), out)

        return Compiled(all_, varies=(0, 3, 4))

    def predictions(
        self, params: trees.Tree, frozen: trees.Tree, stats: trees.Tree, carry: dict, targets: dict
    ) -> dict[str, jax.Array]:
        """What the task predicts, each (rows, …), in evaluation, from the frontier on; to be traced."""
        carry = self.task.evaluation(trees.cast(carry, self.compute), targets)
        whole = trees.join(params, _leaves(frozen))
        out, _ = self.network.run(whole, stats, carry, start=self.frontier, compute=self.compute)
        return self.task.predict(out)

    @cached_property
    def predict(self) -> Compiled:
        """(params, frozen, stats, carry, targets) → predictions, each (rows, …), in evaluation, from the frontier on.

        ``targets`` is empty unless the task reads them.
        """
        return Compiled(self.predictions, varies=(3, 4))

    @cached_property
    def prefix(self) -> Compiled:
        """(params, stats, inputs) → the carry at the frontier."""
        return Compiled(prefix_function(self.network, self.frontier, self.compute), varies=(2,))

    @cached_property
    def packed_prefix(self) -> Compiled:
        """Like :attr:`prefix`, for texts that share rows, as :func:`transferlab.data.packing.pack` lays them out."""
        return Compiled(packed_function(self.network, self.frontier, self.compute), varies=(2,))

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling any of its functions."""
        return sum((function.seconds for function in self._used), 0.0)

    @property
    def compiling_since(self) -> float | None:
        """When the compilation under way began (``time.perf_counter``); None where nothing is compiled."""
        return min((function.since for function in self._used if function.since is not None), default=None)

    @property
    def _used(self) -> list[Compiled]:
        """The functions that exist so far; asking makes none, so that any thread may."""
        return [function for function in list(vars(self).values()) if isinstance(function, Compiled)]

    def clock(self) -> float:
        """Seconds on a clock that stops while any of its functions is compiled."""
        return time.perf_counter() - self.compile_seconds


def _leaves(frozen: trees.Tree) -> trees.Tree:
    """The frozen leaves of a step, without what penalties compare with."""
    return {name: part for name, part in frozen.items() if name != ANCHORS}


@lru_cache(maxsize=64)
def _shared(program: Program) -> Program:
    """The program that equals this one, if it is among those used last; a run keeps its own."""
    return program


def program_for(
    plan: Plan, task: Task, settings: Settings, cached: bool, execution: Execution, *, phased: bool = False
) -> Program:
    """Return the program for a plan of one phase; an equal one that exists is reused, with everything it has compiled.

    Without a cache the stages before the frontier run inside the step: the program then starts at stage 0. ``phased`` says that
    the run has other phases too.
    """
    phase = plan.phases[-1]
    program = Program(
        plan.network,
        tuple((path, plan.leaf_settings[path]) for path in plan.trainable),
        plan.frontier if cached else 0,
        plan.training,
        task,
        settings.optimizer,
        settings.schedule,
        execution.accumulate,
        settings.precision,
        execution.remat,
        settings.ema,
        tuple(phase.births[path] for path in plan.trainable) if phased else (),
        phase.penalties,
    )
    return _shared(program)
