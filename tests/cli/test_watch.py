"""What a person sees while a study runs, on a terminal and in a log."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from transferlab.cli.browser import links
from transferlab.cli.watch import Watcher
from transferlab.studies.observer import Cell

CELL = Cell("lora", 64, 0)
RECORD = {"status": "finished", "test": {"accuracy": 0.8125}, "seconds": 3.21}


def watched(terminal: bool) -> str:
    out = io.StringIO()
    watcher = Watcher(Console(file=out, force_terminal=terminal, width=100))
    watcher.on_start(5, 2)
    watcher.cells([CELL], "tuning")
    watcher.step(3, 10, {"loss": 0.25})
    if watcher.progress is not None:
        watcher.progress.refresh()
    watcher.finished(CELL, RECORD)
    watcher.close()
    return out.getvalue()


def test_a_log_has_a_line_per_run_and_no_bars() -> None:
    text = watched(terminal=False)
    assert text.splitlines() == [
        "Continuing: 2 of 5 runs are finished.",
        "[  3/5] lora             64 labels  seed 0  accuracy 0.812     3.2 s",
    ]


def test_a_run_that_diverged_says_so_in_place_of_its_accuracy() -> None:
    out = io.StringIO()
    watcher = Watcher(Console(file=out, width=100))
    watcher.finished(CELL, {"status": "diverged at step 7", "test": {"accuracy": None}, "seconds": 3.21})
    assert "seed 0  diverged at step 7     3.2 s" in out.getvalue()


def test_paths_are_links_on_a_terminal_and_plain_elsewhere(tmp_path: Path) -> None:
    page, other = tmp_path / "a report.html", tmp_path / "result.json"
    for terminal in (True, False):
        out = io.StringIO()
        Console(file=out, force_terminal=terminal, color_system="truecolor" if terminal else None, width=20).print(
            links([page, other]), soft_wrap=True
        )
        assert (f";{page.as_uri()}\x1b\\{page}\x1b]8;;" in out.getvalue()) == terminal
        assert (out.getvalue() == f"{page}  {other}\n") != terminal


def test_a_terminal_has_bars() -> None:
    text = watched(terminal=True)
    assert "lora · 64 labels · seed 0 · tuning" in text
    assert "3/10" in text
    assert "loss 0.250" in text
    assert "accuracy 0.812" in text
