"""Where a step's time goes: a trace for Perfetto or TensorBoard, and a summary by stage."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferlab.data.batches import Batch
from transferlab.errors import TransferlabError
from transferlab.files import write_text
from transferlab.train.fit import prepare
from transferlab.train.member import make_batch
from transferlab.train.setup import Setup

MAX_SCANNED_BATCHES = 200
"""How many of a run's batches are searched for their most frequent shape."""
_OPERATION = re.compile(
    r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?metadata=\{[^}]*?op_name=\"((?:[^\"\\]|\\.)*)\"", re.MULTILINE
)


@dataclass(frozen=True)
class Profile:
    """How a few steps of a run spent their time.

    Attributes:
        step_seconds: median wall-clock time of a step, without tracing.
        idle: fraction of a traced step in which no operation ran.
        flops: floating-point operations of a step, as XLA counts them.
        peak: operations per second of a large matmul on this device, measured right after.
        stages: (stage, ``forward``, ``backward`` or ``update``, fraction of the operations' time), in the model's order.
        rows, length: the batch that was profiled; length 0 for images.
        trace: directory that ``tensorboard --logdir`` and https://ui.perfetto.dev open.
    """

    step_seconds: float
    idle: float
    flops: float
    peak: float
    stages: tuple[tuple[str, str, float], ...]
    rows: int
    length: int
    trace: Path

    def __str__(self) -> str:
        batch = f"{self.rows} examples" + (f" of {self.length} tokens" if self.length else "")
        achieved = self.flops / self.step_seconds
        lines = [
            f"A step on {batch}: {self.step_seconds * 1e3:.3g} ms, {_human(self.flops)}FLOP, {_human(achieved)}FLOP/s: "
            f"{achieved / self.peak:.0%} of a large matmul's {_human(self.peak)}FLOP/s here; "
            f"{self.idle:.0%} of the time nothing ran.",
            "",
            f"{'stage':<16}{'forward':>10}{'backward':>10}{'update':>10}",
        ]
        by_stage: dict[str, dict[str, float]] = defaultdict(dict)
        for stage, direction, fraction in self.stages:
            by_stage[stage][direction] = fraction
        for stage, fractions in by_stage.items():
            cells = (
                f"{fractions[d]:>10.1%}" if d in fractions else " " * 10 for d in ("forward", "backward", "update")
            )
            lines.append(f"{stage:<16}{''.join(cells)}".rstrip())
        return "\n".join([*lines, "", f"Percentages are of the operations' time. Trace: {self.trace}"])


def _human(operations: float) -> str:
    """A number of operations with the SI prefix for its unit."""
    for prefix in ("", "k", "M", "G"):
        if operations < 999.5:
            return f"{operations:.3g} {prefix}"
        operations /= 1000
    return f"{operations:.0f} T" if operations >= 100 else f"{operations:.3g} T"


def profile(run: Setup, directory: Path, steps: int = 5) -> Profile:
    """Take a few steps of a run (whose results are discarded) at its most frequent batch shape, with and without a trace.

    The step is that of a single run, even where a study would put it in a population.
    Writes ``directory/trace`` and ``directory/profile.txt``.
    """
    member, state = prepare(run, {})
    if member.checkpoints is not None:
        member.checkpoints.close()
    program, hparams = run.program, run.hparams()
    batches = [run.order[step] for step in range(min(run.steps, MAX_SCANNED_BATCHES))]
    length = Counter(batch.bucket for batch in batches).most_common(1)[0][0]
    first: Batch = next(batch for batch in batches if batch.bucket == length)
    batch = jax.device_put(make_batch(member, first))
    state, _ = jax.block_until_ready(program.step(state, member.frozen, batch, hparams))
    flops = program.step.flops(state, member.frozen, batch, hparams)
    # A GPU replays operations as one graph, which a trace shows as one: the traced program is compiled without graphs.
    options = {"xla_gpu_graph_min_graph_size": 1 << 30} if jax.default_backend() == "gpu" else None
    traced = program.step.executable(state, member.frozen, batch, hparams, options=options)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(program.step(state, member.frozen, batch, hparams))
        seconds.append(time.perf_counter() - started)
    trace = directory / "trace"
    shutil.rmtree(trace, ignore_errors=True)
    with jax.profiler.trace(str(trace)):
        for _ in range(steps):
            state, _ = jax.block_until_ready(traced(state, member.frozen, batch, hparams))
    spans = read_trace(trace)
    names = [stage.name for stage in run.plan.network.stages]
    summary = Profile(
        float(np.median(seconds)), idle_fraction(spans), flops, matmul_speed(run.settings.precision),
        by_stage(spans, traced.as_text(), names),
        len(batch["weight"]), length, trace,
    )  # fmt: skip
    write_text(directory / "profile.txt", f"{summary}\n")
    return summary


Span = tuple[str, float, float]
"""(operation in the compiled program, start, end), in microseconds."""


def read_trace(directory: Path) -> list[Span]:
    """Read the operations of a JAX trace.

    Raises:
        TransferlabError: the profiler wrote no trace there, or one without operations.
    """
    files = sorted(directory.rglob("*.trace.json.gz"))
    if not files:
        raise TransferlabError(f"{directory} holds no trace (no *.trace.json.gz).")
    with gzip.open(files[-1], "rt", encoding="utf-8") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    spans = [
        (str(event["args"]["hlo_op"]), float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        for event in events
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {})
    ]
    if not spans:
        raise TransferlabError(f"{files[-1]} names no operation of a compiled program.")
    return spans


def idle_fraction(spans: list[Span]) -> float:
    """Fraction of the time from the first operation to the last in which none ran, on any thread."""
    busy, end = 0.0, float("-inf")
    for _, start, stop in sorted(spans, key=lambda span: span[1]):
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    whole = end - min(start for _, start, _ in spans)
    return 1.0 - busy / whole if whole > 0 else 0.0


def by_stage(spans: list[Span], text: str, stages: list[str]) -> tuple[tuple[str, str, float], ...]:
    """Sum the spans by stage and direction, from the names that the compiled program keeps of where each came from."""
    names = dict(_OPERATION.findall(text))
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for name, start, stop in spans:
        sums[_stage_of(names.get(name, ""), stages)] += stop - start
    total = sum(sums.values())
    order = {stage: i for i, stage in enumerate([*stages, "loss", "optimizer", "other"])}
    items = sorted(sums.items(), key=lambda item: (order[item[0][0]], item[0][1] != "forward"))
    return tuple((stage, direction, time / total) for (stage, direction), time in items)


def _stage_of(name: str, stages: list[str]) -> tuple[str, str]:
    """The stage and direction of an operation, by its ``op_name``."""
    parts = name.split("/", 1)[-1] if name.startswith("jit(") else name
    direction = "backward" if "transpose(" in parts else "forward"
    matches = [stage for stage in stages if re.search(rf"(^|[(/]){re.escape(stage)}([)/]|$)", parts)]
    if matches:
        return max(matches, key=len), direction
    if "jvp(" in parts:
        return "loss", direction
    return ("optimizer", "update") if parts else ("other", "forward")


def matmul_speed(dtype: str = "float32", repeats: int = 5, in_a_row: int = 10) -> float:
    """Operations per second of a large matmul: the best of a few, since a slow one may be due to other processes.

    In float32 it has the default precision, as in the models: on a GPU XLA rounds its operands to TF32.
    """
    size, times = (2048, 1) if jax.default_backend() == "cpu" else (8192, in_a_row)
    matmul, x = jax.jit(jnp.matmul), jax.random.normal(jax.random.key(0), (size, size), dtype)
    jax.block_until_ready(matmul(x, x))
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready([matmul(x, x) for _ in range(times)])
        best = min(best, (time.perf_counter() - started) / times)
    return 2.0 * size**3 / best
