"""A clean stop: the first Ctrl-C or SIGTERM lets the step finish and a checkpoint be written, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from transferlab.compute.host import interrupt


class Interrupted(Exception):
    """A run was asked to stop (Ctrl-C, SIGTERM). If it has a directory, it has saved there what it needs to continue.

    Example:
        >>> try:
        ...     run.fit()
        ... except tl.train.Interrupted:
        ...     print(f"The same run continues from {run.directory}.")
    """


class StopRequest:
    """While entered, remembers the first SIGINT or SIGTERM in ``asked``; does nothing outside the main thread.

    A signal that the process ignores, as background jobs of a shell do, stays ignored.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # None: a handler that is not Python's, which could not be restored.
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
