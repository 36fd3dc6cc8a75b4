"""Optimizers over the trainable subtree alone: an optax rule, then decay and step size per leaf."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from transferlab import trees
from transferlab.bounds import Bounds, Positive
from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.fields import check_fields

NEEDS_MORE = {
    "lbfgs": "it needs the value of the loss and a line search",
    "polyak_sgd": "it needs the value of the loss",
    "dpsgd": "it needs a gradient per example",
    "noisy_sgd": "it keeps a random state of its own, and keys here follow from seed and step",
    "rprop": "its learning rate is the first of its step sizes, not a factor",
    "fromage": "its learning rate is not a factor of its update",
}
"""Optimizers of optax that do not work with a step that scales updates by leaf and schedule, and why."""


@check_arguments
@dataclass(frozen=True)
class Optimizer:
    """An optimizer of optax, by name, with its arguments. It is a field of :class:`transferlab.train.Settings`.

    Example:
        >>> tl.train.Settings(optimizer=tl.train.Optimizer("sgd", {"momentum": 0.9}, clip_norm=None))

    Learning rate and decay are the run's, by leaf: the optimizer is made with a learning rate of 1 and no decay. For transfer:
    transformers are fine-tuned with ``adamw`` (Loshchilov & Hutter 2019), BiT and most convolutional networks with ``sgd``
    and ``momentum`` 0.9 (Kolesnikov et al. 2020); ``adafactor`` (Shazeer & Stern 2018) keeps a row and a column of second
    moments instead of a matrix, for models whose moments do not fit in memory.

    Attributes:
        name: ``adamw``, ``sgd``, ``adafactor``, ``lion``, ``lamb`` and so on.
        arguments: of optax's function, as ``{"b2": 0.95}`` or ``{"momentum": 0.9}``.
        clip_norm: the global norm that the trainable leaves' gradient is clipped to; None does not clip.

    Raises:
        TransferlabError: a name or argument that optax does not have or that cannot be used here, or a value out of range.
    """

    name: str = "adamw"
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)
    clip_norm: Positive | None = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.name, str):
            raise TransferlabError(f"The name of an optimizer is {described(self.name)}.")
        if not isinstance(self.arguments, Mapping):
            raise TransferlabError(
                f"The arguments of '{self.name}' are {self.arguments!r}; give them by name, as "
                'Optimizer("sgd", {"momentum": 0.9}).'
            )
        if self.name in NEEDS_MORE:
            raise TransferlabError(f"The optimizer '{self.name}' cannot be used: {NEEDS_MORE[self.name]}.")
        if self.name not in names():
            raise TransferlabError(f"Unknown optimizer '{self.name}'.{nearest(self.name, names())}")
        parameters = inspect.signature(getattr(optax, self.name)).parameters
        known = set(parameters) - set(_OURS)
        for argument, value in self.arguments.items():
            if argument in _OURS:
                raise TransferlabError(f"optimizer.arguments.{argument}: {_OURS[argument]}.")
            if argument not in known:
                raise TransferlabError(f"'{self.name}' takes no argument '{argument}'.{nearest(argument, known)}")
            bounds = _BOUNDS.get(f"{self.name}.{argument}", _BOUNDS.get(argument, Bounds()))
            _check_argument(f"optimizer.arguments.{argument}", value, parameters[argument], bounds)
        try:
            self.rule()
        except (TypeError, ValueError, AttributeError) as error:
            raise TransferlabError(f"optax cannot make '{self.name}' with {dict(self.arguments)}: {error}.") from None

    def rule(self, births: Mapping[str, int] | None = None) -> optax.GradientTransformation:
        """The optax transformation from gradients to directions of descent, without decay and learning rate.

        Args:
            births: path → phase since which the leaf trains, where it does not follow that all began together: leaves of each
                have a count of updates of their own, by which moments are corrected for their start at zero.
        """
        make = getattr(optax, self.name)
        none = {"weight_decay": 0.0} if "weight_decay" in inspect.signature(make).parameters else {}
        clip = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        if births is None:
            return optax.chain(*clip, make(learning_rate=1.0, **none, **self.arguments), optax.scale(-1.0))
        rules: Any = {
            str(birth): make(learning_rate=1.0, **none, **self.arguments) for birth in sorted(set(births.values()))
        }
        names = trees.unflatten({path: str(birth) for path, birth in births.items()})
        return optax.chain(*clip, optax.partition(rules, names), optax.scale(-1.0))


def described(wrong: Any) -> str:
    """Say what was given in place of an :class:`Optimizer` (or of its name), with the line that mends it."""
    line = 'Settings(optimizer=tl.Optimizer("{}"))'
    if isinstance(wrong, optax.GradientTransformation):
        return f"a transformation of optax; a run makes its own from a name and arguments: {line.format('adam')}"
    if isinstance(wrong, str):
        close = nearest(wrong, names())
        name = wrong if wrong in names() else (re.findall(r"mean '(\w+)'", close) or ["adamw"])[0]
        return f"{wrong!r}, a text; give {line.format(name)}"
    if (name := getattr(wrong, "__name__", "")) in names():
        return f"optax's function {name}; give its name: {line.format(name)}"
    shown = repr(wrong)
    return f"{shown if len(shown) <= 80 else f'{shown[:80]}…'}; give {line.format('adamw')}"


def _check_argument(where: str, value: Any, parameter: inspect.Parameter, bounds: Bounds) -> None:
    """Check a value against what optax declares: a flag, a dtype, or a number, which has to be finite and within bounds."""
    default, said = parameter.default, str(parameter.annotation)
    if _takes_as_it_is(value, default, said):
        return
    if "dtype" in parameter.name:
        try:
            floats = jnp.issubdtype(jnp.dtype(value), jnp.floating)
        except TypeError:
            floats = False
        if not floats:
            raise TransferlabError(f"{where} is {value!r}; it must be a floating dtype, as 'bfloat16'.")
    elif isinstance(default, bool):
        if not isinstance(value, (bool, np.bool_)):
            raise TransferlabError(f"{where} is {value!r}; it must be True or False.")
    elif isinstance(default, (int, float)) or re.search("float|ArrayLike|Scalar", said):
        kind, called = (Integral, "an integer") if type(default) is int else (Real, "a number")
        scalar = getattr(value, "shape", None) == () and jnp.issubdtype(value.dtype, jnp.number)
        plain = value.item() if scalar else value
        if not isinstance(plain, kind) or isinstance(plain, bool):
            raise TransferlabError(f"{where} is {value!r}; it must be {called}.")
        if not Bounds().holds(plain):
            raise TransferlabError(f"{where} is {value!r}; it must be a finite number.")
        if not bounds.holds(plain):
            raise TransferlabError(f"{where} is {value!r}; it must be {bounds}.")


def _takes_as_it_is(value: Any, default: Any, said: str) -> bool:
    """Whether it is None where optax takes it, or a function where optax takes one."""
    return (value is None and (default is None or "None" in said)) or (
        callable(value) and re.search("Callable|Schedule", said) is not None
    )


_RATE, _NONNEGATIVE, _POSITIVE = Bounds(0.0, 1.0, below=True), Bounds(0.0), Bounds(0.0, above=True)
# Decay rates of running means: from 1 on the mean grows without bound, or never changes.
_RATES = dict.fromkeys(("b1", "b2", "b3", "decay", "momentum", "rho", "signum.beta"), _RATE)
_BOUNDS = _RATES | {
    "eps": _NONNEGATIVE,
    "eps_root": _NONNEGATIVE,
    "initial_accumulator_value": _NONNEGATIVE,
    "initial_scale": _NONNEGATIVE,
    "optimism": _NONNEGATIVE,
    "threshold": _NONNEGATIVE,
    "clipping_threshold": _POSITIVE,
    "trust_coefficient": _POSITIVE,
    "min_dim_size_to_factor": Bounds(1.0),
    "decay_offset": _NONNEGATIVE,
    # The decay rate at step t is 1 − (t + 1)^−decay_rate.
    "decay_rate": Bounds(0.0, 1.0, above=True),
}
"""Bounds by argument, or by optimizer and argument; any other number has to be finite."""

_OURS = {
    "learning_rate": "the learning rate is a field of the training settings",
    "weight_decay": "weight_decay is a field of the training settings",
    "weight_decay_rate": "weight_decay is a field of the training settings",
    "mask": "which leaves decay follows from the method's groups",
    "weight_decay_mask": "which leaves decay follows from the method's groups",
}


@cache
def names() -> tuple[str, ...]:
    """Names of the optimizers of optax that can be used."""
    optimizers = []
    for name in dir(optax):
        function = getattr(optax, name)
        if name in NEEDS_MORE or not inspect.isfunction(function) or name.startswith(("_", "scale_by", "inject")):
            continue
        signature = inspect.signature(function)
        if "learning_rate" in signature.parameters and "Transformation" in str(signature.return_annotation):
            optimizers.append(name)
    return tuple(optimizers)


def learning_rate(
    schedule: str, step: Float[Array, ""], peak: Float[Array, ""], total: Float[Array, ""], warmup: Float[Array, ""]
) -> Float[Array, ""]:
    """Learning rate of the update after ``step`` finished ones, of ``total``; all arguments but ``schedule`` may be traced."""
    rising = (step + 1.0) / jnp.maximum(warmup, 1.0)
    done = jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1.0), 0.0, 1.0)
    falling = {
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
        "constant": jnp.ones_like(done),
    }[schedule]
    return peak * jnp.where(step < warmup, rising, falling)


def apply_updates(
    params: trees.Tree,
    updates: trees.Tree,
    rates: Mapping[str, Float[Array, ""]],
    decays: Mapping[str, Float[Array, ""] | float],
) -> trees.Tree:
    """Return ``p − rate · (update + decay · p)`` for each leaf, with its own rate and decay (Loshchilov & Hutter 2019).

    A decay that is the Python float 0.0 adds no operation.
    """
    new: dict[str, Any] = {}
    flat = trees.flatten(updates)
    for path, p in trees.walk(params):
        change = flat[path]
        decay = decays[path]
        if not (isinstance(decay, float) and decay == 0.0):
            change = change + decay * p
        new[path] = (p - rates[path] * change).astype(p.dtype)
    return trees.unflatten(new)


def global_norm(tree: trees.Tree) -> Float[Array, ""]:
    """Euclidean norm over all leaves of the tree."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)))
