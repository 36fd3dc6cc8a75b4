"""Somebody else's network as a run trains it: it reads what a preprocessing gives, and may have a head of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.bert import masked_mean
from transferlab.models.foreign.network import ForeignNetwork
from transferlab.models.heads import HeadConfig, Pooling
from transferlab.models.heads.pooling import pool
from transferlab.models.network import StageInfo
from transferlab.models.nnx_network import NnxNetwork
from transferlab.selectors import owns
from transferlab.trees import Tree

Example = tuple[tuple[str, tuple[int, ...], str], ...]
"""(name, shape, dtype) of each input of one example, the leading axis 1."""


class Hidden(Model):
    """What a head of ours reads of a network of somebody else: ``hidden`` (batch, …, features)."""

    def __init__(self, features: int, axes: int, head: HeadConfig):
        self.poolings = ("mean", "first", "last") if axes == 3 else ("mean",)
        self.head = head.build(features)

    def backbone_stages(self) -> tuple[Stage, ...]:
        """None: they are the network's."""
        return ()

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """The mean over all axes between the first and the last; over tokens alone where it is known which those are."""
        return mean(carry)


def mean(carry: Carry) -> Float[Array, "batch features"]:
    """The mean of ``hidden`` over all axes between the first and the last; over those with a ``mask`` where that is of them."""
    hidden, mask = carry["hidden"], carry.get("mask")
    if mask is not None and hidden.ndim == 3 and mask.shape == hidden.shape[:2]:
        return masked_mean(hidden, mask)
    return hidden.mean(tuple(range(1, hidden.ndim - 1)))


@dataclass(frozen=True)
class HeadedNetwork:
    """A :class:`transferlab.models.network.Network` of a foreign one and, where that puts out ``hidden``, a head.

    Attributes:
        body: the foreign network.
        head: the stages ``pool`` and ``head``; None where the body has a head of its own, or none is wanted.
        feeds: (input of the body, what the preprocessing calls it).
        example: inputs of one example, as the preprocessing gives them.
        longer: of texts: the same of a longer one; from what differs follows which entries have an axis of length.
    """

    body: ForeignNetwork
    head: NnxNetwork | None
    feeds: tuple[tuple[str, str], ...]
    example: Example
    longer: Example = ()

    @cached_property
    def _parts(self) -> tuple[Tree, Tree, tuple[StageInfo, ...]]:
        params, stages = self.body.params, tuple[StageInfo, ...](self.body.stages)
        if self.head is not None:
            params, stages = trees.join(params, self.head.params), stages + self.head.stages
        return params, self.body.state, stages

    @property
    def params(self) -> Tree:
        """What may train, as a tree of ``jax.ShapeDtypeStruct``."""
        return self._parts[0]

    @property
    def state(self) -> Tree:
        """What moves without a gradient, as a tree of ``jax.ShapeDtypeStruct``."""
        return self._parts[1]

    @property
    def stages(self) -> tuple[StageInfo, ...]:
        """The body's, then the head's."""
        return self._parts[2]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs, as the preprocessing calls them."""
        return tuple(name for _, name in self.feeds)

    @property
    def divisible(self) -> bool:
        """Whether it can start and stop between any two stages; between body and head it always can (:meth:`splits_at`)."""
        return self.body.divisible

    def splits_at(self, stage: int) -> bool:
        """Whether the stages before this one can be run by themselves."""
        return self.divisible or stage >= len(self.body.stages)

    @cached_property
    def backbone(self) -> int:
        """Number of stages before the head's."""
        if self.head is not None:
            return len(self.body.stages)
        return next((n for n, stage in enumerate(self.stages) if owns(stage.owns, "head")), len(self.stages))

    @property
    def derived(self) -> Mapping[tuple[str, ...], Any] | None:
        """How leaves of an edited body start; None where it has no adapters."""
        return getattr(self.body, "derived", None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan says of it."""
        return getattr(self.body, "notes", ())

    def initialise(self, paths: Collection[str], key: jax.Array) -> dict[str, jax.Array]:
        """Return ``{path: array}`` for these leaves: the body's as its module draws them, the head's as its own."""
        ours = [] if self.head is None else [path for path in paths if owns(("head",), path)]
        own = [path for path in paths if path not in set(ours)]
        head = self.head.initialise(ours, key) if self.head is not None and ours else {}
        return {**self.body.initialise(own, key), **head}

    def run(
        self,
        params: Mapping[str, Any],
        state: Mapping[str, Any],
        carry: Carry,
        *,
        start: int = 0,
        stop: int | None = None,
        key: jax.Array | None = None,
        training: Collection[str] = frozenset(),
        compute: Any = None,
        remat: bool = False,
    ) -> tuple[Carry, Tree]:
        """Run ``stages[start:stop]``; see :class:`transferlab.models.network.Network`."""
        count, stop = len(self.body.stages), len(self.stages) if stop is None else stop
        modes: dict[str, Any] = {"key": key, "training": training, "compute": compute, "remat": remat}
        head, moved = ({}, params), dict(state)
        if self.head is not None:
            head = trees.split_by(params, [path for path in trees.flatten(params) if owns(("head",), path)])
        if start == 0 < stop:
            carry = {**_aside(carry), **{name: carry[given] for name, given in self.feeds}}
        if start < count and start < stop:
            carry, moved = self.body.run(head[1], state, carry, start=start, stop=min(stop, count), **modes)
        if self.head is not None and stop > count:
            first = max(start - count, 0)
            ready = _masked(carry) if first == 0 else carry
            carry, _ = self.head.run(head[0], {}, ready, start=first, stop=stop - count, **modes)
        return carry, moved

    # Beyond the protocol ---------------------------------------------------------------------------------------------

    @property
    def poolings(self) -> tuple[str, ...]:
        """The ways in which the carry after the body may be pooled."""
        return ("mean", "first", "last") if self.body.output == "hidden" and self.hidden.ndim == 3 else ("mean",)

    def pool(self, carry: Carry, pooling: Pooling) -> Float[Array, "batch features"]:
        """One vector for each example from the carry after a stage of the body."""
        ready = _masked(carry)
        hidden = ready["hidden"]
        return mean(ready) if pooling == "mean" or hidden.ndim != 3 else pool(_POOLS, ready, pooling)

    @cached_property
    def hidden(self) -> jax.ShapeDtypeStruct:
        """What the body puts out for one example.

        Raises:
            TransferlabError: no array, or one without an axis of examples and one of features.
        """
        out = self.shapes(len(self.body.stages), self.example)
        value = out.get(self.body.output)
        if value is None or value.ndim < 2 or value.shape[0] != 1:
            what = f"of shape {value.shape}" if value is not None else f"entries {', '.join(out)}"
            raise TransferlabError(
                f"For one example the network puts out {what}; expected '{self.body.output}' with examples as its first axis and features "
                "as its last."
            )
        return value

    def shapes(self, stop: int, example: Example) -> dict[str, Any]:
        """Shapes of the carry of ``stages[:stop]`` for one example."""
        return _shapes(self, stop, example)

    @cached_property
    def sequence_entries(self) -> tuple[str, ...]:
        """Names of carry entries whose second axis is the length of a text."""
        if not self.longer:
            return ()
        found: set[str] = set()
        stops = range(1, len(self.body.stages) + 1) if self.divisible else (len(self.body.stages),)
        for stop in stops:
            one, other = (self.shapes(stop, example) for example in (self.example, self.longer))
            found |= {name for name in one if one[name].shape[1:2] != other[name].shape[1:2]}
        return tuple(sorted(found))

    def described(self, stop: int) -> dict[str, Any]:
        """What ``stages[:stop]`` compute: a hash of the program that they are, with the constants that it has."""
        run = _prefix(self, stop)
        arguments = (self.params, self.state, _structs(self.example))
        constants = [jax.device_get(each) for each in jax.make_jaxpr(run)(*arguments).consts]
        text = re.sub(r" at 0x[0-9a-f]+", "", jax.jit(run).lower(*arguments).as_text())
        digest = sha256(text.encode())
        for constant in constants:
            digest.update(trees.sha256({"constant": constant}).encode())
        return {"stages": [stage.name for stage in self.stages[:stop]], "program": digest.hexdigest()}


class _Pools(Model):
    """For poolings that read a token."""

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        return mean(carry)


_POOLS = _Pools()


def with_head(network: HeadedNetwork, config: HeadConfig) -> HeadedNetwork:
    """Return the network with this head.

    Raises:
        TransferlabError: a leaf or a stage of the network that has the head's name.
    """
    taken = next((path for path in trees.flatten(network.body.params) if owns(("head", "pool"), path)), None)
    names = {stage.name for stage in network.body.stages} & {"pool", "head"}
    if taken or names:
        raise TransferlabError(
            f"The network puts out 'hidden', on which a head is put, and has '{taken or names.pop()}' itself. Call it another name, or leave "
            "that head out of the module."
        )
    model = Hidden(network.hidden.shape[-1], network.hidden.ndim, config)
    return replace(network, head=NnxNetwork(trees.define(model)))


def _aside(carry: Carry) -> Carry:
    """The engine's own entries; with which positions of a text are tokens."""
    own = {name: carry[name] for name in ("labels", "selected", "weight") if name in carry}
    return {**own, **({"present": carry["attention_mask"] != 0} if "attention_mask" in carry else {})}


def _masked(carry: Carry) -> Carry:
    """The carry after the body with a mask of its tokens, which heads read."""
    hidden = carry["hidden"]
    if hidden.ndim != 3 or "mask" in carry:
        return carry
    mask = carry.get("present")
    if mask is None or mask.shape != hidden.shape[:2]:
        mask = jnp.ones(hidden.shape[:2], bool)
    return {**carry, "mask": mask}


def _structs(example: Example) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in example}


def _prefix(network: HeadedNetwork, stop: int) -> Callable[..., Carry]:
    return lambda params, state, inputs: network.run(params, state, inputs, stop=stop)[0]


@lru_cache(maxsize=256)
def _shapes(network: HeadedNetwork, stop: int, example: Example) -> dict[str, Any]:
    return jax.eval_shape(_prefix(network, stop), network.params, network.state, _structs(example))
