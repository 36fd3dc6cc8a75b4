"""Runs that step together on features kept on the device: many steps in one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from transferlab.compute.prefetch import prefetch_map
from transferlab.tasks.base import Predictions
from transferlab.train.engines.population import Population, stacked
from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Columns, Member
from transferlab.train.result import Report
from transferlab.train.state import State, evaluated

CHUNK = 200
"""Most steps that a scanned population takes in one call: Ctrl-C never waits longer."""

HALVED = 8
"""Fewest members of a scanned population whose halves step in two threads on CPU."""


class ScannedEngine(Population):
    """Runs that share cached carries of one vector per example: all on the device, many steps in one call."""

    def __init__(self, members: Sequence[Member], states: Sequence[State]):
        # Members on the same batches and targets are adjacent, and share them.
        self._order = [(id(member.run.order), str(member.run.fitted), member.total) for member in members]
        super().__init__(members, states, sorted(range(len(members)), key=lambda i: self._order[i]))
        first, examples = members[0], {}
        for member in members:
            data = member.run.data
            examples |= {id(part): part for part in (data.train, data.validation, data.test)}
        self._examples = np.unique(np.concatenate(list(examples.values())))
        assert first.key is not None
        table = first.run.cache.rows(first.key, self._examples, 0, len(self._examples), ())
        self._table = jax.device_put(table)
        self._length = 0
        self._host: State | None = None

    @property
    def computed(self) -> int:
        return self.done  # Each call waits for its metrics.

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        out: list[dict[str, list[np.ndarray]]] = [{} for _ in self.members]
        while self.done < upto and not stop.asked:
            remaining = upto - self.done
            n = -(-remaining // -(-remaining // CHUNK))
            # Calls of nearly equal lengths share a compiled program; the last steps of a call may be idle.
            self._length = self._length if n <= self._length <= 1.25 * n else n
            self._compact()
            rows = self._rows(n, self._length)
            self._count_flops(self._one_batch(rows), n)
            self._states, metrics = self._call(rows)
            self._host = None
            for name, values in jax.device_get(metrics).items():
                for i, column in zip(self._slots, values, strict=True):
                    out[i].setdefault(name, []).append(column[: max(0, self.members[i].total - self.done)][:n])
            self.done += n
            if report is not None and self.done < upto:
                report(self.done, max(m.planned for m in self.members), {})
        return [{name: np.concatenate(values) for name, values in metrics.items()} for metrics in out]

    def _call(self, rows: dict[str, Any]) -> tuple[State, dict[str, Any]]:
        """Take the steps of ``rows`` with all members. On CPU the halves run in two threads: operations this small use one
        core each.
        """
        first, whole = self._first, (self._states, self._hparams)
        population = first.run.program.scanned_steps
        split = halving(len(rows["live"]), len(self._slots)) if jax.default_backend() == "cpu" else None
        parts = [(whole, rows)] if split is None else split_population(split, jax.device_get(whole), rows)

        def call(part: tuple[tuple[State, Any], dict[str, Any]]) -> tuple[State, dict[str, Any]]:
            (states, hparams), rows = part
            arguments = (states, first.frozen, self._table, rows, hparams)
            self._temporary = self._temporary or population.temporary_bytes(*arguments) * len(parts)
            return population(*arguments) if split is None else jax.device_get(population(*arguments))

        results = list(prefetch_map(call, parts))
        return results[0] if split is None else merge_population(split, results)

    def _slice(self, slot: int) -> State:
        # Members' states are small, and are all requested at the same time: one transfer.
        self._host = jax.device_get(self._states) if self._host is None else self._host
        return jax.tree.map(lambda x: x[slot], self._host)

    def _compact(self) -> bool:
        smaller = super()._compact()
        self._host = None if smaller else self._host
        return smaller

    def _rows(self, n: int, length: int) -> dict[str, Any]:
        """The examples of each of the next ``n`` steps; idle steps follow up to ``length``."""
        size, counts = self.members[0].run.settings.batch_size, Counter(self._order[i] for i in self._slots)
        # Members share an order's batches only where all orders have equally many members.
        sharing = next(iter(counts.values())) if len(set(counts.values())) == 1 else 1
        first = self._slots[::sharing]
        shape = (len(first), length, size)
        index, weight, live = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
        one = self.members[first[0]].run.targets(self._examples[:1])
        targets = {name: np.zeros((*shape, *values.shape[1:]), values.dtype) for name, values in one.items()}
        for row, i in enumerate(first):
            run = self.members[i].run
            batches = [run.order[step].indices for step in range(self.done, min(self.done + n, self.members[i].total))]
            if not batches:
                continue
            lengths = np.array([len(batch) for batch in batches])
            filled, chosen = np.arange(size) < lengths[:, None], np.concatenate(batches)
            live[row, : len(batches)] = True
            index[row, : len(batches)][filled] = np.searchsorted(self._examples, chosen)
            weight[row, : len(batches)][filled] = 1.0
            for name, values in run.targets(chosen).items():
                targets[name][row, : len(batches)][filled] = values
        return {"index": index, "targets": targets, "weight": weight, "live": live}

    def _one_batch(self, rows: dict[str, Any]) -> dict[str, Any]:
        size = rows["index"].shape[-1]
        inputs = {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype) for k, v in self._table.items()}
        targets = {k: jax.ShapeDtypeStruct(v.shape[2:], v.dtype) for k, v in rows["targets"].items()}
        return {"inputs": inputs, "targets": targets, "weight": jax.ShapeDtypeStruct((size,), rows["weight"].dtype)}

    def predict(
        self, indices: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Predictions]:
        # Members with the same examples are adjacent, as in training.
        members = sorted(indices, key=lambda i: indices[i].tobytes())
        groups = [list(same) for _, same in groupby(members, lambda i: indices[i].tobytes())]
        if len({len(group) for group in groups}) > 1:
            groups = [[i] for i in members]
        stack = stacked([self.state(i) if states is None else states[i] for i in members])
        index = np.zeros((len(groups), max(len(examples) for examples in indices.values())), np.int32)
        for row, group in enumerate(groups):
            examples = indices[group[0]]
            index[row, : len(examples)] = np.searchsorted(self._examples, examples)
        first = self.members[0]
        predict = first.run.program.scanned_predict
        out = jax.device_get(predict(evaluated(stack), first.frozen, stack["stats"], self._table, index))
        return {
            i: self.members[i].run.task.restore(
                {name: values[row, : len(indices[i])] for name, values in out.items()}, self.members[i].run.fitted
            )
            for row, i in enumerate(members)
        }


@dataclass(frozen=True)
class Split:
    """How members, a grid of (orders, members that share one), are split into two equal halves.

    Attributes:
        orders: number of orders.
        sharing: members of each order.
        axis: 0 splits between orders, 1 within each.
    """

    orders: int
    sharing: int
    axis: int


def halving(orders: int, members: int) -> Split | None:
    """How to split a population into two equal halves; None where that is impossible, or it is too small."""
    sharing = members // orders
    if members < HALVED or (sharing % 2 and orders % 2):
        return None
    return Split(orders, sharing, int(sharing % 2 == 0))


def split_population(split: Split, population: Any, rows: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Return the halves of a tree whose leaves have a leading axis of members, each with the rows of its orders."""

    def half(number: int) -> Any:
        def cut(x: np.ndarray) -> np.ndarray:
            grid = x.reshape(split.orders, split.sharing, *x.shape[1:])
            return np.split(grid, 2, axis=split.axis)[number].reshape(-1, *x.shape[1:])

        return jax.tree.map(cut, population)

    n = split.orders // 2
    parts = [jax.tree.map(lambda x, k=k: x[k * n : (k + 1) * n], rows) for k in range(2)]
    return [(half(k), rows if split.axis else parts[k]) for k in range(2)]


def merge_population(split: Split, halves: Sequence[Any]) -> Any:
    """Undo :func:`split_population`."""

    def join(*parts: np.ndarray) -> np.ndarray:
        orders = split.orders if split.axis else split.orders // 2
        grids = [part.reshape(orders, -1, *part.shape[1:]) for part in parts]
        whole = np.concatenate(grids, axis=split.axis)
        return whole.reshape(-1, *whole.shape[2:])

    return jax.tree.map(join, *halves)
