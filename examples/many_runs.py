"""Many runs together: learning rates × seeds, in one program where they can share one.

    python examples/many_runs.py reviews.csv minilm-l6

Prints the mean accuracy of each learning rate over the seeds, on the part of the training data held out for validation.
"""

from __future__ import annotations

import sys

import numpy as np

import transferlab as tl
from transferlab.train import Result, Settings

RATES, SEEDS = (1e-3, 3e-3, 1e-2), (0, 1)


def validated(result: Result) -> float:
    """The last accuracy on the validation split."""
    return [row["validation_accuracy"] for row in result.history if "validation_accuracy" in row][-1]


def main(table: str, model: str = "minilm-l6", steps: str = "100") -> None:
    source, data = tl.load(model), tl.dataset(table).hold_out(0.2, seed=0)
    cells = [(rate, seed) for rate in RATES for seed in SEEDS]
    runs = [
        tl.adapt(source, data, method=tl.methods.Probe(), seed=seed, settings=Settings(rate, steps=int(steps)))
        for rate, seed in cells
    ]
    results = tl.fit_together(runs)
    for rate in RATES:
        scores = [validated(result) for (other, _), result in zip(cells, results, strict=True) if other == rate]
        print(f"{rate:g}\t{np.mean(scores):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
