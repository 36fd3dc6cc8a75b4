"""Metrics on disk: ``metrics.jsonl``, one row per logged step, and TensorBoard events next to it."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from transferlab.files import write_text, writing
from transferlab.reading import check_file

_LOG = logging.getLogger(__name__)


class MetricsWriter:
    """Append rows of metrics; after a resume at step ``start``, later rows are dropped, so that no step is written twice.

    With ``directory`` None, nothing is written.
    """

    def __init__(self, directory: Path | None, start: int = 0):
        self.rows: list[dict[str, Any]] = []
        self._file: TextIO | None = None
        self._events: _Events | None = None
        if directory is None:
            return
        path = directory / "metrics.jsonl"
        self.rows = [row for row in read_metrics(path) if row["step"] <= start]
        self._path = path
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        with writing(path):
            self._file = path.open("a", encoding="utf-8")
        self._events = _Events(directory / "events", start)

    def write(self, row: dict[str, Any]) -> None:
        """Write one row, which must have ``step``.

        Raises:
            DiskFull: the disk is full.
        """
        self.rows.append(row)
        if self._file is None or self._events is None:
            return
        try:
            with writing(self._path):
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
        except OSError:
            # Unwritten text stays in the file's buffer, so that closing it would fail again.
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()
            raise
        self._events.write(row)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            with writing(self._path):
                self._file.close()
        if self._events is not None:
            self._events.close()


class _Events:
    """TensorBoard events, written row by row. Nothing depends on them: an error is logged, and no more are written."""

    def __init__(self, directory: Path, start: int):
        self._directory = directory
        self._writer: Any = None
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2

            self._made: Any = event_pb2
            directory.mkdir(parents=True, exist_ok=True)
            # Not through tensorboardX.SummaryWriter: its queue needs space in /dev/shm, and a run would wait for it forever
            # once its thread has met a full disk.
            self._writer = EventsWriter(str(directory / "events"))
            if start:
                # TensorBoard then hides events after the step of the resume.
                log = self._made.SessionLog
                self._send(self._made.Event(step=start + 1, session_log=log(status=log.START)))
            self._writer.flush()
        except Exception as error:
            self._end(error)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row's values as scalars."""
        if self._writer is None:
            return
        try:
            from tensorboardX.summary import scalar

            for name, value in row.items():
                # For values that are not finite tensorboardX prints a warning; the JSON lines have them.
                if name != "step" and math.isfinite(value):
                    self._send(self._made.Event(step=row["step"], summary=scalar(name, value)))
            self._writer.flush()
        except Exception as error:
            self._end(error)

    def close(self) -> None:
        """Close the file."""
        if self._writer is None:
            return
        try:
            self._writer.close()
        except Exception as error:
            self._end(error)

    def _send(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def _end(self, error: Exception) -> None:
        self._writer = None
        _LOG.warning(
            "TensorBoard events can no longer be written to %s (%s); the run continues.", self._directory, error
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``. Damaged lines are skipped, which is logged, except a last line without an end: a killed process
    was writing it.
    """
    if not path.exists():
        return []
    rows, damaged = [], []
    *lines, unfinished = check_file(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None:
            damaged.append(number)
        else:
            rows.append(row)
    if (row := _row(unfinished)) is not None:
        rows.append(row)
    if damaged:
        _LOG.warning("%s: skipped damaged line %s.", path, ", ".join(map(str, damaged)))
    return rows


def _row(line: bytes) -> dict[str, Any] | None:
    """The line's row of metrics, or None."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
