"""Runs that diverge: what is checked, what is recorded, and what a user is told."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transferlab.errors import TransferlabError
from transferlab.train.settings import Settings

FINISHED = "finished"
"""Status of a run that reached its last step with finite values."""
NOT_KEPT = "Fit it again, in another directory, with tl.adapt(…, keep_weights=True)."
"""What mends a run without weights."""
_PARTS = {"params": "parameter", "ema": "averaged parameter", "stats": "batch statistic", "optimizer": "optimizer's"}


@dataclass(frozen=True)
class Divergence:
    """Where a run stopped being finite.

    Attributes:
        step: the first step (from 1) with values that are not finite.
        total: steps of the whole run.
        what: what is not finite, as a clause.
        learning_rate: of that step.
        updates: how many preceded it: 0 where the first step's own loss is not finite.
    """

    step: int
    total: int
    what: str
    learning_rate: float
    updates: int

    @property
    def status(self) -> str:
        """The status in records and tables."""
        return f"diverged at step {self.step}"

    def __str__(self) -> str:
        return f"{self.status} of {self.total} (learning rate {self.learning_rate:.3g}): {self.what}"


def recorded(record: Mapping[str, Any]) -> Divergence | None:
    """Where the run of this record (``result.json``) diverged; None for one that finished.

    Raises:
        TransferlabError: the record's field ``diverged`` has other keys.
    """
    fields = record.get("diverged")
    try:
        return None if fields is None else Divergence(**fields)
    except TypeError:
        raise TransferlabError(
            f"A run's record (result.json) has 'diverged': {fields!r}; expected null or the fields "
            f"{', '.join(Divergence.__annotations__)}."
        ) from None


def first_not_finite(metrics: Mapping[str, Sequence[float] | np.ndarray]) -> tuple[int, str] | None:
    """The index of the first step whose loss or gradient norm is not finite, and a clause that says which; None if all are."""
    loss, norm = metrics["loss"], metrics["gradient_norm"]
    if np.isfinite(loss).all() and np.isfinite(norm).all():
        return None
    for place, (one, other) in enumerate(zip(loss, norm, strict=True)):
        for name, value in (("loss", one), ("gradient norm", other)):
            if not math.isfinite(value):
                return place, f"the {name} is {value}"
    return None


def state_not_finite(state: Mapping[str, Any]) -> str | None:
    """A clause that names a leaf of a state (parameters, statistics, optimizer) that is not finite; None if all are."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        values = np.asarray(leaf)
        if not np.issubdtype(values.dtype, np.integer) and not _finite(values):
            part, _, name = jax.tree_util.keystr(path, simple=True, separator="/").partition("/")
            return f"the {_PARTS.get(part, part)} '{name}' is not finite"
    return None


def _finite(values: np.ndarray) -> bool:
    # A sum takes a fraction of the time, and is finite only if all are.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def advice(divergence: Divergence, settings: Settings) -> str:
    """What to try next, with the line of code that does it."""
    if not divergence.updates:
        return (
            "That was the first step, before anything was updated, so the learning rate is not at fault: the pretrained "
            "weights or the data are not finite, or too large for what computes them."
        )
    changes = [f"learning_rate={settings.learning_rate / 10:.3g}"]
    changes += ["warmup=0.1"] if settings.warmup < 0.1 else []
    changes += ["precision='float32'"] if settings.precision != "float32" else []
    # The optimizer's other arguments are kept.
    clipped = settings.optimizer.clip_norm is not None and settings.optimizer.clip_norm <= 1.0
    changes += [] if clipped else ["optimizer=replace(settings.optimizer, clip_norm=1.0)"]
    return f"Try a lower learning rate: dataclasses.replace(settings, {', '.join(changes)})."


def sentence(divergence: Divergence, settings: Settings, directory: Path | None) -> str:
    """What a user is told about one run: what happened, what to do, and what was kept."""
    text = f"The run {divergence}. {advice(divergence, settings)}"
    if directory is None:
        return text
    text += f" Other settings are another run, which needs a directory other than {directory}"
    last = last_checkpoint(directory)
    if last is None:
        return text + "."
    return text + (
        f"; that one keeps the checkpoint of step {last}, whose values are finite, and would continue from there without its "
        "result.json."
    )


def last_checkpoint(directory: Path) -> int | None:
    """Step of the newest checkpoint in a run's directory."""
    steps = [int(path.name) for path in (directory / "checkpoints").glob("*") if path.name.isdigit()]
    return max(steps, default=None)


def drop_checkpoints(directory: Path) -> None:
    """Remove the checkpoints in a run's directory."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
