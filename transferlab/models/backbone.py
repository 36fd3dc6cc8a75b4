"""The stage protocol: a model is a chain of named stages, each mapping a carry to a carry.

Calling a model runs all stages; the frontier cache, depth-wise learning rates and layer-cut studies run ``[a:b]`` of them.
A carry is a flat dict of arrays whose first axis is the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped

from transferlab.errors import TransferlabError
from transferlab.models.layers import Key
from transferlab.trees import key_of

Carry = dict[str, Any]
"""``hidden`` and its companions, such as ``mask``; the first stage's carry is the mapping of inputs."""


@dataclass(frozen=True)
class Token:
    """The one token of an example whose final hidden state a head reads: the first, the last that is not padding, or the
    one at the carry's ``pooled_position``.

    The last layer need not compute the rest: this token is its only query, all tokens are keys, and everything after
    attention sees this token alone.
    """

    place: Literal["first", "last", "pooled"]

    def __str__(self) -> str:
        return {"first": "first token", "last": "last token", "pooled": "pooled token"}[self.place]

    def of(self, carry: Carry, x: Shaped[Array, "batch length *rest"]) -> Shaped[Array, "batch 1 *rest"]:
        """The entries of ``x`` at the token."""
        if self.place == "first":
            return x[:, :1]
        at = last_token(carry["mask"]) if self.place == "last" else carry["pooled_position"]
        return x[jnp.arange(len(x)), at][:, None]

    def select(self, before: Carry, after: Carry, sequence_entries: tuple[str, ...]) -> Carry:
        """The carry reduced to this token, in which every pooling that reads it finds it.

        Args:
            before: the carry with all tokens.
            after: the same with ``hidden`` (batch, 1, features) of this token.
            sequence_entries: names of the entries whose second axis is the length.
        """
        rest = {name: self.of(before, after[name]) for name in sequence_entries if name in after and name != "hidden"}
        if "pooled_position" in after:
            rest["pooled_position"] = jnp.zeros_like(after["pooled_position"])
        return {**after, **rest}


def last_token(mask: Bool[Array, "batch length"]) -> Int[Array, " batch"]:
    """Index of the last position where ``mask`` is true; 0 for a row without one."""
    return jnp.argmax(jnp.arange(1, mask.shape[1] + 1) * mask, axis=1)


@dataclass(frozen=True)
class Stage:
    """One named step of a tower; :func:`run_stages` runs several.

    Attributes:
        name: as in the tree: ``embed``, ``layers/3``, ``head``.
        run: carry → carry; the key is None in evaluation, and for a frozen stage.
        owns: path prefixes of the leaves that live in this stage.
        borrows: path prefixes of leaves that it uses but another stage owns.
        random: whether it draws anything while it trains (dropout, stochastic depth).
        takes_inputs: whether further inputs of the model enter here, as those of a decoder; it is never before the frontier.
        single_query: ``run`` of a layer for one token of each example, whose ``hidden`` is then (batch, 1, features).
    """

    name: str
    run: Callable[[Carry, Key | None], Carry]
    owns: tuple[str, ...] = ()
    borrows: tuple[str, ...] = ()
    random: bool = False
    takes_inputs: bool = False
    single_query: Callable[[Carry, Key | None, Token], Carry] | None = None


@runtime_checkable
class Owner(Protocol):
    """What ownership, depth and the frontier are worked out from: a :class:`Stage`, or what is known of one without its run."""

    @property
    def name(self) -> str: ...
    @property
    def owns(self) -> tuple[str, ...]: ...
    @property
    def borrows(self) -> tuple[str, ...]: ...
    @property
    def takes_inputs(self) -> bool: ...


RIDERS = ("labels", "selected")
"""Entries of a carry that no backbone reads and every stage passes on: what a head over the vocabulary needs to compute likelihoods
without all logits. ``labels``: ids (batch, positions); ``selected``: which positions they are at, where not at all.
"""


class Head(nnx.Module):
    """What is put on a backbone: it names the stages whose pooled features it reads, and brings stages of its own."""

    feature_stages: tuple[str, ...] = ()

    def stages(self, model: Model) -> tuple[Stage, ...]:
        """The stages after the backbone's; the first of them reads the hidden states."""
        raise NotImplementedError

    def reads(self, model: Model) -> Token | None:
        """The one token of an example whose final hidden state it reads; None where it reads more."""
        return None


class Model(nnx.Module):
    """A backbone and, if one was grafted on, a head.

    A backbone is a chain of stages. One with several towers contains a model for each: running it runs each tower in
    turn on its part of the carry, then the stages that join them.
    """

    inputs: tuple[str, ...] = ()
    """Names of the inputs, the required one first; they tell which inputs of a model belong to which of its towers."""

    sequence_entries: tuple[str, ...] = ()
    """Names of carry entries whose second axis is the length of a text; they are padded with zeros to a bucket."""

    first_position: int | None = None
    """Position of a text's first token, for a backbone whose rows may contain several texts: with ``position_ids`` and a
    mask (batch, length, length) of which tokens see each other. None where it takes neither."""

    poolings: tuple[str, ...] = ("mean", "stages")
    """The ways in which a head may pool an example to one vector."""

    table: str = "embed/word"
    """Path of the embedding table that a tied language-model head borrows."""

    head: Head | None

    def backbone_stages(self) -> tuple[Stage, ...]:
        """The stages from the input to the last hidden states."""
        raise NotImplementedError

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """One vector per example from a carry's hidden states, by the family's default pooling."""
        raise NotImplementedError

    def pooled_token(self, pooling: str) -> Token | None:
        """The one token that this pooling, one of ``poolings``, reads; None if it reads more."""
        return {"first": Token("first"), "last": Token("last")}.get(pooling)

    def towers(self) -> Mapping[str, Model]:
        """The towers by name; empty for a model with only one. Each is an ordinary backbone by itself."""
        return {}

    def all_stages(self) -> tuple[Stage, ...]:
        """All stages; the head brings its own (pooling, then the classifier)."""
        own = self.backbone_stages()
        return own if self.head is None else own + self.head.stages(self)

    def __call__(self, inputs: Mapping[str, Array], key: Key | None = None) -> Carry:
        """Run every stage on the inputs and return the last carry; with a key all stages train."""
        stages = self.all_stages()
        return run_stages(self, dict(inputs), 0, len(stages), key, frozenset(stage.name for stage in stages))


def tower_stages(name: str, tower: Model) -> tuple[Stage, ...]:
    """Return a tower's stages as stages of the whole: ``embed`` is ``vision/embed``.

    Each sees, and returns, the entries of the carry below ``name/``, by the tower's own names; the first also takes the
    tower's inputs out of the carry. What it owns and borrows is below ``name/`` in the tree.
    """
    folder = f"{name}/"

    def within(stage: Stage, inputs: tuple[str, ...]) -> Stage:
        def run(carry: Carry, key: Key | None) -> Carry:
            part = {k.removeprefix(folder): v for k, v in carry.items() if k.startswith(folder) or k in inputs}
            rest = {k: v for k, v in carry.items() if not k.startswith(folder) and k not in inputs}
            return rest | {folder + k: v for k, v in stage.run(part, key).items()}

        owns, borrows = (tuple(folder + prefix for prefix in prefixes) for prefixes in (stage.owns, stage.borrows))
        return Stage(folder + stage.name, run, owns, borrows, stage.random)

    stages = tower.backbone_stages()
    return tuple(within(stage, tower.inputs if number == 0 else ()) for number, stage in enumerate(stages))


def run_stages(
    model: Model,
    carry: Carry,
    start: int,
    stop: int,
    key: Key | None = None,
    training: frozenset[str] = frozenset(),
) -> Carry:
    """Run ``stages[start:stop]`` on a carry.

    A stage not named in ``training`` gets no key: its dropout is off and its batch statistics stay, whatever the rest
    of the model does. Each stage's key is ``key`` folded with its name.

    Example:
        >>> model = tl.define(tl.models.BertConfig.minilm_l6().build()).module
        >>> [stage.name for stage in model.all_stages()][:3]
        ['embed', 'layers/0', 'layers/1']
    """
    for stage in stages_between(model, start, stop):
        carry = run_stage(model, stage, carry, key, training)
    return carry


def last_layer_single_query(model: Model) -> tuple[Stage, Token] | None:
    """Return the last layer and the one token that the head reads of it; None where it reads more or no layer can do so."""
    token = None if model.head is None else model.head.reads(model)
    if token is None:
        return None
    return next(((stage, token) for stage in reversed(model.backbone_stages()) if stage.single_query is not None), None)


def stages_between(model: Model, start: int, stop: int) -> tuple[Stage, ...]:
    """Return ``stages[start:stop]``, the last layer computed only for the token that the head reads, if it reads just one.

    This holds where both the last layer and the head's pooling are among them: nothing else sees the other tokens then.
    """
    stages, match = model.all_stages(), last_layer_single_query(model)
    if match is None or stop <= len(model.backbone_stages()):
        return stages[start:stop]
    last, token = match

    def run(carry: Carry, key: Key | None) -> Carry:
        assert last.single_query is not None
        return token.select(carry, last.single_query(carry, key, token), model.sequence_entries)

    return tuple(replace(stage, run=run) if stage.name == last.name else stage for stage in stages[start:stop])


def run_stage(
    model: Model, stage: Stage, carry: Carry, key: Key | None = None, training: frozenset[str] = frozenset()
) -> Carry:
    """Run one of :func:`stages_between`, as :func:`run_stages` does."""
    live = key if stage.name in training else None
    riders = {name: carry[name] for name in RIDERS if name in carry}
    # Profiles show this name.
    with jax.named_scope(stage.name):
        carry = {**stage.run(carry, None if live is None else key_of(live, stage.name)), **riders}
    if model.head is not None and stage.name in model.head.feature_stages:
        carry = {**carry, f"pooled {stage.name}": model.pool_hidden(carry)}
    return carry


def frontier(stages: Sequence[Owner], trainable: frozenset[str] | set[str]) -> int:
    """Return the index of the first stage that owns or borrows a trainable leaf, or that takes further inputs (``len(stages)`` if
    none does).

    A stage without a trainable leaf runs in evaluation and so draws nothing: all stages before the frontier are a
    pure function of the example.

    Example:
        >>> model = tl.define(tl.models.BertConfig.minilm_l6().build()).module
        >>> tl.models.frontier(model.all_stages(), {"layers/4/mlp/up/kernel"})
        5
    """
    from transferlab.selectors import owns

    for number, stage in enumerate(stages):
        if stage.takes_inputs or any(owns(stage.owns + stage.borrows, path) for path in trainable):
            return number
    return len(stages)


def training_stages(stages: Sequence[Owner], trainable: frozenset[str] | set[str]) -> frozenset[str]:
    """Return the names of the stages that own a trainable leaf: the ones in which dropout and statistics act."""
    from transferlab.selectors import owns

    return frozenset(stage.name for stage in stages if any(owns(stage.owns, path) for path in trainable))


def check_ownership(stages: Sequence[Owner], paths: Mapping[str, Any]) -> None:
    """Check that every leaf is owned by exactly one stage; freezing by depth would silently miss it otherwise.

    Raises:
        TransferlabError: a leaf that no stage owns, or several; the leaf and the stages are named.
    """
    from transferlab.selectors import owns

    for path in paths:
        owners = [stage.name for stage in stages if owns(stage.owns, path)]
        if len(owners) != 1:
            names = " and ".join(owners) or "no stage"
            raise TransferlabError(f"'{path}' is owned by {names}; each leaf needs exactly one stage.")


def key_for(seed: jax.Array | int, step: jax.Array | int) -> Key:
    """Return the key of one training step, a function of only seed and step.

    It is a ``threefry`` key: masks are the same under ``vmap``, and on CPU 16-bit draws cost a third of ``rbg``'s.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
