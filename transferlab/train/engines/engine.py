"""The interface of an engine, as the loop uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from transferlab.tasks.base import Predictions
from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Columns, Member
from transferlab.train.memory import Memory
from transferlab.train.result import Report
from transferlab.train.state import State


@runtime_checkable
class Engine(Protocol):
    """The interface of an engine, as the loop uses it. ``done`` counts finished steps, the same for all members."""

    done: int

    @property
    def members(self) -> Sequence[Member]:
        """The runs that it trains."""
        ...

    @property
    def computed(self) -> int:
        """How many steps the device has finished: ``done`` may be ahead of it. Nothing waits, and any thread may ask."""
        ...

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        """Take steps until ``upto``, or until a stop is requested; return each member's metrics."""
        ...

    def state(self, member: int) -> State:
        """A member's state."""
        ...

    def memory(self, member: int) -> Memory:
        """What a member holds on the device."""
        ...

    def predict(
        self, indices: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Predictions]:
        """Probabilities for each member's examples at ``indices``, with its present state or that in ``states``.

        Members that diverged may be missing.
        """
        ...
