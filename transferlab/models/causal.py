"""Parts that all decoders use: attention over earlier positions with grouped queries, rotary positions, a key-value cache.

A decoder's carry holds ``hidden``, ``mask`` (false for padding) and ``positions``; every layer derives its attention mask
from them, so that the carry has no (length, length) array and a cached carry stays small. XLA computes that mask once for
all layers of a program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from transferlab.bounds import Count, NonNegative, Positive
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Model, Stage
from transferlab.models.bert import masked_mean
from transferlab.models.layers import Key

# ---------------------------------------------------------------------------------------------------------------
# Positions


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021), and how they are scaled to longer texts, under Hugging Face's names.

    Attributes:
        rope_theta: base of the wavelengths.
        rope_type: ``default``; ``linear`` (Chen et al. 2023); ``llama3`` (section 3.2 of its report: long wavelengths are
            scaled by ``factor``, short ones are not); ``yarn`` (Peng et al. 2023).
        factor: by which positions are scaled.
        low_freq_factor, high_freq_factor, original_max_position_embeddings: of ``llama3``; the last also of ``yarn``.
        beta_fast, beta_slow, attention_factor, mscale, mscale_all_dim, truncate: of ``yarn``.
    """

    rope_theta: Positive = 10000.0
    rope_type: Literal["default", "linear", "llama3", "yarn"] = "default"
    factor: Positive = 1.0
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Count = 8192
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    attention_factor: Positive | None = None
    mscale: NonNegative | None = None
    mscale_all_dim: NonNegative | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "Rope")
        if self.rope_type == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise TransferlabError(
                f"Rope: low_freq_factor {self.low_freq_factor} must be below high_freq_factor {self.high_freq_factor}."
            )

    def used(self) -> tuple[str, ...]:
        """The fields that its ``rope_type`` uses."""
        stretched = ("rope_theta", "rope_type", "factor")
        return {
            "default": stretched[:2],
            "linear": stretched,
            "llama3": (*stretched, "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
            "yarn": (*stretched, "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "mscale",
                     "mscale_all_dim", "truncate"),
        }[self.rope_type]  # fmt: skip

    def frequencies(self, width: int) -> tuple[Float[np.ndarray, " pairs"], float]:
        """Radians per position for each pair of a head's features, and a factor on sine and cosine."""
        base = np.float32(self.rope_theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
        plain = np.float32(1.0) / base
        if self.rope_type == "linear":
            return plain / np.float32(self.factor), 1.0
        if self.rope_type == "llama3":
            return self._llama3(plain), 1.0
        if self.rope_type == "yarn":
            return self._yarn(plain, width)
        return plain, 1.0

    def _llama3(self, plain: np.ndarray) -> np.ndarray:
        turns = self.original_max_position_embeddings * plain / (2.0 * math.pi)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        smooth = np.clip(smooth, 0.0, 1.0)
        return ((1.0 - smooth) * plain / self.factor + smooth * plain).astype(np.float32)

    def _yarn(self, plain: np.ndarray, width: int) -> tuple[np.ndarray, float]:
        def pair(turns: float) -> float:
            """The feature that makes this many turns within the original length."""
            length = self.original_max_position_embeddings
            return width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(self.rope_theta))

        first, last = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        last = last + 0.001 if first == last else last
        stretched = np.clip((np.arange(width // 2, dtype=np.float32) - first) / (last - first), 0.0, 1.0)
        mixed = plain / self.factor * stretched + plain * (1.0 - stretched)

        def gain(weight: float) -> float:
            return 1.0 if self.factor <= 1 else 0.1 * weight * math.log(self.factor) + 1.0

        scale = self.attention_factor
        if scale is None:
            both = self.mscale and self.mscale_all_dim
            scale = gain(self.mscale or 0.0) / gain(self.mscale_all_dim or 0.0) if both else gain(1.0)
        return mixed.astype(np.float32), float(scale)


def rotate(
    x: Float[Array, "batch length heads width"], positions: Int[Array, "batch length"], rope: Rope
) -> Float[Array, "batch length heads width"]:
    """Rotate each pair (i, i + width / 2) of a head's features by its position's angle. Angles are float32."""
    frequencies, scale = rope.frequencies(x.shape[-1])
    angles = positions[..., None].astype(jnp.float32) * frequencies
    cosine = (jnp.cos(angles) * scale).astype(x.dtype)[:, :, None]
    sine = (jnp.sin(angles) * scale).astype(x.dtype)[:, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


# ---------------------------------------------------------------------------------------------------------------
# Attention


def visible(carry: Carry, window: int | None = None) -> Bool[Array, "batch queries keys"]:
    """The keys that each token may see: itself and earlier ones that are not padding, fewer than ``window`` positions back.

    With a cache, the keys are its slots. Of a row with several texts, whose ``segments`` (batch, length) number them from 1, each
    token sees its own text alone; padding, 0, is a text of its own, so that no softmax is over nothing.
    """
    cache = carry.get("cache")
    mask, positions, start = carry["mask"], carry["positions"], 0
    if cache is not None:
        mask, positions, start = cache["mask"], cache["positions"], cache["start"]
    slots = start + jnp.arange(carry["mask"].shape[1])
    segments = carry.get("segments")
    own = mask[:, None, :] if segments is None else segments[:, :, None] == segments[:, None, :]
    seen = (jnp.arange(mask.shape[1]) <= slots[:, None]) & own
    if window is not None:
        seen = seen & (carry["positions"][:, :, None] - positions[:, None, :] < window)
    return seen


# ---------------------------------------------------------------------------------------------------------------
# The cache


def empty_cache(
    layers: int, batch: int, slots: int, groups: int, width: int, dtype: Any = jnp.float32
) -> dict[str, Array]:
    """Return a cache of fixed length, which goes into the carry as ``cache``, its only entry that is not an array.

    ``start`` is the slot of the next token; ``mask`` and ``positions`` (batch, slots) describe the tokens in the cache;
    ``keys/3`` and ``values/3`` (batch, slots, groups, width) belong to the fourth layer.
    """
    cache: dict[str, Array] = {
        "start": jnp.zeros((), jnp.int32),
        "mask": jnp.zeros((batch, slots), bool),
        "positions": jnp.zeros((batch, slots), jnp.int32),
    }
    for i in range(layers):
        for name in ("keys", "values"):
            cache[f"{name}/{i}"] = jnp.zeros((batch, slots, groups, width), dtype)
    return cache


def remember(
    carry: Carry, number: int, key: Float[Array, "batch length groups width"], value: Float[Array, "..."]
) -> tuple[Carry, Array, Array]:
    """Return (carry, keys, values). With a cache, the layer's new keys and values are written to it and all are returned."""
    cache = carry.get("cache")
    if cache is None:
        return carry, key, value
    at = (0, cache["start"], 0, 0)
    keys = jax.lax.dynamic_update_slice(cache[f"keys/{number}"], key.astype(cache[f"keys/{number}"].dtype), at)
    values = jax.lax.dynamic_update_slice(cache[f"values/{number}"], value.astype(keys.dtype), at)
    return {**carry, "cache": {**cache, f"keys/{number}": keys, f"values/{number}": values}}, keys, values


def token_inputs(inputs: Carry) -> Carry:
    """Return ``mask`` and ``positions`` from a decoder's inputs, ``segments`` of rows with several texts, and the cache, if there
    is one, with mask and positions written to it.

    Without ``position_ids``, positions count from 0 whatever the mask, as in transformers' forward passes.
    """
    ids = inputs["input_ids"]
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    mask = jnp.ones(ids.shape, bool) if mask is None else mask.astype(bool)
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    out: Carry = {"mask": mask, "positions": positions.astype(jnp.int32)}
    if "segments" in inputs:
        out["segments"] = inputs["segments"]
    if "cache" in inputs:
        cache = inputs["cache"]
        at = (0, cache["start"])
        out["cache"] = {
            **cache,
            "mask": jax.lax.dynamic_update_slice(cache["mask"], mask, at),
            "positions": jax.lax.dynamic_update_slice(cache["positions"], out["positions"], at),
        }
    return out


class Decoder(Model):
    """A tower ``embed → layers/0 → … → norm`` whose layers attend to earlier positions, and an optional head.

    Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``position_ids``, ``segments``, ``cache``.
    """

    sequence_entries = ("hidden", "mask", "positions", "segments")
    poolings = ("last", "mean", "first", "stages")

    embed: Any
    layers: Any
    norm: Any
    config: Any

    def feature_stages(self) -> tuple[str, ...]:
        """The stages whose pooled hidden states describe an example."""
        return ("embed", *(f"layers/{i}" for i in range(len(self.layers))), "norm")

    def backbone_stages(self) -> tuple[Stage, ...]:
        stages = [Stage("embed", self.embed, owns=("embed",), random=self.embed.random)]
        for i, layer in enumerate(self.layers):
            stages.append(Stage(f"layers/{i}", layer, owns=(f"layers/{i}",), random=layer.random, single_query=layer))
        return (*stages, Stage("norm", self.normalise, owns=("norm",)))

    def normalise(self, carry: Carry, key: Key | None) -> Carry:
        """The final norm."""
        return {**carry, "hidden": self.norm(carry["hidden"])}

    def pool_hidden(self, carry: Carry) -> Float[Array, "batch features"]:
        """Mean of the hidden states over unmasked tokens."""
        return masked_mean(carry["hidden"], carry["mask"])

    def cache(self, batch: int, slots: int, dtype: Any = jnp.float32) -> dict[str, Array]:
        """Return an empty key-value cache for texts of up to ``slots`` tokens."""
        groups, width = self.layers[0].attention.groups, self.layers[0].attention.width
        return empty_cache(len(self.layers), batch, slots, groups, width, dtype)
