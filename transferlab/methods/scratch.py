"""The control of every study: the same architecture, trained from random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transferlab.methods.full import Full
from transferlab.transfer.plan import Weights


@dataclass(frozen=True)
class Scratch(Full):
    """Training from scratch: the control that studies measure transfer against.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.Scratch())
    """

    weights: Weights = "random"

    name: ClassVar[str] = "scratch"
    summary: ClassVar[str] = "the same network from random weights: the control"
