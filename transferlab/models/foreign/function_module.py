"""Functions of a pytree of parameters, as Equinox or code of one's own has them, by named leaves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax

from transferlab.errors import TransferlabError
from transferlab.models.foreign.base import Leaves, Run, shape_of
from transferlab.pytrees import named_leaves


class FunctionModule:
    """A function of a pytree of parameters: Equinox, or one's own."""

    one_mode = True

    def __init__(
        self,
        apply: Callable[..., Any],
        params: Any,
        inputs: tuple[str, ...],
        state: Any,
        init: Callable[[jax.Array], Any] | None,
    ):
        self.apply, self.inputs, self.init = apply, inputs, init
        leaves, self._rebuild = named_leaves(params)
        moving, self._rebuild_state = ({}, None) if state is None else named_leaves(state)
        both = sorted(leaves.keys() & moving.keys())
        if both:
            raise TransferlabError(f"'{both[0]}' is a leaf of the parameters and of the state; rename one.")
        for path, leaf in {**leaves, **moving}.items():
            if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
                raise TransferlabError(
                    f"The leaf '{path}' is {str(leaf)[:40]!r}, not an array. Keep what is no array out of the parameters; for an Equinox "
                    "module: params, static = eqx.partition(model, eqx.is_array)."
                )
        self.params = {path: shape_of(leaf) for path, leaf in leaves.items()}
        self.state = {path: shape_of(leaf) for path, leaf in moving.items()}
        self.told = tuple(name for name in ("key", "training") if name in inspect.signature(apply).parameters)

    def draw(self, key: jax.Array) -> Leaves:
        """All parameters, as ``init`` makes them.

        Raises:
            TransferlabError: there is no ``init``.
        """
        if self.init is None:
            some = next(iter(self.params))
            raise TransferlabError(
                f"Parameters such as '{some}' have no initial value. Say how they start: "
                "tl.function_network(apply, params, init=lambda key: …)."
            )
        return named_leaves(self.init(key))[0]

    def call(
        self,
        run: Run | None,
        leaves: Leaves,
        value: Any,
        key: jax.Array | None,
        trains: Callable[[str], bool],
        training: bool,
    ) -> tuple[Any, Leaves]:
        """Call the function, or a stage's run with the tree of parameters in place of a module."""
        params = self._rebuild({path: leaves.get(path, shape) for path, shape in self.params.items()})
        after = {path: leaf for path, leaf in leaves.items() if path in self.state}
        if run is not None:
            return run(params, value, training), after
        told = {"key": key, "training": training}
        extra = {name: told[name] for name in self.told}
        inputs = [value[name] for name in self.inputs]
        if self._rebuild_state is None:
            return self.apply(params, *inputs, **extra), after
        out, state = self.apply(params, self._rebuild_state(after), *inputs, **extra)
        return out, named_leaves(state)[0]
