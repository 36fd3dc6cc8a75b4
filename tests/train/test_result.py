"""What a finished run left on disk, damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.files import write_json
from transferlab.train.result import read_result


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    write_json(tmp_path / "result.json", {"test": {"accuracy": 0.5}})
    write_json(tmp_path / "run.json", {"labels": ["a", "b"]})
    np.savez(tmp_path / "predictions.npz", probabilities=np.full((3, 2), 0.5), label_names=np.array(["a", "b"]))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    return tmp_path


def test_a_result_comes_back(finished: Path) -> None:
    result = read_result(finished)
    assert result.test == {"accuracy": 0.5} and result.probabilities.shape == (3, 2)
    assert result.history == [{"step": 1, "loss": 2.0}]


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "an empty result": ("result.json", lambda path: path.write_text("{}")),
    "another kind": ("result.json", lambda path: path.write_text("[]")),
    "scores that are none": ("result.json", lambda path: path.write_text('{"test": {"accuracy": null}}')),
    "half of a result": ("result.json", lambda path: path.write_text('{"test": {')),
    "empty predictions": ("predictions.npz", lambda path: path.write_bytes(b"")),
    "no predictions": ("predictions.npz", lambda path: path.unlink()),
    "half of the predictions": ("predictions.npz", lambda path: path.write_bytes(path.read_bytes()[:200])),
    "other predictions": ("predictions.npz", lambda path: np.savez(path, a=np.ones(3))),
    "predictions of one axis": ("predictions.npz", lambda path: np.savez(path, probabilities=np.ones(3))),
    "a pipe": ("predictions.npz", lambda path: (path.unlink(), os.mkfifo(path))),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_result_is_one_error(finished: Path, what: str) -> None:
    name, damage = DAMAGE[what]
    damage(finished / name)
    with pytest.raises(TransferlabError, match=name.replace(".", r"\.")):
        read_result(finished)


@pytest.mark.parametrize("text", ['{"step": 1}\n{"step": 2', '{"step": 1}\n[3]\n', '{"step": 1}\n{"loss": 2.0}\n'])
def test_a_damaged_line_of_metrics_is_no_traceback(finished: Path, text: str) -> None:
    (finished / "metrics.jsonl").write_text(text)
    assert read_result(finished).history == [{"step": 1}]


def test_a_damaged_run_is_refused(finished: Path) -> None:
    (finished / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(TransferlabError, match=str(finished.name)):
        tl.open_run(finished)


def test_a_run_is_not_written_where_a_file_is(source, films, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = tl.adapt(source, films, method=tl.methods.Probe(), directory=tmp_path / "file")
    with pytest.raises(TransferlabError, match="file cannot be created: File exists"):
        run.fit()
