"""BiT, Big Transfer's ResNet-v2 (Kolesnikov et al. 2020): pre-activation bottlenecks, GroupNorm, standardised kernels.

No batch statistics: an example's features do not depend on the rest of its batch. All sizes come from the config.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.convolutions import convolve
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import ACTIVATIONS, Key, Normal, check_activation, drop_path, ones, parameter, zeros
from transferlab.models.sizes import Size


@dataclass(frozen=True)
class BitConfig:
    """Sizes and constants, under Hugging Face's names where it has one.

    Attributes:
        embedding_size: channels of the stem.
        hidden_sizes: channels that each stage returns, before rounding to multiples of 8.
        depths: blocks of each stage.
        num_groups: of every GroupNorm.
        drop_path: rate of stochastic depth at the last block, rising linearly from 0.
        image_size: side of the images it is evaluated at, in pixels.

    Example:
        >>> model = tl.models.BitConfig.r50x1().build()
    """

    num_channels: Count = 3
    embedding_size: Count = 64
    hidden_sizes: tuple[Count, ...] = (256, 512, 1024, 2048)
    depths: tuple[Count, ...] = (3, 4, 6, 3)
    num_groups: Count = 32
    hidden_act: str = "relu"
    drop_path: Rate = 0.0
    image_size: Count = 448

    def __post_init__(self) -> None:
        check_fields(self, "BitConfig")
        if not self.depths or len(self.depths) != len(self.hidden_sizes):
            raise TransferlabError(
                f"BitConfig: depths {self.depths} and hidden_sizes {self.hidden_sizes} differ in length."
            )
        check_activation(self.hidden_act, "BitConfig", "hidden_act")
        for features in (self.embedding_size, *self.widths, *map(_inner, self.widths)):
            if features % self.num_groups:
                raise TransferlabError(f"BitConfig: num_groups {self.num_groups} does not divide {features} channels.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that each stage returns."""
        return tuple(_rounded(size) for size in self.hidden_sizes)

    r50x1 = Size("BiT-R50x1, 25.5 M parameters with 1000 labels.")
    r101x1 = Size("BiT-R101x1, 44.5 M parameters with 1000 labels.", depths=(3, 4, 23, 3))
    r152x1 = Size("The depths of BiT-R152, 60.2 M parameters with 1000 labels.", depths=(3, 8, 36, 3))

    def wide(self, factor: int) -> BitConfig:
        """A size with ``factor`` times the channels, such as R50x3, R101x3 and R152x4."""
        sizes = tuple(size * factor for size in self.hidden_sizes)
        return replace(self, embedding_size=self.embedding_size * factor, hidden_sizes=sizes)

    def build(self, head: HeadConfig | None = None) -> Bit:
        """Return the module; nothing is allocated."""
        return Bit(self, head)


def _rounded(channels: int | float) -> int:
    """The nearest multiple of 8 that is at least nine tenths of ``channels``, as transformers rounds."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _inner(width: int) -> int:
    return _rounded(width / 4)


class StandardisedConv(nnx.Module):
    """Convolution whose kernel has mean 0 and variance 1 for each output (Qiao et al. 2019); kernel (h, w, in, out)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1):
        normal = Normal(math.sqrt(2.0 / (kernel * kernel * outputs)))
        self.kernel = parameter((kernel, kernel, inputs, outputs), normal)
        self.stride = stride

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows columns outputs"]:
        kernel = self.kernel[...].astype(jnp.float32)
        centred = kernel - kernel.mean((0, 1, 2))
        standard = centred * jax.lax.rsqrt(jnp.square(centred).mean((0, 1, 2)) + 1e-8)
        return convolve(x, standard.astype(x.dtype), self.stride, "symmetric")


class GroupNorm(nnx.Module):
    """Group normalisation (Wu & He 2018) with an activation after it; statistics in float32, eps 1e-5."""

    def __init__(self, features: int, config: BitConfig):
        self.scale = parameter((features,), ones)
        self.bias = parameter((features,), zeros)
        self.groups, self.act = config.num_groups, config.hidden_act

    def __call__(self, x: Float[Array, "batch height width features"]) -> Float[Array, "batch height width features"]:
        wide = x.astype(jnp.float32).reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
        centred = wide - wide.mean((1, 3), keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.square(centred).mean((1, 3), keepdims=True) + 1e-5)
        return ACTIVATIONS[self.act]((normal.reshape(x.shape) * self.scale[...] + self.bias[...]).astype(x.dtype))


class Stem(nnx.Module):
    """7×7 convolution at stride 2, then 3×3 max pooling at stride 2 with a border of zeros."""

    def __init__(self, config: BitConfig):
        self.conv = StandardisedConv(config.num_channels, config.embedding_size, 7, stride=2)

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        rest = {name: value for name, value in carry.items() if name != "pixel_values"}
        y = jnp.pad(self.conv(carry["pixel_values"]), ((0, 0), (1, 1), (1, 1), (0, 0)))
        return {**rest, "hidden": nnx.max_pool(y, (3, 3), (2, 2))}


class Block(nnx.Module):
    """Reduce the channels (1×1), 3×3, expand them (1×1), each after its norm; a stage's first block has a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, projected: bool, rate: float, config: BitConfig):
        inner = _inner(outputs)
        self.shortcut = StandardisedConv(inputs, outputs, 1, stride=stride) if projected else None
        self.reduce_norm = GroupNorm(inputs, config)
        self.reduce = StandardisedConv(inputs, inner, 1)
        self.spatial_norm = GroupNorm(inner, config)
        self.spatial = StandardisedConv(inner, inner, 3, stride=stride)
        self.expand_norm = GroupNorm(inner, config)
        self.expand = StandardisedConv(inner, outputs, 1)
        self.drop_path = rate

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        x = carry["hidden"]
        y = self.reduce_norm(x)
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.spatial(self.spatial_norm(self.reduce(y)))
        y = self.expand(self.expand_norm(y))
        return {**carry, "hidden": shortcut + drop_path(y, self.drop_path, key)}


class Bit(Model):
    """Stem, stages of pre-activation blocks, a last norm, and an optional head over the mean of the feature map.

    Inputs: ``pixel_values`` (batch, height, width, channels), normalised.
    """

    def __init__(self, config: BitConfig, head: HeadConfig | None = None):
        self.config = config
        last, number, inputs = max(sum(config.depths) - 1, 1), itertools.count(), config.embedding_size
        self.stem = Stem(config)
        stages = []
        for s, (outputs, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            blocks = []
            for b in range(depth):
                stride = 2 if s and not b else 1
                rate = config.drop_path * next(number) / last
                blocks.append(Block(inputs, outputs, stride, not b, rate, config))
                inputs = outputs
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.norm = GroupNorm(inputs, config)
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        width = config.embedding_size + sum(config.widths) + inputs if names else inputs
        self.head = None if head is None else head.build(width, feature_stages=names)

    def feature_stages(self) -> tuple[str, ...]:
        """The stem, the last block of each stage, and the norm."""
        return ("stem", *(f"stages/{s}/{depth - 1}" for s, depth in enumerate(self.config.depths)), "norm")

    def backbone_stages(self) -> tuple[Stage, ...]:
        stages = [Stage("stem", self.stem, owns=("stem",))]
        for s, stage in enumerate(self.stages):
            for b, block in enumerate(stage):
                name = f"stages/{s}/{b}"
                stages.append(Stage(name, block, owns=(name,), random=block.drop_path > 0))
        return (*stages, Stage("norm", self.normalise, owns=("norm",)))

    def normalise(self, carry: Carry, key: Key | None) -> Carry:
        """The last norm and its activation."""
        return {**carry, "hidden": self.norm(carry["hidden"])}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean over the image."""
        return carry["hidden"].mean((1, 2))
