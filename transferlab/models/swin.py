"""Swin Transformer (Liu et al. 2021): attention within windows, which every second block shifts by half a window.

Pre-norm blocks, a bias for each relative position within a window, 2×2 patches merged between the stages. All sizes
come from the config; window, shift and mask follow from shapes and are static.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.attention import Attention
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.convolutions import Patches
from transferlab.models.heads import HeadConfig
from transferlab.models.layers import (
    ACTIVATIONS,
    Key,
    Linear,
    TruncatedNormal,
    check_activation,
    drop_path,
    dropout,
    lookup,
    parameter,
)
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size


@dataclass(frozen=True)
class SwinConfig:
    """Sizes and constants, under Hugging Face's names where it has one.

    Attributes:
        embed_dim: channels of the first stage; each stage after it has twice as many.
        depths, num_heads, window_sizes: blocks, heads and side of the windows in each stage.
        layer_norm_eps: of the blocks and the final norm; the stem and the merging have 1e-5.
        drop_path: rate of stochastic depth at the last block, rising linearly from 0.
        pad_first: pad the last patch and window with zeros before maps are shifted (Hugging Face). If false, pixels left
            over at the last patch are not seen, and maps are padded after the shift (timm).
        image_size: side of the images it is evaluated at, in pixels.

    Example:
        >>> model = tl.models.SwinConfig.tiny().build()
    """

    num_channels: Count = 3
    embed_dim: Count = 96
    depths: tuple[Count, ...] = (2, 2, 6, 2)
    num_heads: tuple[Count, ...] = (3, 6, 12, 24)
    window_sizes: tuple[Count, ...] = (7, 7, 7, 7)
    patch_size: Count = 4
    mlp_ratio: Positive = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    initializer_range: NonNegative = 0.02
    layer_norm_eps: Positive = 1e-5
    drop_path: Rate = 0.1
    pad_first: bool = False
    image_size: Count = 224

    def __post_init__(self) -> None:
        check_fields(self, "SwinConfig")
        for name in ("num_heads", "window_sizes"):
            if not self.depths or len(getattr(self, name)) != len(self.depths):
                raise TransferlabError(
                    f"SwinConfig: {name} {getattr(self, name)} and depths {self.depths} differ in length."
                )
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if width % heads:
                raise TransferlabError(
                    f"SwinConfig: num_heads {self.num_heads} do not divide the widths {self.widths}."
                )
        check_activation(self.hidden_act, "SwinConfig", "hidden_act")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**s for s in range(len(self.depths)))

    # fmt: off
    tiny = Size("Swin-T, 28.3 M parameters with 1000 labels.")
    small = Size("Swin-S, 49.6 M parameters with 1000 labels.", depths=(2, 2, 18, 2))
    base = Size("Swin-B, 87.8 M parameters with 1000 labels.",
        embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))
    large = Size("Swin-L, 196.5 M parameters with 1000 labels.",
        embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48))
    # fmt: on

    def build(self, head: HeadConfig | None = None) -> Swin:
        """Return the module; nothing is allocated."""
        return Swin(self, head)


class Stem(nnx.Module):
    """Square patches and a norm."""

    def __init__(self, config: SwinConfig):
        normal = TruncatedNormal(config.initializer_range)
        self.patch = Patches(config.num_channels, config.embed_dim, config.patch_size, initialiser=normal)
        self.norm = LayerNorm(config.embed_dim, 1e-5)
        self.dropout, self.pad_first = config.hidden_dropout_prob, config.pad_first

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        rest = {name: value for name, value in carry.items() if name != "pixel_values"}
        pixels = carry["pixel_values"]
        whole = _filled(pixels, self.patch.side) if self.pad_first else pixels
        return {**rest, "hidden": dropout(self.norm(self.patch(whole)), self.dropout, key)}


class Downsample(nnx.Module):
    """2×2 pixels concatenated, a norm, and a linear map to half as many channels; odd sides are padded."""

    def __init__(self, width: int, config: SwinConfig):
        self.norm = LayerNorm(4 * width, 1e-5)
        self.reduce = Linear(4 * width, 2 * width, bias=False, initialiser=TruncatedNormal(config.initializer_range))

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        x = _filled(carry["hidden"], 2)
        batch, height, width, features = x.shape
        # The order of timm and transformers: down the rows first, then along the columns.
        pixels = x.reshape(batch, height // 2, 2, width // 2, 2, features).transpose(0, 1, 3, 4, 2, 5)
        merged = pixels.reshape(batch, height // 2, width // 2, 4 * features)
        return {**carry, "hidden": self.reduce(self.norm(merged), key)}


class WindowAttention(Attention):
    """Attention within each window, with a learned bias for each relative position and head.

    The bias is a table ((2·side - 1)², heads), indexed by row and column of the difference.
    """

    def __init__(self, width: int, heads: int, side: int, config: SwinConfig):
        normal = TruncatedNormal(config.initializer_range)
        super().__init__(
            width, heads, dropout=config.attention_probs_dropout_prob, bias=config.qkv_bias, initialiser=normal
        )
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.position_bias = parameter(((2 * side - 1) ** 2, heads), normal)
        self.side = side

    def within(
        self, x: Float[Array, "batch windows length features"], mask: np.ndarray | None, key: Key | None
    ) -> Float[Array, "batch windows length features"]:
        """Attend within the windows; ``mask`` (windows, length, length) is added to the scores."""
        bias = lookup(self.position_bias[...], jnp.asarray(_differences(self.side))).transpose(2, 0, 1)
        return self(x, None, key, bias=bias if mask is None else bias + mask[:, None])


def _differences(side: int) -> np.ndarray:
    """Row of the bias table for each pair of positions in a window: (side², side²)."""
    rows, columns = (axis.reshape(-1) for axis in np.indices((side, side)))
    down, right = rows[:, None] - rows[None], columns[:, None] - columns[None]
    return (down + side - 1) * (2 * side - 1) + right + side - 1


def _regions(height: int, width: int, side: int, shift: tuple[int, int]) -> np.ndarray:
    """Mask between pixels that only the shift brought into the same window: (windows, side², side²), 0 or -100."""

    def bands(length: int, by: int) -> np.ndarray:
        position = np.arange(length)
        return (position >= length - side).astype(int) + (position >= length - by) if by else np.zeros(length, int)

    region = 3 * bands(height, shift[0])[:, None] + bands(width, shift[1])[None]
    windows = region.reshape(height // side, side, width // side, side).transpose(0, 2, 1, 3).reshape(-1, side * side)
    return np.where(windows[:, None] != windows[:, :, None], np.float32(-100.0), np.float32(0.0))


def _filled(x: Float[Array, "batch height width features"], side: int) -> Float[Array, "batch rows columns features"]:
    """Pad with zeros at the right and bottom, up to multiples of ``side``."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % side), (0, -x.shape[2] % side), (0, 0)))


class Mlp(nnx.Module):
    """Two linear maps with an activation between them, after a norm; the residual is in :class:`Block`."""

    def __init__(self, width: int, config: SwinConfig):
        normal, inner = TruncatedNormal(config.initializer_range), int(width * config.mlp_ratio)
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.up = Linear(width, inner, initialiser=normal)
        self.down = Linear(inner, width, initialiser=normal)
        self.act = config.hidden_act

    def __call__(self, x: Array, key: Key | None) -> Array:
        keys = [None] * 2 if key is None else list(jax.random.split(key, 2))
        return self.down(ACTIVATIONS[self.act](self.up(self.norm(x), keys[0])), keys[1])


class Block(nnx.Module):
    """Attention within (shifted) windows, then the MLP, each added to its input."""

    def __init__(self, stage: int, shifted: bool, rate: float, config: SwinConfig):
        width = config.widths[stage]
        self.attention = WindowAttention(width, config.num_heads[stage], config.window_sizes[stage], config)
        self.mlp = Mlp(width, config)
        self.shifted, self.pad_first = shifted, config.pad_first
        self.dropout, self.drop_path = config.hidden_dropout_prob, rate

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        keys = [None] * 6 if key is None else list(jax.random.split(key, 6))
        x = carry["hidden"]
        y = dropout(self.attend(self.attention.norm(x), keys[0]), self.dropout, keys[1])
        x = x + drop_path(y, self.drop_path, keys[2])
        y = dropout(self.mlp(x, keys[3]), self.dropout, keys[4])
        return {**carry, "hidden": x + drop_path(y, self.drop_path, keys[5])}

    def attend(
        self, x: Float[Array, "batch height width features"], key: Key | None
    ) -> Float[Array, "batch height width features"]:
        """Shift, cut into windows, attend, and put the windows together again."""
        side, (batch, height, width, features) = self.attention.side, x.shape
        # A map of only one window is not shifted.
        half = side // 2 if self.shifted else 0
        shift = (half if height > side else 0, half if width > side else 0)
        moved = any(shift)

        def rolled(y: Array, sign: int) -> Array:
            return jnp.roll(y, (sign * shift[0], sign * shift[1]), (1, 2)) if moved else y

        y = rolled(_filled(x, side), -1) if self.pad_first else _filled(rolled(x, -1), side)
        rows, columns = y.shape[1] // side, y.shape[2] // side
        y = y.reshape(batch, rows, side, columns, side, features).transpose(0, 1, 3, 2, 4, 5)
        mask = _regions(rows * side, columns * side, side, shift) if moved else None
        y = self.attention.within(y.reshape(batch, rows * columns, side * side, features), mask, key)
        y = y.reshape(batch, rows, columns, side, side, features).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, rows * side, columns * side, features)
        return rolled(y, 1)[:, :height, :width] if self.pad_first else rolled(y[:, :height, :width], 1)


class Swin(Model):
    """Stem, stages of blocks with a merging before all but the first, a norm, and an optional head over the mean.

    Inputs: ``pixel_values`` (batch, height, width, channels), normalised.
    """

    def __init__(self, config: SwinConfig, head: HeadConfig | None = None):
        self.config = config
        widths, last, number = config.widths, max(sum(config.depths) - 1, 1), itertools.count()
        self.stem = Stem(config)
        # Before stage s, for s from 1 on.
        self.downsamples = nnx.List([Downsample(width, config) for width in widths[:-1]])
        self.stages = nnx.List(
            [
                nnx.List([Block(s, b % 2 == 1, config.drop_path * next(number) / last, config) for b in range(depth)])
                for s, depth in enumerate(config.depths)
            ]
        )
        self.norm = LayerNorm(widths[-1], config.layer_norm_eps)
        names = self.feature_stages() if head is not None and head.pooling == "stages" else ()
        total = widths[0] + sum(widths) + widths[-1] if names else widths[-1]
        self.head = None if head is None else head.build(total, feature_stages=names)

    def feature_stages(self) -> tuple[str, ...]:
        """The stem, the last block of each stage, and the norm."""
        return ("stem", *(f"stages/{s}/{depth - 1}" for s, depth in enumerate(self.config.depths)), "norm")

    def backbone_stages(self) -> tuple[Stage, ...]:
        config = self.config
        noisy = config.hidden_dropout_prob > 0 or config.attention_probs_dropout_prob > 0
        stages = [Stage("stem", self.stem, owns=("stem",), random=config.hidden_dropout_prob > 0)]
        for s, stage in enumerate(self.stages):
            if s:
                name = f"downsamples/{s - 1}"
                stages.append(Stage(name, self.downsamples[s - 1], owns=(name,)))
            for b, block in enumerate(stage):
                name = f"stages/{s}/{b}"
                stages.append(Stage(name, block, owns=(name,), random=noisy or block.drop_path > 0))
        return (*stages, Stage("norm", self.normalise, owns=("norm",)))

    def normalise(self, carry: Carry, key: Key | None) -> Carry:
        """The final norm, of every pixel."""
        return {**carry, "hidden": self.norm(carry["hidden"])}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean over the image."""
        return carry["hidden"].mean((1, 2))
