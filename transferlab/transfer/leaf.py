"""One row of the plan: what happens to one leaf of the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from transferlab.trees import leaf_bytes

Action = Literal["copied", "resized", "derived", "initialised", "kept"]


@dataclass(frozen=True)
class Made:
    """How a method makes leaves of others.

    Attributes:
        paths: of the leaves that are made at once.
        of: the leaves of which, as they would be without the method.
        make: their values → a tuple, one for each path.
    """

    paths: tuple[str, ...]
    of: tuple[Leaf, ...]
    make: Callable[..., tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Leaf:
    """One row of the plan.

    Attributes:
        path: in the target's tree.
        kind: ``param`` or ``state`` (batch statistics).
        shape, dtype: in the target.
        action: where its first value comes from.
        source: keys in the source's files.
        reason: how it was resized or derived, or why it is initialised.
        trains: whether any gradient reaches it (for ``state``: whether it moves).
        lr_scale, decay: factors on the run's learning rate and weight decay.
        schedule: the group's own schedule and warm-up, where it has any.
        bytes: size in memory.
        read: the value of a leaf that is copied, resized or kept as the target has it, or derived of others alone.
        derive: what is drawn for the leaf → its value, of one that is derived.
        phases: of a run of several phases, the numbers from 1 on of those in which it trains.
        made: of a leaf that a method derives: how, and of which leaves.
    """

    path: str
    kind: Literal["param", "state"]
    shape: tuple[int, ...]
    dtype: str
    action: Action
    source: tuple[str, ...]
    reason: str
    trains: bool
    lr_scale: float
    decay: float
    bytes: int
    schedule: str = ""
    read: Callable[[], np.ndarray] | None = field(default=None, repr=False, compare=False)
    derive: Callable[[np.ndarray], np.ndarray] | None = field(default=None, repr=False, compare=False)
    phases: tuple[int, ...] = ()
    made: Made | None = field(default=None, repr=False, compare=False)

    @classmethod
    def plain(cls, path: str, kind: Literal["param", "state"], shape: Any) -> Leaf:
        """A leaf of this shape of which nothing else is known: it would be initialised, and is frozen. Its dtype is what JAX has
        for that of ``shape``: float32 for numpy's float64, unless it was told otherwise.
        """
        own = jax.ShapeDtypeStruct(tuple(shape.shape), jax.dtypes.canonicalize_dtype(shape.dtype))
        return cls(path, kind, own.shape, str(own.dtype), "initialised", (), "", False, 0.0, 0.0, leaf_bytes(own))
