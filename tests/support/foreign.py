"""Models of somebody else: the same little residual network as modules of NNX and Linen and as a function."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

import transferlab as tl
from transferlab.models.foreign import ForeignNetwork

WIDTH, DEPTH, INPUTS, CLASSES = 6, 12, 4, 3


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.dropout(jnp.tanh(self.norm(self.linear(x))))


class Residual(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, classes: int = CLASSES):
        self.embed = nnx.Linear(INPUTS, WIDTH, rngs=rngs)
        self.layers = nnx.List([Block(rngs) for _ in range(DEPTH)])
        self.head = nnx.Linear(WIDTH, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        y = linen.BatchNorm(not train, momentum=0.5, name="norm")(linen.Dense(WIDTH, name="linear")(x))
        return x + linen.Dropout(0.5, deterministic=not train)(jnp.tanh(y))


class LinenResidual(linen.Module):
    def setup(self) -> None:
        self.embed = linen.Dense(WIDTH)
        self.layers = [LinenBlock() for _ in range(DEPTH)]
        self.head = linen.Dense(CLASSES)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, train)
        return self.head(x)


def function(params: Any, x: jax.Array) -> jax.Array:
    x = x @ params["embed"]["kernel"] + params["embed"]["bias"]
    for layer in params["layers"]:
        x = x + jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def function_parameters(key: jax.Array) -> Any:
    def linear(n: int, m: int, number: int) -> dict[str, jax.Array]:
        return {"kernel": 0.3 * jax.random.normal(jax.random.fold_in(key, number), (n, m)), "bias": jnp.zeros(m)}

    layers = [linear(WIDTH, WIDTH, i) for i in range(DEPTH)]
    return {"embed": linear(INPUTS, WIDTH, 90), "layers": layers, "head": linear(WIDTH, CLASSES, 91)}


NNX_STAGES = (
    tl.stage("embed", lambda m, x: m.embed(x)),
    tl.stage("layers/*", lambda m, x, i: m.layers[i](x)),
    tl.stage("head", lambda m, x: m.head(x)),
)
LINEN_STAGES = (
    tl.stage("embed", lambda m, x: m.embed(x)),
    tl.stage("layers/*", lambda m, x, i, training: m.layers[i](x, training), owns="layers_*"),
    tl.stage("head", lambda m, x: m.head(x)),
)
FUNCTION_STAGES = (
    tl.stage("embed", lambda p, x: x @ p["embed"]["kernel"] + p["embed"]["bias"]),
    tl.stage("layers/*", lambda p, x, i: x + jnp.tanh(x @ p["layers"][i]["kernel"] + p["layers"][i]["bias"])),
    tl.stage("head", lambda p, x: x @ p["head"]["kernel"] + p["head"]["bias"]),
)


def nnx_network(stages: Any = NNX_STAGES) -> ForeignNetwork:
    return tl.network(lambda rngs: Residual(rngs), "x", stages)


def linen_network(stages: Any = LINEN_STAGES) -> ForeignNetwork:
    return tl.linen_network(LinenResidual(), jnp.zeros((1, INPUTS)), "x", stages, training="train")


def function_network(stages: Any = FUNCTION_STAGES) -> ForeignNetwork:
    # A function of its own: JAX keeps what it traced, and tests change the depth.
    shapes = jax.eval_shape(lambda key: function_parameters(key), jax.random.key(0))
    return tl.function_network(function, shapes, "x", stages, init=function_parameters)
