"""Small runs."""

from __future__ import annotations

import numpy as np

import transferlab as tl
from transferlab import trees
from transferlab.train import Settings

QUICK = Settings(learning_rate=1e-2, epochs=3, batch_size=8, log_every=2)


def fit(source, data, method, directory=None, settings=QUICK, **more):
    run = tl.adapt(source, data, method=method, settings=settings, directory=directory, **more)
    return run, run.fit()


def flat(tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in trees.walk(tree)}
