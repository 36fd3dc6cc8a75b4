"""Calls side by side: results in order, few held, and an error stops what follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import cast

import pytest

from transferlab.train.ahead import SIDE_BY_SIDE, ahead


def test_results_come_out_in_order() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.05 if number % 3 == 0 else 0.0)
        return number

    assert list(ahead(slow_first, range(10))) == list(range(10))
    assert list(ahead(slow_first, [])) == []


def test_results_do_not_pile_up_before_they_are_wanted() -> None:
    lock, started = threading.Lock(), []

    def note(number: int) -> int:
        with lock:
            started.append(number)
        return number

    made = cast("Generator[int]", ahead(note, range(100)))
    assert next(made) == 0
    time.sleep(0.2)
    assert len(started) <= SIDE_BY_SIDE + 2
    made.close()
    assert len(started) <= SIDE_BY_SIDE + 2


def test_an_error_is_raised_and_stops_what_follows() -> None:
    started = []

    def fail(number: int) -> int:
        started.append(number)
        if number == 3:
            raise ValueError("the fourth")
        return number

    with pytest.raises(ValueError, match="the fourth"):
        list(ahead(fail, range(1000)))
    assert len(started) < 10
