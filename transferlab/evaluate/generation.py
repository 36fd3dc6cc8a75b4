"""``generate``: text from a language model: a prefill, then one compiled step in a loop, with a cache of fixed length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from transferlab import trees
from transferlab.bounds import Bounds, Natural, NonNegative
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, check_arguments
from transferlab.evaluate.sequences import greedy_program, is_sequence_model
from transferlab.fields import check_fields
from transferlab.models.backbone import last_token
from transferlab.models.causal import Decoder
from transferlab.models.heads import LanguageModelConfig
from transferlab.models.layers import Key
from transferlab.models.nnx_network import NnxNetwork
from transferlab.pretrained.source import Source


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: sample only from this many of the most likely tokens; 0 is all.
        top_p: of those, only the most likely that together have this probability (Holtzman et al. 2020).
    """

    temperature: NonNegative = 0.0
    top_k: Natural = 0
    top_p: Annotated[float, Bounds(0.0, 1.0, above=True)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.temperature == 0.0 and (self.top_k or self.top_p < 1.0):
            raise TransferlabError(
                "top_k and top_p have no effect at temperature 0, which takes the most likely token; set a temperature above 0."
            )


@dataclass(frozen=True)
class Generated:
    """The continuation of each prompt, as :func:`transferlab.generate` returns it.

    Attributes:
        tokens: one tuple of token ids per prompt, including the token that ended it.
        texts: the same as text, without special tokens; empty strings where the source has no tokenizer.
        stopped: whether a prompt's text ended with a stop token, and not at ``max_new_tokens``.
    """

    tokens: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    stopped: tuple[bool, ...]


@check_arguments
def generate(
    source: Source,
    prompts: str | Sequence[str] | Mapping[str, Any],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[int] | None = None,
) -> Generated:
    """Continue each prompt with a language model; an encoder and a decoder (T5) write what follows from it.

    The prompts of a call are one batch; a continuation depends neither on the other prompts nor on padding.

    Example:
        >>> tl.generate(source, "Once upon a time", max_new_tokens=8).texts
        >>> tl.generate(source, {"input_ids": [[7, 8, 9]]}, temperature=0.8, top_p=0.9, seed=1).tokens

    Args:
        source: a checkpoint with a language-model head.
        prompts: a text or several; or ``input_ids`` (batch, length) with, optionally, ``attention_mask``, padded on either
            side.
        max_new_tokens: the most tokens that a prompt is continued by.
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: sample only from this many of the most likely tokens; 0 is all.
        top_p: of those, only the most likely that together have this probability.
        seed: of the sampling.
        stop: ids of the tokens that end a text; by default the checkpoint's ``eos_token_id``, or what its tokenizer ends texts with.

    Returns:
        A :class:`transferlab.evaluate.generation.Generated`: tokens, texts, and whether each ended by itself.

    Raises:
        TransferlabError: a source without such a head, a prompt without tokens, more tokens than the model has
            positions, or a temperature for an encoder and a decoder.
    """
    pair = is_sequence_model(source.definition)
    if not isinstance(source.head, LanguageModelConfig) or not (pair or isinstance(source.definition.module, Decoder)):
        raise TransferlabError(
            f"{source.name} ({source.family}) cannot generate text: it has no language-model head over a decoder. Load a decoder, as "
            "tl.load('smollm2-135m'), or a T5."
        )
    if max_new_tokens < 1:
        raise TransferlabError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
    sampling = Sampling(temperature, top_k, top_p)
    ids, mask = _tokens(source, [prompts] if isinstance(prompts, str) else prompts)
    if pair:
        return _written(source, ids, mask, max_new_tokens, sampling, stop)
    longest = source.config.max_position_embeddings
    if (most := int(mask.sum(1).max()) + max_new_tokens) > longest:
        fit = longest - most + max_new_tokens
        raise TransferlabError(
            f"Prompt and new tokens are {most} tokens, but {source.name} has {longest} positions; "
            + (f"pass max_new_tokens={fit}." if fit > 0 else "give a shorter prompt.")
        )
    ends = tuple(source.config.eos_token_id if stop is None else stop)
    params, state = source.arrays
    program = _program(source.network, source.dtype, max_new_tokens, sampling.temperature > 0)
    new, lengths = program(
        params, state, ids, mask, _padded(ends), jnp.float32(sampling.temperature), jnp.int32(sampling.top_k),
        jnp.float32(sampling.top_p), jax.random.key(seed),
    )  # fmt: skip
    new, lengths = np.asarray(new), np.asarray(lengths)
    tokens = tuple(tuple(int(t) for t in row[:n]) for row, n in zip(new, lengths, strict=True))
    decode = source.tokenizer.decode if source.tokenizer is not None else lambda ids: ""
    texts = tuple(decode([t for t in row if t not in ends]) for row in tokens)
    return Generated(tokens, texts, tuple(row[-1] in ends for row in tokens))


def _written(
    source: Source, ids: np.ndarray, mask: np.ndarray, count: int, sampling: Sampling, stop: Sequence[int] | None
) -> Generated:
    """What an encoder and a decoder write of texts: the likeliest token each time."""
    if sampling.temperature:
        raise TransferlabError(
            f"temperature is {sampling.temperature:g}, but {source.name}, an encoder and a decoder, writes the likeliest token each time. "
            "Leave it out."
        )
    if stop is None and isinstance(source.transform, TextTransform):
        stop = source.transform("a").ids[-1:]
    if stop is None or len(stop) != 1:
        raise TransferlabError(f"stop is {stop!r}, but {source.name} needs one token that ends a text, as stop=[1].")
    (end,) = map(int, stop)
    inputs = {"input_ids": jnp.asarray(ids), "attention_mask": jnp.asarray(mask.astype(np.int32))}
    rows = np.asarray(greedy_program(source.network, count)(*source.arrays, inputs, jnp.int32(end)))
    ends = [np.flatnonzero(row == end)[:1] for row in rows]
    tokens = tuple(tuple(row[: at[0] + 1 if len(at) else None].tolist()) for row, at in zip(rows, ends, strict=True))
    decode = source.tokenizer.decode if source.tokenizer is not None else lambda ids: ""
    return Generated(
        tokens, tuple(decode([t for t in row if t != end]) for row in tokens), tuple(bool(len(at)) for at in ends)
    )


def _tokens(source: Source, prompts: Sequence[str] | Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask, (batch, length); texts are padded on the left to a bucket."""
    if isinstance(prompts, Mapping):
        if unknown := sorted(prompts.keys() - {"input_ids", "attention_mask"}):
            raise TransferlabError(f"'{unknown[0]}' is not an input of generate; give input_ids and attention_mask.")
        ids = prompts.get("input_ids")
        if (isinstance(ids, (list, tuple)) and not ids) or getattr(ids, "size", 1) == 0:
            raise TransferlabError("There is no prompt.")  # an empty array has no type of its own
        inputs = source.checked(prompts)
        ids = np.asarray(inputs["input_ids"], np.int32)
        mask = np.asarray(inputs.get("attention_mask", np.ones_like(ids))).astype(bool)
    else:
        if not isinstance(source.transform, TextTransform):
            raise TransferlabError(f"{source.name} came without a tokenizer; give {{'input_ids': …}} instead of texts.")
        # sentence-transformers' prompt is for texts that are to become vectors.
        encoded = replace(source.transform, prompt="").encode(list(prompts))
        for text, one in zip(prompts, encoded, strict=True):
            if one.cut:
                raise TransferlabError(
                    f"The prompt '{text[:40]}…' is longer than {source.transform.max_length} tokens."
                )
        width = source.transform.bucket(max((len(one.ids) for one in encoded), default=1))
        ids = np.full((len(encoded), width), source.transform.pad_id, np.int32)
        mask = np.zeros((len(encoded), width), bool)
        for row, one in enumerate(encoded):
            if one.ids:
                ids[row, -len(one.ids) :], mask[row, -len(one.ids) :] = one.ids, True
    if not len(ids):
        raise TransferlabError("There is no prompt.")
    if (empty := np.flatnonzero(~mask.any(1))).size:
        raise TransferlabError(
            f"Prompt {empty[0]} has no tokens; give it at least one, such as the token that begins a text."
        )
    return ids, mask


def _padded(ends: tuple[int, ...]) -> Int[np.ndarray, " ends"]:
    """Ids that end a text, padded with ids that no token has, so that their number does not lead to recompilation."""
    return np.array([*ends, *[-1] * (-len(ends) % 8 or 8 * (not ends))], np.int32)


@lru_cache(maxsize=32)
def _program(network: NnxNetwork, dtype: str, count: int, sampled: bool) -> Any:
    """One compiled program for a model and a number of new tokens; prompts of one shape share it."""

    @jax.jit
    def program(
        params: trees.Tree,
        state: trees.Tree,
        ids: Int[Array, "batch length"],
        mask: Array,
        ends: Int[Array, " ends"],
        temperature: Array,
        top_k: Array,
        top_p: Array,
        key: Key,
    ) -> tuple[Int[Array, "batch count"], Int[Array, " batch"]]:
        params, head = trees.cast(params, dtype), len(network.stages) - 1
        batch, length = ids.shape

        def forward(ids: Array, mask: Array, positions: Array, cache: Any) -> tuple[Array, Any]:
            """Logits after each row's last token, and the cache with these tokens in it."""
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "cache": cache}
            carry, _ = network.run(params, state, inputs, stop=head, compute=dtype)
            last = last_token(carry["mask"])[:, None, None]
            carry["hidden"] = jnp.take_along_axis(carry["hidden"], last, axis=1)
            cache = {**carry["cache"], "start": cache["start"] + ids.shape[1]}
            out, _ = network.run(params, state, carry, start=head, compute=dtype)
            return out["logits"][:, 0].astype(jnp.float32), cache

        def choose(logits: Array, step: Array) -> Array:
            if not sampled:
                return logits.argmax(-1).astype(jnp.int32)
            logits = filter_logits(logits / temperature, top_k, top_p)
            rows = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, step), row))(jnp.arange(batch))
            return jax.vmap(jax.random.categorical)(rows, logits).astype(jnp.int32)

        def ended(token: Array) -> Array:
            return (token[:, None] == ends).any(1)

        # Positions count the tokens that are not padding: a continuation does not depend on the side of padding.
        positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0).astype(jnp.int32)
        cache = network.module.cache(batch, length + count - 1, dtype)
        logits, cache = forward(ids, mask, positions, cache)
        first = choose(logits, jnp.int32(0))
        tokens = jnp.zeros((batch, count), jnp.int32).at[:, 0].set(first)
        seen = mask.sum(1).astype(jnp.int32)

        def unfinished(carry: Any) -> Array:
            step, _, done, _, _ = carry
            return (step < count) & ~done.all()

        def step(carry: Any) -> Any:
            number, tokens, done, lengths, cache = carry
            last = jax.lax.dynamic_index_in_dim(tokens, number - 1, axis=1)
            position = (seen + number - 1)[:, None]
            logits, cache = forward(last, jnp.ones((batch, 1), bool), position, cache)
            token = jnp.where(done, 0, choose(logits, number))
            tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, number))
            return number + 1, tokens, done | ended(token), lengths + ~done, cache

        start = (jnp.int32(1), tokens, ended(first), jnp.ones(batch, jnp.int32), cache)
        _, tokens, _, lengths, _ = jax.lax.while_loop(unfinished, step, start)
        return tokens, lengths

    return program


def filter_logits(
    logits: Float[Array, "batch vocabulary"], top_k: Int[Array, ""], top_p: Float[Array, ""]
) -> Float[Array, "batch vocabulary"]:
    """Logits with minus infinity outside the ``top_k`` most likely (0: all) and, of those, the ``top_p`` nucleus.

    The most likely token is always kept, and so are tokens as likely as the last one kept, as in transformers for ``top_k``.
    """
    sorted_ = -jnp.sort(-logits, axis=-1)
    size = logits.shape[-1]
    kth = sorted_[:, jnp.clip(jnp.where(top_k > 0, top_k, size), 1, size) - 1][:, None]
    inside = jnp.where(sorted_ >= kth, sorted_, -jnp.inf)
    probability = jax.nn.softmax(inside, axis=-1)
    # A token is kept if those that are more likely sum to less than top_p.
    before = jnp.cumsum(probability, axis=-1) - probability
    last = jnp.where((before < top_p) & (inside > -jnp.inf), inside, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits >= last, logits, -jnp.inf)
