"""LoRA: low-rank adapters next to frozen kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.methods.base import Method
from transferlab.models.backbone import Owner
from transferlab.models.layers import Key, Linear, Uniform, dropout, ones, parameter, zeros
from transferlab.selectors import Selectable, owns, select, selector_text, union_parts
from transferlab.transfer.groups import Group
from transferlab.trees import define, flatten, submodule


class LowRank(nnx.Module):
    """``(x @ a) @ b · alpha / rank``, added to a kernel's output. ``b`` starts at zero, so that the edit changes nothing.

    With ``magnitude`` each column of the adapted kernel is scaled to that length (DoRA, Liu et al. 2024, equation 5); no
    gradient passes through the length that it had (section 4.3).
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, dropout: float, *, magnitude: bool = False):
        # The bound of torch's kaiming_uniform_ with a = sqrt(5), which peft initialises with.
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
        """Return the adapted kernel's output for ``x``; ``y`` is that of the kernel alone."""
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

    :meth:`transferlab.methods.adapted.Adapted.save_adapter` writes the result for PEFT, ``merged()`` adds it to the kernels.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.LoRA(rank=4, targets=["query", "value"]))

    Attributes:
        rank: width of the bottleneck.
        alpha: numerator of the scale.
        targets: selector of the linear maps to adapt (:func:`transferlab.select`), or a list of names, which is their union.
            Among the leaves that it selects, kernels of linear maps outside the head are adapted; each part of a union must
            select one.
        dropout: rate on the adapters' input, while training.
    """

    rank: Count = 8
    alpha: Positive = 16.0
    targets: Selectable = "**/attention/{query,value}/kernel"
    dropout: Rate = 0.0

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank adapters next to frozen kernels"
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 3e-3, "epochs": 10}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "targets", selector_text(self.targets, "targets"))

    def edit(self, module: Any) -> None:
        """Put an adapter next to every target kernel.

        Raises:
            TransferlabError: a part of ``targets`` that selects no kernel of a linear map outside the head.
        """
        paths = flatten(define(module).params)
        stages = [stage.owns for stage in module.backbone_stages()]
        layers: dict[str, Linear] = {}
        for part in union_parts(select(str(self.targets))):
            matches = sorted(part.match(paths, stages))
            linear = {path: layer for path in matches if (layer := _linear(module, path)) is not None}
            if not linear:
                what = f"'{matches[0]}'" if matches else "nothing"
                raise TransferlabError(
                    f"{type(self).__name__} cannot adapt {what}: targets '{self.targets}' must select kernels of linear maps outside "
                    f"the head, as {type(self).__name__}(targets='{LoRA.targets}')."
                )
            layers |= linear
        for path, layer in layers.items():
            inputs, outputs = paths[path].shape
            layer.lora = self.adapter(inputs, outputs)

    def adapter(self, inputs: int, outputs: int) -> LowRank:
        """The adapter of a kernel (inputs, outputs)."""
        return LowRank(inputs, outputs, self.rank, self.alpha, self.dropout)

    def groups(self, stages: Sequence[Owner]) -> tuple[Group, ...]:
        """The adapters (without weight decay, as published) and the head."""
        return (Group("lora", decay=0.0), Group("head"))


def _linear(module: Any, path: str) -> Linear | None:
    """The linear map that this kernel belongs to; None for other leaves, and in the head, which trains as a whole."""
    if not path.endswith("/kernel") or owns(("head",), path):
        return None
    parent = submodule(module, path[: -len("/kernel")])
    return parent if isinstance(parent, Linear) else None
