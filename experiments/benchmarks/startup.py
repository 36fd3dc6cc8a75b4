"""Seconds from the start of Python to a run's first step: with an empty compilation cache, and again with it filled.

    python experiments/benchmarks/startup.py

Full fine-tuning of MiniLM-L6 on 64 tweets, as ``transferlab run`` begins it: the source opened, the data split, the plan
made, the step's memory read off the compiled program, weights and optimizer placed, one step done. Weights and data are
in the cache of artifacts; the compilation cache is a temporary one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from transferlab.compute.host import large_pages

REPEATS = 5


def worker(begun: float, cache: str) -> None:
    """Start a run, and print the seconds since ``begun`` at each mark as JSON."""
    marks = {}

    def mark(name: str) -> None:
        marks[name] = time.time() - begun

    import jax

    import transferlab as tl

    source = tl.load("minilm-l6")
    mark("source opened")
    data = tl.dataset("tweets", examples=64)
    mark("data split")
    from transferlab.cli.watch import use_compilation_cache
    from transferlab.train.engines import StreamingEngine
    from transferlab.train.fit import prepare
    from transferlab.train.interrupt import StopRequest

    use_compilation_cache()
    jax.config.update("jax_compilation_cache_dir", cache)
    run = tl.adapt(source, data, method=tl.methods.Full())
    mark("plan made")
    member, state = prepare(run, {})
    mark("step's memory known, weights placed")
    StreamingEngine(member, state).advance(1, StopRequest(), None)
    mark("first step done")
    print(json.dumps(marks))


def start(cache: str) -> dict[str, float]:
    """One start in a process of its own."""
    environment = {**os.environ, **large_pages(os.environ)}
    command = [sys.executable, __file__, "--worker", repr(time.time()), cache]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print a Markdown table."""
    if sys.argv[1:2] == ["--worker"]:
        worker(float(sys.argv[2]), sys.argv[3])
        return
    first, again = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(prefix="startup.") as cache:
            first.append(start(cache))
            again.append(start(cache))
    print(f"Seconds since the start, medians of {REPEATS} (least–most)\n")
    print("| | first start | second start |\n|---|---:|---:|")
    for name in first[0]:
        shown = []
        for side in (first, again):
            found = [row[name] for row in side]
            shown.append(f"{statistics.median(found):.1f} ({min(found):.1f}–{max(found):.1f})")
        print(f"| {name} | {shown[0]} | {shown[1]} |")


if __name__ == "__main__":
    main()
