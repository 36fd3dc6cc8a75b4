"""Runs that step together in one program: what the vmapped and the scanned engine have in common."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferlab.train.member import Member
from transferlab.train.memory import Memory, memory_of_state
from transferlab.train.state import State


class Population:
    """Runs that share a program and frozen leaves, and step together.

    Members that have finished stay in the program, masked, until they are half of it; then the others are gathered into a
    smaller one.
    """

    def __init__(self, members: Sequence[Member], states: Sequence[State], slots: Sequence[int] | None = None):
        self.members = members
        self.done = int(states[0]["step"])
        self._slots = list(range(len(members)) if slots is None else slots)
        self._states = stacked([states[i] for i in self._slots])
        self._hparams = self._stack_hparams()
        self._finished: dict[int, State] = {}
        self._temporary = 0
        self._one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self._states)

    @property
    def _first(self) -> Member:
        return self.members[self._slots[0]]

    def _stack_hparams(self) -> Any:
        return stacked([self.members[i].run.hparams() for i in self._slots])

    def _compact(self) -> bool:
        """Remove finished members once they are half of the population; return whether it has become smaller."""
        for slot, i in enumerate(self._slots):
            if self.members[i].total <= self.done and i not in self._finished:
                self._finished[i] = self._slice(slot)
        live = [slot for slot, i in enumerate(self._slots) if i not in self._finished]
        if len(live) > len(self._slots) // 2:
            return False
        keep = np.array(live)
        self._states = jax.tree.map(lambda x: x[keep], self._states)
        self._slots = [self._slots[slot] for slot in live]
        self._hparams = self._stack_hparams()
        return True

    def _slice(self, slot: int) -> State:
        return jax.tree.map(lambda x: x[slot], self._states)

    def state(self, member: int) -> State:
        return self._finished[member] if member in self._finished else self._slice(self._slots.index(member))

    def memory(self, member: int) -> Memory:
        """A member's part of the memory; all have the same."""
        return self._memory

    @cached_property
    def _memory(self) -> Memory:
        return memory_of_state(self._one, self.members[0].frozen, self._temporary // len(self.members))

    def _count_flops(self, batch: Any, steps: int) -> None:
        """Each member's step costs what a step of a single run costs on a batch of this shape."""
        run = self._first.run
        hparams = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self._hparams)
        cost = run.program.step.flops(self._one, self._first.frozen, batch, hparams)
        for i in self._slots:
            self.members[i].flops += cost * max(0, min(steps, self.members[i].total - self.done))


def stacked(trees_: Sequence[Any]) -> Any:
    """Return one tree of arrays on the device with a leading axis of members; one transfer for each leaf."""
    if any(isinstance(x, jax.Array) and x.size > _SMALL for x in jax.tree.leaves(trees_[0])):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees_)
    return jax.device_put(jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees_))


_SMALL = 1 << 16
"""Elements of a leaf up to which members are stacked on the host."""
