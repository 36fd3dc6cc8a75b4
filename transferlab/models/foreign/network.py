"""``tl.network`` and its kin: somebody else's model with named leaves and stages, which the engine runs as its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen, nnx

from transferlab import trees
from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.models.backbone import RIDERS, Carry, check_ownership
from transferlab.models.foreign.base import Leaves, Module, initialise
from transferlab.models.foreign.function_module import FunctionModule
from transferlab.models.foreign.linen_module import LinenModule
from transferlab.models.foreign.nnx_module import NnxModule
from transferlab.models.foreign.stages import StageRule, Step, expand
from transferlab.selectors import owns
from transferlab.trees import Tree, key_of

ASIDE = (*RIDERS, "weight", "present")
"""Entries of a carry that are the engine's own: no foreign module sees them."""


@dataclass(frozen=True)
class ForeignNetwork:
    """A :class:`transferlab.models.network.Network` of a module that was not written for transferlab.

    Attributes:
        module: the module as a pure function of named leaves.
        inputs: names of its inputs, in the order in which it takes them.
        output: the name of what it returns: ``logits``, or ``hidden`` for what a head is put on.
        stages: what each stage owns, and how it is run.
    """

    module: Module
    inputs: tuple[str, ...]
    output: str
    stages: tuple[Step, ...]

    @property
    def divisible(self) -> bool:
        """Whether every stage says how it is run."""
        return all(step.run is not None for step in self.stages)

    @property
    def params(self) -> Tree:
        """What may train, as a tree of ``jax.ShapeDtypeStruct``."""
        return trees.unflatten(self.module.params)

    @property
    def state(self) -> Tree:
        """What moves without a gradient, as a tree of ``jax.ShapeDtypeStruct``."""
        return trees.unflatten(self.module.state)

    def initialise(self, paths: Collection[str], key: jax.Array) -> dict[str, jax.Array]:
        """Return ``{path: array}`` for these leaves, drawn as the module's own constructor or ``init`` draws them."""
        return initialise(self.module, paths, key)

    def __call__(
        self, params: Mapping[str, Any], state: Mapping[str, Any] | None = None, /, key: Any = None, **inputs: Any
    ) -> Carry:
        """Return what the module makes of its inputs; with a key all of it trains.

        Raises:
            TransferlabError: an input that is missing or unknown.
        """
        for name in inputs.keys() ^ set(self.inputs):
            what = "unknown" if name in inputs else "missing"
            raise TransferlabError(f"The input '{name}' is {what}; this network takes {', '.join(self.inputs)}.")
        training = frozenset(step.name for step in self.stages) if key is not None else frozenset()
        return self.run(params, state or {}, dict(inputs), key=key, training=training)[0]

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
        """Run ``stages[start:stop]``, or all of them at once; see :class:`transferlab.models.network.Network`."""
        stop = len(self.stages) if stop is None else stop
        aside = {name: carry[name] for name in ASIDE if name in carry}
        if compute is not None:
            params, carry = trees.cast(params, compute), trees.cast(carry, compute)
        leaves, moved = trees.flatten(params), trees.flatten(state)
        value = self._value({name: x for name, x in carry.items() if name not in aside}, start)
        steps: Sequence[Step | None] = self.stages[start:stop] if self.divisible else [None]
        if not self.divisible and (start, stop) != (0, len(self.stages)):
            raise TransferlabError("This network runs as a whole: not all of its stages say how they are run.")
        for step in steps:
            # Only what the stage touches enters it, so that its activations can be computed again.
            used = leaves if step is None else {p: x for p, x in leaves.items() if owns(step.owns + step.borrows, p)}
            own = moved if step is None else {p: x for p, x in moved.items() if owns(step.owns, p)}
            call = self._call(step, training)
            value, after = (jax.checkpoint(call) if remat else call)(used, own, value, key)
            moved = {**moved, **after}
        out = value if isinstance(value, Mapping) else {self.output if stop == len(self.stages) else "hidden": value}
        return {**out, **aside}, trees.unflatten(moved)

    def _call(self, step: Step | None, training: Collection[str]) -> Callable[..., tuple[Any, Leaves]]:
        names = [one.name for one in self.stages if step is None or one is step]
        live = [name in training for name in names]
        # A module with one mode runs as in training where all of it trains: its statistics would move where they are frozen.
        trains = all(live) if step is None and self.module.one_mode else any(live)

        def part_trains(path: str) -> bool:
            owner = next((one.name for one in self.stages if owns(one.owns, path)), None)
            return trains if owner is None else owner in training

        def call(leaves: Leaves, state: Leaves, value: Any, key: jax.Array | None) -> tuple[Any, Leaves]:
            own = key_of(key, names[0]) if key is not None and trains else None
            with jax.named_scope("network" if step is None else step.name):
                return self.module.call(
                    None if step is None else step.run,
                    {**leaves, **state},
                    value,
                    own,
                    part_trains,
                    trains and own is not None,
                )

        return call

    def _value(self, carry: Carry, start: int) -> Any:
        """What the stage ``start`` is given: an array where there is one alone."""
        if start > 0 or not self.divisible:
            return carry["hidden"] if carry.keys() == {"hidden"} else carry
        return carry[self.inputs[0]] if len(self.inputs) == 1 else {name: carry[name] for name in self.inputs}


@check_arguments
def network(
    create: Callable[[nnx.Rngs], nnx.Module],
    inputs: str | Sequence[str] = "x",
    stages: Sequence[StageRule] = (),
    *,
    output: str = "logits",
    training: str | None = None,
) -> ForeignNetwork:
    """Make a network of one's own Flax NNX module. Nothing is allocated.

    Its leaves are called as the module calls them: ``layers/3/linear/kernel``. Parts with a mode (dropout, batch
    normalisation) train where their stage does; random streams start at each step from its key.

    Args:
        create: ``nnx.Rngs`` → module; called once without arrays, and once for each set of leaves that are drawn.
        inputs: names of what the module is called with, in order.
        stages: from the input on, each :func:`transferlab.stage`; without any, the module is one stage.
        output: what the module returns: ``logits``, or ``hidden``, on which a head is put.
        training: the keyword that tells a call whether it trains, as ``train`` or ``deterministic``, if it takes one.

    Raises:
        TransferlabError: a leaf that no stage owns or two do, or a stage that owns none.

    Example:
        >>> stages = [tl.stage("embed", lambda m, x: m.embed(x)), tl.stage("layers/*", lambda m, x, i: m.layers[i](x)),
        ...           tl.stage("head", lambda m, x: m.head(x))]
        >>> mine = tl.network(lambda rngs: MLP(rngs=rngs), "pixels", stages)
        >>> params = mine.initialise(trees.flatten(mine.params), jax.random.key(0))
    """
    names = _names(inputs)
    return _foreign(NnxModule(create, names, training), names, output, stages)


@check_arguments
def linen_network(
    module: linen.Module,
    example: Any,
    inputs: str | Sequence[str] = "x",
    stages: Sequence[StageRule] = (),
    *,
    output: str = "logits",
    training: str | None = None,
    rngs: Sequence[str] = ("dropout",),
) -> ForeignNetwork:
    """Make a network of one's own Flax Linen module. Nothing is allocated.

    Collections other than ``params`` are state. As one stage, a module is in training where all of its parameters train, and
    else in evaluation: Linen has one flag for all of it. Stages that say how they run have a mode each; they need a
    module that names its parts in ``setup``.

    Args:
        module: the module.
        example: one example of its inputs, arrays or shapes; a tuple where there are several.
        inputs: names of what the module is called with, in order.
        stages: from the input on, each :func:`transferlab.stage`; without any, the module is one stage.
        output: what the module returns: ``logits``, or ``hidden``, on which a head is put.
        training: the keyword that tells a call whether it trains, as ``train`` or ``deterministic``, if it takes one.
        rngs: names of the random streams that it draws from while it trains.

    Raises:
        TransferlabError: as :func:`transferlab.network`; or two collections have a leaf of one path.

    Example:
        >>> mine = tl.linen_network(CNN(), jnp.zeros((1, 28, 28, 1)), "pixels", training="train")
    """
    names = _names(inputs)
    given = example if isinstance(example, tuple) else (example,)
    if len(given) != len(names):
        raise TransferlabError(f"example has {len(given)} inputs, and inputs names {len(names)}: {', '.join(names)}.")
    wrapped = LinenModule(module, dict(zip(names, given, strict=True)), training, tuple(rngs))
    return _foreign(wrapped, names, output, stages)


@check_arguments
def function_network(
    apply: Callable[..., Any],
    params: Any,
    inputs: str | Sequence[str] = "x",
    stages: Sequence[StageRule] = (),
    *,
    state: Any = None,
    init: Callable[[jax.Array], Any] | None = None,
    output: str = "logits",
) -> ForeignNetwork:
    r"""Make a network of a function of a pytree of parameters, as Equinox and code of one's own have it.

    Args:
        apply: (params, \*inputs) → output, or (params, state, \*inputs) → (output, state) where there is a state. Parameters
            named ``key`` and ``training`` are told what to draw from (None in evaluation) and whether it trains.
        params: the parameters, or their shapes: any pytree.
        inputs: names of what the function is called with, in order.
        stages: from the input on, each :func:`transferlab.stage`; without any, the function is one stage. Their runs
            are given the tree of parameters in place of a module.
        output: what the function returns: ``logits``, or ``hidden``, on which a head is put.
        state: what moves without a gradient, or its shapes: any pytree.
        init: key → parameters, of which leaves are taken that nothing is transferred into.

    Raises:
        TransferlabError: as :func:`transferlab.network`; or a leaf that is no array.

    Example:
        >>> params, static = eqx.partition(model, eqx.is_array)
        >>> mine = tl.function_network(lambda params, x: jax.vmap(eqx.combine(params, static))(x), params)
    """
    names = _names(inputs)
    return _foreign(FunctionModule(apply, params, names, state, init), names, output, stages)


def _foreign(module: Module, inputs: tuple[str, ...], output: str, rules: Sequence[StageRule]) -> ForeignNetwork:
    if output not in ("logits", "hidden"):
        raise TransferlabError(
            f"output is {output!r}; it is 'logits' or 'hidden'.{nearest(str(output), ('logits', 'hidden'))}"
        )
    paths = {**module.params, **module.state}
    if not module.params:
        raise TransferlabError("The module has no parameters: nothing can be transferred or trained.")
    tops = tuple(dict.fromkeys(path.split("/")[0] for path in paths))
    steps = expand(rules, paths) if rules else (Step("network", tops),)
    check_ownership(steps, paths)
    return ForeignNetwork(module, inputs, output, steps)


def _names(inputs: str | Sequence[str]) -> tuple[str, ...]:
    names = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    if not names or any(not isinstance(name, str) or not name for name in names):
        raise TransferlabError(f"inputs is {inputs!r}; name what the module is called with, as inputs='pixels'.")
    return names
