"""What every parity test has."""

import pytest


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random weights are a test's own, whichever tests ran before it."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
