"""What the loop asks of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Columns, Member
from transferlab.train.memory import Memory
from transferlab.train.result import Report
from transferlab.train.state import State


@runtime_checkable
class Engine(Protocol):
    """What the loop asks of an engine. ``done`` counts finished steps, the same for all members."""

    done: int

    @property
    def members(self) -> Sequence[Member]:
        """The runs it takes along."""
        ...

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        """Take steps until ``upto`` or until a stop is asked for; return each member's metrics."""
        ...

    def state(self, member: int) -> State:
        """A member's state."""
        ...

    def memory(self, member: int) -> Memory:
        """What a member holds on the device."""
        ...

    def predict(
        self, wanted: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Float[np.ndarray, "n labels"]]:
        """Probabilities for these examples of these members, with their present or the given states.

        Members that diverged may be missing.
        """
        ...
