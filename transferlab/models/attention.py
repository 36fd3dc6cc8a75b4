"""Scaled dot-product attention, written once for all families, and the module that most of them use.

On a GPU, cuDNN's fused kernel (Dao et al. 2022, "FlashAttention") computes what it can: half precision, no bias, no
dropout on the weights. It never keeps the scores in memory. Everything else, and every other device, uses the plain form;
on a CPU a large batch is cut into parts, which run in parallel and keep their scores closer to the core.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from transferlab.compute.flags import attention_is_plain
from transferlab.models.layers import Initialiser, Key, Linear, TruncatedNormal, dropout

Mask = Bool[Array, "*batch keys"] | Bool[Array, "*batch #queries keys"]
"""Which keys may be attended to: by all queries, or by each."""

Rotation = Callable[[Float[Array, "batch tokens heads width"]], Float[Array, "batch tokens heads width"]]
"""Rotates each head's features by its token's position."""


def attend(
    query: Float[Array, "*batch queries heads width"],
    key: Float[Array, "*batch keys groups width"],
    value: Float[Array, "*batch keys groups width"],
    *,
    scale: float,
    mask: Mask | None = None,
    bias: Float[Array, "*#batch heads queries keys"] | None = None,
    soft_cap: float | None = None,
    rate: float = 0.0,
    random: Key | None = None,
    tokens: int | None = None,
) -> Float[Array, "*batch queries features"]:
    """Attention (Vaswani et al. 2017, equation 1), in which neighboring heads may share keys and values (Ainslie et al.
    2023), which are not repeated.

    Scores become float32 before the soft cap, the bias, the mask and the softmax. A query whose mask is all false attends
    evenly.

    Args:
        query: after any norm and rotation.
        key: as ``query``; the number of groups divides that of the heads.
        value: of each key.
        scale: factor on the scores.
        mask: true where a key may be attended to; without one, everywhere.
        bias: added to the scaled scores.
        soft_cap: ``cap · tanh(score / cap)``.
        rate: of dropout on the weights.
        random: key of the dropout; None drops nothing.
        tokens: number of real queries and keys, where those after them are padding and there is no mask.
    """
    *batch, queries, heads, width = query.shape
    keys = key.shape[-3]
    mask = _as_scores(mask, len(batch))
    whole = bias is None and soft_cap is None and (random is None or rate == 0.0)
    if whole and len(batch) == 1 and _fits_kernel(query.dtype, queries, keys, width, mask is not None):
        return _fused(query, key, value, scale, mask, tokens, "cudnn").reshape(*batch, queries, heads * width)
    if tokens is not None:
        mask = _as_scores(jnp.broadcast_to(jnp.arange(keys) < tokens, (*batch, keys)), len(batch))
    if bias is not None:
        # Before the cut: the gradient of a bias that rows share is summed over the parts.
        bias = bias.astype(jnp.float32)
    attended = partial(_attend, scale=scale, soft_cap=soft_cap, rate=rate, random=random)
    # One query reads each key once: cutting would only copy them.
    parts = _parts(batch[0], heads * queries * keys) if len(batch) == 1 and queries > 1 else 1
    if parts == 1:
        return attended(query, key, value, mask, bias)
    cut = [_cut(x, parts, query.ndim) for x in (query, key, value, mask, bias)]
    rows = range(0, batch[0], batch[0] // parts)
    return jnp.concatenate([attended(*part, before=row) for row, *part in zip(rows, *cut, strict=True)])


def _attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    bias: Array | None,
    *,
    scale: float,
    soft_cap: float | None,
    rate: float,
    random: Key | None,
    before: int = 0,
) -> Float[Array, "*batch queries features"]:
    """The plain form. The mask and the bias have the axes of the scores; ``before`` counts the batch's rows before these."""
    *batch, queries, heads, width = query.shape
    keys, groups = key.shape[-3:-1]
    # The heads of a group are laid next to each other as queries, so that each group takes one matmul.
    asked = (query * scale).swapaxes(-2, -3).reshape(*batch, groups, heads // groups * queries, width)
    key, value = key.swapaxes(-2, -3), value.swapaxes(-2, -3)
    scores = jnp.einsum("...qd,...kd->...qk", asked, key).reshape(*batch, heads, queries, keys)
    weights = _weighing()(scores, mask, bias, random, soft_cap, value.dtype, rate, before)
    mixed = jnp.einsum("...qk,...kd->...qd", weights.reshape(*batch, groups, -1, keys), value)
    mixed = mixed.reshape(*batch, heads, queries, width).swapaxes(-2, -3)
    return mixed.reshape(*batch, queries, heads * width)


def _as_scores(mask: Mask | None, batch: int) -> Array | None:
    """The mask with the axes of the scores: (batch, 1, 1 or queries, keys)."""
    if mask is None:
        return None
    return mask[..., None, None, :] if mask.ndim == batch + 1 else mask[..., None, :, :]


def _weights(
    scores: Array,
    mask: Array | None,
    bias: Array | None,
    random: Key | None,
    soft_cap: float | None,
    dtype: jnp.dtype,
    rate: float,
    before: int,
) -> Array:
    """Softmax of the scores, computed in float32 and rounded, then dropout."""
    scores = scores.astype(jnp.float32)
    if soft_cap is not None:
        scores = jnp.tanh(scores / soft_cap) * soft_cap
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    if random is None or rate == 0.0:
        return softmax(scores, dtype)
    return dropped_softmax(scores, random, dtype, rate, before)


_LEFT = "left by dropout"

_weights_again = jax.checkpoint(
    _weights,
    static_argnums=(4, 5, 6, 7),
    policy=jax.checkpoint_policies.save_only_these_names(_LEFT),
)


def _weighing() -> Callable[..., Array]:
    """:func:`_weights` in the form for this device. Except on a CPU, the backward pass starts again from the scores, in the
    step's dtype: a softmax that it shares with the forward pass is written in float32 and read three times on a GPU.
    """
    return _weights if jax.default_backend() == "cpu" else _weights_again


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(x: Float[Array, "*batch n"], dtype: DTypeLike = jnp.float32) -> Float[Array, "*batch n"]:
    """Softmax over the last axis, computed in the dtype of ``x`` and rounded to ``dtype``.

    The backward pass keeps only the result; ``jax.nn.softmax`` keeps the exponentials as well.
    """
    raised = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    return (raised / raised.sum(-1, keepdims=True)).astype(dtype)


@softmax.defjvp
def _softmax_slope(dtype: DTypeLike, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    weights = softmax(x, dtype)
    wide = weights.astype(x.dtype)
    return weights, (wide * (dx - (wide * dx).sum(-1, keepdims=True))).astype(dtype)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def dropped_softmax(
    x: Float[Array, "*batch n"], key: Key, dtype: DTypeLike, rate: float, before: int = 0
) -> Float[Array, "*batch n"]:
    """``dropout(softmax(x, dtype), rate, key, before)``, whose backward pass needs no mask: where ``y`` is the softmax and
    ``z`` what dropout left of it, a gradient ``g`` becomes ``z g − y Σ z g``.
    """
    return dropout(softmax(x, dtype), rate, key, before)


@dropped_softmax.defjvp
def _dropped_softmax_slope(
    dtype: DTypeLike, rate: float, before: int, primals: tuple[Array, Key], tangents: tuple[Array, Any]
) -> tuple[Array, Array]:
    (x, key), (dx, _) = primals, tangents
    weights = softmax(x, dtype)
    left = checkpoint_name(dropout(weights, rate, key, before), _LEFT)
    wide, wide_left = weights.astype(x.dtype), left.astype(x.dtype)
    return left, (wide_left * (dx - (wide * dx).sum(-1, keepdims=True))).astype(dtype)


def attend_by_one(
    query: Float[Array, "*batch 1 heads width"],
    x: Float[Array, "*batch tokens features"],
    key: Float[Array, "features heads width"],
    value: Float[Array, "features heads width"],
    value_bias: Float[Array, "heads width"] | None,
    *,
    scale: float,
    mask: Mask | None = None,
    bias: Float[Array, "*#batch heads 1 tokens"] | None = None,
    rate: float = 0.0,
    random: Key | None = None,
) -> Float[Array, "*batch 1 mixed"]:
    """:func:`attend` for one query, with the kernels of keys and values in place of keys and values.

    ``q · (x K) = (K q) · x`` and ``Σ wᵢ (xᵢ V) = (Σ wᵢ xᵢ) V``: the kernels act on one vector per head, not on each token.
    The keys' bias adds the same to all scores of a query, which the softmax cancels.
    """
    mask = _as_scores(mask, x.ndim - 2)
    asked = jnp.einsum("...qhw,fhw->...hqf", query * scale, key)
    scores = jnp.einsum("...hqf,...tf->...hqt", asked, x)
    weights = _weighing()(scores, mask, bias, random, None, x.dtype, rate, 0)
    mixed = jnp.einsum("...hqf,fhw->...qhw", jnp.einsum("...hqt,...tf->...hqf", weights, x), value)
    if value_bias is not None:
        mixed = mixed + weights.sum(-1).swapaxes(-1, -2)[..., None] * value_bias
    return mixed.reshape(*mixed.shape[:-2], -1)


_UNCUT = 2**21
"""Number of scores up to which a batch stays whole: 8 MiB."""


def _parts(rows: int, scores: int) -> int:
    """The number of parts into which to cut a batch, each row of which has ``scores`` scores.

    XLA's CPU backend runs a batched matmul of many small matrices on one thread, and passes over all scores of a batch
    several times. Eighths were the fastest of 1 to 8 parts, of the batch or of the heads.
    """
    return math.gcd(rows, 8) if jax.default_backend() == "cpu" and rows * scores > _UNCUT else 1


def _cut(x: Array | None, parts: int, axes: int) -> list[Any]:
    """The parts of an array; the whole array for each where its rows are shared."""
    if x is None or x.ndim < axes or x.shape[0] == 1:
        return [x] * parts
    return jnp.split(x, parts)


def _fused(
    query: Array,
    key: Array,
    value: Array,
    scale: float,
    mask: Array | None,
    tokens: int | None,
    implementation: Literal["cudnn", "xla"],
) -> Float[Array, "batch queries heads width"]:
    """JAX's fused call. It refuses odd lengths where gradients are asked for, so they are made even."""
    (batch, queries), keys = query.shape[:2], key.shape[1]
    more, lengths = (queries % 2, keys % 2), (tokens, tokens)
    if mask is not None:
        # cuDNN needs a mask for each query.
        mask = jnp.broadcast_to(mask, (batch, 1, queries, keys))
    if any(more):
        query, key, value = (
            jnp.pad(x, ((0, 0), (0, n), (0, 0), (0, 0)))
            for x, n in ((query, more[0]), (key, more[1]), (value, more[1]))
        )
        if mask is None:
            lengths = (queries, keys)
        else:
            mask = jnp.pad(mask, ((0, 0), (0, 0), (0, more[0]), (0, more[1])))
    query_lengths, key_lengths = (
        None if length is None else jnp.full((batch,), length, jnp.int32) for length in lengths
    )
    mixed = jax.nn.dot_product_attention(
        query, key, value, mask=mask, scale=scale, query_seq_lengths=query_lengths, key_value_seq_lengths=key_lengths,
        implementation=implementation,
    )  # fmt: skip
    return mixed[:, :queries]


def _fits_kernel(dtype: jnp.dtype, queries: int, keys: int, width: int, masked: bool) -> bool:
    """Whether cuDNN's kernel takes this and is faster: the scores of a single query are no larger than its keys."""
    if attention_is_plain() or queries == 1:
        return False
    if jax.default_backend() != "gpu" or dtype not in (jnp.bfloat16, jnp.float16) or width % 8 or width > 128:
        return False
    return _kernel_compiles(jnp.dtype(dtype).name, width, masked, bool(queries % 2 or keys % 2))


@cache
def _kernel_compiles(dtype: str, width: int, masked: bool, odd: bool) -> bool:
    """Try it once: only the device, its driver and cuDNN know whether they have the kernel."""
    length = 63 if odd else 64
    x = jax.ShapeDtypeStruct((1, length, 1, width), dtype)
    mask = jax.ShapeDtypeStruct((1, 1, length, length), bool) if masked else None

    def total(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
        return _fused(query, key, value, 1.0, mask, None, "cudnn").astype(jnp.float32).sum()

    try:
        jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(x, x, x, mask).compile()
    except Exception as error:
        logging.getLogger(__name__).warning("cuDNN's attention is not available; the plain form is used: %s", error)
        return False
    return True


class Attention(nnx.Module):
    """Multi-head self-attention (Vaswani et al. 2017) with separate query, key, value and output kernels.

    ``bias`` says whether query, key and value have one, ``output_bias`` whether the output has.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        *,
        dropout: float,
        bias: bool = True,
        output_bias: bool = True,
        initialiser: Initialiser = TruncatedNormal(0.02),
    ):
        self.query = Linear(features, features, bias=bias, initialiser=initialiser)
        self.key = Linear(features, features, bias=bias, initialiser=initialiser)
        self.value = Linear(features, features, bias=bias, initialiser=initialiser)
        self.output = Linear(features, features, bias=output_bias, initialiser=initialiser)
        self.heads = heads
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "*batch length features"],
        mask: Mask | None,
        key: Key | None = None,
        *,
        queries: Float[Array, "*batch queries features"] | None = None,
        bias: Float[Array, "*#batch heads queries length"] | None = None,
        rotate: tuple[Rotation, Rotation] | None = None,
    ) -> Float[Array, "*batch queries features"]:
        """Attend over the positions where ``mask`` is true (without one, everywhere), which may differ between queries.

        Queries are made of ``queries``, or of ``x`` without them; keys and values of ``x``. ``bias`` is added to the scaled
        scores; ``rotate`` acts on queries and on keys (batch, tokens, heads, width), as rotary positions do.
        """
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        queries, tokens = x if queries is None else queries, None
        if queries is x and mask is None and bias is None and rotate is None and self._evens(x, key):
            # Padded once, as x, instead of as queries, keys, values, their mixture, and the gradients of each.
            tokens, x = x.shape[1], jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
            queries = x
        query = self._heads(self.query(queries, keys[0]))
        options = {"scale": 1.0 / math.sqrt(query.shape[-1]), "mask": mask, "bias": bias}
        options |= {"rate": self.dropout, "random": keys[3]}
        if queries.shape[-2] == 1 and rotate is None and self.key.lora is None and self.value.lora is None:
            kernels = self._heads(self.key.kernel[...]), self._heads(self.value.kernel[...])
            value_bias = None if self.value.bias is None else self._heads(self.value.bias[...])
            return self.output(attend_by_one(query, x, *kernels, value_bias, **options), keys[4])
        key_, value = self._heads(self.key(x, keys[1])), self._heads(self.value(x, keys[2]))
        if rotate is not None:
            query, key_ = rotate[0](query), rotate[1](key_)
        mixed = self.output(attend(query, key_, value, **options, tokens=tokens), keys[4])
        return mixed if tokens is None else mixed[:, :tokens]

    def _evens(self, x: Array, key: Key | None) -> bool:
        """Whether all tokens of x attend through cuDNN's kernel, but are one too few for it."""
        if x.ndim != 3 or x.shape[1] % 2 == 0 or (key is not None and self.dropout > 0.0):
            return False
        return _fits_kernel(x.dtype, x.shape[1] + 1, x.shape[1] + 1, x.shape[2] // self.heads, False)

    def _heads(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch heads width"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)
