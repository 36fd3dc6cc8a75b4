"""One run, batch after batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Int

from transferlab.data.batches import stream
from transferlab.tasks.base import Predictions
from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Columns, Member, make_batch, predict_member
from transferlab.train.memory import Memory, memory_of
from transferlab.train.result import Report
from transferlab.train.state import State


class StreamingEngine:
    """One run, batch after batch: any carry, and data of any size."""

    def __init__(self, member: Member, state: State):
        self.members = [member]
        self.done = int(state["step"])
        self._state = state
        self._hparams = member.run.hparams()
        self._batches = stream(
            member.run.order, lambda batch: cast(dict[str, Any], make_batch(member, batch)), self.done
        )
        self._ahead: Any = None
        self._pending: list[Any] = []

    @property
    def computed(self) -> int:
        return self.done - sum(not metrics["loss"].is_ready() for metrics in self._pending)

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        member = self.members[0]
        run = member.run
        pending = self._pending = []
        # A row of metrics is written when it is complete.
        every = run.settings.log_every
        upto = min(upto, (self.done // every + 1) * every)
        while self.done < upto and not stop.asked:
            batch = jax.device_put(next(self._batches)) if self._ahead is None else self._ahead
            self._state, metrics = run.program.step(self._state, member.frozen, batch, self._hparams)
            member.flops += run.program.step.flops(self._state, member.frozen, batch, self._hparams)
            pending.append(metrics)
            self.done += 1
            # The next batch is transferred while the device works on this one.
            self._ahead = jax.device_put(next(self._batches)) if self.done < member.total else None
            if report is not None and self.done < upto:
                report(self.done, member.planned, {})
        # One transfer for the metrics of all these steps.
        rows = jax.device_get(pending)
        return [{name: np.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}]

    def state(self, member: int) -> State:
        return self._state

    def memory(self, member: int) -> Memory:
        return memory_of(self.members[0].run)

    def predict(
        self, indices: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Predictions]:
        return {0: predict_member(self.members[0], self._state if states is None else states[0], indices[0])}
