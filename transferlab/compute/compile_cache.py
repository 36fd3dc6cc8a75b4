"""JAX's cache of compiled programs on disk, with a hash after each entry.

JAX notices damage only if its decompressor or XLA does, and then leaves the entry as it is, so that every later start
compiles again. And an executable with a flipped bit would run.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface

from transferlab.fetching import SET_CACHE

_LOG = logging.getLogger(__name__)


class _Hashed(CacheInterface):
    """Another cache, whose entries end with their SHA-256; a damaged entry is removed, and counts as missing."""

    def __init__(self, base: CacheInterface):
        self._base, self._path = base, base._path

    def get(self, key: str) -> Any:
        stored = self._base.get(key)
        if stored is None:
            return None
        value, digest = stored[:-32], stored[-32:]
        if hashlib.sha256(value).digest() == digest:
            return value
        # Entries of earlier versions have no hash; these are compiled once more.
        _LOG.info("The compiled program %s is damaged; it is compiled again.", key)
        with suppress(OSError):
            Path(self._path, f"{key}-cache").unlink()
        return None

    def put(self, key: str, value: bytes) -> None:
        self._base.put(key, value + hashlib.sha256(value).digest())


def keep_compiled(directory: Path) -> None:
    """Keep compiled programs in a directory, between processes. If it cannot be made, a warning is logged, nothing more."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _LOG.warning("Compiled programs are not kept: %s cannot be made (%s); %s", directory, error.strerror, SET_CACHE)
        return
    file_cache = compilation_cache.get_file_cache
    if not hasattr(file_cache, "hashed"):

        def hashed(path: str) -> Any:
            pair = file_cache(path)
            return None if pair is None else (_Hashed(pair[0]), pair[1])

        hashed.hashed = True  # type: ignore[attr-defined]
        compilation_cache.get_file_cache = hashed
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
