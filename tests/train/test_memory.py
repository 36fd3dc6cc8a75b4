"""Memory: what a step will hold is known before it runs, and a step that does not fit is made to."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

import transferlab as tl
from transferlab.compute.devices import device_bytes
from transferlab.errors import TransferlabError
from transferlab.train import Optimizer, Settings
from transferlab.train.memory import fit_to_memory
from transferlab.train.program import Execution
from transferlab.transfer.show import human_bytes

QUICK = Settings(learning_rate=1e-2, steps=3, batch_size=8, log_every=1)


def run_of(source, films, method=None, **changes):
    return tl.adapt(source, films.subset(24, 0), method=method, settings=replace(QUICK, **changes))


def test_memory_predicted_before_training_is_what_the_run_takes(source, films) -> None:
    for method in (tl.methods.Full(), tl.methods.LoRA(rank=2)):
        run = run_of(source, films, method)
        said = run.memory
        assert run.fit().record["memory"] == {
            "frozen": said.frozen, "trainable": said.trainable, "optimizer": said.optimizer,
            "activations": said.activations,
        }  # fmt: skip
        assert said.trainable == 4 * run.plan.trainable_parameters
        assert said.optimizer == 2 * said.trainable + 4
        assert said.total > said.frozen + said.trainable + said.optimizer
        assert "activations and gradients" in str(said)


def test_an_average_takes_memory_and_a_smaller_batch_takes_less(source, films) -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("cuBLAS asks for a workspace of 32 MiB, more than all else of this step")
    plain, averaged = run_of(source, films).memory, run_of(source, films, ema=0.9).memory
    assert averaged.optimizer == plain.optimizer + plain.trainable
    assert run_of(source, films, batch_size=64).memory.activations > 2 * plain.activations


def test_a_step_that_does_not_fit_is_made_to_fit_and_recorded(source, films) -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("cuBLAS asks for a workspace of 32 MiB, more than all else of this step")
    run = run_of(source, films, batch_size=64)
    fixed = run.memory.total - run.memory.activations
    limit = fixed + run.memory.activations // 3
    squeezed = run_of(source, films, batch_size=64, memory_bytes=limit)
    fit_to_memory(squeezed)
    assert squeezed.execution.remat
    assert squeezed.execution.accumulate > 1
    assert squeezed.memory.total <= limit
    assert f"does not fit in {human_bytes(limit)}: {squeezed.execution}" in squeezed.memory_note
    assert squeezed.fit().record["memory_note"] == squeezed.memory_note
    with pytest.raises(TransferlabError, match=r"Even with activations computed again and one example at a time"):
        fit_to_memory(run_of(source, films, memory_bytes=1000))
    fit_to_memory(run)
    assert run.memory_note == ""
    assert run.execution == Execution(False, 1)


def test_a_run_made_to_fit_learns_the_same(films, tmp_path) -> None:
    from support.checkpoints import write_bert

    source = tl.load(write_bert(tmp_path / "still", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    runs = [run_of(source, films, optimizer=Optimizer("sgd")) for _ in range(2)]
    runs[1].execution = Execution(True, 4)
    one, other = (run.fit() for run in runs)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_the_machines_memory_is_known() -> None:
    known = device_bytes()
    assert known is not None
    assert known > 1 << 28
