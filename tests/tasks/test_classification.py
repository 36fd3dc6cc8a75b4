"""Cross-entropy and accuracy over a batch whose last rows are padding."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import transferlab as tl
from transferlab.tasks import Classification
from transferlab.tasks.base import StepBatch, means, total_loss

LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 0, 0], np.int32)
REAL = np.array([1, 1, 1, 0, 0], np.float32)


def batch_of(weight: np.ndarray) -> StepBatch:
    return {"inputs": {}, "targets": {"label": jnp.asarray(LABELS)}, "weight": jnp.asarray(weight)}


def mean_loss(task: Classification, logits: jax.Array, weight: np.ndarray = REAL) -> jax.Array:
    batch = batch_of(weight)
    return total_loss(task, task.loss({"logits": logits}, batch), task.weights(batch))


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x.astype(np.float64)).sum(-1, keepdims=True))


@pytest.mark.parametrize(("classes", "chance"), [(2, ".5"), (4, ".25"), (3, ".333")])
def test_balanced_accuracy_says_what_a_constant_prediction_scores(tmp_path: Path, classes: int, chance: str) -> None:
    rows = [f"text {i},label {i % classes}" for i in range(10 * classes)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))
    said = Classification().explain("balanced_accuracy", tl.dataset(tmp_path / "t.csv", test_examples=2 * classes))
    assert f"over the {classes} classes of the test split" in said and f"recognized: {chance} for a constant" in said


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_does_not_count_in_the_mean(smoothing: float) -> None:
    task = Classification(label_smoothing=smoothing)
    target = (1 - smoothing) * np.eye(3)[LABELS[:3]] + smoothing / 3
    want = -(target * log_softmax(LOGITS)[:3]).sum(-1).mean()
    assert float(mean_loss(task, jnp.asarray(LOGITS))) == pytest.approx(want, rel=1e-6)
    hits = (LOGITS[:3].argmax(-1) == LABELS[:3]).mean()
    pair = task.metrics({"logits": jnp.asarray(LOGITS)}, batch_of(REAL))["accuracy"]
    assert means(np.array([pair])) == pytest.approx(hits)


def test_no_gradient_reaches_padding() -> None:
    slope = jax.grad(lambda logits: mean_loss(Classification(), logits))(jnp.asarray(LOGITS))
    np.testing.assert_array_equal(slope[3:], 0)
    assert np.abs(slope[:3]).min() > 0


def test_bfloat16_logits_are_reduced_in_float32() -> None:
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    loss = mean_loss(Classification(), logits)
    assert loss.dtype == jnp.float32
    want = -log_softmax(np.asarray(logits, np.float32))[np.arange(3), LABELS[:3]].mean()
    assert float(loss) == pytest.approx(want, rel=1e-6)


def test_a_batch_of_padding_alone_is_finite() -> None:
    value, slope = jax.value_and_grad(lambda logits: mean_loss(Classification(), logits, np.zeros(5)))(
        jnp.asarray(LOGITS)
    )
    assert float(value) == 0.0 and not np.asarray(slope).any()
