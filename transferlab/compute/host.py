"""What a process needs of its host: large pages for what XLA's CPU backend allocates, and a Ctrl-C that is not lost.

XLA asks for a step's temporary buffers anew at each call, hundreds of MB, and glibc hands them back to the system each
time. The next step meets every 4 KiB page of them for the first time: 148 000 page faults in one full fine-tuning step
of MiniLM on 32 × 64 tokens, a tenth of its time. With pages of 2 MiB there are a few hundred.
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


def interrupt(number: int, frame: FrameType | None) -> None:
    """A handler of SIGINT that raises ``KeyboardInterrupt`` where it is heard: Python drops what a finalizer raises, and JAX
    runs one at every garbage collection, so there the signal is sent again.
    """
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_xla_gc_callback"):
            _send_again(number)
            return
        frame = frame.f_back
    _HEARD.set()
    raise KeyboardInterrupt


_HEARD = threading.Event()
"""Set when the last Ctrl-C was raised where it is heard."""


def _send_again(number: int) -> None:
    _HEARD.clear()
    handler = signal.getsignal(number)

    def send() -> None:
        # To the process: the main thread may be waiting, and wakes up for it; one that comes just before it waits does not
        # wake it, so another follows.
        while not _HEARD.wait(0.02) and signal.getsignal(number) is handler:
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def catch_interrupts() -> None:
    """Let no Ctrl-C get lost from now on, neither in a finalizer nor in a callback of C code that cannot raise."""
    # What was started with Ctrl-C ignored, as by a shell in the background, goes on ignoring it.
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
    """As :func:`catch_interrupts`, for a block or a decorated function; handlers of the program's own stay."""
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
