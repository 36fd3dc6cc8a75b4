"""Metrics on disk: no step twice after a resume, and a half-written line does no harm."""

from __future__ import annotations

import json
from pathlib import Path

from transferlab.train.writers import MetricsWriter, read_metrics


def rows(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path / "metrics.jsonl")]


def test_a_resumed_run_writes_a_step_twice(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3, 4):
            writer.write({"step": step, "loss": 1.0 / step})
    # Killed after step 4, whose checkpoint was of step 2.
    with MetricsWriter(tmp_path, start=2) as writer:
        assert [row["step"] for row in writer.rows] == [1, 2]
        writer.write({"step": 3, "loss": 0.5})
    assert rows(tmp_path) == [1, 2, 3]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1] == {"step": 3, "loss": 0.5}


def test_a_half_written_line_stops_the_reader(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert rows(tmp_path) == [1]
    with MetricsWriter(tmp_path, start=1) as writer:
        writer.write({"step": 2, "loss": 1.0})
    assert rows(tmp_path) == [1, 2]


def test_rows_are_not_on_disk_before_the_end(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write({"step": 1, "loss": 2.0})
        assert rows(tmp_path) == [1]


def test_tensorboard_sees_other_numbers(tmp_path: Path) -> None:
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format below is what it writes)

    with MetricsWriter(tmp_path) as writer:
        writer.write({"step": 5, "loss": 0.25, "learning_rate": 1e-3})
    (file,) = (tmp_path / "events").iterdir()
    data, place, seen = file.read_bytes(), 0, {}
    while place < len(data):
        length = int.from_bytes(data[place : place + 8], "little")
        event = event_pb2.Event()
        event.ParseFromString(data[place + 12 : place + 12 + length])
        place += 12 + length + 4
        for value in event.summary.value:
            seen[value.tag] = (event.step, value.simple_value)
    assert seen["loss"] == (5, 0.25)
    assert seen.keys() == {"loss", "learning_rate"}


def test_without_a_directory_anything_is_written(tmp_path: Path) -> None:
    with MetricsWriter(None) as writer:
        writer.write({"step": 1, "loss": 2.0})
    assert writer.rows == [{"step": 1, "loss": 2.0}]
    assert read_metrics(tmp_path / "metrics.jsonl") == []
