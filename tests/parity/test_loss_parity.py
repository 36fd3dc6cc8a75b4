"""Losses with weights and smoothing against PyTorch's, on one batch: value and gradient, whole, padded and in parts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferlab.tasks import Classification, MultiLabel
from transferlab.tasks.base import StepBatch, Task, total_loss

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)).astype(np.float32) * 3
LABELS, TAGS = np.array([0, 2, 1, 0, 3, 2]), (RNG.random((6, 4)) < 0.4).astype(np.float32)
WEIGHTS = np.array([0.5, 2.0, 1.0, 3.5], np.float32)


def in_parts(task: Task, targets: dict[str, np.ndarray], logits: jax.Array, parts: int, padding: int) -> jax.Array:
    """The loss as the step adds it up: each part's sum divided by the weights of the whole batch."""
    rows = {name: np.pad(values, [(0, padding)] + [(0, 0)] * (values.ndim - 1)) for name, values in targets.items()}
    weight = jnp.asarray(np.pad(np.ones(len(LOGITS), np.float32), (0, padding)))
    logits = jnp.pad(logits, ((0, padding), (0, 0)), constant_values=7.0)
    batch: StepBatch = {"inputs": {}, "targets": {k: jnp.asarray(v) for k, v in rows.items()}, "weight": weight}
    weights, n = task.weights(batch), len(weight) // parts

    def cut(i: int) -> StepBatch:
        return jax.tree.map(lambda x: x[i * n : (i + 1) * n], batch)

    pieces = (task.loss({"logits": logits[i * n : (i + 1) * n]}, cut(i)) for i in range(parts))
    return sum((total_loss(task, piece, weights) for piece in pieces), jnp.zeros(()))


def compare(task: Task, targets: dict[str, np.ndarray], loss: Any, true: Any) -> None:
    theirs = torch.tensor(LOGITS, requires_grad=True)
    wanted = loss(theirs, true)
    wanted.backward()
    assert theirs.grad is not None
    for parts, padding in ((1, 0), (1, 3), (3, 0), (4, 2)):
        value, slope = jax.value_and_grad(lambda x, p=parts, d=padding: in_parts(task, targets, x, p, d))(
            jnp.asarray(LOGITS)
        )
        assert float(value) == pytest.approx(wanted.item(), abs=1e-5)
        np.testing.assert_allclose(slope, theirs.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_and_smoothing_are_those_of_cross_entropy_loss(smoothing: float, weighted: bool) -> None:
    targets: dict[str, np.ndarray] = {"label": LABELS.astype(np.int32)}
    if weighted:
        targets["weight"] = WEIGHTS[LABELS]
        targets |= {"class_weights": np.broadcast_to(WEIGHTS, (6, 4))} if smoothing else {}
    weight = torch.tensor(WEIGHTS) if weighted else None
    loss = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    compare(Classification(label_smoothing=smoothing), targets, loss, torch.tensor(LABELS))


@pytest.mark.parametrize("weighted", [False, True])
def test_positive_weights_are_those_of_bce_with_logits_loss(weighted: bool) -> None:
    targets = {"tags": TAGS} | ({"weight": np.where(TAGS > 0, WEIGHTS, np.float32(1))} if weighted else {})
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHTS) if weighted else None)
    compare(MultiLabel(), targets, loss, torch.tensor(TAGS))
