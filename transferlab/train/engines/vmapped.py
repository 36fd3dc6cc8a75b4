"""Runs that step together, each on its own batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from transferlab.data.batches import stream
from transferlab.tasks.base import Predictions
from transferlab.train.engines.population import Population
from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Columns, Member, make_batch, predict_member
from transferlab.train.result import Report
from transferlab.train.state import State


class VmappedEngine(Population):
    """Runs of one program, each on its own batches, which are padded to the longest one of each step."""

    def __init__(self, members: Sequence[Member], states: Sequence[State]):
        super().__init__(members, states)
        self._batches = self._stream()
        self._pending: list[tuple[list[int], Any]] = []

    @property
    def computed(self) -> int:
        return self.done - sum(not metrics["loss"].is_ready() for _, metrics in self._pending)

    def _stream(self) -> Iterator[dict[str, Any]]:
        members = [self.members[i] for i in self._slots]

        def make(step: int) -> dict[str, Any]:
            # A member that has finished gets its last batch again, without effect.
            batches = [member.run.order[min(step, member.total - 1)] for member in members]
            longest = max(batch.bucket for batch in batches)
            padded = [make_batch(m, replace(batch, bucket=longest)) for m, batch in zip(members, batches, strict=True)]
            return jax.tree.map(lambda *parts: np.stack(parts), *padded)

        return stream(range(max(member.total for member in members)), make, self.done)

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        every = self.members[0].run.settings.log_every
        upto = min(upto, (self.done // every + 1) * every)
        pending = self._pending = []
        while self.done < upto and not stop.asked:
            if self._compact():
                self._batches = self._stream()
            first, vmapped_step = self._first, self._first.run.program.vmapped_step
            batch = jax.device_put(next(self._batches))
            self._count_flops(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch), 1)
            live = np.array([self.members[i].total > self.done for i in self._slots])
            arguments = (self._states, first.frozen, batch, live, self._hparams)
            self._temporary = self._temporary or vmapped_step.temporary_bytes(*arguments)
            self._states, metrics = vmapped_step(*arguments)
            pending.append((list(self._slots), metrics))
            self.done += 1
            if report is not None and self.done < upto:
                report(self.done, max(m.planned for m in self.members), {})
        out: list[dict[str, list[np.ndarray]]] = [{} for _ in self.members]
        for step, (slots, metrics) in enumerate(jax.device_get(pending), self.done - len(pending)):
            for slot, i in enumerate(slots):
                if step < self.members[i].total:
                    for name, values in metrics.items():
                        out[i].setdefault(name, []).append(values[slot])
        return [{name: np.stack(values) for name, values in metrics.items()} for metrics in out]

    def predict(
        self, indices: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Predictions]:
        # Members are computed one by one, so that those that diverged may be left out.
        live = [i for i in indices if self.members[i].diverged is None]
        current = {i: self.state(i) if states is None else states[i] for i in live}
        return {i: predict_member(self.members[i], current[i], indices[i]) for i in live}
