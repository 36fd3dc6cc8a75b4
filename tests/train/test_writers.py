"""Metrics on disk: no step twice after a resume, and a half-written line does no harm."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from transferlab.errors import TransferlabError
from transferlab.train.writers import MetricsWriter, read_metrics


def rows(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path / "metrics.jsonl")]


def test_a_resumed_run_writes_each_step_once(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3, 4):
            writer.write({"step": step, "loss": 1.0 / step})
    # Killed after step 4, whose checkpoint was of step 2.
    with MetricsWriter(tmp_path, start=2) as writer:
        assert [row["step"] for row in writer.rows] == [1, 2]
        writer.write({"step": 3, "loss": 0.5})
    assert rows(tmp_path) == [1, 2, 3]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1] == {"step": 3, "loss": 0.5}


def test_a_half_written_line_does_not_stop_the_reader(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert rows(tmp_path) == [1]
    with MetricsWriter(tmp_path, start=1) as writer:
        writer.write({"step": 2, "loss": 1.0})
    assert rows(tmp_path) == [1, 2]


def test_rows_are_on_disk_before_the_end(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write({"step": 1, "loss": 2.0})
        assert rows(tmp_path) == [1]


def test_tensorboard_sees_the_same_numbers(tmp_path: Path) -> None:
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format below is what it writes)

    with MetricsWriter(tmp_path) as writer:
        writer.write({"step": 5, "loss": 0.25, "learning_rate": 1e-3})
    (file,) = (tmp_path / "events").iterdir()
    data, place, seen = file.read_bytes(), 0, {}
    while place < len(data):
        length = int.from_bytes(data[place : place + 8], "little")
        event = vars(event_pb2)["Event"]()
        event.ParseFromString(data[place + 12 : place + 12 + length])
        place += 12 + length + 4
        for value in event.summary.value:
            seen[value.tag] = (event.step, value.simple_value)
    assert seen["loss"] == (5, 0.25)
    assert seen.keys() == {"loss", "learning_rate"}


def test_without_a_directory_nothing_is_written(tmp_path: Path) -> None:
    with MetricsWriter(None) as writer:
        writer.write({"step": 1, "loss": 2.0})
    assert writer.rows == [{"step": 1, "loss": 2.0}]
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_damaged_line_leaves_the_later_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3, 4):
            writer.write({"step": step, "loss": 1.0 / step})
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(True)
    for bad in (lines[1][:9] + b"\n", b"\xff" + lines[1][1:], b"[2]\n", b'{"loss": 0.5}\n', b"\n"):
        caplog.clear()
        path.write_bytes(b"".join([lines[0], bad, *lines[2:]]))
        assert rows(tmp_path) == [1, 3, 4]
        assert "line 2" in caplog.text and str(path) in caplog.text
    # On a resume the rows up to it stay, for good.
    with MetricsWriter(tmp_path, start=3) as writer:
        writer.write({"step": 4, "loss": 0.0})
    assert read_metrics(path)[1:] == [{"step": 3, "loss": 1.0 / 3}, {"step": 4, "loss": 0.0}]


@pytest.mark.parametrize("when", ["opened", "written"])
def test_a_full_disk_under_tensorboards_events_does_not_stop_the_run(
    tmp_path: Path, monkeypatch, caplog, when: str
) -> None:
    from tensorboardX import event_file_writer

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if when == "opened":
        monkeypatch.setattr(event_file_writer.EventsWriter, "__init__", full)
    writer = MetricsWriter(tmp_path)
    if when == "written":
        monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", full)
    for step in range(1, 30):
        writer.write({"step": step, "loss": 2.0})
    writer.close()
    assert len(rows(tmp_path)) == 29
    assert caplog.text.count("No space left") == 1 and "events" in caplog.text


def test_metrics_need_no_space_in_shared_memory(tmp_path: Path, monkeypatch) -> None:
    import multiprocessing

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Queue", full)
    with MetricsWriter(tmp_path) as writer:
        writer.write({"step": 1, "loss": 2.0})
    (file,) = (tmp_path / "events").iterdir()
    assert b"loss" in file.read_bytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_under_the_metrics_is_one_error_that_names_the_file(tmp_path: Path, code: int) -> None:
    class Full:
        def write(self, text: str) -> None:
            pass

        def flush(self) -> None:
            raise OSError(code, os.strerror(code))

        close = flush

    writer = MetricsWriter(tmp_path)
    assert writer._file is not None
    writer._file.close()
    writer._file = Full()  # type: ignore[assignment]
    with pytest.raises(
        TransferlabError, match=r"metrics\.jsonl could not be written: the disk is full .* same command again"
    ):
        writer.write({"step": 1, "loss": 2.0})
    writer.close()  # nothing is written twice
