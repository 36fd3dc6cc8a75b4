"""EfficientNet (Tan & Le 2019) and EfficientNet-Lite: inverted residual blocks, SAME padding, batch-norm eps 1e-3.

Lite: ReLU6 instead of SiLU, no squeeze-and-excitation, a fixed stem and head, first and last stage not deepened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, Fraction, Positive, Rate
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.convolutions import Conv, DepthwiseConv, pointwise
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import ACTIVATIONS, Key, drop_path
from transferlab.models.norms import BatchNorm
from transferlab.models.sizes import Size

# Repeats, kernel, stride, expansion, filters of the seven stages of B0 (Tan & Le 2019, table 1).
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip


@dataclass(frozen=True)
class EfficientNetConfig:
    """Compound scaling and constants.

    Attributes:
        width, depth: multipliers of filters and repeats.
        lite: the Lite variant.
        padding: ``same`` (weights trained in TensorFlow) or ``symmetric``.
        momentum: of the running statistics, torch's convention. The weights were trained with 0.01 (TensorFlow's 0.99);
            timm fine-tunes them with 0.1, and so do we: at 0.01 a run of 100 steps never forgets the initial statistics.
        drop_path: rate of stochastic depth at the last block, rising linearly from 0.
        image_size: side of the images it was trained on, in pixels.
        num_channels: of the images.

    Example:
        >>> model = tl.models.EfficientNetConfig.b0().build()
    """

    width: Positive = 1.0
    depth: Positive = 1.0
    lite: bool = False
    padding: str = "same"
    eps: Positive = 1e-3
    momentum: Fraction = 0.1
    drop_path: Rate = 0.2
    image_size: Count = 224
    num_channels: Count = 3

    def __post_init__(self) -> None:
        check_fields(self, "EfficientNetConfig")

    lite0 = Size("EfficientNet-Lite0, 224 px, 4.7 M parameters with 1000 labels.", lite=True)
    lite1 = Size("EfficientNet-Lite1, 240 px.", 1.0, 1.1, lite=True, image_size=240)
    lite2 = Size("EfficientNet-Lite2, 260 px.", 1.1, 1.2, lite=True, image_size=260)
    lite3 = Size("EfficientNet-Lite3, 280 px.", 1.2, 1.4, lite=True, image_size=280)
    lite4 = Size("EfficientNet-Lite4, 300 px.", 1.4, 1.8, lite=True, image_size=300)
    b0 = Size("EfficientNet-B0, 224 px, 5.3 M parameters with 1000 labels.")
    b1 = Size("EfficientNet-B1, 240 px.", 1.0, 1.1, image_size=240)
    b2 = Size("EfficientNet-B2, 260 px.", 1.1, 1.2, image_size=260)
    b3 = Size("EfficientNet-B3, 300 px.", 1.2, 1.4, image_size=300)

    def filters(self, n: int) -> int:
        """Filters after width scaling: the nearest multiple of 8 that is at least nine tenths (the published rounding)."""
        scaled = n * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    def blocks(self) -> tuple[tuple[BlockConfig, ...], ...]:
        """The blocks of each stage."""
        stages, total, number = [], 0, 0
        inputs = 32 if self.lite else self.filters(32)
        repeats = []
        for s, (count, *_) in enumerate(_STAGES):
            fixed = self.lite and s in (0, len(_STAGES) - 1)
            repeats.append(count if fixed else math.ceil(count * self.depth))
        total = sum(repeats)
        for count, (_, kernel, stride, expansion, filters) in zip(repeats, _STAGES, strict=True):
            outputs, blocks = self.filters(filters), []
            for b in range(count):
                rate = self.drop_path * number / total
                blocks.append(BlockConfig(inputs, outputs, kernel, stride if b == 0 else 1, expansion, rate))
                inputs, number = outputs, number + 1
            stages.append(tuple(blocks))
        return tuple(stages)

    def build(self, head: HeadConfig | None = None) -> EfficientNet:
        """Return the module; nothing is allocated."""
        return EfficientNet(self, head)


@dataclass(frozen=True)
class BlockConfig:
    """Sizes of one inverted residual block."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int
    drop_path: float


class SqueezeExcite(nnx.Module):
    """Channel gate from the spatial mean (Hu et al. 2018)."""

    def __init__(self, channels: int, reduced: int):
        self.reduce = pointwise(channels, reduced, bias=True)
        self.expand = pointwise(reduced, channels, bias=True)

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        gate = self.expand(ACTIVATIONS["silu"](self.reduce(x.mean((1, 2), keepdims=True))))
        return x * jax.nn.sigmoid(gate)


class Block(nnx.Module):
    """Expand (1×1), depthwise, optional squeeze-and-excitation, project (1×1); a residual where shapes allow."""

    def __init__(self, block: BlockConfig, config: EfficientNetConfig):
        hidden = block.inputs * block.expansion

        def norm(features: int) -> BatchNorm:
            return BatchNorm(features, eps=config.eps, momentum=config.momentum)

        self.expand = pointwise(block.inputs, hidden) if block.expansion != 1 else None
        self.expand_norm = norm(hidden) if block.expansion != 1 else None
        self.depthwise = DepthwiseConv(hidden, block.kernel, stride=block.stride, padding=config.padding)
        self.depthwise_norm = norm(hidden)
        self.squeeze_excite = None if config.lite else SqueezeExcite(hidden, max(1, block.inputs // 4))
        self.project = pointwise(hidden, block.outputs)
        self.project_norm = norm(block.outputs)
        self.block, self.lite = block, config.lite

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        x, weight = carry["hidden"], carry.get("weight")
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = activation(self.expand_norm(self.expand(y, keys[1]), key, weight), self.lite)
        y = activation(self.depthwise_norm(self.depthwise(y), key, weight), self.lite)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y)
        y = self.project_norm(self.project(y, keys[2]), key, weight)
        if self.block.stride == 1 and self.block.inputs == self.block.outputs:
            y = x + drop_path(y, self.block.drop_path, keys[0])
        return {**carry, "hidden": y}


class Stem(nnx.Module):
    """3×3 convolution at stride 2."""

    def __init__(self, outputs: int, config: EfficientNetConfig):
        self.conv = Conv(config.num_channels, outputs, 3, stride=2, padding=config.padding)
        self.norm = BatchNorm(outputs, eps=config.eps, momentum=config.momentum)
        self.lite = config.lite

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        rest = {name: value for name, value in carry.items() if name != "pixel_values"}
        y = self.norm(self.conv(carry["pixel_values"]), key, carry.get("weight"))
        return {**rest, "hidden": activation(y, self.lite)}


class Top(nnx.Module):
    """1×1 convolution to the head's features."""

    def __init__(self, inputs: int, outputs: int, config: EfficientNetConfig):
        self.conv = pointwise(inputs, outputs)
        self.norm = BatchNorm(outputs, eps=config.eps, momentum=config.momentum)
        self.lite = config.lite

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        y = self.norm(self.conv(carry["hidden"], key), key, carry.get("weight"))
        return {**carry, "hidden": activation(y, self.lite)}


class EfficientNet(Model):
    """Stem, seven stages of blocks, top, and an optional head.

    Inputs: ``pixel_values`` (batch, height, width, num_channels), normalised.
    """

    def __init__(self, config: EfficientNetConfig, head: HeadConfig | None = None):
        self.config = config
        blocks = config.blocks()
        features = 1280 if config.lite else config.filters(1280)
        self.stem = Stem(blocks[0][0].inputs, config)
        self.stages = nnx.List([nnx.List([Block(block, config) for block in stage]) for stage in blocks])
        self.top = Top(blocks[-1][-1].outputs, features, config)
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        width = sum(stage[-1].outputs for stage in blocks) + features if names else features
        self.head = None if head is None else head.build(width, feature_stages=names)

    def feature_stages(self) -> tuple[str, ...]:
        """The last block of each stage, and the top."""
        return (*(f"stages/{s}/{len(stage) - 1}" for s, stage in enumerate(self.config.blocks())), "top")

    def backbone_stages(self) -> tuple[Stage, ...]:
        stages = [Stage("stem", self.stem, owns=("stem",))]
        for s, stage in enumerate(self.stages):
            for b, block in enumerate(stage):
                name = f"stages/{s}/{b}"
                stages.append(Stage(name, block, owns=(name,), random=block.block.drop_path > 0))
        return (*stages, Stage("top", self.top, owns=("top",)))

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean over the image."""
        return carry["hidden"].mean((1, 2))


def activation(x: Float[Array, "..."], lite: bool) -> Float[Array, "..."]:
    """ReLU6 for Lite, else SiLU."""
    return jnp.clip(x, 0.0, 6.0) if lite else ACTIVATIONS["silu"](x)
