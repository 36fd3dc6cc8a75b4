"""From examples to batches of fixed shapes: every batch of a run is a function of (seed, step), so resuming is indexing."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from transferlab.data.dataset import Dataset
from transferlab.data.images import ImageTransform
from transferlab.data.packing import NARROWEST, Packed, pack
from transferlab.data.text import Kept, TextTransform
from transferlab.errors import TransferlabError


@dataclass
class Feed:
    """Preprocessed access to a data set: model inputs for any choice of its examples.

    Texts are tokenised once and kept (they are small); images are decoded and transformed when asked for.
    """

    data: Dataset
    transform: TextTransform | ImageTransform
    _kept: Kept = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reads = "text" if isinstance(self.transform, TextTransform) else "image"
        if reads != self.data.modality:
            raise TransferlabError(
                f"Data set '{self.data.name}' holds {self.data.modality}s, but the source reads {reads}s."
            )
        kept = self.transform.kept if isinstance(self.transform, TextTransform) else {}
        self._kept = kept.setdefault(self.data.sha256, Kept())

    def prepare(self, indices: Int[np.ndarray, " n"]) -> None:
        """Tokenise what has not been yet."""
        if isinstance(self.transform, TextTransform):
            new = [int(i) for i in indices if int(i) not in self._kept.encoded]
            texts, ids = [self.data.records[i]["text"] for i in new], [self.data.ids[i] for i in new]
            self._kept.encoded.update(zip(new, self.transform.encode(texts, ids), strict=True))

    def buckets(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The padded length of each example; zeros for images, which all have one shape."""
        if not isinstance(self.transform, TextTransform):
            return np.zeros(len(indices), np.int32)
        mark = np.ascontiguousarray(indices).tobytes()
        if mark not in self._kept.buckets:
            self.prepare(indices)
            lengths = [self.transform.bucket(self.length(int(i))) for i in indices]
            self._kept.buckets[mark] = made = np.array(lengths, np.int32)
            made.flags.writeable = False
        return self._kept.buckets[mark]

    def truncated(self, indices: Int[np.ndarray, " n"]) -> int:
        """How many of these texts are longer than the model's limit."""
        if not isinstance(self.transform, TextTransform):
            return 0
        mark = np.ascontiguousarray(indices).tobytes()
        if mark not in self._kept.truncated:
            self.prepare(indices)
            self._kept.truncated[mark] = sum(self._kept.encoded[int(i)].cut > 0 for i in indices)
        return self._kept.truncated[mark]

    def length(self, index: int) -> int:
        """Number of tokens of one text."""
        return len(self._kept.encoded[int(index)].ids)

    def span(self, index: int, bucket: int) -> slice:
        """Where a text's own tokens stand in a batch padded to ``bucket``; empty for an image, which has none."""
        if not isinstance(self.transform, TextTransform):
            return slice(0, 0)
        length = self.length(index)
        return slice(0, length) if self.transform.side == "right" else slice(bucket - length, bucket)

    @property
    def packs(self) -> bool:
        """Whether it holds texts that can share rows; padded on the left, their positions hang on the padding."""
        return isinstance(self.transform, TextTransform) and self.transform.side == "right"

    def packed(self, indices: Int[np.ndarray, " n"], tokens: int, first_position: int) -> Iterator[Packed]:
        """Batches of about ``tokens`` that hold each of these texts once, many to a row."""
        assert isinstance(self.transform, TextTransform)
        self.prepare(indices)
        texts = [self._kept.encoded[int(i)] for i in indices]
        kind = self.transform
        longest = max((len(text.ids) for text in texts), default=0)
        width = kind.bucket(max(longest, min(NARROWEST, kind.max_length)))
        return pack(texts, width, tokens, pad=kind.pad_id, types=kind.types, first_position=first_position)

    def inputs(self, indices: Int[np.ndarray, " n"], bucket: int, rows: int) -> dict[str, np.ndarray]:
        """Model inputs for these examples, padded to ``rows`` and, for texts, to ``bucket`` tokens."""
        if isinstance(self.transform, TextTransform):
            self.prepare(indices)
            return self.transform.pad([self._kept.encoded[int(i)] for i in indices], bucket, rows)
        pixels = np.zeros((rows, self.transform.size, self.transform.size, self.transform.channels), np.float32)
        for row, i in enumerate(indices):
            pixels[row] = self.transform(self.data.records[int(i)]["image"])
        return {"pixel_values": pixels}


@dataclass(frozen=True)
class Batch:
    """Which examples stand in a batch, and how long it is padded."""

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
class TrainingOrder:
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


_orders: weakref.WeakValueDictionary[tuple, TrainingOrder] = weakref.WeakValueDictionary()


def training_order(
    indices: Int[np.ndarray, " n"], buckets: Int[np.ndarray, " n"], size: int, steps: int, seed: int, group: bool
) -> TrainingOrder:
    """Return the order of these examples. Runs that ask for the same get the same object, and can share their batches."""
    mark = (indices.tobytes(), buckets.tobytes(), size, steps, seed, group)
    made = _orders.get(mark)
    if made is None:
        _orders[mark] = made = TrainingOrder(indices, buckets, size, steps, seed, group)
    return made


Order = TrainingOrder | Sequence[Any]
"""What stands in each step."""


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
