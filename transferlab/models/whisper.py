"""Whisper's encoder (Radford et al. 2022): log-mel spectrograms through two convolutions and a pre-norm Transformer.

The decoder, which writes the text, is not built: this is a backbone for audio. Keys have no bias, as in OpenAI's code.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, NonNegative, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.attention import Attention
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.heads import HeadConfig, build_head
from transferlab.models.layers import (
    ACTIVATIONS,
    Key,
    Linear,
    Normal,
    check_activation,
    dropout,
    gelu,
    parameter,
    zeros,
)
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size


@dataclass(frozen=True)
class WhisperConfig:
    """Sizes and constants, under the names that Hugging Face's ``config.json`` uses.

    Attributes:
        d_model, encoder_layers, encoder_attention_heads, encoder_ffn_dim: of the encoder.
        num_mel_bins: number of mel bands of a spectrogram.
        max_source_positions: positions after the second convolution, which halves the frames: 1500 for 30 seconds.
        dropout, attention_dropout, activation_dropout: rates while it trains.
        key_bias: whether keys have a bias; files that fuse query, key and value contain one, of zeros.
        classifier_proj_size: width of the projection before the logits of transformers' classifier.
        use_weighted_layer_sum: whether that classifier reads all layers, each by a learned weight.

    Example:
        >>> model = tl.models.WhisperConfig.tiny().build()
    """

    d_model: Count = 384
    encoder_layers: Count = 4
    encoder_attention_heads: Count = 6
    encoder_ffn_dim: Count = 1536
    num_mel_bins: Count = 80
    max_source_positions: Count = 1500
    activation_function: str = "gelu"
    dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    init_std: NonNegative = 0.02
    key_bias: bool = False
    classifier_proj_size: Count = 256
    use_weighted_layer_sum: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "WhisperConfig")
        if self.d_model % self.encoder_attention_heads or self.d_model % 2:
            raise TransferlabError(
                f"WhisperConfig: d_model {self.d_model} is not an even multiple of encoder_attention_heads "
                f"{self.encoder_attention_heads}."
            )
        check_activation(self.activation_function, "WhisperConfig", "activation_function")

    # fmt: off
    tiny = Size("Whisper tiny and tiny.en: 4 layers, 384 wide, an encoder of 8.2 M parameters.")
    base = Size("Whisper base: 6 layers, 512 wide, an encoder of 20.6 M parameters.", 512, 6, 8, 2048)
    small = Size("Whisper small: 12 layers, 768 wide, an encoder of 88.2 M parameters.", 768, 12, 12, 3072)
    medium = Size("Whisper medium: 24 layers, 1024 wide, an encoder of 307 M parameters.", 1024, 24, 16, 4096)
    large_v3 = Size("Whisper large-v3: 32 layers, 1280 wide, 128 mel bands, an encoder of 637 M parameters.",
        1280, 32, 20, 5120, num_mel_bins=128)
    # fmt: on

    def build(self, head: HeadConfig | None = None) -> Whisper:
        """Return the module; nothing is allocated."""
        return Whisper(self, head)


@dataclass(frozen=True)
class Sinusoids:
    """Sines, then cosines, of wavelengths from 2π to 20000π (Vaswani et al. 2017), as in the published weights."""

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        length, features = shape
        rates = np.exp(-np.log(10000.0) / (features // 2 - 1) * np.arange(features // 2))
        angles = np.arange(length)[:, None] * rates
        return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), dtype)


class Conv1d(nnx.Module):
    """Convolution over time, of width 3, padded by one frame of zeros on each side; kernel (width, in, out)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, std: float):
        self.kernel = parameter((3, inputs, outputs), Normal(std))
        self.bias = parameter((outputs,), zeros)
        self.stride = stride

    def __call__(self, x: Float[Array, "batch frames inputs"]) -> Float[Array, "batch positions outputs"]:
        dimensions = ("NHC", "HIO", "NHC")
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...], (self.stride,), ((1, 1),), dimension_numbers=dimensions
        )  # fmt: skip
        return y + self.bias[...]


class Embed(nnx.Module):
    """Two convolutions with GELU, the second at stride 2, and positions."""

    def __init__(self, config: WhisperConfig):
        self.conv1 = Conv1d(config.num_mel_bins, config.d_model, stride=1, std=config.init_std)
        self.conv2 = Conv1d(config.d_model, config.d_model, stride=2, std=config.init_std)
        self.position = parameter((config.max_source_positions, config.d_model), Sinusoids())
        self.dropout, self.bands = config.dropout, config.num_mel_bins

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        features, position = inputs["input_features"], self.position[...]
        frames = 2 * position.shape[0]
        if features.shape[2] != self.bands or features.shape[1] > frames:
            raise TransferlabError(
                f"Spectrograms of {features.shape[1]} frames and {features.shape[2]} mel bands do not fit: this model "
                f"reads (batch, frames, bands) with up to {frames} frames and {self.bands} bands."
            )
        x = gelu(self.conv2(gelu(self.conv1(features))))
        return {"hidden": dropout(x + position[: x.shape[1]], self.dropout, key)}


class SelfAttention(Attention):
    """Attention with its pre-norm; keys have a bias only where the config says so."""

    def __init__(self, config: WhisperConfig):
        normal = Normal(config.init_std)
        super().__init__(
            config.d_model, config.encoder_attention_heads, dropout=config.attention_dropout, initialiser=normal
        )
        if not config.key_bias:
            self.key = Linear(config.d_model, config.d_model, bias=False, initialiser=normal)
        self.norm = LayerNorm(config.d_model, 1e-5)


class Mlp(nnx.Module):
    """Two linear maps with an activation between them, and the pre-norm; the residual is in :class:`Layer`."""

    def __init__(self, config: WhisperConfig):
        normal = Normal(config.init_std)
        self.norm = LayerNorm(config.d_model, 1e-5)
        self.up = Linear(config.d_model, config.encoder_ffn_dim, initialiser=normal)
        self.down = Linear(config.encoder_ffn_dim, config.d_model, initialiser=normal)
        self.activation, self.dropout = config.activation_function, config.activation_dropout

    def __call__(
        self, x: Float[Array, "batch length features"], key: Key | None
    ) -> Float[Array, "batch length features"]:
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        y = dropout(ACTIVATIONS[self.activation](self.up(x, keys[0])), self.dropout, keys[1])
        return self.down(y, keys[2])


class Layer(nnx.Module):
    """One encoder layer: attention, then the MLP, each after a LayerNorm and added to its input."""

    def __init__(self, config: WhisperConfig):
        self.attention = SelfAttention(config)
        self.mlp = Mlp(config)
        self.dropout = config.dropout

    def __call__(self, carry: Carry, key: Key | None) -> Carry:
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        x = carry["hidden"]
        x = x + dropout(self.attention(self.attention.norm(x), None, keys[0]), self.dropout, keys[1])
        x = x + dropout(self.mlp(self.mlp.norm(x), keys[2]), self.dropout, keys[3])
        return {**carry, "hidden": x}


class Whisper(Model):
    """The encoder and an optional head.

    Inputs: ``input_features`` (batch, frames, mel bands), as :class:`~transferlab.data.AudioTransform` returns them: bands
    last, where transformers has them before the frames. Transformers takes exactly 30 seconds, 3000 frames; here fewer
    frames use the first positions.
    """

    poolings = ("mean", "stages", "weighted stages")

    def __init__(self, config: WhisperConfig, head: HeadConfig | None = None):
        self.config = config
        self.embed = Embed(config)
        self.layers = nnx.List([Layer(config) for _ in range(config.encoder_layers)])
        self.norm = LayerNorm(config.d_model, 1e-5)
        stages = self.feature_stages()
        if head is not None and head.pooling == "weighted stages":
            # As in transformers, where the states of the last layer are those after the norm.
            stages = (*stages[:-2], stages[-1])
        self.head = build_head(head, config.d_model, feature_stages=stages)

    def feature_stages(self) -> tuple[str, ...]:
        """The stages whose pooled hidden states describe an example."""
        return ("embed", *(f"layers/{i}" for i in range(self.config.encoder_layers)), "norm")

    def backbone_stages(self) -> tuple[Stage, ...]:
        config = self.config
        noisy = max(config.dropout, config.attention_dropout, config.activation_dropout) > 0
        stages = [Stage("embed", self.embed, owns=("embed",), random=config.dropout > 0)]
        for i, layer in enumerate(self.layers):
            stages.append(Stage(f"layers/{i}", layer, owns=(f"layers/{i}",), random=noisy))
        return (*stages, Stage("norm", self.normalise, owns=("norm",)))

    def normalise(self, carry: Carry, key: Key | None) -> Carry:
        """The final norm."""
        return {**carry, "hidden": self.norm(carry["hidden"])}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean over time, as transformers' audio classifier pools."""
        return carry["hidden"].mean(1)
