"""A method of your own: only the last layers and the head train.

python examples/own_method.py reviews.csv minilm-l6 runs/last
transferlab predict runs/last "What a wonderful day"                  # it only chose what trains: its code is not needed
transferlab run configs/mine.py     # a config next to this file: from own_method import Last; methods = {"last": {"layers": 1}}
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import transferlab as tl
from transferlab.bounds import Count
from transferlab.methods import Method


@dataclass(frozen=True)
class Last(Method):
    """The last layers and the head train; all before them is frozen, so that what it computes is cached.

    Attributes:
        layers: how many of the last stages of the backbone train.
    """

    layers: Count = 2

    name: ClassVar[str] = "last"
    summary: ClassVar[str] = "the last layers and the head train"
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3, "epochs": 5}

    def groups(self, stages: Sequence[Any]) -> tuple[tl.Group, ...]:
        return (tl.Group(f"depth >= -{self.layers}"), tl.Group("head", lr_scale=10.0))


def main(table: str, model: str = "minilm-l6", directory: str = "runs/own_method") -> None:
    run = tl.adapt(tl.load(model), tl.dataset(table), method=Last(layers=1), directory=directory)
    print(run.plan)
    print(f"accuracy on held-out texts: {run.fit().test['accuracy']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
