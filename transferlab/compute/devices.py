"""The devices that programs run on: the CPU next to an accelerator, and how much memory a step may use."""

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
    """Return the bytes of memory that a step may use: the accelerator's, or this machine's; None where unknown."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits, default=None)
