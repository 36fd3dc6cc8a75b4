"""Runs that step together, each on its own batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from transferlab.data.batches import stream
from transferlab.train.engines.population import Population
from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Columns, Member, make_batch, predict_member
from transferlab.train.result import Report
from transferlab.train.state import State


class VmappedEngine(Population):
    """Runs of one program, each on its own batches, all padded to the longest of a step."""

    def __init__(self, members: Sequence[Member], states: Sequence[State]):
        super().__init__(members, states)
        self._batches = self._stream()

    def _stream(self) -> Iterator[dict[str, Any]]:
        members = [self.members[i] for i in self._slots]

        def make(step: int) -> dict[str, Any]:
            # One that has finished looks at its last batch again; nothing comes of it.
            batches = [member.run.order[min(step, member.total - 1)] for member in members]
            longest = max(batch.bucket for batch in batches)
            made = [make_batch(m, replace(batch, bucket=longest)) for m, batch in zip(members, batches, strict=True)]
            return jax.tree.map(lambda *parts: np.stack(parts), *made)

        return stream(range(max(member.total for member in members)), make, self.done)

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        every = self.members[0].run.settings.log_every
        upto = min(upto, (self.done // every + 1) * every)
        waiting: list[tuple[list[int], Any]] = []
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
            waiting.append((list(self._slots), metrics))
            self.done += 1
            if report is not None and self.done < upto:
                report(self.done, max(m.total for m in self.members), {})
        out: list[Columns] = [{} for _ in self.members]
        for step, (slots, metrics) in enumerate(jax.device_get(waiting), self.done - len(waiting)):
            for slot, i in enumerate(slots):
                if step < self.members[i].total:
                    for name, values in metrics.items():
                        out[i].setdefault(name, []).append(float(values[slot]))
        return out

    def predict(
        self, wanted: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Float[np.ndarray, "n labels"]]:
        # Each is computed by itself: one that diverged may be left out.
        asked = [i for i in wanted if self.members[i].diverged is None]
        given = {i: self.state(i) if states is None else states[i] for i in asked}
        return {i: predict_member(self.members[i], given[i], wanted[i]) for i in asked}
