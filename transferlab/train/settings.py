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
Class = TypeVar("Class")


RENAMED = {"together": "vectorize"}
"""Former name → name of a field; former names are still read."""


def current_names(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return fields of :class:`Settings` under their current names, a former one of which is logged; an optimizer's name is that
    optimizer.

    Args:
        fields: by name.
        where: where they were read; begins the warning.

    Raises:
        TransferlabError: a field is given under both of its names.
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
    if isinstance(name := renamed.get("optimizer"), str):
        renamed["optimizer"] = Optimizer(name)
    return renamed


def _reads_former_names(cls: type[Class]) -> type[Class]:
    """Let a class of settings also take fields by their former names, and an optimizer by its own."""
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
    """Training settings; a run without any has its method's ``defaults``.

    Given settings replace all of these, the learning rate too; ``Settings(**tl.methods.LoRA.defaults | {"steps": 20})`` keeps them.

    Example:
        >>> settings = tl.train.Settings(learning_rate=1e-3, epochs=5, optimizer=tl.train.Optimizer("lion"))
        >>> tl.adapt(source, data, settings=settings)

    Attributes:
        learning_rate: peak, after warm-up.
        epochs: passes over the training examples; ``steps`` overrides it.
        steps: number of updates.
        max_steps: most updates, where the epochs would take more; the learning rate still decays to its end.
        batch_size: examples per update. Smaller sets are padded to it with rows of weight 0.
        accumulate: parts that a batch is computed in, one after another; gradients are those of the whole batch.
        remat: compute activations again, stage by stage, in the backward pass: less memory, a third more work.
        ema: decay of the moving average of what trains, which is then validated, tested and kept; warmed up as
            min(ema, (1 + step) / (10 + step)). None keeps no average.
        memory_bytes: most bytes that a step may take; a step that needs more runs with ``remat``, then in more parts, and the
            record says so. None for the device's memory.
        vectorize: whether runs of one program train at the same time (:func:`transferlab.fit_together`, studies): ``auto``
            as one program where that is faster, otherwise on CPU in pairs, in two threads, where two take no more than
            ``memory_bytes``, or half of the machine's; ``always`` as one program; ``never``.
        precision: ``bfloat16`` computes and stores frozen leaves in it, with float32 trainable parameters, optimizer,
            reductions and statistics.
        weight_decay: decoupled (AdamW), on matrices and tables only.
        warmup: fraction of the steps over which the learning rate rises linearly.
        schedule: what follows the warm-up: ``linear`` to zero, ``cosine`` to zero, or ``constant``.
        optimizer: a :class:`transferlab.train.Optimizer`, or the name of one of optax's.
        label_smoothing: probability moved from the true class to all classes evenly.
        group_by_length: put texts of similar length in the same batch.
        log_every: steps between rows of metrics.
        evaluations: how often the validation split is scored, if there is one: evenly spaced, the last at the end.
        keep: which state is tested and kept where there is a validation split: the ``best`` by the task's metric, or the
            ``last``. Without one it is the last.
        patience: stop after this many evaluations in a row without a better one; None never stops. Learning rate and
            evaluations stay those of the planned steps.
        checkpoint_seconds: minimum time between checkpoints.
        checkpoint_steps: number of steps between checkpoints, instead.
        cache_bytes: most bytes that the carries of this run's examples may take in the frontier cache; beyond, they are
            recomputed.

    Raises:
        TransferlabError: an unknown field, or a value out of its range.
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
    keep: Literal["best", "last"] = "best"
    patience: Count | None = None
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
        """Number of updates on this many examples.

        Raises:
            TransferlabError: it would be 0.
        """
        total = self.epochs * -(-examples // self.batch_size) if self.steps is None else self.steps
        total = total if self.max_steps is None else min(total, self.max_steps)
        if total < 1:
            raise TransferlabError(
                f"This run would take no step: {examples} examples, batch size {self.batch_size}, "
                f"epochs {self.epochs}, steps {self.steps}, max_steps {self.max_steps}."
            )
        return total
