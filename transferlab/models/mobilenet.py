"""MobileNetV2 (Sandler et al. 2018): inverted residuals with linear bottlenecks, ReLU6.

torchvision and timm pad symmetrically with batch-norm eps 1e-5; weights trained in TensorFlow need SAME and eps 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, Fraction, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.convolutions import Conv, DepthwiseConv, pointwise
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import Key, drop_path
from transferlab.models.norms import BatchNorm
from transferlab.models.sizes import Size

# Expansion, filters, repeats, stride of the seven stages (Sandler et al. 2018, table 2).
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(frozen=True)
class MobileNetV2Config:
    """Width and constants.

    Attributes:
        depth_multiplier: of the filters (the name is TensorFlow's, and Hugging Face's).
        padding: ``symmetric``, or ``same`` for weights trained in TensorFlow.
        eps, momentum: of batch normalisation; momentum in torch's convention.
        drop_path: rate of stochastic depth at the last block, rising linearly from 0.
        image_size: side of the images it is evaluated at, in pixels.
        num_channels: of the images.

    Example:
        >>> model = tl.models.MobileNetV2Config.w100().build()
    """

    depth_multiplier: Positive = 1.0
    padding: str = "symmetric"
    eps: Positive = 1e-5
    momentum: Fraction = 0.1
    drop_path: Rate = 0.0
    image_size: Count = 224
    num_channels: Count = 3

    def __post_init__(self) -> None:
        check_fields(self, "MobileNetV2Config")
        if self.padding not in ("symmetric", "same"):
            raise TransferlabError(f"MobileNetV2Config: padding '{self.padding}' is neither 'symmetric' nor 'same'.")

    w050 = Size("Half the filters, 2.0 M parameters with 1000 labels.", 0.5)
    w100 = Size("The published size, 3.5 M parameters with 1000 labels.")
    w140 = Size("1.4 times the filters, 6.1 M parameters with 1000 labels.", 1.4)

    def filters(self, n: int) -> int:
        """Filters after scaling: the nearest multiple of 8 that is at least nine tenths (the published rounding)."""
        scaled = n * self.depth_multiplier
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    @property
    def features(self) -> int:
        """Channels of the last feature map, never fewer than 1280."""
        return max(1280, self.filters(1280))

    def blocks(self) -> tuple[tuple[BlockConfig, ...], ...]:
        """The blocks of each stage."""
        stages, inputs, number, total = [], self.filters(32), 0, sum(stage[2] for stage in _STAGES)
        for expansion, filters, count, stride in _STAGES:
            blocks, outputs = [], self.filters(filters)
            for b in range(count):
                rate = self.drop_path * number / total
                blocks.append(BlockConfig(inputs, outputs, 1 if b else stride, expansion, rate))
                inputs, number = outputs, number + 1
            stages.append(tuple(blocks))
        return tuple(stages)

    def build(self, head: HeadConfig | None = None) -> MobileNetV2:
        """Return the module; nothing is allocated."""
        return MobileNetV2(self, head)


@dataclass(frozen=True)
class BlockConfig:
    """Sizes of one inverted residual block."""

    inputs: int
    outputs: int
    stride: int
    expansion: int
    drop_path: float


class Block(nnx.Module):
    """Expand (1×1), depthwise 3×3, project (1×1, without an activation); a residual where shapes allow."""

    def __init__(self, block: BlockConfig, config: MobileNetV2Config):
        hidden = block.inputs * block.expansion
        self.expand = pointwise(block.inputs, hidden) if block.expansion != 1 else None
        self.expand_norm = _norm(hidden, config) if block.expansion != 1 else None
        self.depthwise = DepthwiseConv(hidden, 3, stride=block.stride, padding=config.padding)
        self.depthwise_norm = _norm(hidden, config)
        self.project = pointwise(hidden, block.outputs)
        self.project_norm = _norm(block.outputs, config)
        self.block = block

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        x, weight = carry["hidden"], carry.get("weight")
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = relu6(self.expand_norm(self.expand(y, keys[0]), key, weight))
        y = relu6(self.depthwise_norm(self.depthwise(y), key, weight))
        y = self.project_norm(self.project(y, keys[1]), key, weight)
        if self.block.stride == 1 and self.block.inputs == self.block.outputs:
            y = x + drop_path(y, self.block.drop_path, keys[2])
        return {**carry, "hidden": y}


class Stem(nnx.Module):
    """3×3 convolution at stride 2."""

    def __init__(self, config: MobileNetV2Config):
        self.conv = Conv(config.num_channels, config.filters(32), 3, stride=2, padding=config.padding)
        self.norm = _norm(config.filters(32), config)

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        rest = {name: value for name, value in carry.items() if name != "pixel_values"}
        return {**rest, "hidden": relu6(self.norm(self.conv(carry["pixel_values"]), key, carry.get("weight")))}


class Top(nnx.Module):
    """1×1 convolution to the head's features."""

    def __init__(self, config: MobileNetV2Config):
        self.conv = pointwise(config.filters(320), config.features)
        self.norm = _norm(config.features, config)

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        return {**carry, "hidden": relu6(self.norm(self.conv(carry["hidden"], key), key, carry.get("weight")))}


def _norm(features: int, config: MobileNetV2Config) -> BatchNorm:
    return BatchNorm(features, eps=config.eps, momentum=config.momentum)


def relu6(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Clip to [0, 6]."""
    return jnp.clip(x, 0.0, 6.0)


class MobileNetV2(Model):
    """Stem, seven stages of blocks, top, and an optional head over the mean of the last feature map.

    Inputs: ``pixel_values`` (batch, height, width, 3), normalised.
    """

    def __init__(self, config: MobileNetV2Config, head: HeadConfig | None = None):
        self.config = config
        blocks = config.blocks()
        self.stem = Stem(config)
        self.stages = nnx.List([nnx.List([Block(block, config) for block in stage]) for stage in blocks])
        self.top = Top(config)
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        width = config.features + (sum(stage[-1].outputs for stage in blocks) if names else 0)
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
