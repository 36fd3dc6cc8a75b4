"""Predictions for any choice of examples, batch by batch, in the order in which they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from transferlab.data.batches import Batch, evaluation_order
from transferlab.data.inputs import Inputs
from transferlab.data.ragged import Ragged
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.tasks.base import Predictions, Task


def predict_rows(
    task: Task,
    outputs: Sequence[str],
    feed: Inputs,
    indices: Int[np.ndarray, " n"],
    size: int,
    call: Callable[[Batch], Mapping[str, np.ndarray]],
) -> Predictions:
    """Return what is predicted for these examples, each once, as the head puts it out (:meth:`Task.restore` puts it back into the
    units of the data).

    Where an example has several rows, their predictions are averaged; those of a ragged task are joined.

    Args:
        task: what predicts.
        outputs: names of the head's outputs.
        feed: the examples as model inputs.
        indices: of the examples.
        size: rows of a batch.
        call: from a batch to its predictions, each (size, …), padding included.
    """
    rows = feed.rows_of(indices)
    order = evaluation_order(rows, feed.buckets(rows), size)
    if task.ragged:
        return _ragged(task, outputs, feed, indices, order, call)
    places = {int(i): place for place, i in enumerate(indices)}
    shapes = task.shapes(tuple(outputs))
    out: dict[str, np.ndarray] = {}
    counts = np.zeros(len(indices), np.int32)
    for batch in order:
        at = [places[int(i)] for i in feed.examples_of(batch.indices)]
        for name, values in call(batch).items():
            if feed.views > 1:
                values = values.reshape(-1, feed.views, *values.shape[1:])
            if name not in out:
                out[name] = np.zeros((len(indices), *values.shape[1:]), np.float32)
            np.add.at(out[name], at, values[: len(at)])
        np.add.at(counts, at, 1)
    if counts.max(initial=1) > 1:
        for values in out.values():
            values /= counts.reshape(-1, *[1] * (values.ndim - 1))
    return dict(out) or {name: np.zeros((0, *shape), np.float32) for name, shape in shapes.items()}


def _ragged(
    task: Task,
    outputs: Sequence[str],
    feed: Inputs,
    indices: Int[np.ndarray, " n"],
    order: Sequence[Batch],
    call: Callable[[Batch], Mapping[str, np.ndarray]],
) -> Predictions:
    parts: dict[int, list[tuple[int, dict[str, np.ndarray]]]] = {int(i): [] for i in indices}
    for batch in order:
        for example, start, arrays in task.gather(call(batch), feed, batch):
            parts[example].append((start, arrays))
    joined = [[arrays for _, arrays in sorted(parts[int(i)], key=lambda part: part[0])] for i in indices]
    names = next((arrays[0] for arrays in joined if arrays), {})
    if not names:
        shapes, offsets = task.shapes(tuple(outputs)), np.zeros(len(indices) + 1, np.int64)
        return {name: Ragged(np.zeros((0, *shape), np.float32), offsets) for name, shape in shapes.items()}
    return {name: Ragged.of([np.concatenate([one[name] for one in arrays]) for arrays in joined]) for name in names}


def all_finite(predictions: Predictions) -> bool:
    """Whether no prediction is infinite or NaN; texts are finite."""
    arrays: list[Any] = [part.values if isinstance(part, Ragged) else part for part in predictions.values()]
    return all(np.isfinite(values).all() for values in arrays if values.dtype.kind == "f")


def read_entries(arrays: Mapping[str, LazyTensor], name: str) -> Any:
    """Return what a run wrote under a name in ``predictions.npz``: one entry an example, a :class:`Ragged` where they differ in length."""
    offsets = arrays.get(f"{name}_offsets")
    return arrays[name].read() if offsets is None else Ragged(arrays[name].read(), offsets.read())


def take(values: np.ndarray | Ragged, indices: Int[np.ndarray, " n"]) -> np.ndarray | Ragged:
    """Return the entries of these examples."""
    return Ragged.of([values[int(i)] for i in indices]) if isinstance(values, Ragged) else values[indices]
