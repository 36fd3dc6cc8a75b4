"""A report in the browser, and paths that a terminal can open."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from transferlab.errors import printable


def links(paths: Sequence[Path]) -> Text:
    """Return the paths in a line, each a link where the terminal knows links (OSC 8)."""
    return Text("  ").join(Text(printable(str(path)), style=f"link {path.resolve().as_uri()}") for path in paths)


def open_in_browser(page: Path, console: Console) -> None:
    """Open a page in the user's browser; print its address where there is none, as on a machine without a display."""
    address = page.resolve().as_uri()
    try:
        opened = webbrowser.open(address)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        text = f"No browser could be opened here. The report: {address}"
        console.print(Text(text, style=f"link {address}"), soft_wrap=True)
