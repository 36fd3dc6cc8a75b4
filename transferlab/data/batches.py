"""From examples to batches of fixed shapes: every batch of a run is a function of (seed, step), so resuming is indexing."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from transferlab.errors import TransferlabError


@dataclass(frozen=True)
class Batch:
    """The examples of a batch, and its padded length.

    Attributes:
        indices: of the examples.
        bucket: the length to which texts are padded; 0 for images.
    """

    indices: Int[np.ndarray, " n"]
    bucket: int


def epoch_order(
    indices: Int[np.ndarray, " n"],
    buckets: Int[np.ndarray, " n"],
    size: int,
    seed: int,
    epoch: int,
    group: bool = True,
) -> list[Batch]:
    """Return one epoch's batches, every example once.

    With ``group``, the shuffled examples are sorted by padded length within windows of 50 batches, so that short
    texts are not padded to long ones; the order of batches is shuffled again.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(indices))
    if group and len(set(buckets.tolist())) > 1:
        window = 50 * size
        pieces = [order[i : i + window] for i in range(0, len(order), window)]
        order = np.concatenate([piece[np.argsort(buckets[piece], kind="stable")] for piece in pieces])
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    if group:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return [Batch(indices[rows], int(buckets[rows].max())) for rows in batches]


def evaluation_order(indices: Int[np.ndarray, " n"], buckets: Int[np.ndarray, " n"], size: int) -> list[Batch]:
    """Return batches of ``size`` that contain every example once, each of one padded length.

    Raises:
        TransferlabError: a size below 1.
    """
    if size < 1:
        raise TransferlabError(f"rows is {size}; it must be at least 1.")
    out = []
    for bucket in sorted(set(buckets.tolist())):
        rows = indices[buckets == bucket]
        out += [Batch(rows[i : i + size], bucket) for i in range(0, len(rows), size)]
    return out


@dataclass(frozen=True)
class BatchSampler:
    """All batches of a run, by step. ``order[step]`` costs at most one epoch's shuffle. It is safe to share between threads."""

    indices: Int[np.ndarray, " n"]
    buckets: Int[np.ndarray, " n"]
    size: int
    steps: int
    seed: int
    group: bool
    _epochs: dict[int, list[Batch]] = field(default_factory=dict, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch; the last may be partial."""
        return -(-len(self.indices) // self.size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        # Concurrent runs that share this order need not be in the same epoch.
        with self._lock:
            if epoch not in self._epochs:
                if len(self._epochs) > 3:
                    self._epochs.pop(min(self._epochs))
                self._epochs[epoch] = epoch_order(self.indices, self.buckets, self.size, self.seed, epoch, self.group)
            return self._epochs[epoch][position]


_orders: weakref.WeakValueDictionary[tuple, BatchSampler] = weakref.WeakValueDictionary()


def batch_sampler(
    indices: Int[np.ndarray, " n"], buckets: Int[np.ndarray, " n"], size: int, steps: int, seed: int, group: bool
) -> BatchSampler:
    """Return the order of these examples. Equal arguments return the same object, so that runs can share their batches."""
    key = (indices.tobytes(), buckets.tobytes(), size, steps, seed, group)
    order = _orders.get(key)
    if order is None:
        _orders[key] = order = BatchSampler(indices, buckets, size, steps, seed, group)
    return order


Order = BatchSampler | Sequence[Any]
"""The contents of each step."""


class _Batches(Sequence[dict[str, Any]]):
    """Random access to finished batches, from which Grain reads."""

    def __init__(self, order: Order, make: Callable[[Any], dict[str, Any]]):
        self.order, self.make = order, make

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: Any) -> Any:
        return self.make(self.order[int(step)])


def stream(
    order: Order, make: Callable[[Any], dict[str, Any]], start: int, prefetch: int = 2
) -> Iterator[dict[str, Any]]:
    """Iterate over finished batches from ``start`` on, which a thread of Grain's makes ahead of time."""
    # Imported only where batches are streamed: with its dependencies it takes a fifth of a second.
    import grain

    batches = grain.MapDataset.source(_Batches(order, make))[start:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    yield from batches.to_iter_dataset(options)


def weights(n: int, rows: int) -> Float[np.ndarray, " rows"]:
    """Return 1 for the first ``n`` rows, 0 for padding."""
    return (np.arange(rows) < n).astype(np.float32)
