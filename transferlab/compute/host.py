"""The process and its host: large pages for the memory of XLA's CPU backend, and a Ctrl-C that is never lost.

XLA allocates a step's temporary buffers, hundreds of MB, at each call, and glibc returns them to the system each time. The
next step touches every 4 KiB page of them for the first time: 148 000 page faults in one full fine-tuning step of MiniLM
on 32 × 64 tokens, a tenth of its time. With pages of 2 MiB there are a few hundred.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

TUNABLE = "glibc.malloc.hugetlb=1"
"""Makes glibc request transparent huge pages (madvise) for its memory (glibc manual, Memory Allocation Tunables)."""

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that give a process large pages, to add to its environment; empty if there is nothing to do.

    This is so where the kernel always or never grants them, where the environment already sets ``GLIBC_TUNABLES``, and with
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
    """Start this process's program again with large pages, under the same process id, if it does not have them.

    glibc reads its tunables when a program starts, so that a running one cannot change them.
    """
    variables = large_pages(os.environ)
    if variables and sys.orig_argv:
        os.environ.update(variables)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT by raising ``KeyboardInterrupt`` where it takes effect. Python drops exceptions of finalizers, and JAX
    runs one at every garbage collection, so from there the signal is sent again.
    """
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_xla_gc_callback"):
            _send_again(number)
            return
        frame = frame.f_back
    _HEARD.set()
    raise KeyboardInterrupt


_HEARD = threading.Event()
"""Set when the last Ctrl-C was raised where it takes effect."""


def _send_again(number: int) -> None:
    _HEARD.clear()
    handler = signal.getsignal(number)

    def send() -> None:
        # To the process: the main thread may be waiting, and this wakes it up. A signal just before it waits does not, so
        # another follows.
        while not _HEARD.wait(0.02) and signal.getsignal(number) is handler:
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def catch_interrupts() -> None:
    """From now on lose no Ctrl-C, neither in a finalizer nor in a callback of C code that cannot raise."""
    # A process started with Ctrl-C ignored, such as a shell's background job, continues to ignore it.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    signal.signal(signal.SIGINT, interrupt)
    before = sys.unraisablehook

    def unraisable(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _send_again(signal.SIGINT)
        else:
            before(dropped)

    sys.unraisablehook = unraisable


@contextmanager
def interruptible() -> Iterator[None]:
    """Like :func:`catch_interrupts`, for a block or a decorated function; the program's own handlers stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    catch_interrupts()
    try:
        yield
    finally:
        if handler is signal.default_int_handler:
            signal.signal(signal.SIGINT, handler)
            sys.unraisablehook = hook
