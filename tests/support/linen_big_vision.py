"""A Vision Transformer and a text tower in Linen, written as big_vision writes them: what its ``.npz`` files come from."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transferlab import trees


class MlpBlock(nn.Module):
    inner: int

    @nn.compact
    def __call__(self, x):
        inner = nn.gelu(nn.Dense(self.inner)(x))
        return nn.Dense(x.shape[-1])(inner)


class Block(nn.Module):
    heads: int
    inner: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(y, y)
        return x + MlpBlock(self.inner)(nn.LayerNorm()(x))


class Encoder(nn.Module):
    layers: int
    heads: int
    inner: int

    @nn.compact
    def __call__(self, x):
        for i in range(self.layers):
            x = Block(self.heads, self.inner, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class MAPHead(nn.Module):
    heads: int
    inner: int

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width))
        x = nn.MultiHeadDotProductAttention(num_heads=self.heads)(jnp.tile(probe, (len(x), 1, 1)), x)
        return (x + MlpBlock(self.inner)(nn.LayerNorm()(x)))[:, 0]


class Image(nn.Module):
    """``pool`` is ``tok`` (the class token has no position), ``gap`` or ``map``."""

    pool: str
    labels: int | None
    width: int = 12
    layers: int = 3
    heads: int = 3
    inner: int = 10
    patch: int = 4
    pre_logits: bool = False

    @nn.compact
    def __call__(self, pixels):
        x = nn.Conv(self.width, (self.patch,) * 2, strides=(self.patch,) * 2, padding="VALID", name="embedding")(pixels)
        x = x.reshape(len(x), -1, self.width)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.3), (1, x.shape[1], self.width))
        if self.pool == "tok":
            first = self.param("cls", nn.initializers.normal(0.3), (1, 1, self.width))
            x = jnp.concatenate([jnp.tile(first, (len(x), 1, 1)), x], axis=1)
        hidden = Encoder(self.layers, self.heads, self.inner, name="Transformer")(x)
        if self.pool == "map":
            x = MAPHead(self.heads, self.inner)(hidden)
        else:
            x = hidden.mean(1) if self.pool == "gap" else hidden[:, 0]
        if self.pre_logits:
            x = nn.tanh(nn.Dense(self.width, name="pre_logits")(x))
        return hidden, x if self.labels is None else nn.Dense(self.labels, name="head")(x)


class Text(nn.Module):
    vocabulary: int = 40
    length: int = 7
    width: int = 8
    layers: int = 2
    heads: int = 2
    inner: int = 14
    labels: int = 12

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(self.vocabulary, self.width)(ids)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.3), (1, self.length, self.width))
        x = Encoder(self.layers, self.heads, self.inner)(x)
        return nn.Dense(self.labels, name="head")(x[:, -1])


class TwoTowers(nn.Module):
    @nn.compact
    def __call__(self, pixels, ids):
        image, text = Image("map", None, name="img")(pixels)[1], Text(name="txt")(ids)
        t, b = (self.param(name, nn.initializers.constant(v), (1,)) for name, v in (("t", 1.5), ("b", -3.0)))
        image, text = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        return image, text, jnp.exp(t) * image @ text.T + b


def random_params(module: nn.Module, *inputs, seed: int = 0) -> dict[str, np.ndarray]:
    """Return ``{path: array}``, biases and norms away from 0 and 1 too."""
    made = trees.flatten(jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"])
    rng = np.random.default_rng(seed)
    return {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in made.items()}


def evaluated(module: nn.Module, params: dict[str, np.ndarray], *inputs):
    """What the module makes of the inputs."""
    return jax.jit(module.apply)({"params": trees.unflatten(params)}, *inputs)


def stacked(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As ``nn.scan`` holds the blocks: one tensor for all of them."""
    out: dict = {}

    def number(item: tuple[str, np.ndarray]) -> int:
        found = re.search(r"encoderblock_(\d+)", item[0])
        return int(found.group(1)) if found else 0

    for path, value in sorted(params.items(), key=number):
        out.setdefault(re.sub(r"encoderblock_\d+", "encoderblock", path), []).append(value)
    return {path: np.stack(values) if "encoderblock/" in path else values[0] for path, values in out.items()}


def old(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As vision_transformer's files of 2020 call the parts of a block."""
    renames = (
        ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"), ("MlpBlock_0", "MlpBlock_3"),
        ("LayerNorm_1", "LayerNorm_2"), ("pos_embedding", "Transformer/posembed_input/pos_embedding"),
    )  # fmt: skip
    out = {}
    for path, value in params.items():
        for new, name in renames:
            path = path.replace(new, name)
        out[path] = value
    return out
