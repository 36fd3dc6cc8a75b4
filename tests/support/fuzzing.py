"""How long hypothesis seeks, and how by chance."""

from __future__ import annotations

import os
from typing import cast

from hypothesis import HealthCheck, settings


def fuzz(examples: int) -> settings:
    """The same damage on every run, so that a failure is a change's fault; ``FUZZ=20`` seeks twenty times more, by chance."""
    more = int(os.environ.get("FUZZ", "0"))
    checks = cast("list[HealthCheck]", list(HealthCheck))
    chosen = settings(max_examples=examples * max(more, 1), deadline=None, suppress_health_check=checks)
    return chosen if more else settings(chosen, derandomize=True, database=None)
