"""Checkpoints damaged on purpose, each read in a process of its own; the outcome of each is printed.

``PYTHONPATH=tests python -m support.hostile FOLDER TIMES``. A process may use 6 GB more than it started with and 60 seconds
of CPU time. The outcome of a file is one of OUTCOMES. The damage depends only on its seed.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support.damage import DAMAGE
from support.hostile_checkpoints import BASES, build

os.environ.setdefault("JAX_PLATFORMS", "cpu")

OUTCOMES = ("ok", "error", "RAW", "HANG", "NOT-FINITE", "KILLED")
MEMORY, SECONDS, WAIT = 6 << 30, 60, 240
"""Bytes, seconds of CPU time, and seconds that a process may take in all."""


def outcome(read: Callable[[Path], None], path: Path, out: Path) -> None:
    """Read in this process, write the outcome to ``out``, and exit."""
    from transferlab.errors import TransferlabError

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        read(path)
        said = "ok"
    except TransferlabError as error:
        text = str(error)
        said = (
            f"error {text}" if 10 < len(text) < 9000 and text.encode() else f"RAW a message of {len(text)} characters"
        )
    except FloatingPointError as error:
        said = f"NOT-FINITE {error}"
    except BaseException as error:
        import traceback

        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"RAW {type(error).__name__}: {str(error)[:200]} ({place.filename}:{place.lineno})"
    out.write_text(said, "utf-8", "replace")
    os._exit(0)


def watched(action: Callable[[], None], seconds: float) -> str:
    """Run an action in a process of its own; return how it ended."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
                return "HANG of all its seconds"
            return "" if status == 0 else f"KILLED by status {status}"
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"HANG after {seconds} s"


def main(home: Path, times: int, only: str = "") -> None:
    """Write intact checkpoints, damage them, and print a line for each: which file was damaged how, and the outcome.

    ``only`` names some of the checkpoints, separated by commas. Failures are kept in ``home/kept``.
    """
    warnings.simplefilter("ignore")
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "built").exists():
        if ended := watched(lambda: build(home), 400):
            sys.exit(f"the whole checkpoints could not be written: {ended}")
        (home / "built").write_text("")
    import transferlab.cli.main
    import transferlab.methods.adapted
    import transferlab.pretrained.inspection
    import transferlab.train.result

    assert transferlab.cli.main
    place, out, counts = home / "damaged", home / "out.txt", Counter()
    # Intact ones first: one that cannot be read intact is no evidence.
    tasks = [(base, "", "", 0) for base in {base.name: base for base in BASES}.values()]
    made = Counter()
    for base in BASES:
        for pair in base.damage:
            first = made[base.name, pair]
            made[base.name, pair] += base.often * times
            tasks += [(base, *pair, i) for i in range(first, made[base.name, pair])]
    for number, (base, file, kind, i) in enumerate(tasks):
        label = f"{base.name}/{file} {kind} {i}"
        if only and base.name not in only.split(","):
            continue
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(home / base.name, place)
        if kind:
            DAMAGE[kind](place / file, random.Random(f"{base.name} {file} {kind} {i}"))
        out.unlink(missing_ok=True)
        began = time.monotonic()
        ended = watched(lambda base=base: outcome(base.read, place, out), WAIT)
        said = ended or (out.read_text("utf-8") if out.exists() else "KILLED")
        word = said.split()[0]
        counts[word] += bool(kind)
        if not kind and word != "ok":
            said, word = f"RAW the whole one: {said}", "RAW"
        if word not in ("ok", "error"):
            kept = home / "kept" / f"{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(
                place, kept, symlinks=True, ignore=lambda _, names: [n for n in names if not (place / n).exists()]
            )
        print(f"{label} [{time.monotonic() - began:.1f} s]: {' '.join(said.split())[:300]}", flush=True)
    print(json.dumps({"damaged": sum(counts.values()), **{name: counts[name] for name in OUTCOMES}}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4])
