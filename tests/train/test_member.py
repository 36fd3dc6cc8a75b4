"""What is logged of a run: means over examples, whatever the weights of its batches and wherever it was interrupted."""

from __future__ import annotations

import numpy as np

import transferlab as tl
from transferlab.train import Settings
from transferlab.train.fit import prepare
from transferlab.train.member import Member, pending_metrics


def member_of(source, films, steps: int = 6) -> Member:
    settings = Settings(learning_rate=1e-2, steps=steps, batch_size=8, log_every=3)
    return prepare(tl.adapt(source, films.subset(24, 0), settings=settings), {})[0]


def metrics(losses: list[list[float]]) -> dict[str, np.ndarray]:
    n = len(losses)
    return {
        "loss": np.array(losses, np.float32),
        "accuracy": np.array([[2.0, weight] for _, weight in losses], np.float32),
        "gradient_norm": np.arange(n, dtype=np.float32),
        "learning_rate": np.full(n, 0.5, np.float32),
    }


def test_a_row_is_the_mean_over_examples_and_not_over_batches(source, films) -> None:
    member = member_of(source, films)
    row = member.log(0, metrics([[8.0, 8.0], [8.0, 8.0], [8.0, 2.0]]))[0]
    assert row == {"step": 3, "loss": 24 / 18, "accuracy": 6 / 18, "gradient_norm": 2.0, "learning_rate": 0.5}
    assert list(row) == ["step", "loss", "accuracy", "gradient_norm", "learning_rate"]


def test_steps_before_an_interruption_count_in_the_row_after_it(source, films) -> None:
    whole, first, second = member_of(source, films), member_of(source, films), member_of(source, films)
    losses = [[8.0, 8.0], [4.0, 4.0], [8.0, 2.0]]
    rows = whole.log(0, metrics(losses))
    assert first.log(0, metrics(losses[:2])) == [] and len(first.pending) == 2
    second.pending = pending_metrics(first.pending, 8)
    assert second.log(2, {name: values[2:] for name, values in metrics(losses).items()}) == rows


def test_metrics_that_an_earlier_version_kept_are_means_of_whole_batches() -> None:
    old = [{"loss": 0.5, "accuracy": 0.25, "gradient_norm": 1.0, "learning_rate": 0.1}]
    new = [{"loss": [4.0, 8], "accuracy": [2.0, 8], "gradient_norm": 1.0, "learning_rate": 0.1}]
    assert pending_metrics(old, 8) == pending_metrics(new, 8) == new
