"""What a plan asks of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from transferlab.models.backbone import Owner
from transferlab.transfer.derived import Derived
from transferlab.transfer.groups import LeafSettings
from transferlab.transfer.leaf import Leaf
from transferlab.transfer.penalties import Penalty
from transferlab.transfer.phases import Phase

Weights = Literal["pretrained", "random"]


@runtime_checkable
class Recipe(Protocol):
    """What a plan asks of a method: :class:`transferlab.methods.Method` with its modifiers."""

    @property
    def title(self) -> str:
        """Its name, with those of its modifiers."""
        ...

    @property
    def weights(self) -> Weights:
        """``pretrained``, or ``random`` for the same network untrained."""
        ...

    def edit(self, module: Any, /) -> None:
        """Change the new, abstract module in place. Paths that it has may not be renamed."""
        ...

    def derive(self, shapes: Mapping[str, Any], /) -> Mapping[str | tuple[str, ...], Derived]:
        """Path (or paths that are made at once) → how the leaf is made of leaves of the target without the method."""
        ...

    def modified_phases(self, stages: Sequence[Owner], /) -> tuple[Phase, ...]:
        """The phases, from the backbone's stages."""
        ...

    def modified_settings(
        self, assigned: Mapping[str, LeafSettings], stages: Sequence[Owner], /
    ) -> dict[str, LeafSettings]:
        """Settings of the leaves that train in a phase, changed leaf by leaf."""
        ...

    def penalties_on(self, leaves: Sequence[Leaf], /) -> tuple[Penalty, ...]:
        """Terms of the loss on the parameters that train in a phase."""
        ...

    def check_modifiers(self, leaves: Sequence[Leaf], stages: Sequence[Owner], /) -> None:
        """Raise a TransferlabError for a modifier that has no effect on these leaves, those that train in any phase."""
        ...
