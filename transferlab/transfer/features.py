"""The feature pass: what frozen stages make of each example, computed once and kept; ``extract_features`` gives it to anyone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from transferlab import trees
from transferlab.compute.host import interruptible
from transferlab.compute.prefetch import prefetch_map
from transferlab.data.batches import Batch, evaluation_order
from transferlab.data.dataset import Dataset, dataset
from transferlab.data.inputs import Inputs, TextInputs, inputs_for
from transferlab.data.packing import Packed
from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.models.backbone import Carry
from transferlab.models.heads import Pooling
from transferlab.models.network import sequence_entries
from transferlab.pretrained.loading import load
from transferlab.pretrained.network_source import NetworkSource
from transferlab.pretrained.source import Source
from transferlab.selectors import select
from transferlab.transfer.cache import FrontierCache, shared_cache
from transferlab.transfer.frontier import cache_key, packed_inputs, separated

PACKED_TOKENS = {"cpu": 1024, "accelerator": 16384}
"""Tokens in a batch of packed texts in a feature pass: on CPU, few enough that a layer's activations stay in the cache."""

Batches = Iterator[tuple[list[int], dict[str, np.ndarray], list[slice]]]
"""(rows, their carry, each row's span of the axis of length) of some rows of single views."""


def feature_batches(
    feed: Inputs,
    indices: Int[np.ndarray, " n"],
    size: int,
    apply: Callable[[dict[str, np.ndarray]], Carry],
    packed: Callable[[dict[str, np.ndarray]], Carry],
    first_position: int | None,
) -> Batches:
    """Run rows through a prefix, texts several to a row where the network can read them so.

    Args:
        feed: rows of single views.
        indices: the rows.
        size: how many are computed together, where they are not packed.
        apply: inputs → carry.
        packed: inputs of packed texts → carry.
        first_position: as the network's; None where it cannot read packed texts.
    """
    if isinstance(feed, TextInputs) and feed.packs and first_position is not None:
        tokens = PACKED_TOKENS["cpu" if jax.default_backend() == "cpu" else "accelerator"]

        def shared(batch: Packed) -> tuple[Packed, dict[str, np.ndarray]]:
            return batch, jax.device_get(packed(batch.inputs))

        for batch, carry in prefetch_map(shared, feed.packed(indices, tokens, first_position)):
            texts = indices[batch.texts].tolist()
            yield texts, carry, [slice(0, feed.length(text)) for text in texts]
        return
    batches = evaluation_order(indices, feed.buckets(indices), size)

    def one(batch: Batch) -> dict[str, np.ndarray]:
        return jax.device_get(apply(feed.inputs(batch.indices, batch.bucket, size)))

    for batch, carry in zip(batches, prefetch_map(one, batches), strict=True):
        yield batch.indices.tolist(), carry, [feed.span(int(i), batch.bucket) for i in batch.indices]


def keep_features(
    cache: FrontierCache,
    keys: Mapping[str, Sequence[str]],
    rows: Int[np.ndarray, " n"],
    compute: Callable[[Int[np.ndarray, " m"]], Batches],
    entries: Sequence[str],
    counted: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Compute what the cache lacks of these rows, and keep it. Processes that ask for the same wait for one of them.

    Args:
        cache: where carries are kept.
        keys: key → names of the carry's entries that are kept under it; an entry may be kept by another name, ``new=old``.
        rows: of single views.
        compute: rows → batches of their carries.
        entries: names of those with an axis of length.
        counted: called with how many of the missing rows are done, and how many there are.
    """
    with cache.alone(next(iter(keys)), any(len(cache.missing(key, rows)) for key in keys)):
        lacking = {key: cache.missing(key, rows) for key in keys}
        missing = np.unique(np.concatenate([*lacking.values(), np.array([], np.int64)]))
        done = 0
        try:
            for indices, carry, spans in compute(missing) if len(missing) else ():
                counted(done := done + len(indices), len(missing))
                filled = [key for key in keys if len(lacking[key])]
                for key in filled:
                    own = _entries(carry, keys[key])
                    present = [name for name in own if name in entries]
                    cache.add(key, indices, own, present, spans, counted=key == filled[0])
        finally:
            # Whatever was computed before a Ctrl-C is not computed again.
            for key in keys:
                cache.flush(key, entries)


def _entries(carry: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    if not names:
        return dict(carry)
    return {new: carry[old or new] for new, _, old in (name.partition("=") for name in names)}


# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Features(Mapping[str, Any]):
    """What stages make of a data set, as :func:`transferlab.extract_features` returns it: stage → array.

    Example:
        >>> features = tl.extract_features(source, data, "layers/5")
        >>> x, y = features["layers/5"][features.train], features.data.labels[features.data.train]

    Attributes:
        arrays: by stage, rows in the order of ``examples``: float32 (examples, features); without pooling
            (examples, …, features), or a :class:`~transferlab.data.ragged.Ragged` of (tokens, features) where texts differ in length.
        examples: the number in ``data`` of each row: of all that it trains on, validates on or tests on, in its order.
        data: the data set.
    """

    arrays: Mapping[str, Any]
    examples: Int[np.ndarray, " rows"]
    data: Dataset = field(repr=False)

    def __getitem__(self, stage: str) -> Any:
        if stage not in self.arrays:
            raise TransferlabError(f"'{stage}' was not extracted.{nearest(stage, self.arrays)}")
        return self.arrays[stage]

    def __contains__(self, stage: object) -> bool:
        return stage in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __repr__(self) -> str:
        return f"Features({len(self.examples):,} examples of {self.data.name!r}: {', '.join(self.arrays)})"

    @property
    def train(self) -> Int[np.ndarray, " train"]:
        """The rows of the training split, in its order."""
        return np.searchsorted(self.examples, self.data.train)

    @property
    def validation(self) -> Int[np.ndarray, " validation"]:
        """The rows of the validation split, in its order."""
        return np.searchsorted(self.examples, self.data.validation)

    @property
    def test(self) -> Int[np.ndarray, " test"]:
        """The rows of the test split, in its order."""
        return np.searchsorted(self.examples, self.data.test)


@check_arguments
@interruptible()
def extract_features(
    source: Source | str | Path,
    data: Any,
    stages: str | Sequence[str] | None = None,
    *,
    pool: str | None = "source",
    rows: int = 32,
    cache: FrontierCache | None = None,
) -> Features:
    """Return what these stages of a source make of each example, without a method, settings or a run.

    It is computed once: kept on disk under the source's hash, the data, the preprocessing and the stage, for every process. All stages
    that are asked for take one pass.

    Args:
        source: from :func:`transferlab.load`; or what it opens.
        data: from :func:`transferlab.dataset`; or what it opens without further arguments.
        stages: names, or a selector of names (:func:`transferlab.select`): ``"layers/*"``, ``"depth >= -4"``. The last of the
            backbone by default. ``head`` is what a classifier puts out: its logits, which are never pooled.
        pool: how one vector is made of an example; ``source`` as the source does, of a stage before its pooler by the family's mean.
            None pools nothing.
        rows: how many examples are computed together.
        cache: another one than all processes share, as ``FrontierCache()`` in memory.

    Raises:
        TransferlabError: a stage that the source lacks (the nearest is named), a pooling that it cannot do, or data of another kind.

    Example:
        >>> features = tl.extract_features("minilm-l6", "tweets", "layers/*")
        >>> features["layers/5"][features.train].shape
    """
    source = source if isinstance(source, Source) else load(source)
    data = data if isinstance(data, Dataset) else dataset(data)
    if isinstance(source, NetworkSource) and data.content == "array":
        source = source.for_shape(tuple(data.records[0]["array"].shape))
    network, names = source.network, _stages(source, stages)
    if source.transform is None:
        raise TransferlabError(
            f"{source.name} came without a tokenizer or image preprocessing, so it cannot read data. Put the files that define it, as "
            "tokenizer.json, next to its weights."
        )
    poolings = [each for each in network.poolings if "stages" not in each]  # those are of several at once
    if pool not in (*poolings, "source", None):
        raise TransferlabError(f"{source.name} cannot pool by '{pool}'.{nearest(str(pool), poolings)}")
    if pool is None and "head" in names:
        raise TransferlabError(
            "Logits are not pooled, and pool is None. Take them by themselves: stages='head', without pool=None."
        )
    feed = inputs_for(
        data.records, source.transform, content=data.content, ids=data.ids, sha256=data.sha256, name=data.name
    )
    examples = np.unique(np.concatenate([data.train, data.validation, data.test]))
    indices = feed.rows_of(examples)
    if pool is None and len(indices) > len(examples):
        raise TransferlabError(
            f"{source.name} reads long texts in windows, and without pooling these do not make one example. Pass pool='mean'."
        )
    pooling: Any = source.pooling if pool == "source" else pool
    places = {stage.name: number for number, stage in enumerate(network.stages, 1)} | {"head": len(network.stages)}
    stops = tuple((name, places[name]) for name in names)
    entry = "hidden" if pool is None else "features"
    keys = {name: _key(source, data, feed, name, stop, pooling) for name, stop in stops}
    cache = shared_cache() if cache is None else cache
    entries = sequence_entries(network) if pool is None else ()

    def compute(missing: Int[np.ndarray, " m"]) -> Batches:
        apply, packed = _functions(network, stops, pooling, source.dtype)
        first = getattr(network, "first_position", None)
        params, state = source.arrays
        return feature_batches(
            feed, missing, rows, lambda x: apply(params, state, x), lambda x: packed(params, state, x), first
        )

    keep_features(cache, {key: (f"{entry}={name}",) for name, key in keys.items()}, indices, compute, entries)
    arrays = {name: _read(cache, key, entry, indices, feed.examples_of(indices), entries) for name, key in keys.items()}
    return Features(arrays, examples, data)


def _stages(source: Source, stages: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of the stages that are meant, in the order of the network."""
    if source.towers:
        raise TransferlabError(
            f"{source.name} has several towers; take the stages of one: tl.load('{source.name}', tower='{next(iter(source.towers))}')."
        )
    every = source.network.stages[: source.network.backbone]
    known = [stage.name for stage in every]
    later = next((n for n, stage in enumerate(every) if stage.takes_inputs), len(every))
    if (splits_at := getattr(source.network, "splits_at", None)) is not None:
        known = [name for number, name in enumerate(known, 1) if splits_at(number)]
        later = len(known)
    logits = ("head",) if source.head is not None and source.head.labels else ()
    asked = [known[later - 1]] if stages is None else [stages] if isinstance(stages, str) else list(stages)
    chosen: set[str] = set()
    for pattern in asked:
        if pattern in (*known[:later], *logits):
            chosen.add(pattern)
            continue
        try:
            chosen |= select(pattern).match(known[:later], [(name,) for name in known[:later]])
        except TransferlabError as error:
            what = "needs inputs of its own" if pattern in known else "is no stage of its backbone"
            raise TransferlabError(
                f"{source.name}: '{pattern}' {what}.{nearest(pattern, known[:later])} ({error})"
            ) from None
    return tuple(name for name in (*known, *logits) if name in chosen)


def _key(source: Source, data: Dataset, feed: Inputs, name: str, stop: int, pooling: Pooling | None) -> str:
    key = cache_key({}, {}, source.network, stop, source.transform, data.sha256 + feed.key, source.dtype, source.sha256)
    return hashlib.sha256(f"{key} of {name} pooled by {pooling}".encode()).hexdigest()


@lru_cache(maxsize=32)
def _functions(network: Any, stops: tuple[tuple[str, int], ...], pooling: Pooling | None, compute: str) -> Any:
    """(params, state, inputs) → what each stage makes of them, by its name; and the same of packed texts."""

    def of(carry: Carry) -> Any:
        if "logits" in carry:
            return carry["logits"]
        if pooling is None:
            return carry["hidden"]
        by: Pooling = pooling
        if (pooling == "pooler" and "pooled" not in carry) or (pooling == "embedding" and "embedding" not in carry):
            by = "mean"  # a stage before the one that pools
        return network.pool(carry, by)

    def apply(params: trees.Tree, state: trees.Tree, inputs: dict[str, Any]) -> Carry:
        out, carry, start = {}, trees.cast(inputs, compute), 0
        for name, stop in stops:
            carry, _ = network.run(params, state, carry, start=start, stop=stop, compute=compute)
            out[name], start = of(carry), stop
        return out

    def packed(params: trees.Tree, state: trees.Tree, inputs: dict[str, Any]) -> Carry:
        out, start, apart = {}, 0, None
        together, places = packed_inputs(inputs)
        for name, stop in stops:
            until = min(stop, network.tokens_until)
            if start < until:
                together, _ = network.run(params, state, together, start=start, stop=until, compute=compute)
                start, apart = until, separated(together, *places)
            if start < stop:
                assert apart is not None
                apart, _ = network.run(params, state, apart, start=start, stop=stop, compute=compute)
                start = stop
            assert apart is not None
            out[name] = of(apart)
        return out

    return jax.jit(apply), jax.jit(packed)


def _read(
    cache: FrontierCache,
    key: str,
    name: str,
    rows: Int[np.ndarray, " rows"],
    examples: Int[np.ndarray, " rows"],
    entries: Sequence[str],
) -> Any:
    """The kept entry of these rows, float32; the mean over the rows of an example."""
    if name in entries:
        return Ragged.of([np.asarray(array, np.float32) for array in cache.sequences(key, name, rows)])
    values = np.asarray(cache.rows(key, rows, 0, len(rows), ())[name], np.float32)
    unique, place, count = np.unique(examples, return_inverse=True, return_counts=True)
    if len(unique) == len(values):
        return values
    total = np.zeros((len(unique), *values.shape[1:]), np.float32)
    np.add.at(total, place, values)
    return total / count.reshape(-1, *[1] * (values.ndim - 1))
