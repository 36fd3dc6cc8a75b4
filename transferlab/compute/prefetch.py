"""Independent calls side by side: while one batch is computed, the next is prepared and the last is put away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

THREADS = 2
"""Calls at once. On CPU two fill what one leaves idle: XLA runs attention's small products on one thread each."""


def prefetch_map(function: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Iterate over ``function(item)`` in order; at most one result more than are being made is held.

    What a call raises comes out at its place, and no further one is started.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="prefetch") as threads:
        try:
            for item in items:
                waiting.append(threads.submit(function, item))
                if len(waiting) > THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
