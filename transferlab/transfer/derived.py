"""``Derived``: how a leaf is made of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Derived:
    """How a leaf, or several at once, is made of others.

    Attributes:
        sources: paths in the source; of a method's, in the target as it would be without the method.
        how: what is done with them, for people: ``mean of two heads``.
        make: arrays of the sources → the leaf, in numpy; of a method that makes several leaves at once, a tuple of them.

    Example:
        >>> Derived(("query/kernel", "key/kernel"), "side by side", lambda q, k: np.concatenate([q, k], 1))
    """

    sources: tuple[str, ...]
    how: str
    make: Callable[..., Any] = field(repr=False)
