"""Stopping: the first signal is remembered, the second stops at once, and handlers come back."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from contextlib import nullcontext

import pytest

import transferlab as tl
from transferlab.compute.host import interruptible
from transferlab.train import fit
from transferlab.train.interrupt import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_between_steps(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_run_in_a_thread_leaves_the_signals_to_the_program() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append((stop.asked, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_process_ignores_does_not_stop_it(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interruptible(), StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert not stop.asked
            assert signal.getsignal(number) == signal.SIG_IGN
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


class Dying:
    """A Ctrl-C while it is finalised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


class Watched:
    """A Ctrl-C while a weak reference to it is told of its end."""


def in_a_callback() -> None:
    watched = Watched()
    reference = weakref.ref(watched, lambda _: signal.raise_signal(signal.SIGINT))
    del watched
    assert reference() is None


@pytest.mark.parametrize("lost", [Dying, in_a_callback])
@pytest.mark.parametrize("asked", [False, True])
def test_one_ctrl_c_stops_a_run_that_is_being_set_up(lost, asked: bool, source, films, monkeypatch) -> None:
    handler, hook = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook

    def prepare(*_: object) -> None:
        with StopRequest() if asked else nullcontext():
            if asked:
                signal.raise_signal(signal.SIGINT)
            lost()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                time.sleep(0.01)
        raise AssertionError("nobody heard it")

    monkeypatch.setattr(fit, "prepare", prepare)
    try:
        with pytest.raises(KeyboardInterrupt):
            tl.adapt(source, films.subset(16, 0), method=tl.methods.Full()).fit()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and sys.unraisablehook is hook
    finally:
        signal.signal(signal.SIGINT, handler)
