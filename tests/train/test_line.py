"""Where the line of a fit is drawn: on a terminal and in a notebook, which it leaves clean, and nowhere else."""

from __future__ import annotations

import builtins
import contextlib
import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.runs import QUICK
from support.terminal import Terminal, at_a_terminal, screen

import transferlab as tl
from transferlab.train.line import drawn

SLOW = replace(QUICK, steps=120, batch_size=16)


def run_of(source, films) -> Any:
    return tl.adapt(source, films.subset(60, 0).hold_out(0.2, 0), method=tl.methods.Full(), settings=SLOW)


def busy(seconds: float, line: str = "step 1/2") -> None:
    with drawn(lambda width: line[:width]):
        time.sleep(seconds)


def test_a_terminal_has_a_line_while_a_run_trains_and_the_result_is_the_same(source, films) -> None:
    with at_a_terminal() as terminal:
        shown = run_of(source, films).fit()
        print("after")
    assert re.search(
        r"step \d+/120 · epoch \d+/40 · loss .* validation accuracy .* examples/s · 0:\d\d left", terminal.written
    )
    assert screen(terminal.written) == ["after", ""]
    assert "\x1b[?25l" not in terminal.written.rpartition("\x1b[?25h")[2]
    with at_a_terminal() as terminal:
        quiet = run_of(source, films).fit(quiet=True)
        run_of(source, films).fit(report=lambda done, total, metrics: None)
    assert terminal.written == ""
    np.testing.assert_array_equal(shown.probabilities, quiet.probabilities)
    assert shown.history == quiet.history
    assert shown.record["compilations"] == quiet.record["compilations"]


def test_what_compiles_is_shown_with_its_seconds(source, films) -> None:
    from transferlab.train.program import _shared

    _shared.cache_clear()
    with at_a_terminal() as terminal:
        run_of(source, films).fit()
    assert re.search(r"compiling … \d+ s", terminal.written)


def test_prints_warnings_and_log_lines_stay_whole() -> None:
    with at_a_terminal() as terminal:
        handler = logging.StreamHandler()
        log = logging.getLogger("test_line")
        log.addHandler(handler)
        log.propagate = False

        def speak() -> None:
            for number in range(3):
                time.sleep(0.3)
                log.warning("logged %d", number)
                print("printed", number)
                print("warned", number, file=sys.stderr)

        thread = threading.Thread(target=speak)
        thread.start()
        busy(1.3, "step 7/9 " * 9)
        thread.join()
        print("end")
        log.removeHandler(handler)
    assert handler.stream is terminal.file
    spoken = [f"{what} {number}" for number in range(3) for what in ("logged", "printed", "warned")]
    assert screen(terminal.written) == [*spoken, "end", ""]
    assert "step 7/9" in terminal.written


def test_what_ends_at_once_draws_nothing() -> None:
    with at_a_terminal() as terminal:
        busy(0.0)
    assert terminal.written == ""


def test_stderr_that_is_a_file_stays_one() -> None:
    with at_a_terminal() as terminal:
        sys.stderr = io.StringIO()
        with drawn(lambda width: "step"):
            time.sleep(0.4)
            print("an error", file=sys.stderr)
        assert sys.stderr.getvalue() == "an error\n"
    assert "step" in terminal.written and "an error" not in terminal.written


def test_an_error_leaves_the_terminal_clean() -> None:
    with at_a_terminal() as terminal, contextlib.suppress(RuntimeError), drawn(lambda width: "step"):
        time.sleep(0.4)
        raise RuntimeError
    assert "step" in terminal.written and not any(screen(terminal.written))


def test_a_terminal_that_is_gone_does_not_end_the_work() -> None:
    terminal = Terminal()
    before, environment = sys.stdout, os.environ.get("TERM")
    os.environ["TERM"] = "xterm"
    sys.stdout = terminal.file
    try:
        with drawn(lambda width: "step"):
            time.sleep(0.4)
            os.close(terminal.master)
            time.sleep(0.6)
            done = True
    finally:
        sys.stdout = before
        os.environ.pop("TERM") if environment is None else os.environ.update(TERM=environment)
        with contextlib.suppress(OSError):
            terminal.file.close()
    assert done


@pytest.mark.parametrize("why", ["pipe", "forced", "dumb", "thread"])
def test_nothing_is_drawn_elsewhere(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    if why in ("pipe", "forced"):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setenv("TTY_INTERACTIVE", "1" if why == "forced" else "0")
        busy(0.4)
        assert out.getvalue() == ""
        return
    with at_a_terminal() as terminal:
        os.environ["TERM"] = "dumb" if why == "dumb" else "xterm"
        thread = threading.Thread(target=busy, args=(0.4,)) if why == "thread" else None
        if thread is None:
            busy(0.4)
        else:
            thread.start()
            thread.join()
    assert terminal.written == ""


def test_a_notebook_has_an_output_that_is_replaced(source, films, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Any:
        assert raw and display_id
        shown.append(data["text/plain"])
        return SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))

    module = ModuleType("IPython.display")
    monkeypatch.setattr(module, "display", display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    run_of(source, films).fit()
    assert shown[0] == shown[-1] == "" and any(re.match(r"step \d+/120 · ", text) for text in shown)
    shown.clear()
    run_of(source, films).fit(quiet=True)
    assert not shown


SCRIPT = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal whose Ctrl-C this process gets
import transferlab as tl
from transferlab.train import Settings
source, data = tl.load(sys.argv[1]), tl.dataset(sys.argv[2], test_examples=60).subset(60, 0)
run = tl.adapt(source, data, method=tl.methods.Full(), settings=Settings(steps=100000, batch_size=16))
print("begin", flush=True)
try:
    run.fit()
except tl.train.Interrupted as error:
    print(error)
"""


def test_ctrl_c_leaves_the_terminal_clean(bert_folder, table) -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(bert_folder), str(table)],
        stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    written, asked = "", False
    with contextlib.suppress(OSError):
        while data := os.read(master, 1 << 16):
            written += data.decode()
            if not asked and re.search(r"step [1-9][\d,]*/100,000", written):
                os.write(master, b"\x03")
                asked = True
    os.close(master)
    assert process.wait() == 0
    first, stopped, *rest = screen(written)
    assert (first, rest) == ("begin", [""]), screen(written)
    assert re.fullmatch(r"Stopped after step \d+ of 100000\.", stopped)
    assert not written.rpartition("\x1b[?25h")[2].count("\x1b[?25l")
