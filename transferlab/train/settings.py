"""How a run is trained: one dataclass, the same fields in configs and in Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar

from transferlab.bounds import Bounds, Count, Fraction, Natural, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError, check_arguments
from transferlab.fields import check_fields
from transferlab.train.optimizers import Optimizer, described
from transferlab.transfer.groups import Schedule

_LOG = logging.getLogger(__name__)
Made = TypeVar("Made")


RENAMED = {"together": "vectorize"}
"""Fields by the names that they had before; these are read too."""


def current_names(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return fields of :class:`Settings` under the names that they have now; one by its former name is logged.

    Args:
        fields: by name.
        where: begins the warning: where they were read.

    Raises:
        TransferlabError: a field is given by both of its names.
    """
    renamed = dict(fields)
    for former in RENAMED.keys() & fields.keys():
        name = RENAMED[former]
        if name in fields:
            raise TransferlabError(
                f"{where}.{former} is called '{name}' now, and both are given; leave out '{former}'."
            )
        _LOG.warning("%s.%s is called '%s' now.", where, former, name)
        renamed[name] = renamed.pop(former)
    return renamed


def _reads_former_names(cls: type[Made]) -> type[Made]:
    """Let a class of settings take its fields by their former names, too."""
    construct: Any = cls.__init__

    @wraps(construct)
    def init(self: Any, *args: Any, **fields: Any) -> None:
        construct(self, *args, **current_names(fields, cls.__name__))

    changed: Any = cls
    changed.__init__ = init
    return cls


@_reads_former_names
@check_arguments
@dataclass(frozen=True)
class Settings:
    """Training settings; without any a run has its method's ``defaults``.

    Example:
        >>> settings = tl.train.Settings(learning_rate=1e-3, epochs=5, optimizer=tl.train.Optimizer("lion"))
        >>> tl.adapt(source, data, settings=settings)

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
        vectorize: whether runs of one program train at the same time (``fit_together``, studies): ``auto`` as one where
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

    learning_rate: Positive = 3e-4
    epochs: Count = 10
    steps: Count | None = None
    max_steps: Count | None = None
    batch_size: Count = 32
    accumulate: Count = 1
    remat: bool = False
    ema: Annotated[float, Bounds(0.0, 1.0, above=True, below=True)] | None = None
    memory_bytes: Count | None = None
    vectorize: Literal["auto", "always", "never"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    weight_decay: NonNegative = 0.01
    warmup: Fraction = 0.1
    schedule: Schedule = "linear"
    optimizer: Optimizer = field(default_factory=Optimizer)
    label_smoothing: Rate = 0.0
    group_by_length: bool = True
    log_every: Count = 10
    evaluations: Count = 10
    checkpoint_seconds: NonNegative = 60.0
    checkpoint_steps: Count | None = None
    cache_bytes: Natural = 16 << 30

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.optimizer, Optimizer):
            raise TransferlabError(f"optimizer is {described(self.optimizer)}.")
        if self.batch_size % self.accumulate:
            raise TransferlabError(f"accumulate is {self.accumulate}; it must divide the batch size {self.batch_size}.")

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
