"""DoRA: LoRA with the length of each column of the kernel apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from transferlab.methods.lora import LoRA, LowRank
from transferlab.transfer.derived import Derived


@dataclass(frozen=True)
class DoRA(LoRA):
    """Weight-decomposed low-rank adaptation (Liu et al. 2024, equation 5): LoRA on the directions of the kernel's columns, and
    their lengths, which start as those of the source.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.DoRA(rank=4))

    Attributes:
        rank, alpha, targets, dropout: as of :class:`transferlab.methods.LoRA`.
    """

    name: ClassVar[str] = "dora"
    summary: ClassVar[str] = "low-rank adapters on directions, and lengths"

    def adapter(self, inputs: int, outputs: int) -> LowRank:
        """The adapter of a kernel, with a length for each column."""
        return LowRank(inputs, outputs, self.rank, self.alpha, self.dropout, magnitude=True)

    def derive(self, shapes: Mapping[str, Any]) -> Mapping[str | tuple[str, ...], Derived]:
        """Each length from its kernel, so that the edit changes nothing before the first step."""
        return {
            path: Derived((f"{parent}/kernel",), "the length of each column of the kernel", _lengths)
            for path in shapes
            for parent, lora, _ in [path.rpartition("/lora/magnitude")]
            if lora
        }


def _lengths(kernel: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.asarray(kernel, np.float32), axis=0)
