"""Modules of Flax Linen as pure functions of named leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from transferlab.errors import TransferlabError
from transferlab.models.foreign.base import Leaves, Run, flagged
from transferlab.pytrees import named_leaves
from transferlab.trees import key_of, unflatten


class LinenModule:
    """A module of Flax Linen. Collections other than ``params`` are state; all of it trains, or none."""

    one_mode = True

    def __init__(
        self,
        module: Any,
        example: Mapping[str, Any],
        training: str | None,
        rngs: tuple[str, ...],
    ):
        if not isinstance(module, linen.Module):
            raise TransferlabError(f"tl.linen_network takes an nn.Module, got {str(module)[:60]!r}.")
        self.module, self.flag, self.rngs = module, training, rngs
        self.example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), example)
        variables = jax.eval_shape(self._variables, jax.random.key(0))
        self.collections: dict[str, str] = {}
        shapes = {name: named_leaves(variables[name])[0] for name in variables}
        self.params = shapes.pop("params", {})
        self.state = {}
        for collection, leaves in shapes.items():
            for path, leaf in leaves.items():
                if path in self.params or path in self.state:
                    raise TransferlabError(f"'{path}' is in two collections of the module, one is '{collection}'.")
                self.state[path], self.collections[path] = leaf, collection

    def layers(self) -> dict[str, linen.Module]:
        """Path → the module there, as ``init`` calls them."""
        found: dict[str, linen.Module] = {}

        def note(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
            found.setdefault("/".join(context.module.path), context.module)
            return call(*arguments, **keywords)

        with linen.intercept_methods(note):
            jax.eval_shape(self._variables, jax.random.key(0))
        return found

    def draw(self, key: jax.Array) -> Leaves:
        """All leaves as ``init`` makes them: each from its own path, whatever the others are."""
        variables = self._variables(key)
        return {path: leaf for tree in variables.values() for path, leaf in named_leaves(tree)[0].items()}

    def call(
        self,
        run: Run | None,
        leaves: Leaves,
        value: Any,
        key: jax.Array | None,
        trains: Callable[[str], bool],
        training: bool,
    ) -> tuple[Any, Leaves]:
        """Apply the module to its variables."""
        variables: dict[str, Any] = {"params": unflatten({p: x for p, x in leaves.items() if p in self.params})}
        for collection in set(self.collections.values()):
            own = {p: x for p, x in leaves.items() if self.collections.get(p) == collection}
            variables[collection] = unflatten(own)
        moving = sorted(set(self.collections.values())) if training else []
        rngs = {} if key is None else {name: key_of(key, name) for name in self.rngs}
        out = linen.apply(partial(self._run, run, training), self.module, mutable=moving or False)(
            variables, value, rngs=rngs
        )
        if not moving:
            return out, {path: leaf for path, leaf in leaves.items() if path in self.state}
        out, after = out
        moved = {path: leaf for name in after for path, leaf in named_leaves(after[name])[0].items()}
        return out, {path: moved.get(path, leaf) for path, leaf in leaves.items() if path in self.state}

    def _run(self, run: Run | None, training: bool, module: Any, value: Any) -> Any:
        if run is not None:
            return run(module, value, training)
        return module(*(value[name] for name in self.example), **flagged(self.flag, training))

    def _variables(self, key: jax.Array) -> Mapping[str, Any]:
        inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.example)
        rngs = {"params": key, **{name: key_of(key, name) for name in self.rngs}}
        flags: dict[str, Any] = {**flagged(self.flag, False)}
        return self.module.init(rngs, *inputs.values(), **flags)
