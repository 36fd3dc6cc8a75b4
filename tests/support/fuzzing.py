"""How long hypothesis seeks, and how by chance."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def fuzz(examples: int) -> settings:
    """The same damage on every run, so that a failure is a change's fault; ``FUZZ=20`` seeks twenty times more, by chance."""
    more = int(os.environ.get("FUZZ", "0"))
    return settings(
        max_examples=examples * max(more, 1), derandomize=not more, deadline=None,
        suppress_health_check=list(HealthCheck), **({} if more else {"database": None}),
    )  # fmt: skip
