"""L2-SP: what comes from the source is held to where it began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from transferlab.bounds import NonNegative
from transferlab.errors import TransferlabError
from transferlab.methods.base import Modifier
from transferlab.models.backbone import Owner
from transferlab.transfer.leaf import Leaf
from transferlab.transfer.penalties import Penalty, SquaredDistance


@dataclass(frozen=True)
class L2SP(Modifier):
    """L2-SP (Li et al. 2018, equation 3): ``alpha/2 · ‖w_S − w⁰_S‖² + beta/2 · ‖w_S̄‖²`` is added to the loss, where w_S are
    the leaves that come from the source, w⁰_S their values there, and w_S̄ those that do not.

    Leave decoupled decay out where it should be the only one: ``Settings(weight_decay=0.0)``.

    Example:
        >>> tl.methods.Full() | tl.methods.L2SP(alpha=0.1)

    Attributes:
        alpha: of the distance from the source.
        beta: of what is new; the paper's is 0.01.
    """

    alpha: NonNegative = 0.1
    beta: NonNegative = 0.01

    name: ClassVar[str] = "l2_sp"
    summary: ClassVar[str] = "a penalty on the distance from the source's weights"

    def penalties(self, leaves: Sequence[Leaf]) -> tuple[Penalty, ...]:
        """One term for what comes from the source, one for what is new."""
        old = tuple(leaf.path for leaf in leaves if leaf.action in ("copied", "resized"))
        new = tuple(leaf.path for leaf in leaves if leaf.action not in ("copied", "resized"))
        terms = [
            SquaredDistance(name, paths, anchored, weight)
            for name, paths, anchored, weight in (("l2_sp", old, True, self.alpha), ("l2_new", new, False, self.beta))
            if paths and weight
        ]
        return tuple(terms)

    def check(self, leaves: Sequence[Leaf], stages: Sequence[Owner]) -> None:
        """Refuse a method of which no leaf that comes from the source trains."""
        if not any(leaf.action in ("copied", "resized") for leaf in leaves):
            raise TransferlabError("L2SP has no effect: no leaf that comes from the source trains. Leave it out.")
