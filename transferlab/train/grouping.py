"""Which runs train at the same time, and by which engine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from transferlab import trees
from transferlab.compute.devices import device_bytes
from transferlab.compute.prefetch import THREADS
from transferlab.train.engines import Engine, ScannedEngine, StreamingEngine, ThreadedEngine, VmappedEngine
from transferlab.train.interrupt import StopRequest
from transferlab.train.member import Member
from transferlab.train.memory import memory_of
from transferlab.train.program import ANCHORS
from transferlab.train.setup import Setup
from transferlab.train.state import State

MAX_POPULATION = 64
"""Most runs that step in one program, each on its own batches."""

Ready = tuple[int, Member, State]
"""(index of the run, the run as a member, its state)."""


def group_concurrent(runs: Sequence[Setup], pending: Sequence[int]) -> list[list[int]]:
    """Group the runs that may step together, by what is known before anything is placed on the device."""
    groups: dict[tuple, list[int]] = {}
    for i in pending:
        run = runs[i]
        # A run that is not vectorized is a group by itself. With weights of classes a run has targets that others lack. Members share
        # their frozen leaves, and two sources of one architecture have a program in common, but no weights.
        programs = tuple((id(one.program), one.span if one.phase is not None else ()) for one in run.phases)
        together = (programs, id(run.source), run.settings.batch_size, *run.fitted, run.feed.shapes)
        key = together if run.settings.vectorize != "never" else (i,)
        groups.setdefault(key, []).append(i)
    out = []
    for group in groups.values():
        phases = runs[group[0]].phases
        size = len(group)
        if size > 1 and not all(phase.features_on_device for phase in phases):
            size = min(_max_concurrent(phase) for phase in phases if not phase.features_on_device)
        out += [group[k : k + size] for k in range(0, len(group), size)]
    return out


def _max_concurrent(run: Setup) -> int:
    """How many such runs train at once: as many as fit in the device's memory."""
    most = THREADS if run.runs_concurrently else MAX_POPULATION
    limit, one = run.settings.memory_bytes or device_bytes(), memory_of(run)
    if limit is None:
        return most
    if run.runs_concurrently and not run.settings.memory_bytes:
        # Other processes use the machine's memory too; `memory_bytes` says how much this run may use.
        limit //= 2
    # The source's values of what trains stay in memory too: each state begins as a copy of them.
    base = one.frozen + sum(leaf.bytes for leaf in run.plan.leaves if leaf.trains and leaf.action == "copied")
    return max(1, min(most, (limit - base) // max(1, one.total - one.frozen)))


def group_compatible(ready: Sequence[Ready]) -> list[list[Ready]]:
    """Split by what is known once they are placed: features, step reached, and frozen leaves that depend on a seed."""
    groups: dict[tuple, list[Ready]] = {}
    for i, member, state in ready:
        seeded = {leaf.path for leaf in member.run.plan.leaves if leaf.action in ("initialised", "derived")}
        # Members share their frozen leaves, and what penalties compare with, so those may not depend on the seed.
        shared = {path.removeprefix(f"{ANCHORS}/") for path in trees.flatten(member.frozen)}
        own = i if seeded & shared else -1
        key = (id(member.run.program), member.key, int(state["step"]), own)
        groups.setdefault(key, []).append((i, member, state))
    return list(groups.values())


def engines_for(part: Sequence[Ready]) -> Iterator[tuple[Engine, list[int]]]:
    """The engines that train these, each with the indices of its runs."""
    numbers = [i for i, _, _ in part]
    members, states = [member for _, member, _ in part], [state for _, _, state in part]
    run = members[0].run
    if run.features_on_device:
        yield ScannedEngine(members, states), numbers
    elif len(part) > 1 and run.runs_concurrently:
        yield ThreadedEngine(members, states), numbers
    elif len(part) > 1 and (run.settings.vectorize == "always" or _vmap_is_faster(members, states)):
        yield VmappedEngine(members, states), numbers
    else:
        for i, member, state in part:
            yield StreamingEngine(member, state), [i]


def _vmap_is_faster(members: Sequence[Member], states: Sequence[State], repeats: int = 3) -> bool:
    """Whether a step of all members takes less time than their steps one after another; timed on copies."""

    def seconds(engine: Engine) -> float:
        quiet, times = StopRequest(), []
        for _ in range(1 + repeats):
            started = time.perf_counter()
            engine.advance(engine.done + 1, quiet, None)
            times.append(time.perf_counter() - started)
        return min(times[1:])

    flops = [member.flops for member in members]
    if members[0].total <= int(states[0]["step"]) + 1 + repeats:
        return False
    alone = seconds(StreamingEngine(members[0], jax.tree.map(jnp.copy, states[0])))
    vmapped = seconds(VmappedEngine(members, states))
    for member, before in zip(members, flops, strict=True):
        member.flops = before
    return vmapped < alone * len(members)
