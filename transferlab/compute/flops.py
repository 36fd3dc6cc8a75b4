"""A program's cost in operations, counted the same way on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from transferlab.compute.devices import cpu_device
from transferlab.compute.flags import plain_attention


def lowered_to_count(function: Callable[..., Any], *args: Any) -> jax.stages.Lowered:
    """Lower a function for the CPU, with arguments (arrays or shapes) of which only the shapes are used.

    GPUs and TPUs do not count the operations of a program before it is compiled, and afterwards leave out those of
    libraries: the matmuls. An operation that a model computes in another form there (a depthwise convolution) is counted in
    that form.
    """
    sharding = None if (cpu := cpu_device()) is None else SingleDeviceSharding(cpu)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), args)

    def counted(*args: Any) -> Any:
        with plain_attention():
            return function(*args)

    return jax.jit(counted).lower(*shapes)


def flops_of(lowered: jax.stages.Lowered) -> float | None:
    """Return the floating-point operations as XLA counts them before it optimises; None on a device without a count."""
    analysis = lowered.cost_analysis()
    return None if analysis is None else float(analysis.get("flops", 0.0))
