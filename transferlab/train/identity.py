"""What identifies a run: written to its directory first, and compared whenever a run is started there again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transferlab.data.dataset import Dataset
from transferlab.errors import TransferlabError
from transferlab.files import TEMPORARY, new_folder, write_json
from transferlab.pretrained.source import Source
from transferlab.reading import read_object, reading
from transferlab.train.own_code import code_of, warn_of_changes
from transferlab.train.settings import Settings
from transferlab.train.setup import Setup

EXECUTION = ("memory_bytes", "vectorize")
"""Settings that say how a run is computed, not what it computes: they may differ when a run is continued."""


def identity(run: Setup) -> dict[str, Any]:
    """Return the run's identity as plain data: compared on resume, and read by :func:`transferlab.open_run`."""
    source, data = run.source, run.data
    provenance = {
        k: v
        for k, v in source.recorded.items()
        if k in ("name", "family", "revision", "files", "path", "changes", "tower", "entry")
    }
    out = {
        "source": provenance,
        "data": {"name": data.name, "sha256": data.sha256, "train": len(data.train),
                 "validation": len(data.validation), "test": len(data.test), "modality": data.content},
        "config": architecture(source),
        "task": run.task.record(),
        "labels": list(run.outputs),
        "fitted": run.fitted,
        "text_column": text_column(data),
        "method": run.method.record(),
        "transform": source.transform.describe() if source.transform else None,
        "settings": settings_of(run.settings),
        "seeds": asdict(run.seeds),
        "trainable": list(run.plan.trainable),
    }  # fmt: skip
    code = code_of(run)
    return {**out, "code": code} if code else out


def settings_of(settings: Settings) -> dict[str, Any]:
    """Settings as plain data, without those that may differ when a run is continued."""
    return {name: value for name, value in asdict(settings).items() if name not in EXECUTION}


def text_column(data: Dataset) -> str | list[str] | None:
    """Return the column of the text, or both of a pair's, from which a table is read when the run predicts; None where there is none."""
    return list(data.columns.get("content", ("text", "text_pair"))) if data.content == "pair" else data.text_column


def architecture(source: Source) -> dict[str, Any]:
    """The source's config as plain data: the same weights with another activation are another model."""
    return json.loads(json.dumps(asdict(source.config), default=str))


def write_or_verify(run: Setup, directory: Path) -> None:
    """Write this run's identity, or compare it with the one that the directory has.

    Raises:
        TransferlabError: the directory holds another run (the fields that differ are named), or other files.
    """
    mine = identity(run)
    path = directory / "run.json"
    # Listed before run.json is looked for: another process may be writing it.
    others = _others(directory)
    if path.exists():
        theirs = read_identity(directory)
        if isinstance(settings := theirs.get("settings"), dict):
            # An earlier version did what a setting that it did not have does by default.
            theirs["settings"] = settings_of(Settings()) | settings
        # Another file may compute the same.
        mine.pop("code", None)
        warn_of_changes(run, theirs.pop("code", {}), directory)
        # Fields that an earlier version did not record are not compared.
        differences = sorted(_differences(theirs, {name: mine[name] for name in mine if name in theirs}))
        if differences:
            raise TransferlabError(
                f"{directory} holds another run; these fields differ: {'; '.join(differences)}. Choose another directory."
            )
        return
    if others:
        shown = ", ".join(others[:6]) + (", …" if len(others) > 6 else "")
        raise TransferlabError(
            f"{directory} is not empty ({shown}) and holds no run (no run.json); choose another directory."
        )
    new_folder(directory)
    write_json(directory / "plan.json", run.plan.to_dict())
    write_json(path, mine)


def read_identity(directory: Path) -> dict[str, Any]:
    """Read the identity of the run in a directory.

    Raises:
        TransferlabError: ``run.json`` is damaged; the message says how to write it again.
    """
    path = directory / "run.json"
    try:
        return read_object(path)
    except TransferlabError as error:
        raise TransferlabError(
            f"{error} Restore it from a copy; or start the same run in a new directory, stop it once it trains, and copy its "
            f"run.json to {path}: the run then continues from its checkpoints."
        ) from None


TRIALS = "trials"
"""The folder in a study's cell with the runs that its settings were tuned by; they run before the cell's own."""


def _others(directory: Path) -> list[str]:
    """Names in a directory other than those that a run leaves if it is killed before it has written ``run.json``."""
    if not directory.is_dir():
        return []
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise TransferlabError(f"The directory {directory} cannot be read: {error.strerror}.") from None
    return sorted(name for name in names if not _is_ours(directory / name))


def _is_ours(path: Path) -> bool:
    if path.name == TRIALS:
        return path.is_dir()
    if path.name == "plan.json":
        try:
            return read_object(path).keys() >= {"method", "weights", "totals", "stages", "leaves"}
        except TransferlabError:
            return False
    return path.name == ".lock" or path.name.endswith(TEMPORARY)


def check_base(run: Setup, meta: dict[str, Any]) -> None:
    """Check a checkpoint's base and its set of trainable leaves against the run's.

    Raises:
        TransferlabError: they differ.
    """
    with reading(f"{run.directory}/checkpoints"):
        sha256, trainable = str(meta["base"]["sha256"]), [str(path) for path in meta["trainable"]]
    if sha256 != run.source.sha256:
        raise TransferlabError(
            f"The checkpoint in {run.directory} was trained on other weights than '{run.source.name}' has now "
            f"(SHA-256 {sha256[:12]}…, now {run.source.sha256[:12]}…). Restore those weights, or choose another directory."
        )
    if trainable != list(run.plan.trainable):
        changed = sorted(set(trainable) ^ set(run.plan.trainable))
        raise TransferlabError(
            f"The checkpoint in {run.directory} trained another set of leaves; these differ: {', '.join(changed[:4])}"
            f"{', …' if len(changed) > 4 else ''}. Choose another directory."
        )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for key in sorted(old.keys() | new.keys()):
            name = f"{path}.{key}" if path else str(key)
            # The base may have moved; its hash is compared when a checkpoint is read.
            if name != "source.path":
                out += _differences(old.get(key), new.get(key), name)
        return out
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return [] if list(old) == list(new) else [f"{path} ({_short(old)} → {_short(new)})"]
    return [] if old == new else [f"{path} ({_short(old)} → {_short(new)})"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else text[:37] + "…"
