"""Parameter groups: which leaves train, how fast, and with how much decay, chosen by selectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from transferlab.bounds import Fraction, NonNegative
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.selectors import Selectable, select, selector_text

Schedule = Literal["linear", "cosine", "constant"]
"""The learning rate after warm-up: decays to zero linearly or along half a cosine, or stays constant."""

DECAYED = "kernel | embedding"
"""Leaves that weight decay applies to by default: matrices and tables, not biases and scales."""


@dataclass(frozen=True)
class Group:
    """Leaves that train with the same settings; see :func:`transferlab.selectors.select` for the syntax of selectors.

    Example:
        >>> Group("layers/5"), Group("head", lr_scale=10.0, schedule="cosine")

    Attributes:
        selector: which leaves; a list of names is their union.
        lr_scale: factor on the run's learning rate.
        decay: factor on the run's weight decay; 0 for leaves that :data:`DECAYED` does not match.
        schedule: ``linear``, ``cosine`` or ``constant`` after the warm-up; None for the run's.
        warmup: fraction of the steps over which its learning rate rises; None for the run's.

    Raises:
        TransferlabError: a selector that cannot be parsed, or a field out of its range.
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
    """What the groups say about one trainable leaf.

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
        TransferlabError: a selector that matches no leaf, a leaf that two groups select, or no leaf that trains.
    """
    paths = list(paths)
    decayed = _matching(DECAYED, paths)
    assigned: dict[str, LeafSettings] = {}
    for group in groups:
        selector = str(group.selector)
        for path in sorted(select(selector).match(paths, stages)):
            if path in assigned:
                raise TransferlabError(
                    f"'{path}' is selected by two groups: '{assigned[path].selector}' and '{selector}'. Exclude it from one, as "
                    f"Group('({assigned[path].selector}) & ~({selector})')."
                )
            decay = group.decay if path in decayed else 0.0
            assigned[path] = LeafSettings(selector, group.lr_scale, decay, group.schedule, group.warmup)
    if not assigned:
        raise TransferlabError("Nothing would train: the method has no group, as Group('head').")
    return assigned


def _matching(selector: str, paths: list[str]) -> set[str]:
    """Like ``select``, for a default that need not match in every tree."""
    names = {part.strip() for part in selector.split("|")}
    return {path for path in paths if names & set(path.split("/"))}
