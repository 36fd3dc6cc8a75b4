"""What a process needs of its host before it starts: large pages for what XLA's CPU backend allocates.

XLA asks for a step's temporary buffers anew at each call, hundreds of MB, and glibc hands them back to the system each
time. The next step meets every 4 KiB page of them for the first time: 148 000 page faults in one full fine-tuning step
of MiniLM on 32 × 64 tokens, a tenth of its time. With pages of 2 MiB there are a few hundred.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb=1"
"""glibc asks for transparent huge pages (madvise) for what it allocates (glibc manual, Memory Allocation Tunables)."""

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what to add to the environment of a process so that it gets large pages; empty where there is nothing to do.

    That is where the kernel grants them unasked or never, where the environment already sets ``GLIBC_TUNABLES``, and with
    ``TRANSFERLAB_LARGE_PAGES=0``. Other C libraries ignore the variable.
    """
    if environment.get("TRANSFERLAB_LARGE_PAGES") == "0" or "GLIBC_TUNABLES" in environment:
        return {}
    try:
        on_request = "[madvise]" in _ENABLED.read_text()
    except OSError:
        return {}
    return {"GLIBC_TUNABLES": TUNABLE} if on_request else {}


def restart_with_large_pages() -> None:
    """Start this process's program again with large pages, under the same process id, if it has not got them.

    glibc reads its tunables when a program starts, so a running one cannot change them.
    """
    wanted = large_pages(os.environ)
    if wanted and sys.orig_argv:
        os.environ.update(wanted)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
