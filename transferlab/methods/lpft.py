"""LP-FT: a linear probe first, then full fine-tuning from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from transferlab.bounds import Bounds, NonNegative, Positive
from transferlab.methods.base import Method
from transferlab.models.backbone import Owner
from transferlab.transfer.groups import Group
from transferlab.transfer.phases import Phase


@dataclass(frozen=True)
class LPFT(Method):
    """LP-FT (Kumar et al. 2022): the head trains alone on frozen features, then everything from there, so that a random head
    does not distort the features.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.LPFT(probe=0.3))

    Attributes:
        probe: fraction of the steps in which the head alone trains. They are cheap: features are computed once.
        probe_learning_rate: of those steps.
        head_lr_scale: factor on the learning rate of the head, afterwards.
    """

    probe: Annotated[float, Bounds(0.0, 1.0, above=True, below=True)] = 0.5
    probe_learning_rate: Positive = 1e-2
    head_lr_scale: NonNegative = 1.0

    name: ClassVar[str] = "lpft"
    summary: ClassVar[str] = "the head on frozen features, then every parameter"
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 3e-4, "epochs": 20}
    linear_head: ClassVar[bool] = True

    def groups(self, stages: Sequence[Owner]) -> tuple[Group, ...]:
        """Backbone and head: those of the second phase."""
        return (Group("~head"), Group("head", lr_scale=self.head_lr_scale))

    def phases(self, stages: Sequence[Owner]) -> tuple[Phase, ...]:
        """The probe, and full fine-tuning."""
        own = {"learning_rate": self.probe_learning_rate, "weight_decay": 0.0}
        return (
            Phase((Group("head"),), "probe", self.probe, own),
            Phase(self.groups(stages), "full", 1.0 - self.probe),
        )
