"""How a run is trained: one dataclass, the same fields in configs and in Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from transferlab.errors import TransferlabError, check_arguments, check_fields
from transferlab.train.optimizers import Optimizer
from transferlab.transfer.groups import Schedule


@check_arguments
@dataclass(frozen=True)
class Settings:
    """Training settings.

    Attributes:
        learning_rate: peak, after warm-up.
        epochs: passes over the training examples; ``steps`` overrides it.
        steps: number of updates.
        max_steps: at most so many updates, however many the epochs would take; they still fall to a learning rate of 0.
        batch_size: examples per update. Smaller sets are padded to it with rows that weigh nothing.
        accumulate: parts that a batch is computed in, one after another; gradients are those of the whole batch.
        remat: compute activations again, stage by stage, in the backward pass: less memory, a third more work.
        ema: decay of the moving average of what trains, which is then what is validated, tested and kept; warmed up as
            min(ema, (1 + step) / (10 + step)). None keeps no average.
        memory_bytes: most that a step may hold; a step that needs more is run with ``remat``, then in more parts, and the
            record says so. None for what the device has.
        together: whether runs of one program train at the same time (``fit_together``, studies): ``auto`` as one where
            that was found faster, on CPU else in pairs, side by side, where two hold no more than ``memory_bytes``, or half of the
            machine's; ``always`` as one; ``never``.
        precision: ``bfloat16`` computes in it, with float32 parameters, optimizer, reductions and statistics; frozen leaves
            are kept in it.
        weight_decay: decoupled (AdamW), on matrices and tables only.
        warmup: share of the steps over which the learning rate rises linearly.
        schedule: what follows the warm-up: ``linear`` to zero, ``cosine`` to zero, or ``constant``.
        optimizer: rule and constants.
        label_smoothing: for classification.
        group_by_length: put texts of like length together.
        log_every: steps between rows of metrics.
        evaluations: how often the validation split is scored, if there is one: evenly spaced, the last at the end.
        checkpoint_seconds: least time between checkpoints.
        checkpoint_steps: checkpoint every so many steps instead.
        cache_bytes: most that the carries of this run's examples may take in the frontier cache; above it they are recomputed.
    """

    learning_rate: float = 3e-4
    epochs: int = 10
    steps: int | None = None
    max_steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    remat: bool = False
    ema: float | None = None
    memory_bytes: int | None = None
    together: Literal["auto", "always", "never"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: Schedule = "linear"
    optimizer: Optimizer = field(default_factory=Optimizer)
    label_smoothing: float = 0.0
    group_by_length: bool = True
    log_every: int = 10
    evaluations: int = 10
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    cache_bytes: int = 16 << 30

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("learning_rate", "batch_size", "log_every", "evaluations", "memory_bytes", "checkpoint_steps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise TransferlabError(f"{name} is {value}; it must be greater than 0.")
        if self.weight_decay < 0:
            raise TransferlabError(f"weight_decay is {self.weight_decay}; it must not be negative.")
        if not 0 <= self.label_smoothing < 1:
            raise TransferlabError(f"label_smoothing is {self.label_smoothing}; it is a share, from 0 to below 1.")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise TransferlabError(f"accumulate is {self.accumulate}; it must divide the batch size {self.batch_size}.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise TransferlabError(f"ema is {self.ema}; the decay of a moving average lies between 0 and 1.")
        if not 0 <= self.warmup <= 1:
            raise TransferlabError(f"warmup is {self.warmup}; it is a share of the steps, from 0 to 1.")

    def total_steps(self, examples: int) -> int:
        """Number of updates on this many examples. No update at all is an error."""
        total = self.epochs * -(-examples // self.batch_size) if self.steps is None else self.steps
        total = total if self.max_steps is None else min(total, self.max_steps)
        if total < 1:
            raise TransferlabError(
                f"This run would take no step: {examples} examples, batch size {self.batch_size}, "
                f"epochs {self.epochs}, steps {self.steps}, max_steps {self.max_steps}."
            )
        return total
