"""Calls side by side: results in order, few held, and an error stops what follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import cast

import pytest

from transferlab.compute.prefetch import THREADS, prefetch_map


def test_results_come_out_in_order() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.05 if number % 3 == 0 else 0.0)
        return number

    assert list(prefetch_map(slow_first, range(10))) == list(range(10))
    assert list(prefetch_map(slow_first, [])) == []


def test_at_most_a_few_results_are_computed_ahead() -> None:
    lock, started = threading.Lock(), []

    def note(number: int) -> int:
        with lock:
            started.append(number)
        return number

    made = cast("Generator[int]", prefetch_map(note, range(100)))
    assert next(made) == 0
    time.sleep(0.2)
    assert len(started) <= THREADS + 2
    made.close()
    assert len(started) <= THREADS + 2


def test_an_error_is_raised_and_stops_what_follows() -> None:
    started = []

    def fail(number: int) -> int:
        started.append(number)
        if number == 3:
            raise ValueError("the fourth")
        return number

    with pytest.raises(ValueError, match="the fourth"):
        list(prefetch_map(fail, range(1000)))
    assert len(started) < 10
