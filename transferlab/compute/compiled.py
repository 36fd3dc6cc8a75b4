"""A function compiled ahead of time, once per shape, which reports its cost."""

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
    """Return XLA's options for the device that programs run on; ``XLA_FLAGS`` override them.

    On a GPU, matmuls go to cuBLAS alone. By default XLA also compiles Triton kernels for each and times them, which was
    nearly half of the time to compile a step of MiniLM, and the step was no faster; cuBLAS adds biases and residuals to
    its output.
    """
    default = jax.default_backend() != "gpu" or _TRITON in os.environ.get("XLA_FLAGS", "")
    return {} if default else {_TRITON: False}


class Compiled:
    """A jitted function that is compiled ahead of time, once per shape of its varying arguments, and counts its cost.

    Args:
        function: to compile.
        varies: positions of the arguments whose shapes vary.
        donate: positions of the arguments that a call takes over.
        counted: whether :meth:`flops` will be called for each shape: the traced program is kept until then.

    Attributes:
        compilations: number of shapes that were compiled.
        seconds: time spent compiling.
        since: when the compilation under way began (``time.perf_counter``); None where there is none.
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
        self.since: float | None = None

    @property
    def compilations(self) -> int:
        return len(self._programs)

    def __call__(self, *args: Any) -> Any:
        return self._compiled(args)(*args)

    def _compiled(self, args: tuple[Any, ...]) -> Any:
        shapes = self._shapes(args)
        # Two threads that meet a new shape compile it once.
        with self._lock:
            if shapes not in self._programs:
                start = self.since = time.perf_counter()
                try:
                    lowered = self._jit.lower(*args)
                    self._programs[shapes] = lowered.compile(compiler_options=compiler_options())
                finally:
                    self.since = None
                if self._counted and shapes not in self._flops:
                    self._lowered[shapes] = lowered
                self.seconds += time.perf_counter() - start
            return self._programs[shapes]

    def flops(self, *args: Any) -> float:
        """Return the floating-point operations of a call with these arguments (arrays or shapes), as XLA counts them."""
        shapes = self._shapes(args)
        with self._lock:
            if shapes not in self._flops:
                # After a first call, XLA counts while the device works on it, so that time is not added.
                count = None if (lowered := self._lowered.pop(shapes, None)) is None else flops_of(lowered)
                if count is None:
                    start = time.perf_counter()
                    lowered = lowered_to_count(self._function, *args)
                    self.seconds += time.perf_counter() - start
                    count = flops_of(lowered)
                self._flops[shapes] = count or 0.0
            return self._flops[shapes]

    def executable(self, *args: Any, options: dict[str, Any] | None = None) -> Any:
        """Return the compiled program for these arguments (arrays or shapes); with XLA options, a separate one, not kept."""
        if options is None:
            return self._compiled(args)
        return self._jit.lower(*args).compile(compiler_options=compiler_options() | options)

    def temporary_bytes(self, *args: Any) -> int:
        """Return the bytes of a call (arrays or shapes) besides arguments and results: activations, gradients."""
        analysis = self._compiled(args).memory_analysis()
        return 0 if analysis is None else int(analysis.temp_size_in_bytes)

    def _shapes(self, args: tuple[Any, ...]) -> tuple:
        leaves = jax.tree_util.tree_leaves_with_path([args[i] for i in self._varies])
        return tuple((str(path), leaf.shape, str(leaf.dtype)) for path, leaf in leaves)
