"""The last layers of the backbone, and the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transferlab.bounds import Count
from transferlab.errors import TransferlabError
from transferlab.methods.base import Method
from transferlab.models.backbone import Owner
from transferlab.transfer.depths import layer_depths
from transferlab.transfer.groups import Group


@dataclass(frozen=True)
class LastLayers(Method):
    """The last ``layers`` of the backbone train, with what follows them, and the head (Yosinski et al. 2014). What is before
    them is computed once for each example.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.LastLayers(2))

    Attributes:
        layers: how many.
    """

    layers: Count = 1

    name: ClassVar[str] = "last_layers"
    summary: ClassVar[str] = "the last layers train, and the head"
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 3e-4, "epochs": 10}

    def groups(self, stages: Sequence[Owner]) -> tuple[Group, ...]:
        """The last layers, and the head.

        Raises:
            TransferlabError: the backbone has fewer layers.
        """
        depths = layer_depths(stages)
        if self.layers > depths[-1]:
            raise TransferlabError(
                f"LastLayers({self.layers}): the backbone has {depths[-1]} layers. Train all of it: tl.methods.Full()."
            )
        first = next(number for number, depth in enumerate(depths) if depth > depths[-1] - self.layers)
        return (Group(f"depth >= {first}"), Group("head"))
