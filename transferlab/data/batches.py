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
    """Which examples are in a batch, and how long it is padded."""

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
    """Return batches of ``size`` that hold every example once, each of one padded length."""
    if size < 1:
        raise TransferlabError(f"rows is {size}; examples are computed at least 1 at a time.")
    out = []
    for bucket in sorted(set(buckets.tolist())):
        rows = indices[buckets == bucket]
        out += [Batch(rows[i : i + size], bucket) for i in range(0, len(rows), size)]
    return out


@dataclass(frozen=True)
class BatchSampler:
    """All batches of a run, by step. ``order[step]`` costs one epoch's shuffle at most. Threads may share it."""

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
        """Batches an epoch has; the last may be partial."""
        return -(-len(self.indices) // self.size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        # Runs on one order that train side by side are not in the same epoch.
        with self._lock:
            if epoch not in self._epochs:
                if len(self._epochs) > 3:
                    self._epochs.pop(min(self._epochs))
                self._epochs[epoch] = epoch_order(self.indices, self.buckets, self.size, self.seed, epoch, self.group)
            return self._epochs[epoch][place]


_orders: weakref.WeakValueDictionary[tuple, BatchSampler] = weakref.WeakValueDictionary()


def batch_sampler(
    indices: Int[np.ndarray, " n"], buckets: Int[np.ndarray, " n"], size: int, steps: int, seed: int, group: bool
) -> BatchSampler:
    """Return the order of these examples. Runs that ask for the same get the same object, and can share their batches."""
    mark = (indices.tobytes(), buckets.tobytes(), size, steps, seed, group)
    made = _orders.get(mark)
    if made is None:
        _orders[mark] = made = BatchSampler(indices, buckets, size, steps, seed, group)
    return made


Order = BatchSampler | Sequence[Any]
"""What each step holds."""


class _Made(Sequence[dict[str, Any]]):
    """Random access to finished batches, which is what Grain reads from."""

    def __init__(self, order: Order, make: Callable[[Any], dict[str, Any]]):
        self.order, self.make = order, make

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: Any) -> Any:
        return self.make(self.order[int(step)])


def stream(
    order: Order, make: Callable[[Any], dict[str, Any]], start: int, prefetch: int = 2
) -> Iterator[dict[str, Any]]:
    """Iterate over finished batches from ``start`` on, made ahead of time in a thread by Grain."""
    # Imported where batches are streamed: with what it brings, a fifth of a second of each start.
    import grain

    made = grain.MapDataset.source(_Made(order, make))[start:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    yield from made.to_iter_dataset(options)


def weights(n: int, rows: int) -> Float[np.ndarray, " rows"]:
    """1 for the first ``n`` rows, 0 for padding."""
    return (np.arange(rows) < n).astype(np.float32)
