"""Our own models as networks: an NNX module that exists only while some of its stages run."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Float

from transferlab import trees
from transferlab.models.backbone import (
    Carry,
    Token,
    last_layer_single_query,
    run_stage,
    run_stages,
    stages_between,
)
from transferlab.models.heads import Pooling
from transferlab.models.heads.pooling import pool
from transferlab.models.layers import Key
from transferlab.models.network import StageInfo
from transferlab.selectors import owns
from transferlab.trees import Tree


@dataclass(frozen=True)
class NnxNetwork:
    """A :class:`transferlab.models.network.Network` of one of :mod:`transferlab.models`, or of a model of one's own on
    :class:`transferlab.models.Model`.

    What a Network may have beyond the protocol is here too: ``sequence_entries``, ``first_position``, ``tokens_until``,
    ``single_query``, ``poolings`` and ``described``.

    Attributes:
        definition: the module, and the shapes of its leaves.
    """

    definition: trees.Definition

    @property
    def module(self) -> Any:
        """The module without arrays, to read names and configs from."""
        return self.definition.module

    @property
    def params(self) -> Tree:
        """What may train, as a tree of ``jax.ShapeDtypeStruct``."""
        return self.definition.params

    @property
    def state(self) -> Tree:
        """Batch statistics, as a tree of ``jax.ShapeDtypeStruct``."""
        return self.definition.state

    @property
    def stages(self) -> tuple[StageInfo, ...]:
        """The stages from the input on, the head's included."""
        return self._stages

    @cached_property
    def _stages(self) -> tuple[StageInfo, ...]:
        return tuple(
            StageInfo(stage.name, stage.owns, stage.borrows, stage.random, stage.takes_inputs)
            for stage in self.module.all_stages()
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs, the required one first."""
        return self.module.inputs

    @property
    def divisible(self) -> bool:
        """It can start and stop between any two stages."""
        return True

    def initialise(self, paths: Collection[str], key: jax.Array) -> dict[str, jax.Array]:
        """Return ``{path: array}`` for these leaves, each drawn from ``key`` folded with a hash of its path."""
        return self.definition.initialise(paths, key)

    def run(
        self,
        params: Mapping[str, Any],
        state: Mapping[str, Any],
        carry: Carry,
        *,
        start: int = 0,
        stop: int | None = None,
        key: Key | None = None,
        training: Collection[str] = frozenset(),
        compute: Any = None,
        remat: bool = False,
    ) -> tuple[Carry, Tree]:
        """Run ``stages[start:stop]``; see :class:`transferlab.models.network.Network`. The carry enters as it is.

        The last layer is computed for the one token that the head reads, where it reads just one and all of that is run.
        """
        stop, names = len(self.stages) if stop is None else stop, frozenset(training)
        if not remat:
            whole = (start, stop) == (0, len(self.stages))
            model = self.definition.merge(params, state, partial=not whole, compute=compute)
            out = run_stages(model, carry, start, stop, key, names)
            return out, _after(model, trees.flatten(state))
        leaves, moving = trees.flatten(params), trees.flatten(state)
        for number, stage in enumerate(stages_between(self.module, start, stop)):
            # A stage is a pure function of its own leaves here: its module exists only inside.
            def again(used: dict, own: dict, carry: Carry, key: Key | None, number: int = number) -> tuple[Carry, Tree]:
                model = self.definition.merge(
                    trees.unflatten(used), trees.unflatten(own), partial=True, compute=compute
                )
                own_stage = stages_between(model, start, stop)[number]
                carry = run_stage(model, own_stage, carry, key, names)
                return carry, _after(model, own)

            used = {path: leaf for path, leaf in leaves.items() if owns(stage.owns + stage.borrows, path)}
            own = {path: leaf for path, leaf in moving.items() if owns(stage.owns, path)}
            carry, after = jax.checkpoint(again)(used, own, carry, key)
            moving |= trees.flatten(after)
        return carry, trees.unflatten(moving)

    # Beyond the protocol ---------------------------------------------------------------------------------------------

    @property
    def sequence_entries(self) -> tuple[str, ...]:
        """Names of carry entries whose second axis is the length of a text."""
        return self.module.sequence_entries

    @cached_property
    def backbone(self) -> int:
        """Number of stages before the head's."""
        return len(self.module.backbone_stages())

    @property
    def first_position(self) -> int | None:
        """Position of a text's first token, where rows may contain several texts; None where they may not."""
        model = self.module
        pooled = model.head is not None and model.head.feature_stages  # a stage is pooled by itself
        return None if pooled else model.first_position

    @cached_property
    def tokens_until(self) -> int:
        """Index of the first stage that sees an example as a whole: those before it see tokens alone."""
        last = self.module.feature_stages()[-1]
        return [stage.name for stage in self.stages].index(last) + 1

    @cached_property
    def single_query(self) -> tuple[str, Token] | None:
        """(name of the last layer, the one token that is computed of it); None where all are."""
        match = last_layer_single_query(self.module)
        return None if match is None else (match[0].name, match[1])

    @property
    def poolings(self) -> tuple[str, ...]:
        """The ways in which the carry after the backbone may be pooled."""
        return self.module.poolings

    def pool(self, carry: Carry, pooling: Pooling) -> Float[Array, "batch features"]:
        """One vector for each example from the carry after the backbone."""
        return pool(self.module, carry, pooling)

    def described(self, stop: int) -> dict[str, Any]:
        """What ``stages[:stop]`` compute, their weights apart, as plain data."""
        model, stages = self.module, self.stages[:stop]
        return {
            "config": repr(getattr(model, "config", None)),
            "stages": [stage.name for stage in stages],
            "feature_stages": list(getattr(model.head, "feature_stages", ())),
            "head": repr(getattr(model.head, "config", None)) if any(s.name == "pool" for s in stages) else "",
            "code": code_version(type(model)),
        }


def _after(model: Any, state: Mapping[str, Any]) -> Tree:
    """These leaves of the state as the model has them now."""
    after = trees.flatten(trees.state_of(model))
    return trees.unflatten({path: after[path] for path in state})


@cache
def code_version(model: type) -> str:
    """Hash of the source code of all families and what they share, and of a user's own model: changed code changes the key."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.rglob("*.py"))]
    own = sorted({kind.__module__ for kind in model.__mro__ if kind.__module__.split(".")[0] not in _KNOWN})
    texts += [inspect.getsource(sys.modules[module]) for module in own]
    return sha256("".join(texts).encode()).hexdigest()[:16]


_KNOWN = ("transferlab", "flax", "builtins", "typing", "abc")
"""Packages whose classes a model may inherit from without their code being hashed; the version of JAX is part of the key."""
