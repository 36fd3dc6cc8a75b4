"""The memory that a step takes on the device, from the compiled program before anything trains, and how to make it fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from transferlab import trees
from transferlab.compute.devices import device_bytes
from transferlab.data.batches import Batch
from transferlab.errors import TransferlabError
from transferlab.train.program import ANCHORS, Execution
from transferlab.train.setup import Setup
from transferlab.transfer.frontier import prefix_function
from transferlab.transfer.show import human_bytes


@dataclass(frozen=True)
class Memory:
    """Bytes that a step holds, by purpose. ``run.memory`` of a :class:`transferlab.train.Run` is one.

    Attributes:
        frozen: leaves that stages from the frontier on use and that do not train.
        trainable: leaves that train, and batch statistics.
        optimizer: moments, and the moving average where one is kept.
        activations: activations and gradients: XLA's count of temporary memory.
    """

    frozen: int
    trainable: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.frozen + self.trainable + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = (("frozen", self.frozen), ("trainable", self.trainable), ("optimizer", self.optimizer),
                 ("activations and gradients", self.activations))  # fmt: skip
        return f"{human_bytes(self.total)}: " + ", ".join(f"{human_bytes(size)} {name}" for name, size in parts if size)


def memory_of(run: Setup) -> Memory:
    """Compile the run's step for its longest batch, and return the memory that it will take. Nothing is allocated."""
    state, frozen, batch = _shapes(run)
    hparams = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), run.hparams())
    return memory_of_state(state, frozen, run.program.step.temporary_bytes(state, frozen, batch, hparams))


def memory_of_state(state: Any, frozen: trees.Tree, activations: int) -> Memory:
    """Return the memory of one run's state (arrays or shapes) with these activations."""
    size = {name: sum(trees.leaf_bytes(leaf) for leaf in jax.tree.leaves(part)) for name, part in state.items()}
    return Memory(
        trees.nbytes(frozen),
        size["params"] + size["stats"] + size.get("settled", 0),
        size["optimizer"] + size.get("ema", 0),
        activations,
    )


def fit_to_memory(run: Setup) -> None:
    """Let the run compute activations again, and then take its batches in more parts, until a step fits.

    Where something was changed, ``run.memory_note`` says so.

    Raises:
        TransferlabError: it still does not fit.
    """
    limit = run.settings.memory_bytes or device_bytes()
    whole = memory_of(run)
    if limit is None or whole.total <= limit:
        return
    size = run.settings.batch_size
    parts_of = range(run.execution.accumulate, size + 1) if run.task.additive else (1,)
    for parts in (n for n in parts_of if size % n == 0):
        run.execution = Execution(True, parts)
        if (reduced := memory_of(run)).total <= limit:
            run.memory_note = (
                f"a step of {human_bytes(whole.total)} does not fit in {human_bytes(limit)}: {run.execution}, "
                f"{human_bytes(reduced.total)}"
            )
            return
    least = "one example at a time" if run.task.additive else "the whole batch at once, which this task needs,"
    raise TransferlabError(
        f"A step needs {whole}; the device has {human_bytes(limit)} (memory_bytes). Even with activations computed "
        f"again and {least} it needs {memory_of(run)}. Train fewer leaves, or shorten the inputs."
    )


def _shapes(run: Setup) -> tuple[Any, trees.Tree, dict[str, Any]]:
    """Shapes of the state, the frozen leaves that the step needs, and its longest batch."""
    plan, program, rows = run.plan, run.program, run.settings.batch_size
    params, stats = plan.network.params, plan.network.state
    trainable, rest = trees.split_by(params, program.paths)
    frozen = jax.eval_shape(lambda tree: trees.cast(tree, run.settings.precision), program.needed(rest))
    longest = max(
        (run.order[step] for step in range(min(run.steps, MAX_SCANNED_BATCHES))), key=lambda batch: batch.bucket
    )
    inputs = run.feed.inputs(longest.indices[:1], longest.bucket, 1)
    # An example may have several rows of inputs.
    carry = {
        name: jax.ShapeDtypeStruct((rows * len(value), *value.shape[1:]), value.dtype) for name, value in inputs.items()
    }
    if run.decision.cached:
        carry = jax.eval_shape(prefix_function(plan.network, plan.frontier, program.compute), params, stats, carry)
    targets = run.batch_targets(Batch(longest.indices[:1], longest.bucket), 1)
    batch = {
        "inputs": carry,
        "targets": {
            name: jax.ShapeDtypeStruct((rows, *value.shape[1:]), value.dtype) for name, value in targets.items()
        },
        "weight": jax.ShapeDtypeStruct((rows,), jnp.float32),
    }
    if program.penalties:
        frozen |= {ANCHORS: jax.eval_shape(program.anchors, params)}
    state = jax.eval_shape(program.initial, trainable, stats)
    if run.settled:
        leaves = trees.flatten(params)
        state["settled"] = trees.unflatten({path: leaves[path] for path in sorted(run.settled)})
        frozen = trees.unflatten({path: leaf for path, leaf in trees.walk(frozen) if path not in run.settled})
    return state, frozen, batch


MAX_SCANNED_BATCHES = 1000
"""How many of a run's batches are searched for the longest."""
