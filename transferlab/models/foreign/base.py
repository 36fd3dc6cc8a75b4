"""What a module of any library is to the engine: named leaves, and a pure call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx

Leaves = dict[str, Any]
Shapes = Mapping[str, jax.ShapeDtypeStruct]
Run = Callable[[Any, Any, bool], Any]
"""(module, value, whether it trains) → value."""


@runtime_checkable
class Module(Protocol):
    """A module without arrays. Two are equal only if they are the same object: make one once."""

    @property
    def params(self) -> Shapes:
        """Path → shape of what may train."""
        ...

    @property
    def state(self) -> Shapes:
        """Path → shape of what moves without a gradient."""
        ...

    @property
    def one_mode(self) -> bool:
        """Whether all of it trains, or none."""
        ...

    def draw(self, key: jax.Array) -> Leaves:
        """All leaves as the module itself starts them, to be traced."""
        ...

    def call(
        self,
        run: Run | None,
        leaves: Leaves,
        value: Any,
        key: jax.Array | None,
        trains: Callable[[str], bool],
        training: bool,
    ) -> tuple[Any, Leaves]:
        """Return (what ``run`` makes of ``value``, the state after it), to be traced.

        Args:
            run: of a stage; None calls the whole module with a dict of its inputs.
            leaves: those that it touches.
            value: array, or dict of arrays.
            key: what it draws from; None where it does not train.
            trains: path of a part of the module → whether that trains.
            training: whether what is run trains.
        """
        ...


def initialise(module: Module, paths: Collection[str], key: jax.Array) -> Leaves:
    """Draw these leaves as the module itself does, in one compiled program, of which XLA drops all that makes the others."""
    return _drawn(module, tuple(sorted(paths)))(key) if paths else {}


@lru_cache(maxsize=64)
def _drawn(module: Module, paths: tuple[str, ...]) -> Callable[[jax.Array], Leaves]:
    def draw(key: jax.Array) -> Leaves:
        leaves = module.draw(key)
        return {path: leaves[path] for path in paths}

    return jax.jit(draw)


def flagged(flag: str | None, training: bool) -> dict[str, bool]:
    """The keyword that tells a call whether it trains: ``deterministic`` and its kin say the contrary."""
    if flag is None:
        return {}
    return {flag: not training if flag in ("deterministic", "use_running_average", "inference") else training}


def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array or a Variable."""
    value = value_of(leaf)
    return jax.ShapeDtypeStruct(tuple(value.shape), value.dtype)


def value_of(leaf: Any) -> Any:
    """The array of a Variable; anything else as it is."""
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
