"""Texts written by an encoder and a decoder: the likeliest token each time, with a cache of what is attended to."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from transferlab import trees
from transferlab.data.batches import evaluation_order
from transferlab.data.inputs import TextInputs
from transferlab.models.attention import attend
from transferlab.models.network import Network
from transferlab.models.nnx_network import NnxNetwork
from transferlab.models.t5 import T5, Attention, relative_buckets


def write_texts(
    network: Network,
    params: trees.Tree,
    state: trees.Tree,
    feed: TextInputs,
    indices: Int[np.ndarray, " n"],
    rows: int,
    longest: int,
) -> list[str]:
    """Return the text that the model writes for each of these examples, without special tokens.

    Args:
        network: of a T5 with its head.
        params: of the model.
        state: batch statistics.
        feed: the texts that are read.
        indices: of the examples.
        rows: how many are computed together.
        longest: tokens of the longest text.
    """
    tokenizer = feed.transform.tokenizer
    end = feed.transform("a").ids[-1]
    assert isinstance(network, NnxNetwork)
    program = greedy_program(network, longest)
    texts: dict[int, str] = {}
    for batch in evaluation_order(indices, feed.buckets(indices), rows):
        tokens = np.asarray(program(params, state, feed.inputs(batch.indices, batch.bucket, rows), jnp.int32(end)))
        for index, row in zip(batch.indices, tokens, strict=False):
            ended = np.flatnonzero(row == end)
            texts[int(index)] = tokenizer.decode(row[: ended[0] if len(ended) else None].tolist())
    return [texts[int(index)] for index in indices]


@lru_cache(maxsize=8)
def greedy_program(network: NnxNetwork, longest: int) -> Any:
    """Return the compiled (params, state, inputs, end) → tokens (batch, longest); those after ``end`` are 0."""

    @jax.jit
    def program(
        params: trees.Tree, state: trees.Tree, inputs: dict[str, Array], end: Array
    ) -> Int[Array, "batch longest"]:
        # The decoder runs here layer by layer, with a cache for each, and not by its stages.
        model = network.definition.merge(params, state)
        decoder, config = model.decoder, model.config
        read = [stage.name for stage in network.stages].index("decoder/embed")
        carry, _ = network.run(params, state, inputs, stop=read)
        encoded, mask = carry["hidden"], carry["mask"][:, None]
        table = decoder.layers[0].attention.relative
        bias = table(jnp.asarray(relative_buckets(config, longest, False))).transpose(2, 0, 1)
        batch, width = len(encoded), (config.num_heads, config.d_kv)
        across = [_keys(layer.cross_attention, encoded) for layer in decoder.layers]
        empty = jnp.zeros((batch, longest, *width), encoded.dtype)
        cache = [(empty, empty) for _ in decoder.layers]

        def step(carry: Any) -> Any:
            number, token, done, tokens, cache = carry
            x = model.encoder.embed.word(token[:, None])
            here = jax.lax.dynamic_slice_in_dim(bias, number, 1, axis=1)
            seen = jnp.broadcast_to(jnp.arange(longest) <= number, (batch, 1, longest))
            kept = []
            for layer, own, other in zip(decoder.layers, cache, across, strict=True):
                y = layer.attention.norm(x)
                own = tuple(
                    jax.lax.dynamic_update_slice_in_dim(old, new, number, axis=1)
                    for old, new in zip(own, _keys(layer.attention, y), strict=True)
                )
                x = x + _attended(layer.attention, y, own, seen, here)
                x = x + _attended(layer.cross_attention, layer.cross_attention.norm(x), other, mask, None)
                x = x + layer.mlp(layer.mlp.norm(x), None)
                kept.append(own)
            out, _ = network.run(params, state, {"hidden": decoder.norm(x)}, start=len(network.stages) - 1)
            following = jnp.where(done, 0, out["logits"][:, 0].argmax(-1).astype(jnp.int32))
            tokens = jax.lax.dynamic_update_slice_in_dim(tokens, following[:, None], number, axis=1)
            return number + 1, following, done | (following == end), tokens, kept

        def unfinished(carry: Any) -> Array:
            return (carry[0] < longest) & ~carry[2].all()

        first = jnp.full(batch, config.decoder_start_token_id, jnp.int32)
        # Rows of padding have nothing to write.
        done = ~carry["mask"].any(1)
        start = (jnp.int32(0), first, done, jnp.zeros((batch, longest), jnp.int32), cache)
        return jax.lax.while_loop(unfinished, step, start)[3]

    return program


def _keys(attention: Attention, states: Array) -> tuple[Array, Array]:
    """The keys and values of these states, (batch, length, heads, features) each."""
    shape = (*states.shape[:2], attention.heads, -1)
    return attention.key(states, None).reshape(shape), attention.value(states, None).reshape(shape)


def _attended(attention: Attention, x: Array, keys: tuple[Array, ...], mask: Array, bias: Array | None) -> Array:
    query = attention.query(x, None).reshape(*x.shape[:2], attention.heads, -1)
    mixed = attend(query, *keys, scale=1.0, mask=mask, bias=bias, rate=0.0, random=None)
    return attention.output(mixed, None)


def is_sequence_model(definition: trees.Definition) -> bool:
    """Whether :func:`greedy_program` can write with it."""
    return isinstance(definition.module, T5) and definition.module.decoder is not None
