from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transferlab.compute import host


@pytest.mark.parametrize(
    ("enabled", "environment", "asked"),
    [
        ("always [madvise] never\n", {}, True),
        ("[always] madvise never\n", {}, False),
        ("always madvise [never]\n", {}, False),
        ("always [madvise] never\n", {"TRANSFERLAB_LARGE_PAGES": "0"}, False),
        ("always [madvise] never\n", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, False),
        (None, {}, False),
    ],
)
def test_large_pages_are_requested_only_where_the_kernel_grants_them_on_request(
    enabled: str | None, environment: dict[str, str], asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if enabled is not None:
        (tmp_path / "enabled").write_text(enabled)
    monkeypatch.setattr(host, "_ENABLED", tmp_path / "enabled")
    assert bool(host.large_pages(environment)) is asked


def test_a_restarted_program_runs_once_with_its_arguments_and_process_id(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from transferlab.compute import host\n"
        "host._ENABLED = Path(sys.argv[2])\n"
        "print('before', os.getpid())\n"
        "host.restart_with_large_pages()\n"
        "print('after', os.getpid(), os.environ.get('GLIBC_TUNABLES'), sys.argv[1])\n"
    )
    enabled = tmp_path / "enabled"
    enabled.write_text("always [madvise] never\n")
    clean = {
        name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "TRANSFERLAB_LARGE_PAGES")
    }
    done = subprocess.run(
        [sys.executable, str(script), "two words", str(enabled)], capture_output=True, text=True, env=clean, check=True
    )
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [word for word, _ in lines] == ["before", "before", "after"]
    assert lines[0][1] == lines[1][1]
    assert lines[2][1] == f"{lines[0][1]} {host.TUNABLE} two words"
