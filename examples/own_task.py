"""A task of your own: classes that are in an order, and a loss that knows how far from the true one a prediction is.

python examples/own_task.py reviews.csv minilm-l6 runs/stars      # columns text and label; labels in order when sorted
transferlab predict runs/stars "What a wonderful day" --code examples/own_task.py
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import transferlab as tl
from transferlab.bounds import NonNegative
from transferlab.data.dataset import Dataset
from transferlab.tasks import Classification


@dataclass(frozen=True)
class Ordinal(Classification):
    """Cross-entropy, and the expected distance between the predicted and the true class.

    Attributes:
        distance_weight: of the distance, in nats per step between classes.
    """

    distance_weight: NonNegative = 1.0

    name: ClassVar[str] = "ordinal"
    scores: ClassVar[Mapping[str, int]] = {**Classification.scores, "mean_distance": -1}

    def loss(self, out: Any, batch: Any) -> dict[str, jax.Array]:
        probabilities, label = jax.nn.softmax(out["logits"].astype(jnp.float32)), batch["targets"]["label"]
        distance = jnp.abs(jnp.arange(probabilities.shape[-1]) - label[:, None])
        expected = ((probabilities * distance).sum(-1) * batch["weight"]).sum()
        return {"loss": super().loss(out, batch)["loss"] + self.distance_weight * expected}

    def score(self, predictions: Any, data: Dataset, indices: np.ndarray) -> dict[str, float]:
        predicted, true = predictions["probabilities"].argmax(-1), self.column(data).values[indices]
        return {**super().score(predictions, data, indices), "mean_distance": float(np.abs(predicted - true).mean())}


def main(table: str, model: str = "minilm-l6", directory: str = "runs/own_task") -> None:
    run = tl.adapt(tl.load(model), tl.dataset(table), method=tl.methods.Probe(), task=Ordinal(), directory=directory)
    result = run.fit()
    print(f"mean distance on held-out texts: {result.test['mean_distance']:.3f}")
    print(tl.open_run(directory).present(["What a wonderful day", "I am so tired of this"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
