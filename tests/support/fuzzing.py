"""How many examples hypothesis tries, and how random they are."""

from __future__ import annotations

import os
from typing import cast

from hypothesis import HealthCheck, settings


def fuzz(examples: int) -> settings:
    """The same damage on every run, so that only a change can cause a failure; ``FUZZ=20`` tries twenty times more, at random."""
    more = int(os.environ.get("FUZZ", "0"))
    checks = cast("list[HealthCheck]", list(HealthCheck))
    chosen = settings(max_examples=examples * max(more, 1), deadline=None, suppress_health_check=checks)
    return chosen if more else settings(chosen, derandomize=True, database=None)
