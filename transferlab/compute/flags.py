"""Flags of the program that is being traced: models read them, code that compiles models sets them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Trace without the fused attention kernel: it cannot be mapped over (``jax.vmap``) with a mask or with odd lengths,
    and its operations are not counted.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def attention_is_plain() -> bool:
    """Return whether the current trace is within :func:`plain_attention`."""
    return _plain.get()
