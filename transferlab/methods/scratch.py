"""The control of every study: the same architecture, trained from random weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transferlab.methods.full import Full
from transferlab.transfer.recipe import Weights


@dataclass(frozen=True)
class Scratch(Full):
    """Training from scratch: the control that studies measure transfer against.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.Scratch())
    """

    weights: Weights = field(default="random", kw_only=True)

    name: ClassVar[str] = "scratch"
    summary: ClassVar[str] = "the same network from random weights: the control"
