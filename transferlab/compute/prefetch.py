"""Independent calls in parallel: while one batch is computed, the next is prepared and the last one stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

THREADS = 2
"""Number of concurrent calls. On CPU two use what one leaves idle: XLA runs attention's small matmuls on one thread each."""


def prefetch_map(function: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Iterate over ``function(item)`` in order; at most one finished result is kept beyond those in progress.

    An exception of a call is raised at its position, and no further call is started.
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
