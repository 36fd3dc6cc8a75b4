"""JAX's cache of compiled programs on disk, with a hash behind each entry.

JAX notices damage by what its decompressor or XLA says about it, if they do, and then leaves the entry as it is: each
later start compiles again. And an executable of which a bit has changed would run.
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
    """Another cache, whose entries end with their SHA-256; one that is damaged is removed and is then as if it were not there."""

    def __init__(self, base: CacheInterface):
        self._base, self._path = base, base._path

    def get(self, key: str) -> Any:
        stored = self._base.get(key)
        if stored is None:
            return None
        value, digest = stored[:-32], stored[-32:]
        if hashlib.sha256(value).digest() == digest:
            return value
        # Entries of earlier versions have no hash, and are compiled once more.
        _LOG.info("The compiled program %s is damaged, and compiled again.", key)
        with suppress(OSError):
            Path(self._path, f"{key}-cache").unlink()
        return None

    def put(self, key: str, value: bytes) -> None:
        self._base.put(key, value + hashlib.sha256(value).digest())


def keep_compiled(directory: Path) -> None:
    """Keep compiled programs in a directory, between processes; where none can be made, that is logged and no more."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _LOG.warning("Compiled programs are not kept: %s cannot be made (%s); %s", directory, error.strerror, SET_CACHE)
        return
    made = compilation_cache.get_file_cache
    if not hasattr(made, "hashed"):

        def hashed(path: str) -> Any:
            found = made(path)
            return None if found is None else (_Hashed(found[0]), found[1])

        hashed.hashed = True  # type: ignore[attr-defined]
        compilation_cache.get_file_cache = hashed
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
