"""A line that a thread draws a few times a second, on a terminal or in a notebook; elsewhere nothing is drawn."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.errors import LiveError
from rich.live import Live
from rich.text import Text

SECONDS = 0.25
"""Between two drawings. What ends sooner is never seen."""

_NOTEBOOK_WIDTH = 120
_MARGIN = 4
"""Columns that stay free: a terminal writes ``^C`` there, which may not begin another row."""


@runtime_checkable
class Place(Protocol):
    """Where a line is drawn."""

    @property
    def width(self) -> int: ...
    def draw(self, text: str) -> None: ...
    def clear(self) -> None: ...


@contextmanager
def drawn(line: Callable[[int], str]) -> Iterator[None]:
    """While entered, draw ``line(width)``, and remove it at the end, however that comes.

    Only in the main thread, where stdout is a terminal that can move its cursor, or a notebook.
    """
    place = _place() if threading.current_thread() is threading.main_thread() else None
    if place is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_draw, args=(line, place, over), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        try:
            thread.join()
        finally:
            with suppress(OSError, ValueError):
                place.clear()


def _draw(line: Callable[[int], str], place: Place, over: threading.Event) -> None:
    before = ""
    while not over.wait(SECONDS):
        text = line(place.width)
        if text == before:
            continue
        before = text
        try:
            place.draw(text)
        except (OSError, ValueError, LiveError):
            return  # The terminal is gone, or something else draws on it: the work goes on.


def _place() -> Place | None:
    console = Console()
    if console.is_jupyter:
        return _Notebook()
    # Not by rich alone: FORCE_COLOR makes a pipe a terminal to it.
    return _Terminal(console) if console.is_interactive and sys.stdout.isatty() else None


class _Terminal:
    """One row of a terminal, above which whatever is printed or logged meanwhile appears."""

    def __init__(self, console: Console):
        self._console = console
        # Where stderr is a file, it stays one.
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stderr=sys.stderr.isatty())
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []

    @property
    def width(self) -> int:
        return self._console.width - _MARGIN

    def draw(self, text: str) -> None:
        if not self._live.is_started:
            self._start()
        known = text.encode(self._console.encoding, "replace").decode(self._console.encoding)
        self._live.update(Text(known, no_wrap=True), refresh=True)

    def _start(self) -> None:
        before = {id(stream): name for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))}
        self._live.start()
        # A process that is killed leaves the cursor as it is.
        self._console.show_cursor(True)
        for handler in _handlers():
            if (name := before.get(id(handler.stream))) is not None:
                self._handlers.append((handler, handler.stream))
                handler.setStream(getattr(sys, name))

    def clear(self) -> None:
        for handler, stream in self._handlers:
            handler.setStream(stream)
        self._live.stop()


def _handlers() -> Iterator[logging.StreamHandler[Any]]:
    """All handlers that write to a stream, each of which holds the one that was there when it was made."""
    for logger in (logging.root, *list(logging.root.manager.loggerDict.values())):
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler):
                yield handler


class _Notebook:
    """An output of the cell that runs, which is replaced."""

    width = _NOTEBOOK_WIDTH

    def __init__(self) -> None:
        # It comes with every notebook, and is no dependency.
        display = importlib.import_module("IPython.display").display
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def draw(self, text: str) -> None:
        self._handle.update({"text/plain": text}, raw=True)

    def clear(self) -> None:
        self.draw("")
