"""Modules of Flax NNX as pure functions of named leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transferlab.errors import TransferlabError
from transferlab.models.foreign.base import Leaves, Run, flagged, shape_of, value_of
from transferlab.trees import key_of


class NnxModule:
    """A module of Flax NNX, made by a function of ``nnx.Rngs``.

    ``nnx.Param`` may train; every other ``nnx.Variable`` is state, except what random streams keep: those start at each call from the step's key.
    """

    one_mode = False

    def __init__(self, create: Any, inputs: tuple[str, ...], training: str | None):
        if isinstance(create, nnx.Module):
            raise TransferlabError(
                f"tl.network takes the function that makes a module, got a {type(create).__name__}. Pass its class or a lambda, "
                f"as tl.network(lambda rngs: {type(create).__name__}(rngs=rngs), …); tl.graft takes the weights of one that exists, "
                "as nnx.state(module)."
            )
        try:
            module = nnx.eval_shape(lambda: create(nnx.Rngs(0)))
        except TypeError as error:
            raise TransferlabError(
                f"Cannot make the module: {error}. tl.network calls create(rngs) with an nnx.Rngs: tl.network(lambda rngs: "
                "MLP(rngs=rngs), …)."
            ) from None
        if not isinstance(module, nnx.Module):
            raise TransferlabError(f"create returned a {type(module).__name__}, not an nnx.Module.")
        for place, part in nnx.iter_modules(module):
            for name, value in vars(part).items():
                if isinstance(value, jax.Array | jax.ShapeDtypeStruct | np.ndarray):
                    raise TransferlabError(
                        f"'{'/'.join(map(str, (*place, name)))}' is a plain array, which has no place in a module's state. Make it a Variable "
                        f"where the module sets it: self.{name} = nnx.Variable(…), or nnx.Param(…) if it should train."
                    )
        self.create, self.inputs, self.flag = create, inputs, training
        self.graph, state = nnx.split(module)
        self.places = {"/".join(map(str, place)): (place, leaf) for place, leaf in nnx.to_flat_state(state)}
        shapes = {path: shape_of(leaf) for path, (_, leaf) in self.places.items()}
        self.random = {p: shapes[p] for p, (_, leaf) in self.places.items() if isinstance(leaf, nnx.RngState)}
        self.params = {p: shapes[p] for p, (_, leaf) in self.places.items() if isinstance(leaf, nnx.Param)}
        self.state = {p: s for p, s in shapes.items() if p not in self.params and p not in self.random}

    def draw(self, key: jax.Array) -> Leaves:
        """All leaves as the constructor makes them: what it made before decides what it draws for one."""
        state = nnx.to_flat_state(nnx.split(self.create(nnx.Rngs(key)))[1])
        return {"/".join(map(str, place)): value_of(leaf) for place, leaf in state}

    def call(
        self,
        run: Run | None,
        leaves: Leaves,
        value: Any,
        key: jax.Array | None,
        trains: Callable[[str], bool],
        training: bool,
    ) -> tuple[Any, Leaves]:
        """Put the module together, set the mode of each part, and run it."""
        filled = {**leaves, **{path: self._stream(path, key) for path in self.random}}
        flat = [
            (place, leaf.replace(new))
            for path, (place, leaf) in self.places.items()
            for new in [filled.get(path, shape_of(leaf))]
        ]
        module = nnx.merge(self.graph, nnx.from_flat_state(flat), copy=True)
        for place, part in nnx.iter_modules(module):
            evaluates = not trains("/".join(map(str, place)))
            for name in ("deterministic", "use_running_average"):
                if hasattr(part, name):
                    setattr(part, name, evaluates)
        if run is None:
            out = module(*(value[name] for name in self.inputs), **flagged(self.flag, training))
        else:
            out = run(module, value, training)
        after = {"/".join(map(str, place)): leaf for place, leaf in nnx.to_flat_state(nnx.split(module)[1])}
        return out, {path: value_of(after[path]) for path in self.state if path in leaves and path in after}

    def _stream(self, path: str, key: jax.Array | None) -> jax.Array:
        """What a random stream starts from: a key of its own, or a count of zero."""
        shape = self.random[path]
        if not jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jnp.zeros(shape.shape, shape.dtype)
        own = key_of(jax.random.key(0, impl="threefry2x32") if key is None else key, path)
        if own.dtype != shape.dtype:
            raise TransferlabError(
                f"'{path}' is a {shape.dtype}; make the module with JAX's default keys (threefry2x32)."
            )
        return own if shape.shape == () else jax.random.split(own, shape.shape)
