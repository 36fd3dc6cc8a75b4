"""A run that stopped continues and ends the same; one directory holds one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.runs import QUICK, fit, flat
from support.typed import found

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.train.checkpoints import Checkpoints


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
    params, _ = checkpoints.weights(found(checkpoints.last))
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
    """A limit on file size replaces the full disk: writes fail halfway in the same way."""

    def go(mode: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", FULL_DISK, str(bert_folder), str(table), str(tmp_path / "run"), mode]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    failed = go("full")
    assert failed.returncode == 1, failed.stderr[-1500:]
    assert "said: A checkpoint could not be written" in failed.stdout
    assert go("roomy").returncode == 0
    assert (tmp_path / "run" / "result.json").exists()


def test_two_processes_do_not_train_one_run(source, films, tmp_path: Path) -> None:
    from transferlab.files import file_lock

    run = tl.adapt(source, films.subset(16, 0), settings=QUICK, directory=tmp_path / "run")
    with file_lock(tmp_path / "run" / ".lock"), pytest.raises(TransferlabError, match="Another process is training"):
        run.fit()
    assert run.fit().test["accuracy"] >= 0
