"""Programs compiled ahead of time, and the options that XLA gets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from transferlab.compute.compiled import Compiled, compiler_options


def test_an_executable_with_options_gives_the_same_results_and_is_not_kept() -> None:
    x = jnp.ones((4, 4))
    program = Compiled(jnp.matmul, varies=(0,))
    apart = program.executable(x, x, options={"xla_gpu_graph_min_graph_size": 1 << 30})
    assert program.compilations == 0
    assert (apart(x, x) == program(x, x)).all()
    assert program.executable(x, x) is program.executable(x, x)


@pytest.mark.parametrize(
    ("backend", "flags", "options"),
    [
        ("cpu", "", {}),
        ("gpu", "", {"xla_gpu_enable_triton_gemm": False}),
        ("gpu", "--xla_gpu_enable_triton_gemm=true", {}),
        ("gpu", "--xla_gpu_autotune_level=0", {"xla_gpu_enable_triton_gemm": False}),
    ],
)
def test_a_gpus_programs_are_compiled_without_triton_unless_the_users_flags_ask_for_it(
    backend: str, flags: str, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert compiler_options() == options


def test_xla_accepts_the_options_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = jnp.ones((4, 4))
    assert (Compiled(jnp.matmul, varies=(0,))(x, x) == 4.0).all()
