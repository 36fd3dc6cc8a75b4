"""The devices that programs run on: the CPU beside an accelerator, and how much memory a step may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax


def cpu_device() -> Any:
    """Return the CPU as a device of JAX; None where ``JAX_PLATFORMS`` leaves it out."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None


def device_bytes() -> int | None:
    """Bytes of memory that a step may use: the accelerator's, or this machine's; None where that is not known."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdigit():
        found.append(int(text))
    return min(found, default=None)
