"""Where carries at the frontier are kept: on disk, shared between runs and processes, or in memory alone.

A key's carries are stored in *chunks*, directories of ``.npy`` files that are written under a temporary name, renamed, and
never changed: two writers at worst store an example twice, and a killed one leaves nothing that is read. Each chunk has a
manifest; a damaged one is deleted when it is found, so that its examples are computed again. Files are memory-mapped.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Int

from transferlab.errors import TransferlabError
from transferlab.fetching import cache_dir
from transferlab.files import atomic_directory, file_lock, is_full, remove_directory
from transferlab.manifest import Damaged, check_manifest, write_manifest
from transferlab.models.backbone import Carry

_LOG = logging.getLogger(__name__)

CHUNK_BYTES = 64 << 20
"""A chunk is written once it is larger than this: a killed feature pass loses no more."""


@dataclass
class _Chunk:
    """Carries of some examples: arrays with one row each, or sequences of different lengths end to end, with their offsets."""

    arrays: dict[str, np.ndarray]
    offsets: np.ndarray
    nbytes: int


@dataclass
class _Store:
    """All chunks of one key, and where each example is: (chunk, row)."""

    chunks: list[_Chunk] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    pending: list[tuple[int, dict[str, np.ndarray], int]] = field(default_factory=list)
    pending_bytes: int = 0
    whole: set[bytes] = field(default_factory=set)
    """Sets of examples (as bytes of their indices) that are known to be complete."""


class FrontierCache:
    """Carries by key and example.

    Args:
        directory: where chunks are written; None keeps them in memory.
        limit: bytes that all keys may take together; the least recently used are dropped first, never those in use.

    Attributes:
        computed: how many examples this process has run through a prefix so far.
    """

    def __init__(self, directory: Path | None = None, limit: int = 20 << 30):
        self.directory, self.limit, self.computed = directory, limit, 0
        self._stores: dict[str, _Store] = {}

    def missing(self, key: str, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Return the examples that have no carry yet, neither from this process nor from another."""
        store = self._stores.setdefault(key, _Store())
        examples = indices.tobytes()
        if examples in store.whole:
            return np.array([], np.int64)
        self._look(key, store)
        missing = np.array(sorted({int(i) for i in indices} - store.places.keys()), np.int64)
        if not len(missing):
            store.whole.add(examples)
        return missing

    def add(
        self,
        key: str,
        indices: Sequence[int],
        carry: Carry,
        sequence_entries: Sequence[str],
        spans: Sequence[slice],
        *,
        counted: bool = True,
    ) -> None:
        """Store the rows of a computed carry; entries with an axis of length are cut to each example's own span.

        ``counted`` is False for further keys that the same pass fills.

        Raises:
            TransferlabError: they could not be written to disk.
        """
        store = self._stores[key]
        for row, index in enumerate(indices):
            span = spans[row]
            own = {n: np.array(v[row, span] if n in sequence_entries else v[row]) for n, v in carry.items()}
            store.pending.append((int(index), own, span.stop - span.start))
            store.pending_bytes += sum(value.nbytes for value in own.values())
        self.computed += len(indices) if counted else 0
        if store.pending_bytes > CHUNK_BYTES:
            self.flush(key, sequence_entries)

    @contextmanager
    def alone(self, key: str, needed: bool = True) -> Iterator[None]:
        """Hold the key, where ``needed``: other processes that want it wait, and find what this one wrote."""
        if self.directory is None or not needed:
            yield
            return
        with file_lock(self.directory / key / ".lock"):
            yield

    def sequences(self, key: str, name: str, indices: Int[np.ndarray, " n"]) -> list[np.ndarray]:
        """Return an entry with an axis of length, of each of these examples."""
        store = self._stores[key]
        found = []
        for chunk, at in (store.places[int(i)] for i in indices):
            start, stop = store.chunks[chunk].offsets[at : at + 2]
            found.append(store.chunks[chunk].arrays[name][start:stop])
        return found

    def flush(self, key: str, sequence_entries: Sequence[str]) -> None:
        """Write what was added since the last chunk.

        Raises:
            TransferlabError: it could not be written to disk.
        """
        store = self._stores[key]
        if not store.pending:
            return
        self._make_room(key, store.pending_bytes)
        index = np.array([index for index, _, _ in store.pending], np.int64)
        offsets = np.concatenate([[0], np.cumsum([length for _, _, length in store.pending])]).astype(np.int64)
        arrays = {}
        for name in store.pending[0][1]:
            rows = [own[name] for _, own, _ in store.pending]
            arrays[name] = np.concatenate(rows) if name in sequence_entries else np.stack(rows)
        store.pending, store.pending_bytes = [], 0
        if self.directory is None:
            self._take(store, index, _Chunk(arrays, offsets, sum(a.nbytes for a in arrays.values())))
            return
        name = uuid.uuid4().hex
        try:
            with atomic_directory(self.directory / key / name) as folder:
                np.save(folder / "index.npy", index)
                np.save(folder / "offsets.npy", offsets)
                np.save(folder / "names.npy", np.array(sorted(arrays)))
                for part, array in arrays.items():
                    _save(folder / f"carry {part.replace('/', '|')}.npy", array)
                write_manifest(folder)
        except OSError as error:
            cause = "the disk is full" if is_full(error) else str(error)
            raise TransferlabError(
                f"Cached features could not be written to {self.directory}: {cause}. Make room there, or set TRANSFERLAB_CACHE "
                "to another directory."
            ) from None
        self._look(key, store, own=name)

    def rows(
        self, key: str, indices: Int[np.ndarray, " n"], bucket: int, rows: int, sequence_entries: Sequence[str]
    ) -> Carry:
        """Return a batch's carry, padded with zeros to ``rows`` and, in ``sequence_entries``, to the bucket's length."""
        store = self._stores[key]
        places = [store.places[int(i)] for i in indices]
        out = {}
        for name, first in store.chunks[places[0][0]].arrays.items():
            if name in sequence_entries:
                batch = np.zeros((rows, bucket, *first.shape[1:]), first.dtype)
                for row, (chunk, at) in enumerate(places):
                    start, stop = store.chunks[chunk].offsets[at : at + 2]
                    batch[row, : stop - start] = store.chunks[chunk].arrays[name][start:stop]
            else:
                batch = np.zeros((rows, *first.shape[1:]), first.dtype)
                for chunk in {chunk for chunk, _ in places}:
                    members = np.array([row for row, (c, _) in enumerate(places) if c == chunk])
                    batch[members] = store.chunks[chunk].arrays[name][[places[row][1] for row in members]]
            out[name] = batch
        return out

    @property
    def nbytes(self) -> int:
        """Bytes in the cache: this process's in memory, or all processes' on disk."""
        if self.directory is None:
            return sum(chunk.nbytes for store in self._stores.values() for chunk in store.chunks)
        total = 0
        for folder, _, files in os.walk(self.directory):
            for file in files:
                # Another process may rename or delete the file meanwhile.
                with suppress(OSError):
                    total += os.stat(os.path.join(folder, file)).st_size
        return total

    # -----------------------------------------------------------------------------------------------------------

    def _look(self, key: str, store: _Store, own: str = "") -> None:
        """Map the chunks on disk that are not mapped yet; ``own`` was just written by this process."""
        if self.directory is None or not (folder := self.directory / key).is_dir():
            return
        with suppress(OSError):
            os.utime(folder)
        for path in sorted(folder.iterdir()):
            if path.name in store.names or path.name.startswith("."):
                continue
            try:
                if path.name != own and not check_manifest(path):
                    raise Damaged(f"{path} has no manifest.")
                index, offsets = np.load(path / "index.npy"), np.load(path / "offsets.npy")
                arrays = dict(_open(file) for file in sorted(path.glob("carry *.npy")))
                if sorted(arrays) != np.load(path / "names.npy").tolist():
                    raise ValueError("a file is missing")
            except (OSError, ValueError, TransferlabError) as error:
                # Another process may have deleted it meanwhile.
                if path.exists():
                    _LOG.warning("Damaged cached features are deleted and computed again: %s", error)
                    _discard(path)
                continue
            store.names.add(path.name)
            self._take(store, index, _Chunk(arrays, offsets, sum(a.nbytes for a in arrays.values())))

    def _take(self, store: _Store, index: np.ndarray, chunk: _Chunk) -> None:
        store.chunks.append(chunk)
        for row, example in enumerate(index.tolist()):
            store.places[example] = (len(store.chunks) - 1, row)

    def _make_room(self, key: str, size: int) -> None:
        """Drop other keys, the least recently used first, so that the limit is not exceeded."""
        if self.directory is None:
            for other in [name for name in self._stores if name != key]:
                if self.nbytes + size <= self.limit:
                    return
                del self._stores[other]
            return
        if self.nbytes + size <= self.limit or not self.directory.is_dir():
            return
        hour_ago = time.time() - 3600
        others = [path for path in self.directory.iterdir() if path.is_dir() and path.name not in self._stores]
        for path in sorted(others, key=lambda path: path.stat().st_mtime):
            if self.nbytes + size <= self.limit:
                return
            # One used within the hour may be another process's: a mapped file outlives its name, a new chunk does not.
            if path.stat().st_mtime < hour_ago:
                shutil.rmtree(path, ignore_errors=True)


def _discard(path: Path) -> None:
    """Delete anything that is not a whole chunk; where that is not permitted, it stays unread."""
    if path.is_dir():
        remove_directory(path)
    else:
        with suppress(OSError):
            path.unlink()


def _save(path: Path, array: np.ndarray) -> None:
    """NumPy writes bfloat16 as bytes without a type: it is stored as 16-bit integers, and the file's name says so."""
    if array.dtype == ml_dtypes.bfloat16:
        np.save(path.with_name(f"{path.stem} as bfloat16.npy"), array.view(np.uint16))
    else:
        np.save(path, array)


def _open(path: Path) -> tuple[str, np.ndarray]:
    name = path.stem.removeprefix("carry ").replace("|", "/")
    array = np.load(path, mmap_mode="r")
    if name.endswith(" as bfloat16"):
        return name.removesuffix(" as bfloat16"), array.view(ml_dtypes.bfloat16)
    return name, array


def shared_cache() -> FrontierCache:
    """The cache that runs of all processes share: on disk, in the user's cache directory (``TRANSFERLAB_CACHE``)."""
    return _cache_at(cache_dir() / "frontier")


@cache
def _cache_at(directory: Path) -> FrontierCache:
    return FrontierCache(directory)
