"""Runs in concurrent threads: each steps as if it were alone, and uses the cores that the other leaves idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int

from transferlab.compute.prefetch import THREADS, prefetch_map
from transferlab.tasks.base import Predictions
from transferlab.train.engines.streaming import StreamingEngine
from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Columns, Member
from transferlab.train.memory import Memory
from transferlab.train.result import Report
from transferlab.train.state import State


class ThreadedEngine:
    """Runs of one program, each on its own batches: a :class:`StreamingEngine` each, so that results are equal bit by bit.

    All states must have taken equally many steps. After each call of ``advance``, all members that have not ended have too.
    """

    def __init__(self, members: Sequence[Member], states: Sequence[State]):
        self.members = members
        self.done = int(states[0]["step"])
        self._each = [StreamingEngine(member, state) for member, state in zip(members, states, strict=True)]
        # The one with the most steps leads: its progress is reported for all.
        self._order = sorted(range(len(members)), key=lambda i: -members[i].total)

    @property
    def computed(self) -> int:
        return max(engine.computed for engine in self._each)

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        lead, *others = live = [i for i in self._order if self.members[i].trains(self.done)]
        out: list[Columns] = [{} for _ in self.members]
        with ThreadPoolExecutor(THREADS - 1, thread_name_prefix="engine") as threads:
            futures = {i: threads.submit(self._each[i].advance, upto, stop, None) for i in others}
            # In the caller's thread, where reports are expected.
            out[lead] = self._each[lead].advance(upto, stop, report)[0]
            for i, future in futures.items():
                out[i] = future.result()[0]
        self.done = max(self._each[i].done for i in live)
        # Where a stop was requested meanwhile, some members are a few steps behind.
        for i in live:
            for name, values in self._each[i].advance(self.done, StopRequest(), None)[0].items():
                out[i][name] = np.concatenate([out[i][name], values]) if name in out[i] else values
        return out

    def state(self, member: int) -> State:
        return self._each[member].state(0)

    def memory(self, member: int) -> Memory:
        return self._each[member].memory(0)

    def predict(
        self, indices: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Predictions]:
        def one(i: int) -> Predictions:
            return self._each[i].predict({0: indices[i]}, None if states is None else {0: states[i]})[0]

        # Members are computed one by one, so that those that diverged may be left out.
        live = [i for i in indices if self.members[i].diverged is None]
        return dict(zip(live, prefetch_map(one, live), strict=True))
