"""LoRA: low-rank adapters beside frozen kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from transferlab.errors import TransferlabError
from transferlab.methods.base import Method
from transferlab.models.layers import Key, Linear, Uniform, dropout, parameter, zeros
from transferlab.select import select
from transferlab.transfer.groups import Group
from transferlab.trees import define, flatten, submodule


class LowRank(nnx.Module):
    """``(x @ a) @ b · alpha / rank``, added to a linear map's output. ``b`` starts at zero: the edit changes nothing."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, dropout: float):
        # The bound of torch's kaiming_uniform with a = sqrt(5), as peft draws it.
        self.a = parameter((inputs, rank), Uniform(1.0 / math.sqrt(inputs)))
        self.b = parameter((rank, outputs), zeros)
        self.scale = alpha / rank
        self.dropout = dropout

    def __call__(self, x: Float[Array, "*batch inputs"], key: Key | None = None) -> Float[Array, "tokens outputs"]:
        flat = dropout(x, self.dropout, key).reshape(-1, x.shape[-1])
        return (flat @ self.a[...]) @ self.b[...] * self.scale


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank adaptation (Hu et al. 2021, section 4.1): ``W + (alpha / rank) · a b`` with ``W`` frozen.

    Attributes:
        rank: width of the bottleneck.
        alpha: numerator of the scale.
        targets: selector of the kernels to adapt; each must belong to a linear map.
        dropout: on the adapters' input, while training.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str = "**/attention/{query,value}/kernel"
    dropout: float = 0.0

    name: ClassVar[str] = "lora"
    about: ClassVar[str] = "low-rank adapters beside frozen kernels"
    published: ClassVar[dict[str, Any]] = {"learning_rate": 3e-3, "epochs": 10}

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TransferlabError(f"LoRA's rank is {self.rank}; it must be at least 1.")

    def edit(self, module: Any) -> None:
        """Hang an adapter beside every target kernel."""
        paths = flatten(define(module).params)
        for path in sorted(select(self.targets).match(paths)):
            if not path.endswith("/kernel") or not isinstance(
                parent := submodule(module, path[: -len("/kernel")]), Linear
            ):
                raise TransferlabError(f"LoRA cannot adapt '{path}': it is not the kernel of a linear map.")
            inputs, outputs = paths[path].shape
            parent.lora = LowRank(inputs, outputs, self.rank, self.alpha, self.dropout)

    def groups(self) -> tuple[Group, ...]:
        """The adapters (without decay, as published) and the head."""
        return (Group("lora", decay=0.0), Group("head"))
