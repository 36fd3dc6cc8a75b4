"""LoRA: low-rank adapters beside frozen kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.methods.base import Method
from transferlab.models.layers import Key, Linear, Uniform, dropout, ones, parameter, zeros
from transferlab.selectors import Selectable, owns, select, selector_text, union_parts
from transferlab.transfer.groups import Group
from transferlab.trees import define, flatten, submodule


class LowRank(nnx.Module):
    """``(x @ a) @ b · alpha / rank``, added to what a kernel gives. ``b`` starts at zero: the edit changes nothing.

    With ``magnitude`` each output is then scaled to that length of its column (DoRA, Liu et al. 2024, equation 5); the
    length that it has is no path for gradients (section 4.3).
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, dropout: float, *, magnitude: bool = False):
        # The bound of torch's kaiming_uniform with a = sqrt(5), as peft draws it.
        self.a = parameter((inputs, rank), Uniform(1.0 / math.sqrt(inputs)))
        self.b = parameter((rank, outputs), zeros)
        self.magnitude = parameter((outputs,), ones) if magnitude else None
        self.scale = alpha / rank
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "*batch inputs"],
        y: Float[Array, "tokens outputs"],
        kernel: Float[Array, "inputs outputs"],
        key: Key | None = None,
    ) -> Float[Array, "tokens outputs"]:
        """Return what the adapted kernel gives for ``x``; ``y`` is what the plain one does."""
        flat = dropout(x, self.dropout, key).reshape(-1, x.shape[-1])
        sum_ = y + (flat @ self.a[...]) @ self.b[...] * self.scale
        if self.magnitude is None:
            return sum_
        length = column_lengths(kernel + self.scale * (self.a[...] @ self.b[...]))
        return sum_ * (self.magnitude[...] / jax.lax.stop_gradient(length)).astype(sum_.dtype)


def column_lengths(kernel: Float[Array, "inputs outputs"]) -> Float[Array, " outputs"]:
    """The length of each column of a kernel, in float32."""
    return jnp.linalg.norm(kernel.astype(jnp.float32), axis=0)


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank adaptation (Hu et al. 2021, section 4.1): ``W + (alpha / rank) · a b`` with ``W`` frozen.

    Attributes:
        rank: width of the bottleneck.
        alpha: numerator of the scale.
        targets: selector of the linear maps to adapt, or a list of names, which is their union. Of what it selects, as all of
            a stage, kernels of linear maps outside the head are adapted; each part of a union must have one.
        dropout: on the adapters' input, while training.
    """

    rank: Count = 8
    alpha: Positive = 16.0
    targets: Selectable = "**/attention/{query,value}/kernel"
    dropout: Rate = 0.0

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank adapters beside frozen kernels"
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 3e-3, "epochs": 10}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "targets", selector_text(self.targets, "targets"))

    def edit(self, module: Any) -> None:
        """Hang an adapter beside every target kernel."""
        paths = flatten(define(module).params)
        stages = [stage.owns for stage in module.backbone_stages()]
        chosen: dict[str, Linear] = {}
        for part in union_parts(select(str(self.targets))):
            selected = sorted(part.match(paths, stages))
            found = {path: parent for path in selected if (parent := _linear(module, path)) is not None}
            if not found:
                what = f"'{selected[0]}'" if selected else "nothing"
                raise TransferlabError(
                    f"LoRA cannot adapt {what}: targets '{self.targets}' must select kernels of linear maps outside "
                    f"the head, as LoRA(targets='{LoRA.targets}')."
                )
            chosen |= found
        for path, parent in chosen.items():
            inputs, outputs = paths[path].shape
            parent.lora = LowRank(inputs, outputs, self.rank, self.alpha, self.dropout)

    def groups(self) -> tuple[Group, ...]:
        """The adapters (without decay, as published) and the head."""
        return (Group("lora", decay=0.0), Group("head"))


def _linear(module: Any, path: str) -> Linear | None:
    """The linear map whose kernel this is; None for another leaf, and in the head, which trains as a whole."""
    if not path.endswith("/kernel") or owns(("head",), path):
        return None
    parent = submodule(module, path[: -len("/kernel")])
    return parent if isinstance(parent, Linear) else None
