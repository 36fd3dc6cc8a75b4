"""PiSSA: LoRA that starts with the largest singular values of the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from transferlab.methods.lora import LoRA
from transferlab.transfer.derived import Derived


@dataclass(frozen=True)
class PiSSA(LoRA):
    """Principal singular values and vectors adaptation (Meng et al. 2024, equations 2 to 4): the adapter starts as the best
    approximation of the kernel of its rank, and what is left of the kernel is frozen.

    ``a = U √(S/scale)`` and ``b = √(S/scale) Vᵀ`` of the largest ``rank`` singular values, as peft starts it
    (``peft/tuners/lora/layer.py: pissa_init``). Written for PEFT, an adapter has twice the rank, so that it fits the original base.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.PiSSA(rank=4))

    Attributes:
        rank, alpha, targets, dropout: as of :class:`transferlab.methods.LoRA`.
    """

    name: ClassVar[str] = "pissa"
    summary: ClassVar[str] = "low-rank adapters that start as the kernel's largest singular values"

    def derive(self, shapes: Mapping[str, Any]) -> Mapping[str | tuple[str, ...], Derived]:
        """Adapter and rest of each adapted kernel."""
        scale, how = self.alpha / self.rank, f"its {self.rank} largest singular values"
        return {
            (f"{parent}/kernel", f"{parent}/lora/a", f"{parent}/lora/b"): Derived(
                (f"{parent}/kernel",), f"{how}, and the rest", partial(_split, rank=self.rank, scale=scale)
            )
            for path in shapes
            for parent, lora, _ in [path.rpartition("/lora/a")]
            if lora
        }


def _split(kernel: np.ndarray, *, rank: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is left of a kernel, and the two factors of its best approximation of this rank."""
    whole = np.asarray(kernel, np.float32)
    u, s, v = np.linalg.svd(whole, full_matrices=False)
    root = np.sqrt(s[:rank] / scale)
    a, b = u[:, :rank] * root, root[:, None] * v[:rank]
    if a.shape[1] < rank:  # a kernel with fewer singular values than that
        a = np.pad(a, ((0, 0), (0, rank - a.shape[1])))
        b = np.pad(b, ((0, rank - b.shape[0]), (0, 0)))
    return whole - scale * (a @ b), a, b
