"""A terminal of one's own: what a program writes to it, and what then stands on its screen."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TOKENS = re.compile(r"\x1b\[\??([0-9;]*)([A-Za-z])|\x1b\]8;.*?\x1b\\|\r|\n|[^\x1b\r\n]+", re.DOTALL)


def screen(written: str) -> list[str]:
    """The rows that these characters leave behind, for a cursor that moves by carriage return, line feed and up, and erases rows."""
    rows, row, column = [""], 0, 0
    for token in _TOKENS.finditer(written):
        text = token[0]
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif token[2] == "K":
            rows[row] = ""
        elif token[2] == "A":
            row -= int(token[1] or 1)
        elif not text.startswith("\x1b"):
            rows[row] = rows[row][:column].ljust(column) + text + rows[row][column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in rows]


class Terminal:
    """A pseudo-terminal; ``written`` is what was written to it so far."""

    def __init__(self) -> None:
        self.written = ""
        self.master, slave = os.openpty()
        self.file = os.fdopen(slave, "w", encoding="utf-8")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        # The last program that has it open leaves: an error on Linux.
        with suppress(OSError):
            while data := os.read(self.master, 1 << 16):
                self.written += data.decode()

    def close(self) -> None:
        self.file.close()
        self._thread.join()
        os.close(self.master)


@contextmanager
def at_a_terminal() -> Iterator[Terminal]:
    """While entered, stdout and stderr of this process are a terminal of 160 columns."""
    terminal, before = Terminal(), (sys.stdout, sys.stderr, dict(os.environ))
    os.environ.update(TERM="xterm", COLUMNS="160", LINES="25")
    sys.stdout = sys.stderr = terminal.file
    try:
        yield terminal
    finally:
        sys.stdout, sys.stderr = before[:2]
        os.environ.clear()
        os.environ.update(before[2])
        terminal.close()
