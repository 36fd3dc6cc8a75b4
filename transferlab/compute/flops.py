"""What a program costs, in operations: counted alike on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from transferlab.compute.devices import cpu_device
from transferlab.compute.flags import plain_attention


def lowered_to_count(function: Callable[..., Any], *args: Any) -> jax.stages.Lowered:
    """Lower a function for the CPU, with arguments (arrays or shapes) of which only the shapes are looked at.

    A GPU and a TPU give no count of a program before it is compiled, and after that leave out what libraries compute:
    the matrix products. What a model computes in another form there (depthwise convolutions) is counted in that form.
    """
    place = None if (cpu := cpu_device()) is None else SingleDeviceSharding(cpu)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args)

    def counted(*args: Any) -> Any:
        with plain_attention():
            return function(*args)

    return jax.jit(counted).lower(*shapes)


def flops_of(lowered: jax.stages.Lowered) -> float | None:
    """Floating-point operations as XLA counts them before it optimises; None on a device that does not say."""
    found = lowered.cost_analysis()
    return None if found is None else float(found.get("flops", 0.0))
