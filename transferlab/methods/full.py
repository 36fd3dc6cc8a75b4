"""Full fine-tuning: every parameter trains, from the pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transferlab.bounds import NonNegative
from transferlab.methods.base import Method
from transferlab.models.backbone import Owner
from transferlab.transfer.groups import Group


@dataclass(frozen=True)
class Full(Method):
    """Full fine-tuning (Devlin et al. 2019 for BERT).

    Example:
        >>> tl.adapt(source, data, method=tl.methods.Full(head_lr_scale=10.0))

    Attributes:
        head_lr_scale: factor on the learning rate of the new head.
    """

    head_lr_scale: NonNegative = 1.0

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "every parameter trains"
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 3e-4, "epochs": 10}

    def groups(self, stages: Sequence[Owner]) -> tuple[Group, ...]:
        """Backbone and head, whose learning rates may differ."""
        return (Group("~head"), Group("head", lr_scale=self.head_lr_scale))
