"""What a number of a dataclass may be, declared in its field's type: ``layer_norm_eps: Positive = 1e-12``.

:func:`transferlab.fields.check_fields` checks a dataclass against it, wherever its numbers came from: Python, a config, or
the files of a model.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Bounds:
    """The numbers from ``least`` to ``most``; ``above`` leaves out the least itself, ``below`` the most."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Whether this number is between them; what is not finite never does."""
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        # An integer of Python may be one that no float holds.
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
"""At least one of something."""

Natural = Annotated[int, Bounds(0.0)]
"""A number of something that there may be none of."""

Positive = Annotated[float, Bounds(0.0, above=True)]
"""As an epsilon, which keeps a division finite."""

NonNegative = Annotated[float, Bounds(0.0)]
"""As a standard deviation that things are drawn with."""

Rate = Annotated[float, Bounds(0.0, 1.0, below=True)]
"""Of dropout: what stays is divided by one minus it."""

Fraction = Annotated[float, Bounds(0.0, 1.0)]
"""Of a whole, all of it included."""
