"""Two sides of one piece of work, measured in turn: ours and the peer's, each in a process of its own.

A benchmark file registers sides with ``@side("row", "ours")``: a function that prepares, and returns the work to time.
``compare`` starts both processes of a row, warms them up, and lets them work in turn, so that what else the machine
does meets both alike. Medians and their ratio are printed, with the quartiles of each side. What is ours gets the large
pages that ``transferlab run`` gives itself; with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 both have them.

On a machine with a GPU both sides run on it: both in bfloat16 with float32 parameters, the peer's model compiled.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from transferlab.compute.host import large_pages

Work = Callable[[], object]
STEPS = 50
"""Steps of one piece of work on a GPU, which are waited for together, as in training."""

SIDES: dict[tuple[str, str], Callable[[], Work]] = {}
OWN: set[str] = set()
"""Sides that run our code."""

COLD: set[str] = set()
"""Rows whose work starts with the process: interpreter, imports and compilation are timed."""


def on_gpu() -> bool:
    """Whether JAX has a GPU here; for our side."""
    import jax

    found = jax.default_backend() == "gpu"
    if found != gpu_here():
        raise SystemExit(
            f"JAX runs on {jax.default_backend()}: no comparison with a peer that has what nvidia-smi shows."
        )
    return found


def gpu_here() -> bool:
    """The same, asked without taking the GPU."""
    return shutil.which("nvidia-smi") is not None


def torch_device() -> str:
    """The peer's device; on CPU it gets two threads."""
    import torch

    torch.set_num_threads(2)
    if torch.cuda.is_available() != gpu_here():
        raise SystemExit("This torch does not run on the GPU that is here: no comparison with JAX on it.")
    return "cuda" if torch.cuda.is_available() else "cpu"


def in_a_row(step: Callable[[], object], wait: Callable[[object], object], times: int) -> Work:
    """So many steps without waiting, and then for the last; returns the seconds of one."""

    def work() -> dict[str, float]:
        started = time.perf_counter()
        last = None
        for _ in range(times):
            last = step()
        wait(last)
        return {"seconds": (time.perf_counter() - started) / times}

    return work


def side(
    row: str, name: str, cold: bool = False, own: bool | None = None
) -> Callable[[Callable[[], Work]], Callable[[], Work]]:
    """Register one side of a row; with ``cold`` each measurement is a process of its own, timed from its start.

    ``own`` says that the code is ours; by default that of the side "ours" is.
    """

    def register(prepare: Callable[[], Work]) -> Callable[[], Work]:
        SIDES[row, name] = prepare
        if name == "ours" if own is None else own:
            OWN.add(f"{row} {name}")
        if cold:
            COLD.add(f"{row} {name}")
        return prepare

    return register


class Worker:
    """One side of one row, in a process that waits to be told to work."""

    def __init__(self, script: str, row: str, name: str):
        self.command = [sys.executable, script, "--worker", row, name]
        self.environment = {**os.environ, **(large_pages(os.environ) if f"{row} {name}" in OWN else {})}
        # On a GPU both sides are there at once.
        self.environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".4")
        self.cold = f"{row} {name}" in COLD
        self.process = None if self.cold else self._start()
        self.said: dict = {}

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment
        )

    def measure(self) -> float:
        """Seconds of one piece of work."""
        started = time.perf_counter()
        process = self.process or self._start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.command)} failed")
        self.said = json.loads(line)
        if self.process is None:
            process.stdin.close()
            process.wait()
            return time.perf_counter() - started
        return self.said["seconds"]

    def close(self) -> None:
        """End the process."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def work(row: str, name: str) -> None:
    """The worker's side: prepare, then time one piece of work for each line that comes in.

    What a piece of work returns is shown next to its time: a word, or a mapping with its own ``seconds`` and ``said``.
    """
    do = SIDES[row, name]()
    for _ in sys.stdin:
        started = time.perf_counter()
        said = do()
        line = {"seconds": time.perf_counter() - started, "said": said if isinstance(said, (str, float, int)) else None}
        print(json.dumps(line | said if isinstance(said, dict) else line), flush=True)


def main(script: str, titles: dict[str, str], repeats: int = 9, settle: int = 0) -> None:
    """Entry point of a benchmark file: ``python FILE [ROW …]``; prints a Markdown table.

    With ``settle`` each turn begins with so many pieces of work that are not counted. A virtual machine gives freed memory
    back to its host, so that after the other's turn a step first waits for its memory: seconds, for gigabytes.
    """
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3])
        return
    print("| work | ours, s | peer, s | ratio (peer / ours) |\n|---|---:|---:|---:|", flush=True)
    for row in sys.argv[1:] or titles:
        workers = {name: Worker(script, row, name) for name in ("ours", "peer")}
        for worker in workers.values():
            for _ in range(1 if worker.cold else 2):
                worker.measure()
        times: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(repeats):
            for name, worker in workers.items():
                for _ in range(0 if worker.cold else settle):
                    worker.measure()
                times[name].append(worker.measure())
        ratio = statistics.median(times["peer"]) / statistics.median(times["ours"])
        shown = {name: _shown(values, workers[name].said.get("said")) for name, values in times.items()}
        print(f"| {titles[row]} | {shown['ours']} | {shown['peer']} | {ratio:.2f} |", flush=True)
        for worker in workers.values():
            worker.close()


def _shown(values: list[float], said: object) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    note = f", {said}" if said is not None else ""
    return f"{middle:.3g} ({low:.3g}–{high:.3g}){note}"
