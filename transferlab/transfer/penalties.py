"""Penalties: terms of the loss on the parameters themselves, as their distance from where they began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@runtime_checkable
class Penalty(Protocol):
    """A term of the loss on the leaves that train: frozen, and compared by what it computes, without its weight.

    Its value times ``weight`` is added to the loss once a step, however many parts the batch is computed in.
    """

    @property
    def name(self) -> str:
        """As metrics call it."""
        ...

    @property
    def weight(self) -> float:
        """Its coefficient; an argument of the compiled step."""
        ...

    @property
    def anchors(self) -> tuple[str, ...]:
        """Paths of the leaves whose values before the first step it compares with."""
        ...

    def __call__(self, params: Mapping[str, Any], anchors: Mapping[str, Any]) -> Float[Array, ""]:
        """Return its value without its weight, to be traced. Both are path → array: what trains, and what that was."""
        ...


@dataclass(frozen=True)
class SquaredDistance:
    """``½ · Σ (w − w⁰)²`` over some leaves, in float32; without ``anchored``, w⁰ is 0.

    Attributes:
        name: as metrics call it.
        paths: of the leaves.
        anchored: whether it is the distance from their values before the first step.
        weight: its coefficient.
    """

    name: str
    paths: tuple[str, ...]
    anchored: bool
    weight: float = field(compare=False)

    @property
    def anchors(self) -> tuple[str, ...]:
        """The leaves themselves, or none."""
        return self.paths if self.anchored else ()

    def __call__(self, params: Mapping[str, Any], anchors: Mapping[str, Any]) -> Float[Array, ""]:
        total: jax.Array = jnp.zeros(())
        for path in self.paths:
            start = anchors[path].astype(jnp.float32) if self.anchored else 0.0
            total = total + jnp.sum(jnp.square(params[path].astype(jnp.float32) - start))
        return 0.5 * total
