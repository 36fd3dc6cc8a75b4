"""Runs side by side: each steps as if it were alone, in a thread of its own, and uses what the other leaves idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int

from transferlab.compute.prefetch import THREADS, prefetch_map
from transferlab.train.engines.streaming import StreamingEngine
from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Columns, Member
from transferlab.train.memory import Memory
from transferlab.train.result import Report
from transferlab.train.state import State


class ThreadedEngine:
    """Runs of one program, each on its own batches: :class:`StreamingEngine` for each, so that their numbers are the same bits.

    The states have taken equally many steps. Between two calls of ``advance`` so have all members that have not ended.
    """

    def __init__(self, members: Sequence[Member], states: Sequence[State]):
        self.members = members
        self.done = int(states[0]["step"])
        self._each = [StreamingEngine(member, state) for member, state in zip(members, states, strict=True)]
        # The one with the most steps leads: its progress is that of all.
        self._order = sorted(range(len(members)), key=lambda i: -members[i].total)

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        lead, *others = live = [i for i in self._order if self.members[i].trains(self.done)]
        out: list[Columns] = [{} for _ in self.members]
        with ThreadPoolExecutor(THREADS - 1, thread_name_prefix="engine") as threads:
            beside = {i: threads.submit(self._each[i].advance, upto, stop, None) for i in others}
            # In the caller's thread, which is where a report is expected.
            out[lead] = self._each[lead].advance(upto, stop, report)[0]
            for i, made in beside.items():
                out[i] = made.result()[0]
        self.done = max(self._each[i].done for i in live)
        # A stop that was asked for on the way finds some a few steps behind.
        for i in live:
            for name, values in self._each[i].advance(self.done, StopRequest(), None)[0].items():
                out[i].setdefault(name, []).extend(values)
        return out

    def state(self, member: int) -> State:
        return self._each[member].state(0)

    def memory(self, member: int) -> Memory:
        return self._each[member].memory(0)

    def predict(
        self, wanted: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Float[np.ndarray, "n labels"]]:
        def one(i: int) -> Float[np.ndarray, "n labels"]:
            return self._each[i].predict({0: wanted[i]}, None if states is None else {0: states[i]})[0]

        # Each is computed by itself: one that diverged may be left out.
        asked = [i for i in wanted if self.members[i].diverged is None]
        return dict(zip(asked, prefetch_map(one, asked), strict=True))
