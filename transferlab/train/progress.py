"""What a fit is doing, as a line of text.

A thread reads it a few times a second (:mod:`transferlab.train.line`) from what the fit has anyway: the engine's counts, the
rows of metrics that were written, the programs that compile. Nothing is asked of the device, and no step does anything for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from transferlab.train.engines import Engine
from transferlab.train.member import Member
from transferlab.train.program import Program
from transferlab.train.setup import Setup
from transferlab.train.state import GAUGES

Part = tuple[int, str]
"""(rank, text): where a line is too long, its parts of the highest rank are left out first."""


@runtime_checkable
class Work(Protocol):
    """One kind of work within a fit."""

    program: Program

    def parts(self, now: float) -> list[Part]:
        """What is known of it at this time (``time.perf_counter``)."""
        ...


class Progress:
    """The progress of a fit, which says at its few events what it does now; any thread may ask for the line.

    Args:
        runs: how many the fit has, those that are finished already included.
    """

    def __init__(self, runs: int = 1):
        self._runs = runs
        self._label = ""
        self._work: Work | None = None

    def prepares(self, run: Setup, number: int) -> None:
        """A run's weights are read, and its first programs compiled."""
        self._set([number], Reading(run.program, run.source.name))

    def features(self, program: Program) -> Callable[[int, int], None]:
        """Features are computed: call what is returned with how many examples are done, and how many there are."""
        self._work = features = Features(program)
        return features.count

    def trains(self, engine: Engine, numbers: Sequence[int]) -> None:
        """The runs with these numbers take their steps."""
        self._set(numbers, Training(engine))

    def tests(self, engine: Engine) -> None:
        """They are tested."""
        self._work = Testing(engine.members)

    def line(self, width: int) -> str:
        """The line now, in at most ``width`` characters; empty before anything began."""
        work, now = self._work, time.perf_counter()
        if work is None:
            return ""
        parts = [(0, self._label)] if self._label else []
        parts += work.parts(now)
        if (since := work.program.compiling_since) is not None:
            parts.append((0, f"compiling … {now - since:.0f} s"))
        return _fitted(parts, width)

    def _set(self, numbers: Sequence[int], work: Work) -> None:
        self._label, self._work = _label(numbers, self._runs), work


def _label(numbers: Sequence[int], runs: int) -> str:
    """Which runs of the fit: empty where there is one."""
    first, last = min(numbers) + 1, max(numbers) + 1
    if len(numbers) == 1:
        return "" if runs == 1 else f"run {first} of {runs}"
    if len(numbers) == runs:
        return f"{runs} runs together"
    consecutive = last - first + 1 == len(numbers)
    return f"runs {first}–{last} of {runs}" if consecutive else f"{len(numbers)} of {runs} runs together"


def _fitted(parts: Sequence[Part], width: int) -> str:
    """The parts that fit, in order."""
    parts = list(parts)
    while len(text := " · ".join(part for _, part in parts)) > width and len(parts) > 1:
        parts.remove(max(parts, key=lambda part: part[0]))
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


class Pace:
    """How fast something is counted, on a clock that stops while a program compiles."""

    def __init__(self, program: Program, first: int = 0):
        self._program = program
        self._first = self._done = first
        self._started = self._at = self._now(time.perf_counter())

    def _now(self, now: float) -> float:
        since = self._program.compiling_since
        return (now if since is None else since) - self._program.compile_seconds

    def seconds(self, done: int, now: float) -> tuple[float, float]:
        """(seconds of one, seconds since the newest): NaN of one before there is any."""
        clock = self._now(now)
        if done != self._done:
            self._done, self._at = done, clock
        count = self._done - self._first
        return (self._at - self._started) / count if count > 0 else float("nan"), clock - self._at

    def left(self, done: int, total: int, now: float) -> list[Part]:
        """How long the rest takes, once there is something to judge by."""
        each, waited = self.seconds(done, now)
        return [(1, f"{_duration((total - done) * each - waited)} left")] if each > 0 else []


class Reading:
    """A run is made ready: its weights are read."""

    def __init__(self, program: Program, source: str):
        self.program, self._source = program, source

    def parts(self, now: float) -> list[Part]:
        return [] if self.program.compiling_since is not None else [(0, f"reading {self._source}")]


class Features:
    """Features at the frontier are computed, batch by batch."""

    def __init__(self, program: Program):
        self.program, self._counts = program, (0, 0)
        self._pace = Pace(program)

    def count(self, done: int, total: int) -> None:
        """Take note of how many examples are done."""
        self._counts = done, total

    def parts(self, now: float) -> list[Part]:
        done, total = self._counts
        return [
            (0, f"computing features {done:,}/{total:,}" if total else "computing features"),
            *self._pace.left(done, total, now),
        ]


class Testing:
    """The test split is predicted."""

    def __init__(self, members: Sequence[Member]):
        self.program = members[0].run.program
        self._examples = max(len(member.run.data.test) for member in members)

    def parts(self, now: float) -> list[Part]:
        return [(0, f"testing {self._examples:,} examples")]


class Training:
    """An engine takes its members' steps."""

    def __init__(self, engine: Engine):
        members = engine.members
        self._engine, self._members = engine, members
        self._total = max(member.total for member in members)
        self._epochs = {
            (member.total, member.run.order.steps_per_epoch, len(member.run.order.indices)) for member in members
        }
        self._size = members[0].run.settings.batch_size
        self.program = members[0].run.program
        self._first = engine.computed
        self._pace = Pace(self.program, self._first)
        self._validated = [f"validation_{member.run.task.metric or member.run.task.primary}" for member in members]
        self._newest: list[dict[str, float]] = [{} for _ in members]
        self._read = [0] * len(members)

    def parts(self, now: float) -> list[Part]:
        done = self._engine.computed
        parts = [(0, f"step {done:,}/{self._total:,}")]
        if len(self._epochs) == 1:
            total, per_epoch, _ = next(iter(self._epochs))
            epochs = -(-total // per_epoch)
            parts.append((4, f"epoch {min(done // per_epoch + 1, epochs):,}/{epochs:,}"))
        parts += self._metrics()
        each, _ = self._pace.seconds(done, now)
        if each > 0:
            examples = sum(
                self._examples(member, done) - self._examples(member, self._first) for member in self._members
            )
            rate = examples / (each * (done - self._first))
            parts.append((5, f"{rate:,.0f} examples/s" if rate >= 10 else f"{rate:.1f} examples/s"))
        return parts + self._pace.left(done, self._total, now)

    def _examples(self, member: Member, step: int) -> int:
        """How many examples a member has seen after this step."""
        epochs, rest = divmod(min(step, member.total), member.run.order.steps_per_epoch)
        n = len(member.run.order.indices)
        return epochs * n + min(rest * self._size, n)

    def _metrics(self) -> Iterator[Part]:
        """The newest of each metric: over several members its range."""
        for i, member in enumerate(self._members):
            rows = member.writer.rows
            for row in rows[self._read[i] :]:
                self._newest[i] |= row
            self._read[i] = len(rows)
        diverged = sum(member.diverged is not None for member in self._members)
        if diverged:
            yield 0, f"{diverged} diverged"
        hidden = {"step", *GAUGES}
        logged = [name for name in self._newest[0] if name not in hidden and not name.startswith("validation_")]
        for name in [*logged, self._validated[0]]:
            rank = 2 if name == "loss" else 3 if name == self._validated[0] else 6
            values = [row[name] for row in self._newest if name in row]
            if values:
                yield rank, f"{name.replace('_', ' ')} {_range(values)}"


def _range(values: Sequence[float]) -> str:
    low, high = _number(min(values)), _number(max(values))
    return low if low == high else f"{low}–{high}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    """``0:42``, ``1:02:03``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
