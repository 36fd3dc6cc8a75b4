"""Parameter groups: which leaves train, how fast, and with how much decay, claimed by selectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from transferlab.bounds import Fraction, NonNegative
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.selectors import Selectable, select, selector_text

Schedule = Literal["linear", "cosine", "constant"]
"""What follows the warm-up: down to zero on a line or on half a cosine, or no change."""

DECAYED = "kernel | embedding"
"""Leaves that weight decay acts on by default: matrices and tables, not biases and scales."""


@dataclass(frozen=True)
class Group:
    """Leaves that train alike. :func:`transferlab.selectors.select` says how selectors are written.

    Example:
        >>> Group("layers/5"), Group("head", lr_scale=10.0, schedule="cosine")

    Attributes:
        selector: which leaves; a list of names is their union.
        lr_scale: factor on the run's learning rate.
        decay: factor on the run's weight decay; 0 for leaves that :data:`DECAYED` does not match.
        schedule: ``linear``, ``cosine`` or ``constant`` after the warm-up; None for the run's.
        warmup: share of the steps over which its learning rate rises; None for the run's.
    """

    selector: Selectable
    lr_scale: NonNegative = 1.0
    decay: NonNegative = 1.0
    schedule: Schedule | None = None
    warmup: Fraction | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "selector", selector_text(self.selector, "The selector of a group"))
        check_fields(self, f"The group '{self.selector}'")


@dataclass(frozen=True)
class LeafSettings:
    """What the groups say of one trainable leaf.

    Attributes:
        selector: of its group.
        lr_scale, decay: factors on the run's learning rate and weight decay.
        schedule, warmup: the group's own; None for the run's.
    """

    selector: str
    lr_scale: float
    decay: float
    schedule: Schedule | None = None
    warmup: float | None = None


def assign_groups(
    groups: Iterable[Group], paths: Iterable[str], stages: Sequence[Sequence[str]]
) -> dict[str, LeafSettings]:
    """Return ``{path: LeafSettings}`` for every leaf that trains.

    Raises:
        TransferlabError: a selector that matches no leaf, a leaf that two groups claim, or nothing left to train.
    """
    paths = list(paths)
    decayed = _matching(DECAYED, paths)
    assigned: dict[str, LeafSettings] = {}
    for group in groups:
        selector = str(group.selector)
        for path in sorted(select(selector).match(paths, stages)):
            if path in assigned:
                raise TransferlabError(
                    f"'{path}' is claimed by two groups: '{assigned[path].selector}' and '{selector}'."
                )
            decay = group.decay if path in decayed else 0.0
            assigned[path] = LeafSettings(selector, group.lr_scale, decay, group.schedule, group.warmup)
    if not assigned:
        raise TransferlabError("Nothing would train: the method names no group.")
    return assigned


def _matching(selector: str, paths: list[str]) -> set[str]:
    """As ``select``, for a default that need not match every tree."""
    names = {part.strip() for part in selector.split("|")}
    return {path for path in paths if names & set(path.split("/"))}
