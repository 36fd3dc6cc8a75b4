"""The plan: what happens to every leaf of the target, and to every key of the source, before anything is allocated.

Whatever it cannot account for is an error that names the keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models.heads import HeadConfig
from transferlab.models.network import Network
from transferlab.transfer.groups import LeafSettings
from transferlab.transfer.leaf import Leaf
from transferlab.transfer.phases import PhasePlan
from transferlab.transfer.recipe import Weights
from transferlab.transfer.show import FittedTable, as_text, plan_table

SMALL = 1 << 16
"""Most elements of an initialised leaf that runs share in memory."""


@dataclass(frozen=True)
class Plan:
    """Every leaf of the target, every unused key, and what follows for the step.

    ``print(plan)`` shows it collapsed by layer; ``to_dict()`` is the content of ``plan.json``. :func:`transferlab.train.adapt`
    makes one as ``run.plan``; :class:`transferlab.transfer.Leaf` is one of its rows.

    Example:
        >>> plan = tl.adapt(source, data, method=tl.methods.LoRA(rank=8)).plan
        >>> [leaf.path for leaf in plan.leaves if leaf.action == "initialised"]

    Attributes:
        method: its name.
        weights: ``pretrained``, or ``random`` for the same network untrained.
        leaves: one row for each leaf of the target, in the model's order.
        unused: (key of the source, why it is not used).
        network: the target without arrays.
        leaf_settings: of each parameter that trains, by path.
        head: the new head.
        frontier: index of the first stage that a gradient reaches.
        stages: names of the target's stages, in order.
        training: names of those that run as in training.
        notes: what else a user should know, a sentence each.
        phases: what each phase trains; of a plan with several, the fields above say what any of them does.
    """

    method: str
    weights: Weights
    leaves: tuple[Leaf, ...]
    unused: tuple[tuple[str, str], ...]
    network: Network = field(repr=False)
    leaf_settings: dict[str, LeafSettings] = field(repr=False)
    head: HeadConfig
    frontier: int
    stages: tuple[str, ...]
    training: frozenset[str]
    notes: tuple[str, ...] = ()
    phases: tuple[PhasePlan, ...] = field(default=(), repr=False)

    @property
    def trainable(self) -> tuple[str, ...]:
        """Paths of the leaves that train, sorted."""
        return tuple(sorted(self.leaf_settings))

    @property
    def trainable_parameters(self) -> int:
        """Number of scalars that train."""
        return sum(int(np.prod(leaf.shape)) for leaf in self.leaves if leaf.trains and leaf.kind == "param")

    @property
    def parameters(self) -> int:
        """Number of scalars in all parameters."""
        return sum(int(np.prod(leaf.shape)) for leaf in self.leaves if leaf.kind == "param")

    def at(self, phase: int) -> Plan:
        """The plan of one of its phases alone."""
        if len(self.phases) == 1:
            return self
        one = self.phases[phase]
        leaves = tuple(trained(leaf, one.leaf_settings.get(leaf.path), leaf.path in one.moving) for leaf in self.leaves)
        return replace(
            self, leaves=leaves, leaf_settings=one.leaf_settings, network=one.network, frontier=one.frontier,
            training=one.training, phases=(one,),
        )  # fmt: skip

    def totals(self) -> dict[str, Any]:
        """Counts and bytes by action, and what trains."""
        actions = Counter(leaf.action for leaf in self.leaves)
        moved = [leaf for leaf in self.leaves if leaf.action in ("copied", "resized")]
        return {
            "leaves": len(self.leaves),
            "by_action": dict(actions),
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "bytes": sum(leaf.bytes for leaf in self.leaves),
            "bytes_from_source": sum(leaf.bytes for leaf in moved),
            "bytes_trainable": sum(leaf.bytes for leaf in self.leaves if leaf.trains),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the whole plan as plain data."""
        return {
            "method": self.method,
            "weights": self.weights,
            "totals": self.totals(),
            "stages": list(self.stages),
            "frontier": self.stages[self.frontier] if self.frontier < len(self.stages) else None,
            "training_stages": [name for name in self.stages if name in self.training],
            "notes": list(self.notes),
            **({"phases": [_described(phase, self.stages) for phase in self.phases]} if len(self.phases) > 1 else {}),
            "labels": list(self.head.labels),
            "leaves": [
                {
                    "path": leaf.path,
                    "kind": leaf.kind,
                    "shape": list(leaf.shape),
                    "dtype": leaf.dtype,
                    "action": leaf.action,
                    "source": list(leaf.source),
                    "reason": leaf.reason,
                    "trains": leaf.trains,
                    "lr_scale": leaf.lr_scale,
                    "decay": leaf.decay,
                    "schedule": leaf.schedule,
                    "bytes": leaf.bytes,
                }
                for leaf in self.leaves
            ],
            "unused": [{"key": key, "reason": reason} for key, reason in self.unused],
        }

    def place(
        self, seed: int, shared: MutableMapping[Any, Any] | None = None, only: Collection[str] | None = None
    ) -> tuple[trees.Tree, trees.Tree]:
        """Return (params, state) in memory: copied leaves read once, the others initialised by one compiled program.

        Args:
            seed: of the initialisation.
            shared: leaves that are in memory already: copied ones by path, initialised ones by (network, seed, path).
                Leaves that are read are added to it, and small ones that are initialised. For runs on one source that exist
                at the same time.
            only: paths of the parameters to return; all by default. A leaf's value does not depend on the others asked for.
        """
        shared = {} if shared is None else shared
        leaves = [leaf for leaf in self.leaves if only is None or leaf.kind == "state" or leaf.path in only]
        values = self._values([leaf for leaf in leaves if leaf.made is None], seed, shared)
        wanted = {leaf.path: leaf for leaf in leaves if leaf.made is not None}
        for made in {leaf.made.paths: leaf.made for leaf in wanted.values() if leaf.made is not None}.values():
            # One after another: a kernel that is taken apart is in memory as a whole for no longer than that.
            of = self._values(made.of, seed, {})
            made_values = made.make(*(np.asarray(of[leaf.path]) for leaf in made.of))
            for path, value in zip(made.paths, made_values, strict=True):
                if (leaf := wanted.get(path)) is not None:
                    values[path] = trees.placed(_checked(np.asarray(value), leaf), leaf.dtype, _named(leaf))
        params = {leaf.path: values[leaf.path] for leaf in leaves if leaf.kind == "param"}
        state = {leaf.path: values[leaf.path] for leaf in leaves if leaf.kind == "state"}
        return trees.unflatten(params), trees.unflatten(state)

    def _values(self, leaves: Collection[Leaf], seed: int, shared: MutableMapping[Any, Any]) -> dict[str, Any]:
        """The arrays of leaves that are read or drawn, by path."""
        keys = {leaf.path: (self.network, seed, leaf.path) for leaf in leaves if leaf.read is None}
        values: dict[str, Any] = {path: value for path, key in keys.items() if (value := shared.get(key)) is not None}
        if new := [path for path in keys if path not in values]:
            values |= self.network.initialise(new, jax.random.key(seed))
            shared.update({keys[path]: values[path] for path in new if values[path].size <= SMALL})
        for leaf in leaves:
            if leaf.derive is not None:
                values[leaf.path] = trees.placed(leaf.derive(np.asarray(values[leaf.path])), leaf.dtype)
            if leaf.read is None:
                continue
            if leaf.action != "copied":
                values[leaf.path] = trees.placed(leaf.read(), leaf.dtype, _named(leaf))
            else:
                if (value := shared.get(leaf.path)) is None:
                    value = shared[leaf.path] = trees.placed(leaf.read(), leaf.dtype, _named(leaf))
                values[leaf.path] = value
        return values

    def initialised(self, seed: int) -> trees.Tree:
        """Frozen parameters that are not the source's own: those that are initialised or derived."""
        paths = [leaf.path for leaf in self.leaves if leaf.kind == "param" and not leaf.trains
                 and leaf.action in ("initialised", "derived")]  # fmt: skip
        return self.place(seed, only=frozenset(paths))[0] if paths else {}

    def started(self, seed: int) -> trees.Tree:
        """First values of the leaves that train and were made together with a frozen one, as adapters taken out of their kernel."""
        frozen = {path for leaf in self.leaves if leaf.made and not leaf.trains for path in leaf.made.paths}
        paths = frozenset(leaf.path for leaf in self.leaves if leaf.trains and leaf.path in frozen)
        return self.place(seed, only=paths)[0] if paths else {}

    def table(self, whole: bool = False) -> FittedTable:
        """Return the plan as a rich table, collapsed by layer unless ``whole``."""
        return plan_table(self, whole)

    def __str__(self) -> str:
        return as_text(self.table())

    def _repr_html_(self) -> str:
        return self.table().html()


def trained(leaf: Leaf, settings: LeafSettings | None, moves: bool = False) -> Leaf:
    """The leaf with these settings; without any it is frozen."""
    return replace(
        leaf, trains=settings is not None or moves, lr_scale=settings.lr_scale if settings else 0.0,
        decay=settings.decay if settings else 0.0, schedule=_schedule(settings),
    )  # fmt: skip


def _checked(value: np.ndarray, leaf: Leaf) -> np.ndarray:
    """A value that a method made, which has to have the leaf's shape."""
    if value.shape != leaf.shape:
        raise TransferlabError(f"'{leaf.path}' ({leaf.reason}) was made with shape {value.shape}; it has {leaf.shape}.")
    return value


def _named(leaf: Leaf) -> str:
    return f"'{leaf.path}' (key '{leaf.source[0]}')" if leaf.source else f"'{leaf.path}'"


def _schedule(settings: LeafSettings | None) -> str:
    if settings is None or (settings.schedule is None and settings.warmup is None):
        return ""
    rising = "" if settings.warmup is None else f"warm-up {settings.warmup:g}"
    return ", ".join(part for part in (settings.schedule or "", rising) if part)


def _described(phase: PhasePlan, stages: tuple[str, ...]) -> dict[str, Any]:
    """A phase as plain data."""
    return {
        "name": phase.name,
        "steps": phase.fraction,
        "settings": dict(phase.settings),
        "frontier": stages[phase.frontier] if phase.frontier < len(stages) else None,
        "trains": sorted([*phase.leaf_settings, *phase.moving]),
        "penalties": [each.name for each in phase.penalties],
    }
