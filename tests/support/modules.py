"""Modules with weights, as tests of models need them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from transferlab import trees


def drawn(module: nnx.Module, seed: int = 0, std: float = 0.4) -> tuple[trees.Definition, trees.Tree]:
    """(definition, parameters): every leaf is normal, those that start as zeros and ones too."""
    definition = trees.define(module)
    rng = np.random.default_rng(seed)
    leaves = {path: rng.normal(0, std, leaf.shape) for path, leaf in trees.flatten(definition.params).items()}
    return definition, trees.unflatten({path: jnp.asarray(leaf, jnp.float32) for path, leaf in leaves.items()})


def filled(module: nnx.Module, seed: int = 0) -> Any:
    """The module with parameters drawn."""
    definition, params = drawn(module, seed, std=0.5)
    return definition.merge(params)


def drawn_convnet(module: nnx.Module, seed: int = 0) -> tuple[trees.Definition, trees.Tree, trees.Tree]:
    """(definition, parameters, batch statistics): kernels keep the size of what they see, every norm is away from its start."""
    definition = trees.define(module)
    shapes = trees.flatten(definition.params) | trees.flatten(definition.state)
    rng, leaves = np.random.default_rng(seed), {}
    for path, leaf in shapes.items():
        if path.endswith("kernel"):
            values = rng.normal(0.0, np.sqrt(2.0 / np.prod(leaf.shape[:-1])), leaf.shape)
        elif path.endswith(("/scale", "/var")):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(0.0, 0.2, leaf.shape)
        leaves[path] = jnp.asarray(values, jnp.float32)
    params, state = (
        trees.unflatten({path: leaves[path] for path in trees.flatten(tree)})
        for tree in (definition.params, definition.state)
    )
    return definition, params, state
