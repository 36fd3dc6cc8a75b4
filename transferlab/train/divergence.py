"""Runs that diverge: what is looked at, what is recorded of it, and what a user is told."""

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
"""Status of a run that came to its end with finite numbers."""
_PARTS = {"params": "parameter", "ema": "averaged parameter", "stats": "batch statistic", "optimizer": "optimizer's"}


@dataclass(frozen=True)
class Divergence:
    """Where a run stopped being finite.

    Attributes:
        step: the first step (from 1) that shows it.
        total: steps of the whole run.
        what: what is not finite, as a clause.
        learning_rate: of that step.
        updates: how many came before what shows it: none where the first step's own loss is not finite.
    """

    step: int
    total: int
    what: str
    learning_rate: float
    updates: int

    @property
    def status(self) -> str:
        """As records and tables have it."""
        return f"diverged at step {self.step}"

    def __str__(self) -> str:
        return f"{self.status} of {self.total} (learning rate {self.learning_rate:.3g}): {self.what}"


def recorded(record: Mapping[str, Any]) -> Divergence | None:
    """Where the run of this record (``result.json``) diverged; None for one that finished."""
    found = record.get("diverged")
    try:
        return None if found is None else Divergence(**found)
    except TypeError:
        raise TransferlabError(
            f"A run's record (result.json) says 'diverged': {found!r}, which is not understood."
        ) from None


def first_not_finite(metrics: Mapping[str, Sequence[float]]) -> tuple[int, str] | None:
    """Of consecutive steps, the place of the first whose loss or gradient is not finite, and which it is."""
    loss, norm = metrics["loss"], metrics["gradient_norm"]
    # A sum is finite only if all are.
    if math.isfinite(sum(loss)) and math.isfinite(sum(norm)):
        return None
    for place, (one, other) in enumerate(zip(loss, norm, strict=True)):
        for name, value in (("loss", one), ("gradient norm", other)):
            if not math.isfinite(value):
                return place, f"the {name} is {value}"
    return None


def state_not_finite(state: Mapping[str, Any]) -> str | None:
    """Name a leaf of a state (parameters, statistics, optimizer) that is not finite; None where all are."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        values = np.asarray(leaf)
        if not np.issubdtype(values.dtype, np.integer) and not _finite(values):
            part, _, name = jax.tree_util.keystr(path, simple=True, separator="/").partition("/")
            return f"the {_PARTS.get(part, part)} '{name}' is not finite"
    return None


def _finite(values: np.ndarray) -> bool:
    # Adding up takes a fraction of the time, and is finite only if all are.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def advice(found: Divergence, settings: Settings) -> str:
    """What can be done, in the line of code that does it."""
    if not found.updates:
        return (
            "That was the first step, before anything was updated, so the learning rate is not at fault: the pretrained "
            "weights or the data are not finite, or too large for what computes them."
        )
    changes = [f"learning_rate={settings.learning_rate / 10:.3g}"]
    changes += ["warmup=0.1"] if settings.warmup < 0.1 else []
    changes += ["precision='float32'"] if settings.precision != "float32" else []
    # The other arguments of the optimizer stay.
    clipped = settings.optimizer.clip_norm is not None and settings.optimizer.clip_norm <= 1.0
    changes += [] if clipped else ["optimizer=replace(settings.optimizer, clip_norm=1.0)"]
    return f"Try a lower learning rate: dataclasses.replace(settings, {', '.join(changes)})."


def sentence(found: Divergence, settings: Settings, directory: Path | None) -> str:
    """What a user is told of one run: what happened, what to do, and what was kept."""
    text = f"The run {found}. {advice(found, settings)}"
    if directory is None:
        return text
    text += f" Other settings are another run, in another directory than {directory}"
    last = last_checkpoint(directory)
    if last is None:
        return text + "."
    return text + (
        f", which keeps the checkpoint of step {last}, whose numbers are finite; without its result.json this run "
        "would continue from there."
    )


def last_checkpoint(directory: Path) -> int | None:
    """Step of the newest checkpoint in a run's directory."""
    steps = [int(path.name) for path in (directory / "checkpoints").glob("*") if path.name.isdigit()]
    return max(steps, default=None)


def drop_checkpoints(directory: Path) -> None:
    """Remove the checkpoints in a run's directory."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
