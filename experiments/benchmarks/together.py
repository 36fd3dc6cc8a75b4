"""Sixteen LoRA runs with different learning rates: together as it is done by itself, against one after another.

python experiments/benchmarks/together.py
"""

from __future__ import annotations

from typing import Literal

import pairs
from pairs import Work, gpu_here, on_gpu, side

LABELS, STEPS, RUNS = 256, 200 if gpu_here() else 4, 16


def sixteen(together: Literal["auto", "always", "never"]) -> Work:
    import numpy as np

    import transferlab as tl
    from transferlab.train import Settings
    from transferlab.train.fit import fit_together

    source, data = tl.load("minilm-l6"), tl.dataset("tweets", examples=LABELS, test_examples=64)
    precision = "bfloat16" if on_gpu() else "float32"

    def work() -> str:
        runs = [
            tl.adapt(
                source, data, method=tl.methods.LoRA(rank=8, alpha=16.0), seed=0,
                settings=Settings(learning_rate=float(rate), steps=STEPS, vectorize=together, precision=precision),
            )
            for rate in np.logspace(-4, -2, RUNS)
        ]  # fmt: skip
        return f"{fit_together(runs)[0].record['together']} together"

    return work


@side("lora", "ours")
def ours() -> Work:
    return sixteen("auto")


@side("lora", "peer", own=True)
def peer() -> Work:
    return sixteen("never")


if __name__ == "__main__":
    title = f"{RUNS} LoRA runs with different learning rates, {STEPS} steps each; peer: ours, one after another"
    pairs.main(__file__, {"lora": title}, repeats=3)
