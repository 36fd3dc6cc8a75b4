"""Bounds of a dataclass's numbers, declared in the field's type: ``layer_norm_eps: Positive = 1e-12``.

:func:`transferlab.fields.check_fields` checks a dataclass against them, wherever its numbers came from: Python, a config,
or a model's files.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Bounds:
    """The numbers from ``least`` to ``most``.

    Attributes:
        least, most: the ends, both included.
        above, below: exclude ``least`` itself, or ``most``.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Whether the number is within the bounds; one that is not finite never is."""
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        # Python's integers may be larger than any float.
        finite = abs(value) <= sys.float_info.max if isinstance(value, int) else -math.inf < value < math.inf
        return bool(low and high and finite)

    def __str__(self) -> str:
        if self.most == math.inf:
            if self.least == -math.inf:
                return "a finite number"
            return f"greater than {self.least:g}" if self.above else f"at least {self.least:g}"
        if self.above:
            return f"greater than {self.least:g} and {'below' if self.below else 'at most'} {self.most:g}"
        return f"from {self.least:g} to {'below ' if self.below else ''}{self.most:g}"


Count = Annotated[int, Bounds(1.0)]
"""A number of things of which there is at least one."""

Natural = Annotated[int, Bounds(0.0)]
"""A number of things of which there may be none."""

Positive = Annotated[float, Bounds(0.0, above=True)]
"""Such as an epsilon, which keeps a division finite."""

NonNegative = Annotated[float, Bounds(0.0)]
"""Such as a standard deviation of an initialiser."""

Rate = Annotated[float, Bounds(0.0, 1.0, below=True)]
"""A dropout rate: what stays is divided by one minus it."""

Fraction = Annotated[float, Bounds(0.0, 1.0)]
"""A fraction of a whole, which may be all of it."""
