"""Runs that step together on features that lie on the device: many steps in one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from transferlab.compute.prefetch import prefetch_map
from transferlab.train.engines.population import Population, stacked
from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Columns, Member
from transferlab.train.result import Report
from transferlab.train.state import State, evaluated

CHUNK = 200
"""Most steps that a scanned population takes in one call: Ctrl-C waits for no more."""

HALVED = 8
"""Least members of a scanned population whose halves step side by side on CPU."""


class ScannedEngine(Population):
    """Runs that share cached carries of one vector an example: all on the device, many steps in one call."""

    def __init__(self, members: Sequence[Member], states: Sequence[State]):
        # Those on the same batches stand beside each other, and share them.
        self._order = [(id(member.run.order), member.total) for member in members]
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

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        out: list[Columns] = [{} for _ in self.members]
        while self.done < upto and not stop.asked:
            left = upto - self.done
            n = -(-left // -(-left // CHUNK))
            # Calls of nearly equal lengths are one compiled program; the last steps of a call may be idle.
            self._length = self._length if n <= self._length <= 1.25 * n else n
            self._compact()
            rows = self._rows(n, self._length)
            self._count_flops(self._one_batch(rows), n)
            self._states, metrics = self._call(rows)
            self._host = None
            for name, values in jax.device_get(metrics).items():
                for i, column in zip(self._slots, values.tolist(), strict=True):
                    out[i].setdefault(name, []).extend(column[: self.members[i].total - self.done][:n])
            self.done += n
            if report is not None and self.done < upto:
                report(self.done, max(m.total for m in self.members), {})
        return out

    def _call(self, rows: dict[str, np.ndarray]) -> tuple[State, dict[str, Any]]:
        """Take the steps of ``rows`` with all members. On CPU their halves go side by side: operations so small run on one
        core each.
        """
        first, given = self._first, (self._states, self._hparams)
        population = first.run.program.scanned_steps
        split = halving(len(rows["live"]), len(self._slots)) if jax.default_backend() == "cpu" else None
        parts = [(given, rows)] if split is None else split_population(split, jax.device_get(given), rows)

        def call(part: tuple[tuple[State, Any], dict[str, np.ndarray]]) -> tuple[State, dict[str, Any]]:
            (states, hparams), rows = part
            arguments = (states, first.frozen, self._table, rows, hparams)
            self._temporary = self._temporary or population.temporary_bytes(*arguments) * len(parts)
            return population(*arguments) if split is None else jax.device_get(population(*arguments))

        made = list(prefetch_map(call, parts))
        return made[0] if split is None else merge_population(split, made)

    def _slice(self, slot: int) -> State:
        # A member's state is small, and all are asked for at the same time: one transfer.
        self._host = jax.device_get(self._states) if self._host is None else self._host
        return jax.tree.map(lambda x: x[slot], self._host)

    def _compact(self) -> bool:
        smaller = super()._compact()
        self._host = None if smaller else self._host
        return smaller

    def _rows(self, n: int, length: int) -> dict[str, np.ndarray]:
        """What stands in each of the next ``n`` steps; idle ones follow up to ``length``."""
        size, of = self.members[0].run.settings.batch_size, Counter(self._order[i] for i in self._slots)
        # Each member by itself, where orders have different numbers of them.
        alike = next(iter(of.values())) if len(set(of.values())) == 1 else 1
        first = self._slots[::alike]
        shape = (len(first), length, size)
        index, label = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weight, live = np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
        for row, i in enumerate(first):
            run = self.members[i].run
            batches = [run.order[step].indices for step in range(self.done, min(self.done + n, run.steps))]
            if not batches:
                continue
            lengths = np.array([len(batch) for batch in batches])
            filled, chosen = np.arange(size) < lengths[:, None], np.concatenate(batches)
            live[row, : len(batches)] = True
            for table, values in (
                (index, np.searchsorted(self._examples, chosen)), (label, run.data.labels[chosen]), (weight, 1.0),
            ):  # fmt: skip
                table[row, : len(batches)][filled] = values
        return {"index": index, "label": label, "weight": weight, "live": live}

    def _one_batch(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        size = rows["index"].shape[-1]
        carry = {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype) for k, v in self._table.items()}
        return {"carry": carry, **{k: jax.ShapeDtypeStruct((size,), rows[k].dtype) for k in ("label", "weight")}}

    def predict(
        self, wanted: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Float[np.ndarray, "n labels"]]:
        # Those that look at the same examples stand beside each other, as in training.
        chosen = sorted(wanted, key=lambda i: wanted[i].tobytes())
        groups = [list(same) for _, same in groupby(chosen, lambda i: wanted[i].tobytes())]
        if len({len(group) for group in groups}) > 1:
            groups = [[i] for i in chosen]
        given = stacked([self.state(i) if states is None else states[i] for i in chosen])
        index = np.zeros((len(groups), max(len(indices) for indices in wanted.values())), np.int32)
        for row, group in enumerate(groups):
            indices = wanted[group[0]]
            index[row, : len(indices)] = np.searchsorted(self._examples, indices)
        first = self.members[0]
        predict = first.run.program.scanned_predict
        got = np.asarray(predict(evaluated(given), first.frozen, given["stats"], self._table, index))
        return {i: got[row, : len(wanted[i])] for row, i in enumerate(chosen)}


@dataclass(frozen=True)
class Split:
    """A cut through members in a grid of orders and those that share an order, in two equal halves along one of these axes.

    Attributes:
        orders: how many orders there are.
        sharing: members of each order.
        axis: 0 cuts between orders, 1 within each.
    """

    orders: int
    sharing: int
    axis: int


def halving(orders: int, members: int) -> Split | None:
    """How a population is cut in two equal halves; None where it cannot be, or is too small."""
    sharing = members // orders
    if members < HALVED or (sharing % 2 and orders % 2):
        return None
    return Split(orders, sharing, int(sharing % 2 == 0))


def split_population(
    split: Split, population: Any, rows: dict[str, np.ndarray]
) -> list[tuple[Any, dict[str, np.ndarray]]]:
    """Return the halves of what has a leading axis of members, each with the rows of its orders."""

    def half(number: int) -> Any:
        def cut(x: np.ndarray) -> np.ndarray:
            grid = x.reshape(split.orders, split.sharing, *x.shape[1:])
            return np.split(grid, 2, axis=split.axis)[number].reshape(-1, *x.shape[1:])

        return jax.tree.map(cut, population)

    n = split.orders // 2
    parts = [{name: x[k * n : (k + 1) * n] for name, x in rows.items()} for k in range(2)]
    return [(half(k), rows if split.axis else parts[k]) for k in range(2)]


def merge_population(split: Split, halves: Sequence[Any]) -> Any:
    """Undo :func:`split_population`."""

    def join(*parts: np.ndarray) -> np.ndarray:
        orders = split.orders if split.axis else split.orders // 2
        grids = [part.reshape(orders, -1, *part.shape[1:]) for part in parts]
        whole = np.concatenate(grids, axis=split.axis)
        return whole.reshape(-1, *whole.shape[2:])

    return jax.tree.map(join, *halves)
