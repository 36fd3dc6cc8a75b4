"""How cost grows: with examples, with frozen layers, with the size of a population, with the length of texts.

python experiments/benchmarks/scaling.py [SVG]      # draws scaling.svg next to this file, and prints the numbers

MiniLM-L6 on tweets. Medians of repeated steps in one process, compilation excluded; a run's cost adds the feature pass
of what is frozen, once an example.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import matplotlib
import numpy as np

import transferlab as tl
from transferlab.train import Settings
from transferlab.train.fit import fit_together, prepare
from transferlab.transfer import Group
from transferlab.transfer.cache import FrontierCache

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROWS, LENGTH = 32, 64
SETTINGS = Settings(learning_rate=1e-3, batch_size=ROWS)


@dataclass(frozen=True)
class Upper(tl.methods.Full):
    """Trains everything above ``frozen`` layers; with none frozen, the embeddings too."""

    frozen: int = 0

    def groups(self, stages):
        head = Group("head")
        if self.frozen == 6:
            return (head,)
        # Stage 0 holds the embeddings, stage 1 the first layer.
        return (Group(f"depth > {self.frozen} & ~head" if self.frozen else "~head"), head)


def seconds(work, repeats: int = 5) -> float:
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def step(source, data, method, length: int = LENGTH) -> float:
    """Seconds of one update on ``ROWS`` texts of ``length`` tokens; carries of what is frozen are given."""
    run = tl.adapt(source, data, method=method, settings=SETTINGS)
    run.cache = FrontierCache(None)
    member, state = prepare(run, {})
    ids = np.random.default_rng(0).integers(1000, 20000, (ROWS, length)).astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    if run.decision.cached:
        inputs = run.program.prefix(*run.plan.place(0), inputs)
    batch = jax.device_put({"inputs": inputs, "targets": {"label": ids[:, 0] % 2}, "weight": np.ones(ROWS, np.float32)})
    hparams = run.hparams()

    def work() -> None:
        nonlocal state
        state, metrics = run.program.step(state, member.frozen, batch, hparams)
        jax.block_until_ready((state, metrics))

    return seconds(work)


def examples(source) -> tuple[list[int], dict[str, list[float]]]:
    """Seconds of a whole run of 5 epochs, feature pass included, by training examples."""
    sizes, out = [64, 128, 256, 512], {}
    methods = {"probe": tl.methods.Probe(), "last layer": Upper(frozen=5), "LoRA": tl.methods.LoRA()}
    for name, method in methods.items():
        for size in sizes:
            data = tl.dataset("tweets", examples=size, test_examples=100)

            def work(data=data, method=method) -> None:
                run = tl.adapt(source, data, method=method, settings=replace(SETTINGS, epochs=5))
                run.cache = FrontierCache(None)
                run.fit()

            out.setdefault(name, []).append(seconds(work, 1))
            print(f"examples {size:>4} {name}: {out[name][-1]:.2f} s", flush=True)
    return sizes, out


def population(source) -> tuple[list[int], dict[str, list[float]]]:
    """Seconds a member of 400 probe steps, by how many step together."""
    sizes, times = [1, 4, 16, 64], []
    data = tl.dataset("tweets", examples=256)
    for size in sizes:

        def work(size=size) -> None:
            settings = [replace(SETTINGS, steps=400, learning_rate=1e-3 * (1 + i)) for i in range(size)]
            fit_together([tl.adapt(source, data, method=tl.methods.Probe(), settings=one) for one in settings])

        times.append(seconds(work, 3) / size)
        print(f"population {size:>3}: {times[-1] * 1e3:.1f} ms a member", flush=True)
    return sizes, {"probe": times}


def main() -> None:
    """Measure, print, draw."""
    source, data = tl.load("minilm-l6"), tl.dataset("tweets", examples=64, test_examples=100)
    frozen = list(range(7))
    layers = []
    for count in frozen:
        layers.append(step(source, data, Upper(frozen=count)))
        print(f"frozen layers {count}: {layers[-1] * 1e3:.0f} ms a step", flush=True)
    lengths = [16, 32, 64, 128, 256]
    by_length: dict[str, list[float]] = {"full": [], "LoRA": []}
    for length in lengths:
        for name, method in (("full", tl.methods.Full()), ("LoRA", tl.methods.LoRA())):
            by_length[name].append(step(source, data, method, length))
            print(f"length {length:>3} {name}: {by_length[name][-1] * 1e3:.0f} ms a step", flush=True)
    panels = [
        ("training examples", "s a run of 5 epochs", *examples(source)),
        ("frozen layers of six", "s a step", frozen, {"32 × 64 tokens": layers}),
        ("runs stepping together", "s a run of 400 steps", *population(source)),
        ("tokens a text", "s a step of 32 texts", lengths, by_length),
    ]
    figure, grid = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
    for axes, (across, up, x, curves) in zip(grid, panels, strict=True):
        for name, y in curves.items():
            axes.plot(x, y, marker="o", markersize=3, linewidth=1.4, label=name)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        if across != "frozen layers of six":
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, [str(value) for value in x])
        axes.legend(frameon=False, fontsize=8)
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("scaling.svg")
    figure.savefig(place, metadata={"Date": None})


if __name__ == "__main__":
    main()
