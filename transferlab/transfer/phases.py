"""Phases of a run: what trains in each, for how long, and with which settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transferlab.bounds import Positive
from transferlab.errors import TransferlabError, nearest
from transferlab.fields import check_fields
from transferlab.models.network import Network
from transferlab.transfer.groups import Group, LeafSettings
from transferlab.transfer.penalties import Penalty

OVERRIDES = ("learning_rate", "weight_decay", "warmup", "schedule")
"""Settings of a run that a phase may have of its own. A learning rate is warmed up and decays within its phase."""


@dataclass(frozen=True)
class Phase:
    """One phase of a method: its groups train for a fraction of the run's steps.

    Leaves that a later phase trains too keep their optimizer's state, each with the number of updates that it has had; those
    that a later phase freezes keep their values.

    Example:
        >>> probe = Phase((Group("head"),), "probe", fraction=0.5, settings={"learning_rate": 1e-2})

    Attributes:
        groups: what trains.
        name: as plans and errors call it.
        fraction: of the run's steps; those of all phases sum to 1.
        settings: of :data:`OVERRIDES`, those that differ from the run's.
        last: of the backbone, only this many of its last stages train; None for all that the groups select.

    Raises:
        TransferlabError: a field out of its range, or a setting that a phase cannot have.
    """

    groups: tuple[Group, ...]
    name: str = ""
    fraction: Positive = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    last: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, f"The phase '{self.name}'")
        for name in self.settings:
            if name not in OVERRIDES:
                raise TransferlabError(
                    f"The phase '{self.name}' has the setting '{name}'; a phase may have {', '.join(OVERRIDES)} of its own."
                    f"{nearest(name, OVERRIDES)}"
                )


@dataclass(frozen=True)
class PhasePlan:
    """What one phase of a plan trains.

    Attributes:
        name, fraction, settings: of the :class:`Phase`.
        leaf_settings: of each parameter that trains, by path.
        moving: paths of the batch statistics that move.
        births: path → index of the phase since which it has trained; its moments and its count of updates are that old.
        frontier: index of the first stage that a gradient reaches.
        training: names of the stages that run as in training.
        penalties: terms of the loss on the leaves that train.
        network: the target without arrays, frozen as this phase has it.
    """

    name: str
    fraction: float
    settings: Mapping[str, Any]
    leaf_settings: dict[str, LeafSettings]
    moving: frozenset[str]
    births: Mapping[str, int]
    frontier: int
    training: frozenset[str]
    penalties: tuple[Penalty, ...]
    network: Network = field(repr=False)


def check_fractions(phases: Sequence[Phase], method: str) -> None:
    """Check that there are phases, and that their fractions of the steps sum to 1.

    Raises:
        TransferlabError: they do not.
    """
    if not phases:
        raise TransferlabError(f"The method '{method}' has no phase; return one, as (Phase((Group('head'),)),).")
    total = math.fsum(phase.fraction for phase in phases)
    if abs(total - 1.0) > 1e-6:
        each = ", ".join(f"'{phase.name}' {phase.fraction:g}" for phase in phases)
        raise TransferlabError(
            f"The phases of '{method}' take {total:g} of the run's steps ({each}); fractions sum to 1."
        )


def births_of(trained: Sequence[Mapping[str, Any]]) -> list[dict[str, int]]:
    """Of each phase, {path: index of the phase since which it has trained without a pause}."""
    births: list[dict[str, int]] = []
    for number, paths in enumerate(trained):
        before = births[-1] if births else {}
        births.append({path: before.get(path, number) for path in paths})
    return births


def last_steps(fractions: Sequence[float], names: Sequence[str], steps: int) -> tuple[int, ...]:
    """Return after how many steps each phase ends.

    Raises:
        TransferlabError: a phase without a step.
    """
    ends = [round(steps * math.fsum(fractions[: number + 1])) for number in range(len(fractions))]
    for number, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
        if last <= first:
            raise TransferlabError(
                f"The phase '{names[number]}' takes {fractions[number]:.1%} of {steps} steps, which is none. Train for longer, as "
                f"tl.train.Settings(steps={math.ceil(1.5 / min(fractions))}), or give it a larger fraction."
            )
    return tuple(ends)
