"""Where metrics go: ``metrics.jsonl``, one row per logged step, and TensorBoard events beside it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from transferlab.files import check_file, write_text


class MetricsWriter:
    """Append rows; after a resume at step ``start``, rows past it are dropped, so no step stands twice.

    ``directory`` None writes nothing.
    """

    def __init__(self, directory: Path | None, start: int = 0):
        self.rows: list[dict[str, Any]] = []
        self._file = self._events = None
        if directory is None:
            return
        from tensorboardX import SummaryWriter

        path = directory / "metrics.jsonl"
        self.rows = [row for row in read_metrics(path) if row["step"] <= start]
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(directory / "events"), purge_step=start + 1 if start else None)

    def write(self, row: dict[str, Any]) -> None:
        """Write one row; it must have ``step``."""
        self.rows.append(row)
        if self._file is None or self._events is None:
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step":
                self._events.add_scalar(name, value, row["step"])

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a half-written last line, as a killed process leaves, is skipped."""
    if not path.exists():
        return []
    rows = []
    for line in check_file(path).read_text("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows
