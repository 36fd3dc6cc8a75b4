"""ResNet (He et al. 2016) as in torchvision and timm ("v1.5": the stride is in the 3×3 convolution), Wide ResNet
(Zagoruyko & Komodakis 2016) and ResNeXt (Xie et al. 2017).

Symmetric padding, batch-norm eps 1e-5, ReLU. All sizes come from the config.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, Fraction, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.convolutions import Conv, every, max_pool, pointwise
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import ACTIVATIONS, Key, check_activation, drop_path
from transferlab.models.norms import BatchNorm
from transferlab.models.sizes import Size


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes and constants, under Hugging Face's names where it has one.

    Attributes:
        embedding_size: channels of the stem.
        hidden_sizes: channels that each stage returns.
        depths: blocks of each stage.
        layer_type: ``basic`` (two 3×3 convolutions) or ``bottleneck`` (1×1, 3×3, 1×1).
        hidden_act: of the stem and after the sum of a block; between a block's convolutions it is ReLU, as in
            transformers.
        groups, width_per_group: of a bottleneck's 3×3 convolution, as torchvision counts them: its channels are
            ``hidden / 4 · width_per_group / 64 · groups``.
        downsample_in_first_stage: the first stage also has stride 2.
        downsample_in_bottleneck: the stride is in the first 1×1 convolution, as in the paper.
        eps, momentum: of batch normalisation; momentum in torch's convention.
        drop_path: rate of stochastic depth at the last block, rising linearly from 0.
        image_size: side of the images it is evaluated at, in pixels.

    Example:
        >>> model = tl.models.ResNetConfig.resnet50().build()
    """

    num_channels: Count = 3
    embedding_size: Count = 64
    hidden_sizes: tuple[Count, ...] = (256, 512, 1024, 2048)
    depths: tuple[Count, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    groups: Count = 1
    width_per_group: Count = 64
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    eps: Positive = 1e-5
    momentum: Fraction = 0.1
    drop_path: Rate = 0.0
    image_size: Count = 224

    def __post_init__(self) -> None:
        check_fields(self, "ResNetConfig")
        if self.layer_type not in ("basic", "bottleneck"):
            raise TransferlabError(f"ResNetConfig: layer_type '{self.layer_type}' is neither 'basic' nor 'bottleneck'.")
        if not self.depths or len(self.depths) != len(self.hidden_sizes):
            raise TransferlabError(
                f"ResNetConfig: depths {self.depths} and hidden_sizes {self.hidden_sizes} differ in length."
            )
        check_activation(self.hidden_act, "ResNetConfig", "hidden_act")
        if self.layer_type == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise TransferlabError(
                f"ResNetConfig: layer_type 'basic' needs groups 1 and width_per_group 64; got {self.groups} and "
                f"{self.width_per_group}."
            )

    # fmt: off
    resnet18 = Size("ResNet-18, 11.7 M parameters with 1000 labels.",
        hidden_sizes=(64, 128, 256, 512), depths=(2, 2, 2, 2), layer_type="basic")
    resnet34 = Size("ResNet-34, 21.8 M parameters with 1000 labels.",
        hidden_sizes=(64, 128, 256, 512), depths=(3, 4, 6, 3), layer_type="basic")
    resnet26 = Size("ResNet-26 (timm's), 16.0 M parameters with 1000 labels.", depths=(2, 2, 2, 2))
    resnet50 = Size("ResNet-50, 25.6 M parameters with 1000 labels.")
    resnet101 = Size("ResNet-101, 44.5 M parameters with 1000 labels.", depths=(3, 4, 23, 3))
    resnet152 = Size("ResNet-152, 60.2 M parameters with 1000 labels.", depths=(3, 8, 36, 3))
    wide_resnet50_2 = Size("Wide ResNet-50-2, 68.9 M parameters with 1000 labels.", width_per_group=128)
    wide_resnet101_2 = Size("Wide ResNet-101-2, 126.9 M parameters with 1000 labels.",
        depths=(3, 4, 23, 3), width_per_group=128)
    resnext50_32x4d = Size("ResNeXt-50 32×4d, 25.0 M parameters with 1000 labels.", groups=32, width_per_group=4)
    resnext101_32x4d = Size("ResNeXt-101 32×4d, 44.2 M parameters with 1000 labels.",
        depths=(3, 4, 23, 3), groups=32, width_per_group=4)
    resnext101_32x8d = Size("ResNeXt-101 32×8d, 88.8 M parameters with 1000 labels.",
        depths=(3, 4, 23, 3), groups=32, width_per_group=8)
    resnext101_64x4d = Size("ResNeXt-101 64×4d, 83.5 M parameters with 1000 labels.",
        depths=(3, 4, 23, 3), groups=64, width_per_group=4)
    # fmt: on

    def blocks(self) -> tuple[tuple[BlockConfig, ...], ...]:
        """The blocks of each stage."""
        last, number = max(sum(self.depths) - 1, 1), itertools.count()
        stages, inputs = [], self.embedding_size
        for s, (outputs, depth) in enumerate(zip(self.hidden_sizes, self.depths, strict=True)):
            first = 2 if s or self.downsample_in_first_stage else 1
            blocks = []
            for b in range(depth):
                blocks.append(BlockConfig(inputs, outputs, 1 if b else first, self.drop_path * next(number) / last))
                inputs = outputs
            stages.append(tuple(blocks))
        return tuple(stages)

    def build(self, head: HeadConfig | None = None) -> ResNet:
        """Return the module; nothing is allocated."""
        return ResNet(self, head)


@dataclass(frozen=True)
class BlockConfig:
    """Sizes of one residual block."""

    inputs: int
    outputs: int
    stride: int
    drop_path: float

    @property
    def projected(self) -> bool:
        """Whether the shortcut is a 1×1 convolution and not the identity."""
        return self.stride != 1 or self.inputs != self.outputs


class Block(nnx.Module):
    """The common part of both kinds of block: the shortcut, the sum, the activation after it."""

    def __init__(self, block: BlockConfig, config: ResNetConfig):
        self.shortcut = pointwise(block.inputs, block.outputs) if block.projected else None
        self.shortcut_norm = _norm(block.outputs, config) if block.projected else None
        self.block, self.act = block, config.hidden_act

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        x, weight = carry["hidden"], carry.get("weight")
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        y = drop_path(self.branch(x, keys[0], weight), self.block.drop_path, keys[1])
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(every(self.block.stride, x), keys[2]), key, weight)
        return {**carry, "hidden": ACTIVATIONS[self.act](x + y)}

    def branch(self, x: Array, key: Key | None, weight: Array | None) -> Array:
        """The residual: convolutions and norms."""
        raise NotImplementedError


class BasicBlock(Block):
    """Two 3×3 convolutions, the stride in the first."""

    def __init__(self, block: BlockConfig, config: ResNetConfig):
        super().__init__(block, config)
        self.first = Conv(block.inputs, block.outputs, 3, stride=block.stride, padding="symmetric")
        self.first_norm = _norm(block.outputs, config)
        self.second = Conv(block.outputs, block.outputs, 3, padding="symmetric")
        self.second_norm = _norm(block.outputs, config)

    def branch(self, x: Array, key: Key | None, weight: Array | None) -> Array:
        y = jax.nn.relu(self.first_norm(self.first(x), key, weight))
        return self.second_norm(self.second(y), key, weight)


class Bottleneck(Block):
    """Reduce the channels (1×1), 3×3, expand them (1×1); the stride in the 3×3 convolution, or in the first."""

    def __init__(self, block: BlockConfig, config: ResNetConfig):
        super().__init__(block, config)
        inner = int(block.outputs // 4 * config.width_per_group / 64) * config.groups
        self.first_stride = block.stride if config.downsample_in_bottleneck else 1
        self.reduce = pointwise(block.inputs, inner)
        self.reduce_norm = _norm(inner, config)
        stride = block.stride // self.first_stride
        self.spatial = Conv(inner, inner, 3, stride=stride, padding="symmetric", groups=config.groups)
        self.spatial_norm = _norm(inner, config)
        self.expand = pointwise(inner, block.outputs)
        self.expand_norm = _norm(block.outputs, config)

    def branch(self, x: Array, key: Key | None, weight: Array | None) -> Array:
        keys = [None] * 2 if key is None else list(jax.random.split(key, 2))
        y = jax.nn.relu(self.reduce_norm(self.reduce(every(self.first_stride, x), keys[0]), key, weight))
        y = jax.nn.relu(self.spatial_norm(self.spatial(y), key, weight))
        return self.expand_norm(self.expand(y, keys[1]), key, weight)


class Stem(nnx.Module):
    """7×7 convolution at stride 2, norm, activation, and 3×3 max pooling at stride 2."""

    def __init__(self, config: ResNetConfig):
        self.conv = Conv(config.num_channels, config.embedding_size, 7, stride=2, padding="symmetric")
        self.norm = _norm(config.embedding_size, config)
        self.act = config.hidden_act

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        rest = {name: value for name, value in carry.items() if name != "pixel_values"}
        y = self.norm(self.conv(carry["pixel_values"]), key, carry.get("weight"))
        return {**rest, "hidden": max_pool(ACTIVATIONS[self.act](y))}


def _norm(features: int, config: ResNetConfig) -> BatchNorm:
    return BatchNorm(features, eps=config.eps, momentum=config.momentum)


class ResNet(Model):
    """Stem, stages of residual blocks, and an optional head over the mean of the last feature map.

    Inputs: ``pixel_values`` (batch, height, width, channels), normalised.
    """

    def __init__(self, config: ResNetConfig, head: HeadConfig | None = None):
        self.config = config
        kind = BasicBlock if config.layer_type == "basic" else Bottleneck
        self.stem = Stem(config)
        self.stages = nnx.List([nnx.List([kind(block, config) for block in stage]) for stage in config.blocks()])
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        width = config.embedding_size + sum(config.hidden_sizes) if names else config.hidden_sizes[-1]
        self.head = None if head is None else head.build(width, feature_stages=names)

    def feature_stages(self) -> tuple[str, ...]:
        """The stem, and the last block of each stage."""
        return ("stem", *(f"stages/{s}/{depth - 1}" for s, depth in enumerate(self.config.depths)))

    def backbone_stages(self) -> tuple[Stage, ...]:
        stages = [Stage("stem", self.stem, owns=("stem",))]
        for s, stage in enumerate(self.stages):
            for b, block in enumerate(stage):
                name = f"stages/{s}/{b}"
                stages.append(Stage(name, block, owns=(name,), random=block.block.drop_path > 0))
        return tuple(stages)

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean over the image."""
        return carry["hidden"].mean((1, 2))
