"""A clean stop: the first Ctrl-C or SIGTERM lets the step finish and a checkpoint be written, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from transferlab.compute.host import interrupt


class Interrupted(Exception):
    """The run was asked to stop; one that has a directory has saved there what it needs to continue."""


class StopRequest:
    """While it is entered, remembers the first SIGINT or SIGTERM in ``asked``; does nothing outside the main thread.

    A signal that the process ignores, as a shell has it for what runs in the background, stays ignored.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # None: a handler that is not Python's, which could not be put back.
                if signal.getsignal(number) in (signal.SIG_IGN, None):
                    continue
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            interrupt(number, frame)
        self.asked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
