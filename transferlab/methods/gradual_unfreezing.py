"""Gradual unfreezing: the head first, then one layer after another from the last to the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from transferlab.bounds import Bounds, Count
from transferlab.errors import TransferlabError
from transferlab.methods.base import Modifier
from transferlab.models.backbone import Owner
from transferlab.transfer.depths import layer_depths
from transferlab.transfer.phases import Phase


@dataclass(frozen=True)
class GradualUnfreezing(Modifier):
    """Gradual unfreezing (ULMFiT, Howard & Ruder 2018, section 3.3): the head trains first; in each phase after it more of the
    last layers train too, until all do.

    Each phase has a compiled step of its own: ``layers`` of more than one keeps them few.

    Example:
        >>> tl.methods.Full() | tl.methods.GradualUnfreezing(layers=2)

    Attributes:
        layers: how many more train with each phase.
        fraction: of the steps, before all train; in equal parts.
    """

    layers: Count = 1
    fraction: Annotated[float, Bounds(0.0, 1.0, above=True, below=True)] = 0.5

    name: ClassVar[str] = "gradual_unfreezing"
    summary: ClassVar[str] = "layers begin to train one after another, the last first"

    def phases(self, phases: tuple[Phase, ...], stages: Sequence[Owner]) -> tuple[Phase, ...]:
        """The one phase of the method in several.

        Raises:
            TransferlabError: the method has several already.
        """
        if len(phases) != 1:
            names = " and ".join(f"'{phase.name}'" for phase in phases)
            raise TransferlabError(f"GradualUnfreezing divides one phase, and this method has several: {names}.")
        (whole,), depths = phases, layer_depths(stages)
        # What is before the first layer counts as one.
        trained = range(0, depths[-1] + 1, self.layers)
        parts = [
            replace(
                whole, name=f"last {n} layers" if n else "head", fraction=self.fraction / len(trained),
                last=sum(depth > depths[-1] - n for depth in depths),
            )
            for n in trained
        ]  # fmt: skip
        return (*parts, replace(whole, name="all", fraction=1.0 - self.fraction))
