"""Operations are counted the same on every device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from transferlab.compute import flops
from transferlab.compute.compiled import Compiled
from transferlab.compute.devices import cpu_device
from transferlab.compute.flops import flops_of, lowered_to_count
from transferlab.models import attention
from transferlab.models.attention import attend


def test_a_matmuls_operations_are_counted() -> None:
    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    assert flops_of(lowered_to_count(jnp.matmul, shape, jnp.ones((64, 32)))) == pytest.approx(
        2 * 64 * 64 * 32, rel=0.02
    )


def test_the_fused_kernel_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = jax.ShapeDtypeStruct((2, 64, 4, 16), jnp.bfloat16)
    matmuls = 2 * 2 * (2 * 4 * 64 * 64 * 16)
    want = flops_of(lowered_to_count(lambda q, k, v: attend(q, k, v, scale=1.0), shape, shape, shape))
    assert want is not None and want > matmuls
    # As on a GPU, where the kernel is not even lowered for a CPU.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "_kernel_compiles", lambda *kind: True)
    assert flops_of(lowered_to_count(lambda q, k, v: attend(q, k, v, scale=1.0), shape, shape, shape)) == want


def test_a_program_is_counted_on_a_device_without_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's backend does not count before it has compiled: the program is then lowered for the CPU as well."""
    x = jnp.ones((16, 16))
    want = Compiled(jnp.matmul, varies=(0,), counted=True)
    want(x, x)
    said, real = [None], flops.flops_of
    monkeypatch.setattr("transferlab.compute.compiled.flops_of", lambda lowered: said.pop() if said else real(lowered))
    dumb = Compiled(jnp.matmul, varies=(0,), counted=True)
    dumb(x, x)
    assert dumb.flops(x, x) == want.flops(x, x) > 2 * 16**3 - 1


def test_counting_without_a_cpu_device_does_not_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """``JAX_PLATFORMS=cuda`` leaves JAX without one."""
    devices = jax.devices
    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)

    def without(kind: str | None = None) -> list[Any]:
        if kind == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return devices(kind)

    monkeypatch.setattr(jax, "devices", without)
    assert cpu_device() is None
    assert lowered_to_count(jnp.matmul, shape, shape).out_info.shape == (64, 64)
