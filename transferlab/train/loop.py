"""The loop: steps between events (a row of metrics, a validation, a checkpoint, a stop), for one run or many at once.

An *engine* advances its members and answers for them. :class:`Streaming` takes one run through batches that are made as
they are needed; :class:`transferlab.train.abreast.Abreast` takes two so, side by side. Populations take many in one
program: :class:`Companions` each through its own batches, :class:`Resident` runs whose carries lie on the device.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from transferlab import trees
from transferlab.compute.prefetch import prefetch_map
from transferlab.data.batches import Batch, evaluation_order, stream, weights
from transferlab.measure.metrics import accuracy, cross_entropy
from transferlab.train.divergence import Divergence, first_not_finite, state_not_finite
from transferlab.train.halves import halves_of
from transferlab.train.interrupt import Interrupted, StopRequest
from transferlab.train.memory import Memory, held, memory_of
from transferlab.train.program import State, evaluated
from transferlab.train.result import Report
from transferlab.train.setup import Setup
from transferlab.train.writers import MetricsWriter

if TYPE_CHECKING:
    from transferlab.train.checkpoints import Checkpoints

CHUNK = 200
"""Most steps that a resident population takes in one call: Ctrl-C waits for no more."""

Columns = dict[str, list[float]]
"""Metrics of consecutive steps: by name, a value for each; empty for no steps."""


@dataclass
class Member:
    """One run while it trains: what is logged, and what is kept of it.

    Attributes:
        run: what trains.
        frozen: the frozen leaves that its program needs.
        key: of its carries in the frontier cache; None where nothing is cached.
        writer, checkpoints: where its metrics and states go.
        pending: metrics of steps that no row covers yet.
        seconds: what it took so far, earlier starts and its share of what was spent on many included, compiling not.
        flops: floating-point operations of its steps so far.
        best: (score, step, state on the host, meta) of the best validation so far, where there is a validation split.
        diverged: where it stopped being finite; it is then not trained, scored or saved any more.
        learning_rate: of its newest step.
    """

    run: Setup
    frozen: trees.Tree
    key: str | None
    writer: MetricsWriter
    checkpoints: Checkpoints | None
    pending: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    flops: float = 0.0
    best: tuple[float, int, State, dict[str, Any]] | None = None
    diverged: Divergence | None = None
    learning_rate: float = math.nan

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.run.steps

    def trains(self, done: int) -> bool:
        """Whether it takes the step after ``done``."""
        return self.diverged is None and self.total > done

    def diverge(self, step: int, what: str, updates: int) -> None:
        """Remember where it stopped being finite."""
        self.diverged = Divergence(step, self.total, what, self.learning_rate, updates)

    def check(self, first: int, metrics: Columns) -> Columns:
        """Look at every one of the steps after ``first``; return their metrics, up to the one that diverged if one did."""
        if not metrics:
            return metrics
        found = first_not_finite(metrics)
        if found is not None:
            metrics = {name: values[: found[0] + 1] for name, values in metrics.items()}
        self.learning_rate = metrics["learning_rate"][-1]
        if found is not None:
            # Loss and gradient are those of the parameters before the step.
            self.diverge(first + found[0] + 1, found[1], first + found[0])
        return metrics

    def check_state(self, state: State, done: int) -> None:
        """Look at all that a checkpoint holds."""
        what = state_not_finite(state)
        if what is not None:
            self.diverge(done, what, done)

    def next_event(self, done: int) -> int:
        """The step at which something has to be looked at."""
        settings = self.run.settings
        events = [self.total]
        if len(self.run.data.validation):
            events.append(next(s for s in self._validations if s > done))
        if settings.checkpoint_steps and self.checkpoints is not None:
            events.append((done // settings.checkpoint_steps + 1) * settings.checkpoint_steps)
        return min(events)

    @property
    def _validations(self) -> list[int]:
        parts = self.run.settings.evaluations
        return sorted({max(1, round(self.total * k / parts)) for k in range(1, parts + 1)})

    def validates(self, done: int) -> bool:
        """Whether the validation split is scored after this step."""
        return len(self.run.data.validation) > 0 and done in self._validations

    def log(self, first: int, metrics: Columns) -> list[dict[str, Any]]:
        """Take in the metrics of the steps after ``first``; return the rows that are complete."""
        if not metrics:
            return []
        every, total = self.run.settings.log_every, self.total if self.diverged is None else self.diverged.step
        columns = {name: [row[name] for row in self.pending] + values for name, values in metrics.items()}
        before, last = first - len(self.pending), first + len(metrics["loss"])
        ends = [step for step in range((first // every + 1) * every, last + 1, every) if step != total]
        ends += [total] if last == total else []
        rows = [
            {"step": end, **row} for end, row in zip(ends, _windows(columns, [e - before for e in ends]), strict=True)
        ]
        left = [values[ends[-1] - before if ends else 0 :] for values in columns.values()]
        self.pending = [dict(zip(columns, row, strict=True)) for row in zip(*left, strict=True)]
        return rows

    def score(self, probabilities: Float[np.ndarray, "n labels"]) -> dict[str, float]:
        """Validation metrics."""
        data = self.run.data
        labels = data.labels[data.validation]
        return {
            "validation_accuracy": accuracy(probabilities, labels),
            "validation_cross_entropy": cross_entropy(probabilities, labels),
        }

    def meta(self, done: int) -> dict[str, Any]:
        """What a checkpoint after this step says beside its arrays."""
        return self.run.meta(done, self.pending, self.seconds, self.flops)

    def save(self, state: Callable[[], State], done: int) -> None:
        """Write the best state, if it is not on disk yet, and then this one."""
        if self.checkpoints is None:
            return
        if self.best is not None and self.best[1] < done:
            score, _, best, meta = self.best
            self.checkpoints.save(best, {**meta, "score": score}, score)
        score = self.best[0] if self.best is not None and self.best[1] == done else None
        self.checkpoints.save(state(), {**self.meta(done), "score": score}, score)


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


def train(
    engine: Engine, stop: StopRequest, report: Report | None, ended: Callable[[int], None] = lambda member: None
) -> None:
    """Take every member to its last step, or to the one at which it diverged: ``ended`` is then told its number.

    The steps of one that diverged are taken on where they are computed with the others': these stay what they are, bit
    by bit. Every step's metrics are looked at before anything is scored or saved.

    Raises:
        Interrupted: a stop was asked for; members that keep checkpoints wrote one first.
    """
    members = engine.members
    total = max(member.total for member in members)
    settings = members[0].run.settings
    program = members[0].run.program
    clock, saved = program.clock(), time.perf_counter()
    while any(member.trains(engine.done) for member in members):
        first = engine.done
        # Of those that diverged too, so that the others' calls stay what they are.
        taken = [i for i, member in enumerate(members) if member.total > first]
        live = [i for i in taken if members[i].trains(first)]
        metrics = engine.advance(min(members[i].next_event(first) for i in taken), stop, report)
        done = engine.done
        rows = {i: members[i].log(first, members[i].check(first, metrics[i])) for i in live}
        # A stop that was asked for before the first of these steps leaves nothing new to score.
        scored = [i for i in taken if done > first and members[i].validates(done)]
        if any(members[i].diverged is None for i in scored):
            probabilities = engine.predict({i: members[i].run.data.validation for i in scored})
            for i in scored:
                if members[i].diverged is None:
                    _take_score(members[i], rows[i], done, probabilities[i], lambda i=i: engine.state(i))
        for i in live:
            for row in rows[i]:
                members[i].writer.write(row)
        if report is not None and live:
            report(done, total, rows[live[0]][-1] if rows[live[0]] else {})
        # What passed is shared by those that still train.
        before, clock = clock, program.clock()
        for i in live:
            members[i].seconds += (clock - before) / len(live)
        every = settings.checkpoint_steps
        due = done % every == 0 if every else time.perf_counter() - saved > settings.checkpoint_seconds
        for i in live:
            member, last = members[i], done == members[i].total
            # The update of the newest step is in the state alone: no metric has seen it.
            if member.diverged is None and done > first and (last or ((due or stop.asked) and member.checkpoints)):
                member.check_state(engine.state(i), done)
            if member.diverged is not None:
                ended(i)
            elif due or stop.asked or (last and member.run.keep_weights):
                member.save(lambda i=i: engine.state(i), done)
        if due:
            saved = time.perf_counter()
        if stop.asked and any(member.trains(done) for member in members):
            raise Interrupted(f"Stopped after step {done} of {total}.")


def _take_score(
    member: Member, rows: list[dict[str, Any]], done: int, probabilities: np.ndarray, state: Callable[[], State]
) -> None:
    """Put a validation in its row, and keep the state if it is the best so far."""
    found = member.score(probabilities)
    if rows and rows[-1]["step"] == done:
        rows[-1].update(found)
    else:
        rows.append({"step": done, **found})
    # Accuracy decides; among equals the smaller cross-entropy, which never weighs as much as one example.
    loss = found["validation_cross_entropy"]
    if not math.isfinite(loss):
        member.diverge(done, f"the validation loss is {loss}", done)
        return
    score = round(found["validation_accuracy"] * len(probabilities)) - loss / (1 + loss)
    if member.best is None or score > member.best[0]:
        kept = jax.tree.map(lambda x: np.array(x, copy=True), state())
        member.check_state(kept, done)
        if member.diverged is None:
            member.best = (score, done, kept, member.meta(done))


class Streaming:
    """One run, batch after batch: whatever the carry, and whatever the size of the data."""

    def __init__(self, member: Member, state: State):
        self.members = [member]
        self.done = int(state["step"])
        self._state = state
        self._hyper = member.run.hyper()
        self._batches = stream(member.run.order, lambda batch: make_batch(member, batch), self.done)
        self._ahead: Any = None

    def advance(self, upto: int, stop: StopRequest, report: Report | None) -> list[Columns]:
        member = self.members[0]
        run, waiting = member.run, []
        # A row of metrics is written when it is complete.
        every = run.settings.log_every
        upto = min(upto, (self.done // every + 1) * every)
        while self.done < upto and not stop.asked:
            batch = jax.device_put(next(self._batches)) if self._ahead is None else self._ahead
            self._state, metrics = run.program.step(self._state, member.frozen, batch, self._hyper)
            member.flops += run.program.step.flops(self._state, member.frozen, batch, self._hyper)
            waiting.append(metrics)
            self.done += 1
            # The next batch travels while the device works on this one.
            self._ahead = jax.device_put(next(self._batches)) if self.done < member.total else None
            if report is not None and self.done < upto:
                report(self.done, member.total, {})
        # One transfer for the metrics of all these steps.
        rows = jax.device_get(waiting)
        return [{name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}]

    def state(self, member: int) -> State:
        return self._state

    def memory(self, member: int) -> Memory:
        return memory_of(self.members[0].run)

    def predict(
        self, wanted: Mapping[int, Int[np.ndarray, " n"]], states: Mapping[int, State] | None = None
    ) -> dict[int, Float[np.ndarray, "n labels"]]:
        return {0: predict_member(self.members[0], self._state if states is None else states[0], wanted[0])}


def make_batch(member: Member, batch: Batch) -> dict[str, Any]:
    """A training batch on the host: the carry at the program's first stage, labels, and weights of 0 for padding."""
    run = member.run
    rows = run.settings.batch_size
    labels = np.zeros(rows, np.int32)
    labels[: len(batch.indices)] = run.data.labels[batch.indices]
    return {"carry": run.carry(batch, rows, member.key), "label": labels, "weight": weights(len(batch.indices), rows)}


def predict_member(member: Member, state: State, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n labels"]:
    """Probabilities for these examples, each predicted once; padding rows never leave this function."""
    run, rows = member.run, member.run.settings.batch_size
    place = {int(i): row for row, i in enumerate(indices)}
    out = np.zeros((len(indices), len(run.data.label_names)), np.float32)
    for batch in evaluation_order(indices, run.feed.buckets(indices), rows):
        carry = run.carry(batch, rows, member.key)
        got = run.program.predict(evaluated(state), member.frozen, state["stats"], carry)
        out[[place[int(i)] for i in batch.indices]] = np.asarray(got)[: len(batch.indices)]
    return out


class Population:
    """Runs that share a program and frozen leaves, stepping together: what residents and companions have in common.

    Members that have finished stay in the program, masked, until half of it stands still; then the others are
    gathered into a smaller one.
    """

    def __init__(self, members: Sequence[Member], states: Sequence[State], slots: Sequence[int] | None = None):
        self.members = members
        self.done = int(states[0]["step"])
        self._slots = list(range(len(members)) if slots is None else slots)
        self._states = stacked([states[i] for i in self._slots])
        self._hypers = self._stack_hypers()
        self._finished: dict[int, State] = {}
        self._temporary = 0
        self._one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self._states)

    @property
    def _first(self) -> Member:
        return self.members[self._slots[0]]

    def _stack_hypers(self) -> Any:
        return stacked([self.members[i].run.hyper() for i in self._slots])

    def _compact(self) -> bool:
        """Set finished members aside; whether the population has become smaller."""
        for slot, i in enumerate(self._slots):
            if self.members[i].total <= self.done and i not in self._finished:
                self._finished[i] = self._slice(slot)
        live = [slot for slot, i in enumerate(self._slots) if i not in self._finished]
        if len(live) > len(self._slots) // 2:
            return False
        keep = np.array(live)
        self._states = jax.tree.map(lambda x: x[keep], self._states)
        self._slots = [self._slots[slot] for slot in live]
        self._hypers = self._stack_hypers()
        return True

    def _slice(self, slot: int) -> State:
        return jax.tree.map(lambda x: x[slot], self._states)

    def state(self, member: int) -> State:
        return self._finished[member] if member in self._finished else self._slice(self._slots.index(member))

    def memory(self, member: int) -> Memory:
        """A member's share; all have the same."""
        return self._memory

    @cached_property
    def _memory(self) -> Memory:
        return held(self._one, self.members[0].frozen, self._temporary // len(self.members))

    def _count_flops(self, batch: Any, steps: int) -> None:
        """Each member's steps cost what a step of a run made alone costs on a batch of this shape."""
        run = self._first.run
        hyper = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self._hypers)
        cost = run.program.step.flops(self._one, self._first.frozen, batch, hyper)
        for i in self._slots:
            self.members[i].flops += cost * max(0, min(steps, self.members[i].total - self.done))


class Companions(Population):
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
            first, together = self._first, self._first.run.program.together
            batch = jax.device_put(next(self._batches))
            self._count_flops(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch), 1)
            live = np.array([self.members[i].total > self.done for i in self._slots])
            arguments = (self._states, first.frozen, batch, live, self._hypers)
            self._temporary = self._temporary or together.temporary_bytes(*arguments)
            self._states, metrics = together(*arguments)
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


class Resident(Population):
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
        first, given = self._first, (self._states, self._hypers)
        population = first.run.program.population
        split = halves_of(len(rows["live"]), len(self._slots)) if jax.default_backend() == "cpu" else None
        parts = [(given, rows)] if split is None else split.apart(jax.device_get(given), rows)

        def call(part: tuple[tuple[State, Any], dict[str, np.ndarray]]) -> tuple[State, dict[str, Any]]:
            (states, hypers), rows = part
            arguments = (states, first.frozen, self._table, rows, hypers)
            self._temporary = self._temporary or population.temporary_bytes(*arguments) * len(parts)
            return population(*arguments) if split is None else jax.device_get(population(*arguments))

        made = list(prefetch_map(call, parts))
        return made[0] if split is None else split.together(made)

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
        predict = first.run.program.population_predict
        got = np.asarray(predict(evaluated(given), first.frozen, given["stats"], self._table, index))
        return {i: got[row, : len(wanted[i])] for row, i in enumerate(chosen)}


def stacked(trees_: Sequence[Any]) -> Any:
    """Return one tree of arrays on the device with a leading axis of members; one transfer for each leaf."""
    if any(isinstance(x, jax.Array) and x.size > _SMALL for x in jax.tree.leaves(trees_[0])):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees_)
    return jax.device_put(jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees_))


_SMALL = 1 << 16
"""Numbers of a leaf below which members are stacked on the host."""


def _windows(columns: Columns, ends: list[int]) -> list[dict[str, float]]:
    """Of the windows that end before these places: mean loss and accuracy, and the newest of what is not averaged."""
    if not ends:
        return []
    starts = [0, *ends[:-1]]
    out = {}
    for name in ("loss", "accuracy"):
        sums = np.add.reduceat(np.asarray(columns[name][: ends[-1]], np.float64), starts)
        out[name] = (sums / np.subtract(ends, starts)).tolist()
    out |= {name: [columns[name][end - 1] for end in ends] for name in ("gradient_norm", "learning_rate")}
    return [dict(zip(out, row, strict=True)) for row in zip(*out.values(), strict=True)]
