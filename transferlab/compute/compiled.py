"""A function compiled ahead of time, once for each shape, which says what it costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

import jax

from transferlab.compute.flops import flops_of, lowered_to_count

_TRITON = "xla_gpu_enable_triton_gemm"


def compiler_options() -> dict[str, Any]:
    """What XLA is told for the device that programs run on; ``XLA_FLAGS`` may say otherwise.

    On a GPU products go to cuBLAS alone. XLA else compiles kernels of Triton's for each and times them, which was nearly half of
    the time to compile a step of MiniLM, and the step no faster; cuBLAS adds biases and residuals to what it writes.
    """
    told = jax.default_backend() != "gpu" or _TRITON in os.environ.get("XLA_FLAGS", "")
    return {} if told else {_TRITON: False}


class Compiled:
    """A jitted function that is compiled ahead of time, once for each shape of what varies, and counts what it costs.

    Args:
        function: to compile.
        varies: places of the arguments whose shapes vary.
        donate: places of the arguments that a call takes over.
        counted: whether ``flops`` will be asked for each shape: what was traced is kept till then.

    Attributes:
        compilations: how many shapes were compiled.
        seconds: time spent compiling.
    """

    def __init__(
        self, function: Callable[..., Any], varies: tuple[int, ...], donate: tuple[int, ...] = (), counted: bool = False
    ):
        self._function, self._jit = function, jax.jit(function, donate_argnums=donate)
        self._varies, self._counted = varies, counted
        self._programs: dict[tuple, Any] = {}
        self._lowered: dict[tuple, Any] = {}
        self._flops: dict[tuple, float] = {}
        self._lock = Lock()
        self.seconds = 0.0

    @property
    def compilations(self) -> int:
        return len(self._programs)

    def __call__(self, *args: Any) -> Any:
        return self._compiled(args)(*args)

    def _compiled(self, args: tuple[Any, ...]) -> Any:
        mark = self._mark(args)
        # Two threads that meet a new shape compile it once.
        with self._lock:
            if mark not in self._programs:
                start = time.perf_counter()
                lowered = self._jit.lower(*args)
                self._programs[mark] = lowered.compile(compiler_options=compiler_options())
                if self._counted and mark not in self._flops:
                    self._lowered[mark] = lowered
                self.seconds += time.perf_counter() - start
            return self._programs[mark]

    def flops(self, *args: Any) -> float:
        """Floating-point operations of one call with these arguments (arrays or shapes), as XLA counts them."""
        mark = self._mark(args)
        with self._lock:
            if mark not in self._flops:
                # XLA counts while the device works on the first call, if the call was made before: that is not added.
                found = None if (lowered := self._lowered.pop(mark, None)) is None else flops_of(lowered)
                if found is None:
                    start = time.perf_counter()
                    lowered = lowered_to_count(self._function, *args)
                    self.seconds += time.perf_counter() - start
                    found = flops_of(lowered)
                self._flops[mark] = found or 0.0
            return self._flops[mark]

    def executable(self, *args: Any, options: dict[str, Any] | None = None) -> Any:
        """The compiled program for these arguments (arrays or shapes); with options for XLA one of its own, not kept."""
        if options is None:
            return self._compiled(args)
        return self._jit.lower(*args).compile(compiler_options=compiler_options() | options)

    def temporary_bytes(self, *args: Any) -> int:
        """What a call with these arguments (arrays or shapes) holds beside them and its results: activations, gradients."""
        found = self._compiled(args).memory_analysis()
        return 0 if found is None else int(found.temp_size_in_bytes)

    def _mark(self, args: tuple[Any, ...]) -> tuple:
        leaves = jax.tree_util.tree_leaves_with_path([args[i] for i in self._varies])
        return tuple((str(path), leaf.shape, str(leaf.dtype)) for path, leaf in leaves)
