"""Runs: what is frozen stays, what resumes is the same, what was trained comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.train import Optimizer, Settings
from transferlab.train.checkpoints import Checkpoints
from transferlab.transfer.cache import FrontierCache

QUICK = Settings(learning_rate=1e-2, epochs=3, batch_size=8, log_every=2)


def fit(source, data, method, directory=None, settings=QUICK, **more):
    run = tl.adapt(source, data, method=method, settings=settings, directory=directory, **more)
    return run, run.fit()


def flat(tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in trees.walk(tree)}


@pytest.mark.parametrize(
    "method", [tl.methods.Probe(), tl.methods.LoRA(rank=2), tl.methods.Full(), tl.methods.Scratch()]
)
def test_what_trains_moves_and_what_is_frozen_stays_bit_for_bit(source, films, method) -> None:
    data = films.subset(40, 0)
    run, result = fit(source, data, method)
    before, after = flat(run._plan.place(0)[0]), flat(result.params)
    assert before.keys() == after.keys()
    for path in before:
        moved = not np.array_equal(before[path], after[path])
        if path.endswith("attention/key/bias"):
            continue  # softmax does not see it: its gradient is 0 up to rounding
        assert moved == (path in run._plan.trainable), path


def test_no_optimizer_moment_is_kept_for_what_is_frozen(source, films) -> None:
    run = tl.adapt(source, films.subset(16, 0), method=tl.methods.LoRA(rank=2), settings=QUICK)
    params, stats = run._plan.place(0)
    state = run.program.initial(trees.split_by(params, run.program.paths)[0], stats)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state["optimizer"]))
    assert moments == 2 * run.plan.trainable_parameters + 1  # first and second moment, and a counter


def test_memory_is_reported_for_what_is_not_there(source, films) -> None:
    data = films.subset(16, 0)
    full, lora = (fit(source, data, m)[1].record["memory"] for m in (tl.methods.Full(), tl.methods.LoRA(rank=2)))
    run = tl.adapt(source, data, method=tl.methods.Full(), settings=QUICK)
    assert full["frozen"] == 0
    assert full["trainable"] == 4 * run.plan.parameters
    assert full["optimizer"] == 2 * full["trainable"] + 4  # two moments, and a counter
    assert full["activations"] > 0
    assert lora["frozen"] + lora["trainable"] > full["trainable"]  # the adapters come on top
    assert lora["optimizer"] < full["optimizer"] / 10


def test_dropout_is_off_in_frozen_stages_and_on_where_something_trains(source, films) -> None:
    """A probe's features do not depend on the seed of dropout; full fine-tuning's losses do."""
    from transferlab.train import Seeds

    data = films.subset(40, 0)
    probes = [fit(source, data, tl.methods.Probe(), seed=Seeds(0, order))[0] for order in (0, 1)]
    assert all(run.plan.training == {"head"} for run in probes)
    key = probes[0].program, probes[1].program
    assert key[0] is key[1]
    losses = [fit(source, data, tl.methods.Full(), seed=Seeds(0, order))[1].history[0]["loss"] for order in (0, 1)]
    assert losses[0] != losses[1]


def test_learning_happens_and_carries_to_the_test_split(source, films) -> None:
    settings = Settings(learning_rate=1e-2, epochs=60, batch_size=16)
    _, result = fit(source, films.subset(90, 0), tl.methods.Full(), settings=settings)
    assert result.test["accuracy"] > 0.8
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2


def test_a_probe_runs_the_backbone_once_per_example(source, films) -> None:
    data = films.subset(40, 0)
    run = tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK)
    run.cache = FrontierCache()
    run.fit()
    assert run.cache.computed == len(data.train) + len(data.test)
    more = tl.adapt(source, films.subset(60, 0), method=tl.methods.Probe(), settings=QUICK)
    more.cache = run.cache
    more.fit()
    assert run.cache.computed == 60 + len(data.test)  # the 40 are among the 60


def test_cached_and_recomputed_features_give_the_same_run(source, films, monkeypatch) -> None:
    """Also for a frontier in the middle, whose carry has a length axis."""
    from dataclasses import dataclass, replace

    from transferlab.transfer.groups import Group

    @dataclass(frozen=True)
    class LastLayers(tl.methods.Full):
        def groups(self):
            return (Group("layers/1"), Group("head"))

    # So small a model would be recomputed.
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    data = films.subset(40, 0)
    # Not Adam: it scales a gradient that is rounding noise (the key's bias) up to the size of any other.
    settings = replace(QUICK, learning_rate=0.3, optimizer=Optimizer("sgd"))
    for method in (tl.methods.Probe(), LastLayers()):
        cached, first = fit(source, data, method, settings=settings)
        recomputed, second = fit(source, data, method, settings=replace(settings, cache_bytes=0))
        assert cached.decision.cached and not recomputed.decision.cached
        assert cached.program.frontier > 0 and recomputed.program.frontier == 0
        np.testing.assert_allclose(first.probabilities, second.probabilities, atol=2e-5)


def test_runs_of_another_precision_share_no_features(source, films, monkeypatch) -> None:
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    cache, data, kinds = FrontierCache(), films.subset(16, 0), []
    for precision in ("bfloat16", "float32"):
        run = tl.adapt(source, data, method=tl.methods.Probe(), settings=Settings(steps=2, precision=precision))
        run.cache = cache
        key = run.features(*run._plan.place(0))
        kinds.append(str(cache.rows(key, data.train, 0, 16, ())["pooled"].dtype))
    assert kinds == ["bfloat16", "float32"]
    assert cache.computed == 2 * (16 + len(data.test))


def test_the_cache_key_changes_with_weights_data_preprocessing_and_precision(source, films, tmp_path) -> None:
    from conftest import write_bert

    from transferlab.transfer.frontier import cache_key

    def key(source, data, precision="float32"):
        run = tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK)
        params, stats = run._plan.place(0)
        definition, frontier = run._plan.definition, run._plan.frontier
        return cache_key(params, stats, definition, frontier, source.transform, data.sha256, precision)

    first = key(source, films)
    assert first != key(source, films, "bfloat16")
    assert first == key(source, films.subset(20, 1))
    assert first != key(tl.load(write_bert(tmp_path / "other", seed=1)), films)
    from dataclasses import replace

    assert first != key(replace(source, transform=replace(source.transform, max_length=20)), films)
    assert first != key(source, replace(films, sha256="other"))


def test_the_number_of_compilations_is_one_per_padded_length(source, films) -> None:
    from transferlab.train.program import _programs

    _programs.clear()
    lengths, tested = set(), set()
    for seed in (0, 1):
        run, _ = fit(source, films.subset(40, seed), tl.methods.Full(), seed=seed)
        lengths |= {run.order[step].bucket for step in range(run.steps)}
        tested |= set(run.feed.buckets(run.data.test).tolist())
    assert len(lengths) > 1
    assert run.program.step.compilations == len(lengths)  # two seeds, three epochs, partial batches: no more
    assert run.program.predict.compilations == len(tested)


def test_a_padded_batch_gives_the_loss_of_its_real_rows(source, films) -> None:
    """Five examples padded to eight weigh as five: the mean is over real rows alone."""
    from dataclasses import replace

    data = replace(films, train=films.train[:5])
    settings = [replace(QUICK, epochs=2, batch_size=size, log_every=1) for size in (5, 8)]
    first, second = (fit(source, data, tl.methods.Probe(), settings=s)[1] for s in settings)
    for a, b in zip(first.history, second.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_every_test_example_is_predicted_once_in_order(source, films, tmp_path) -> None:
    data = films.subset(40, 0)
    _, result = fit(source, data, tl.methods.Probe(), tmp_path / "run")
    with np.load(tmp_path / "run" / "predictions.npz") as saved:
        assert saved["id"].tolist() == [data.ids[i] for i in data.test]
        assert saved["label"].tolist() == data.labels[data.test].tolist()
        np.testing.assert_array_equal(saved["probabilities"], result.probabilities)
        assert saved["label_names"].tolist() == ["down", "up"]
    np.testing.assert_allclose(result.probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "method", [tl.methods.Probe(), tl.methods.LoRA(rank=2), tl.methods.Full(), tl.methods.Scratch()]
)
def test_what_fit_trained_open_run_brings_back(source, films, tmp_path, method) -> None:
    data = films.subset(40, 0)
    _, result = fit(source, data, method, tmp_path / "run")
    predictor = tl.open_run(tmp_path / "run")
    got = predictor([data.records[i]["text"] for i in data.test])
    np.testing.assert_allclose(got, result.probabilities, atol=2e-6)
    assert predictor.labels == ("down", "up")


def test_open_run_refuses_a_base_that_is_not_the_one_it_was_trained_on(films, tmp_path) -> None:
    from conftest import write_bert

    folder = write_bert(tmp_path / "base")
    fit(tl.load(folder), films.subset(40, 0), tl.methods.Probe(), tmp_path / "run")
    write_bert(folder, seed=9)
    with pytest.raises(TransferlabError, match="its weights are others"):
        tl.open_run(tmp_path / "run")


def test_a_finished_run_is_read_not_trained_again(source, films, tmp_path) -> None:
    data = films.subset(40, 0)
    _, first = fit(source, data, tl.methods.Probe(), tmp_path / "run")
    stamp = (tmp_path / "run" / "predictions.npz").stat().st_mtime_ns
    _, again = fit(source, data, tl.methods.Probe(), tmp_path / "run")
    assert again.test == first.test and (tmp_path / "run" / "predictions.npz").stat().st_mtime_ns == stamp


def test_a_directory_of_another_run_is_refused_naming_the_fields(source, films, tmp_path) -> None:
    fit(source, films.subset(40, 0), tl.methods.LoRA(rank=2), tmp_path / "run")
    with pytest.raises(TransferlabError, match=r"method\.rank \(2 → 3\)"):
        fit(source, films.subset(40, 0), tl.methods.LoRA(rank=3), tmp_path / "run")
    with pytest.raises(TransferlabError, match=r"data\.train \(40 → 20\)"):
        fit(source, films.subset(20, 0), tl.methods.LoRA(rank=2), tmp_path / "run")


def test_a_run_that_would_take_no_step_is_an_error(source, films) -> None:
    with pytest.raises(TransferlabError, match="no step"):
        tl.adapt(source, films.subset(16, 0), settings=Settings(epochs=0))


def test_the_last_partial_batch_is_trained_on(source, films) -> None:
    run = tl.adapt(source, films.subset(21, 0), settings=Settings(epochs=1, batch_size=8))
    seen = np.concatenate([run.order[step].indices for step in range(run.steps)])
    assert sorted(seen.tolist()) == sorted(run.data.train.tolist()) and run.steps == 3


def test_truncated_texts_are_counted(source, tmp_path) -> None:
    path = tmp_path / "long.csv"
    rows = [f"{'good' if i % 2 else 'bad'} {'film ' * (60 if i < 5 else 3)} day{i},{i % 2}" for i in range(40)]
    path.write_text("text,label\n" + "\n".join(rows))
    data = tl.dataset(path, test_examples=10)
    _, result = fit(source, data, tl.methods.Probe())
    assert result.record["truncated"] == 5


# ---------------------------------------------------------------------------------------------------------------
# Interruptions

SCRIPT = """
import sys, transferlab as tl
from transferlab.train import Settings
source = tl.load(sys.argv[1])
data = tl.dataset(sys.argv[2], test_examples=60).subset(64, 0)
settings = Settings(learning_rate=1e-2, epochs=40, batch_size=8, log_every=3, checkpoint_steps=25)
def report(done, total, row):
    print(done, flush=True)
tl.adapt(source, data, method=tl.methods.Full(), settings=settings, directory=sys.argv[3]).fit(report)
"""


def start(bert_folder: Path, table: Path, directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(bert_folder), str(table), str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return
    assert process.stderr is not None
    raise AssertionError(process.stderr.read()[-2000:])


def finish(bert_folder: Path, table: Path, directory: Path) -> None:
    process = start(bert_folder, table, directory)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]


def final(directory: Path) -> tuple[dict[str, np.ndarray], list[dict], np.ndarray]:
    checkpoints = Checkpoints(directory / "checkpoints")
    params, _ = checkpoints.weights(checkpoints.last)
    checkpoints.close()
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    with np.load(directory / "predictions.npz") as saved:
        return flat(params), rows, saved["probabilities"]


def test_a_killed_run_continues_and_ends_bit_equal_to_an_undisturbed_one(bert_folder, table, tmp_path) -> None:
    finish(bert_folder, table, tmp_path / "calm")
    # Killed away from a checkpoint boundary; then as soon as a checkpoint is being written; then politely.
    process = start(bert_folder, table, tmp_path / "killed")
    read_until(process, 87)
    process.kill()
    process.wait()
    process = start(bert_folder, table, tmp_path / "killed")
    folder = tmp_path / "killed" / "checkpoints"
    before = {p.name for p in folder.iterdir()}
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        new = {p.name for p in folder.iterdir()} - before
        if any("tmp" in name for name in new):
            break
    process.kill()
    process.wait()
    process = start(bert_folder, table, tmp_path / "killed")
    read_until(process, 230)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) != 0
    assert (tmp_path / "killed" / "result.json").exists() is False
    finish(bert_folder, table, tmp_path / "killed")
    calm, killed = final(tmp_path / "calm"), final(tmp_path / "killed")
    assert calm[0].keys() == killed[0].keys()
    for path, value in calm[0].items():
        np.testing.assert_array_equal(value, killed[0][path], err_msg=path)
    assert calm[1] == killed[1]
    np.testing.assert_array_equal(calm[2], killed[2])


FULL_DISK = """
import resource, signal, sys, transferlab as tl
from transferlab.train import Settings
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source = tl.load(sys.argv[1])
data = tl.dataset(sys.argv[2], test_examples=60).subset(64, 0)
settings = Settings(learning_rate=1e-2, epochs=4, batch_size=8, checkpoint_steps=10)
run = tl.adapt(source, data, method=tl.methods.Full(), settings=settings, directory=sys.argv[3])
def report(done, total, row):
    if done == 5 and sys.argv[4] == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    run.fit(report)
except tl.TransferlabError as error:
    print("said:", error)
    sys.exit(1)
"""


def test_a_full_disk_while_checkpointing_is_one_clear_error_and_the_run_continues_later(
    bert_folder, table, tmp_path
) -> None:
    """A limit on the size of files stands for the full disk: writes fail half way in the same manner."""

    def go(mode: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", FULL_DISK, str(bert_folder), str(table), str(tmp_path / "run"), mode]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    failed = go("full")
    assert failed.returncode == 1, failed.stderr[-1500:]
    assert "said: A checkpoint could not be written" in failed.stdout
    assert go("roomy").returncode == 0
    assert (tmp_path / "run" / "result.json").exists()
