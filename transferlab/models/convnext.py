"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023): depthwise 7×7 convolutions and an MLP per pixel.

LayerNorm over the channels, erf GELU; LayerScale in the first, global response normalisation in the second.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.convolutions import DepthwiseConv, Patches
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import (
    ACTIVATIONS,
    Constant,
    Key,
    Linear,
    TruncatedNormal,
    check_activation,
    drop_path,
    parameter,
    zeros,
)
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Sizes and constants, under Hugging Face's names where it has one.

    Attributes:
        hidden_sizes, depths: channels and blocks of each stage.
        patch_size: side of the stem's patches; pixels left over at the right and bottom are not seen.
        kernel_size: of the depthwise convolutions.
        layer_scale_init_value: initial value of LayerScale's gains; None leaves LayerScale out.
        response_norm: global response normalisation inside the MLP (V2).
        eps: of the norms before and inside the blocks.
        layer_norm_eps: of the norm after the mean; 1e-12 in Hugging Face's files, else the same as ``eps``.
        drop_path: rate of stochastic depth at the last block, rising linearly from 0.
        conv_mlp: files store the MLP's kernels as 1×1 convolutions, as timm's do for its own sizes.
        image_size: side of the images it is evaluated at, in pixels.

    Example:
        >>> model = tl.models.ConvNeXtConfig.tiny().v2().build()
    """

    num_channels: Count = 3
    hidden_sizes: tuple[Count, ...] = (96, 192, 384, 768)
    depths: tuple[Count, ...] = (3, 3, 9, 3)
    patch_size: Count = 4
    kernel_size: Count = 7
    hidden_act: str = "gelu"
    initializer_range: NonNegative = 0.02
    layer_scale_init_value: float | None = 1e-6
    response_norm: bool = False
    eps: Positive = 1e-6
    layer_norm_eps: Positive = 1e-6
    drop_path: Rate = 0.0
    conv_mlp: bool = False
    image_size: Count = 224

    def __post_init__(self) -> None:
        check_fields(self, "ConvNeXtConfig")
        if not self.depths or len(self.depths) != len(self.hidden_sizes):
            raise TransferlabError(
                f"ConvNeXtConfig: depths {self.depths} and hidden_sizes {self.hidden_sizes} differ in length."
            )
        if self.kernel_size % 2 == 0:
            raise TransferlabError(f"ConvNeXtConfig: kernel_size {self.kernel_size} is not odd; its center is a pixel.")
        check_activation(self.hidden_act, "ConvNeXtConfig", "hidden_act")

    # fmt: off
    atto = Size("ConvNeXt-A (timm's), 3.7 M parameters with 1000 labels.",
        hidden_sizes=(40, 80, 160, 320), depths=(2, 2, 6, 2), conv_mlp=True)
    femto = Size("ConvNeXt-F (timm's), 5.2 M parameters with 1000 labels.",
        hidden_sizes=(48, 96, 192, 384), depths=(2, 2, 6, 2), conv_mlp=True)
    pico = Size("ConvNeXt-P (timm's), 9.0 M parameters with 1000 labels.",
        hidden_sizes=(64, 128, 256, 512), depths=(2, 2, 6, 2), conv_mlp=True)
    nano = Size("ConvNeXt-N (timm's), 15.6 M parameters with 1000 labels.",
        hidden_sizes=(80, 160, 320, 640), depths=(2, 2, 8, 2), conv_mlp=True)
    tiny = Size("ConvNeXt-T, 28.6 M parameters with 1000 labels.")
    small = Size("ConvNeXt-S, 50.2 M parameters with 1000 labels.", depths=(3, 3, 27, 3))
    base = Size("ConvNeXt-B, 88.6 M parameters with 1000 labels.",
        hidden_sizes=(128, 256, 512, 1024), depths=(3, 3, 27, 3))
    large = Size("ConvNeXt-L, 197.8 M parameters with 1000 labels.",
        hidden_sizes=(192, 384, 768, 1536), depths=(3, 3, 27, 3))
    xlarge = Size("ConvNeXt-XL, 350.2 M parameters with 1000 labels.",
        hidden_sizes=(256, 512, 1024, 2048), depths=(3, 3, 27, 3))
    huge = Size("The size of ConvNeXt V2-H, 660 M parameters with 1000 labels.",
        hidden_sizes=(352, 704, 1408, 2816), depths=(3, 3, 27, 3))
    # fmt: on

    def v2(self) -> ConvNeXtConfig:
        """The V2 variant of a size: global response normalisation in place of LayerScale."""
        return replace(self, layer_scale_init_value=None, response_norm=True)

    def build(self, head: HeadConfig | None = None) -> ConvNeXt:
        """Return the module; nothing is allocated."""
        return ConvNeXt(self, head)


class Stem(nnx.Module):
    """Square patches and a norm."""

    def __init__(self, config: ConvNeXtConfig):
        normal, features = TruncatedNormal(config.initializer_range), config.hidden_sizes[0]
        self.patch = Patches(config.num_channels, features, config.patch_size, initialiser=normal)
        self.norm = LayerNorm(features, config.eps)

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        rest = {name: value for name, value in carry.items() if name != "pixel_values"}
        return {**rest, "hidden": self.norm(self.patch(carry["pixel_values"]))}


class Downsample(nnx.Module):
    """A norm and 2×2 patches, which halve the sides."""

    def __init__(self, inputs: int, outputs: int, config: ConvNeXtConfig):
        self.norm = LayerNorm(inputs, config.eps)
        self.patch = Patches(inputs, outputs, 2, initialiser=TruncatedNormal(config.initializer_range))

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        return {**carry, "hidden": self.patch(self.norm(carry["hidden"]))}


class ResponseNorm(nnx.Module):
    """Global response normalisation (Woo et al. 2023, section 3): channels compete by their norms over the image."""

    def __init__(self, features: int):
        self.scale = parameter((features,), zeros)
        self.bias = parameter((features,), zeros)

    def __call__(self, x: Float[Array, "batch height width features"]) -> Float[Array, "batch height width features"]:
        # The sum of squares, and its root's slope at zero, in float32.
        wide = x.astype(jnp.float32)
        squares = jnp.square(wide).sum((1, 2), keepdims=True)
        norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        relative = norms / (norms.mean(-1, keepdims=True) + 1e-6)
        return (wide + self.bias[...] + self.scale[...] * (wide * relative)).astype(x.dtype)


class Block(nnx.Module):
    """Depthwise convolution, norm, and an MLP per pixel, added to the input."""

    def __init__(self, features: int, rate: float, config: ConvNeXtConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.depthwise = DepthwiseConv(features, config.kernel_size, padding="symmetric", bias=True, initialiser=normal)
        self.norm = LayerNorm(features, config.eps)
        self.up = Linear(features, 4 * features, initialiser=normal)
        self.response_norm = ResponseNorm(4 * features) if config.response_norm else None
        self.down = Linear(4 * features, features, initialiser=normal)
        gains = config.layer_scale_init_value
        self.layer_scale = None if gains is None else parameter((features,), Constant(gains))
        self.drop_path, self.act = rate, config.hidden_act

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        x = carry["hidden"]
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        y = ACTIVATIONS[self.act](self.up(self.norm(self.depthwise(x)), keys[0]))
        if self.response_norm is not None:
            y = self.response_norm(y)
        y = self.down(y, keys[1])
        if self.layer_scale is not None:
            y = y * self.layer_scale[...]
        return {**carry, "hidden": x + drop_path(y, self.drop_path, keys[2])}


class ConvNeXt(Model):
    """Stem, stages of blocks with a downsampling before all but the first, a norm of the mean, and an optional head.

    Inputs: ``pixel_values`` (batch, height, width, channels), normalised.
    """

    def __init__(self, config: ConvNeXtConfig, head: HeadConfig | None = None):
        self.config = config
        sizes, last, number = config.hidden_sizes, max(sum(config.depths) - 1, 1), itertools.count()
        self.stem = Stem(config)
        # Before stage s, for s from 1 on.
        self.downsamples = nnx.List([Downsample(*pair, config) for pair in itertools.pairwise(sizes)])
        self.stages = nnx.List(
            [
                nnx.List([Block(size, config.drop_path * next(number) / last, config) for _ in range(depth)])
                for size, depth in zip(sizes, config.depths, strict=True)
            ]
        )
        self.norm = LayerNorm(sizes[-1], config.layer_norm_eps)
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        width = sizes[0] + sum(sizes) + sizes[-1] if names else sizes[-1]
        self.head = None if head is None else head.build(width, feature_stages=names)

    def feature_stages(self) -> tuple[str, ...]:
        """The stem, the last block of each stage, and the norm."""
        return ("stem", *(f"stages/{s}/{depth - 1}" for s, depth in enumerate(self.config.depths)), "norm")

    def backbone_stages(self) -> tuple[Stage, ...]:
        stages = [Stage("stem", self.stem, owns=("stem",))]
        for s, stage in enumerate(self.stages):
            if s:
                name = f"downsamples/{s - 1}"
                stages.append(Stage(name, self.downsamples[s - 1], owns=(name,)))
            for b, block in enumerate(stage):
                name = f"stages/{s}/{b}"
                stages.append(Stage(name, block, owns=(name,), random=block.drop_path > 0))
        return (*stages, Stage("norm", self.normalise, owns=("norm",)))

    def normalise(self, carry: Carry, key: Key | None) -> Carry:
        """Add the normalised mean over the image; ``hidden`` stays, as in transformers and timm."""
        return {**carry, "mean": self.norm(self.pool_hidden(carry))}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean over the image, normalised once the norm has run."""
        return carry["mean"] if "mean" in carry else carry["hidden"].mean((1, 2))
