"""What tracing is told of the program that it is for: models read it, and whoever compiles them sets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep the fused kernel of attention out of what is traced within: it cannot be mapped over (``jax.vmap``) with a
    mask, or where lengths are odd, and its operations are not counted.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def attention_is_plain() -> bool:
    """Whether what is traced now is within :func:`plain_attention`."""
    return _plain.get()
