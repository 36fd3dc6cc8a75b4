"""The linear probe: a classifier on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transferlab.methods.base import Method
from transferlab.models.backbone import Owner
from transferlab.transfer.groups import Group


@dataclass(frozen=True)
class Probe(Method):
    """Linear probe (Alain & Bengio 2016): only the head trains, so the frontier is the head and features are cached.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.Probe(pooling="first"))
    """

    name: ClassVar[str] = "probe"
    summary: ClassVar[str] = "a linear classifier on frozen features"
    defaults: ClassVar[dict[str, Any]] = {
        "learning_rate": 1e-2,
        "steps": 500,
        "weight_decay": 0.0,
        "schedule": "cosine",
    }
    linear_head: ClassVar[bool] = True

    def groups(self, stages: Sequence[Owner]) -> tuple[Group, ...]:
        """The head alone."""
        return (Group("head"),)
