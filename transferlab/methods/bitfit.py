"""BitFit: the biases of the backbone, and the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transferlab.methods.base import Method
from transferlab.models.backbone import Owner
from transferlab.transfer.groups import Group


@dataclass(frozen=True)
class BitFit(Method):
    """BitFit (Ben Zaken et al. 2022, section 3): every bias of the backbone trains, and the head; all else is frozen.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.BitFit())
    """

    name: ClassVar[str] = "bitfit"
    summary: ClassVar[str] = "the biases train, and the head"
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 3e-3, "epochs": 10}

    def groups(self, stages: Sequence[Owner]) -> tuple[Group, ...]:
        """The biases of the backbone, and the head."""
        return (Group("bias & ~head"), Group("head"))
