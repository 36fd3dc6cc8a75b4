"""The directory of a study: the config and the hashes of what it reads, which a study that goes on there must match."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transferlab.data.dataset import Dataset
from transferlab.errors import TransferlabError
from transferlab.files import TEMPORARY, drop_litter, new_folder, write_json
from transferlab.pretrained.source import Source
from transferlab.reading import read_object
from transferlab.studies.settings import ArmConfig, StudyConfig
from transferlab.train.settings import RENAMED

INPUTS, LOCK = "inputs.json", ".lock"
"""Files of a study's directory: hashes of what it reads, and what a running process holds."""
RESUMABLE = ("budgets", "seeds", "methods", "baselines", "workdir", "grid", "keep_weights")
"""Fields that may differ when a study is continued; an arm that was there keeps its own fields."""


def verify_directory(directory: Path, config: StudyConfig, source: Source, data: Dataset) -> None:
    """Write the config and the hashes of what the study reads, or check them against those that are there.

    Raises:
        TransferlabError: the directory holds another study (the fields that differ are named), or something else.
    """
    path = directory / "config.json"
    mine = json.loads(json.dumps(config.raw))
    if path.exists():
        theirs = read_object(path)
        problems = sorted(_changed(theirs, mine))
        if problems:
            raise TransferlabError(
                f"{directory} holds a study with another config; these fields differ: {', '.join(problems)}. "
                "Only added seeds, budgets and methods continue a study; choose another --config.workdir."
            )
    elif directory.is_dir():
        drop_litter(directory)
        # One that was killed before it wrote its config has run nothing: it begins anew, on what its sources hold now.
        names = {path.name for path in directory.iterdir() if not path.name.endswith(TEMPORARY)}
        if names - {INPUTS, LOCK} or not _began(directory / INPUTS):
            raise TransferlabError(f"{directory} is not empty and holds no study; choose another --config.workdir.")
        (directory / INPUTS).unlink(missing_ok=True)
    new_folder(directory)
    verify_inputs(directory, config, source, data)
    write_json(path, mine)


def verify_inputs(directory: Path, config: StudyConfig, source: Source, data: Dataset) -> None:
    """Check weights, preprocessing and data against those that the study began with: one table has one of each.

    A config says where they are; what is there may have changed since.

    Raises:
        TransferlabError: one of them has other contents; it is named.
    """
    assert source.transform is not None
    mine = {
        "source": {"name": source.name, "mark": source.sha256},
        "preprocessing": {"name": source.name, "mark": source.transform.describe()},
        "data": {"name": data.name, "mark": data.sha256},
    }
    # A config may name them from where the study was started.
    for kind, given in (("source", config.source), ("data", config.data)):
        if Path(given).expanduser().exists():
            mine[kind]["path"] = str(Path(given).expanduser().resolve())
    path = directory / INPUTS
    if not path.exists():
        write_json(path, mine)
        return
    theirs = read_object(path)
    changed = [f"{kind} '{one['name']}'" for kind, one in mine.items() if theirs.get(kind, one)["mark"] != one["mark"]]
    if changed:
        raise TransferlabError(
            f"{directory} holds a study on other contents of its {', '.join(changed)}: its runs cannot stand in "
            "one table with new ones. Restore what was there, or choose another --config.workdir."
        )


def recorded_config(directory: Path) -> dict[str, Any]:
    """Return the config that a study's directory recorded, with its source and data where they are from here.

    Raises:
        TransferlabError: there is no study.
    """
    if not (directory / "config.json").exists():
        raise TransferlabError(f"{directory} holds no study (no config.json).")
    raw = {**read_object(directory / "config.json"), "workdir": str(directory)}
    held = read_object(directory / INPUTS) if (directory / INPUTS).exists() else {}
    for kind in ("source", "data"):
        place = held.get(kind, {}).get("path")
        if place is not None and Path(place).exists() and not Path(str(raw[kind])).expanduser().exists():
            raw[kind] = place
    return raw


def study_directory(config: StudyConfig) -> Path:
    """The study's directory: ``workdir``, or one derived from the config's name and hash."""
    if config.workdir:
        return Path(config.workdir).expanduser()
    fixed = {k: v for k, v in config.raw.items() if k not in RESUMABLE or k == "grid"}
    fixed["arms"] = {name: _arm_identity(arm) for name, arm in config.methods.items()}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return Path("results") / f"{config.name}-{digest}"


def _arm_identity(arm: ArmConfig) -> dict[str, Any]:
    # By their first names, so that a directory that an earlier version named is found again.
    former = {name: before for before, name in RENAMED.items()}
    train = {former.get(name, name): value for name, value in asdict(arm.train).items()}
    return {"method": arm.method.name, **asdict(arm.method), "train": train}


def _changed(theirs: dict[str, Any], mine: dict[str, Any]) -> Iterable[str]:
    """Names of the fields that differ and may not."""
    for name in sorted(theirs.keys() | mine.keys()):
        if name not in RESUMABLE and theirs.get(name) != mine.get(name):
            yield name
    if theirs.get("grid") != mine.get("grid"):
        yield "grid"
    for name in ("budgets", "seeds"):
        if not _each(theirs.get(name)) <= _each(mine.get(name)):
            yield f"{name} (some were removed)"
    for name, arm in theirs.get("methods", {}).items():
        if name in mine["methods"] and _without_caps(mine["methods"][name]) != _without_caps(arm):
            yield f"methods.{name}"


def _each(value: Any) -> set[Any]:
    """Seeds or budgets of a ``config.json``; earlier versions wrote a single one as it was given on the command line."""
    return set(value) if isinstance(value, list) else {value} - {None}


def _without_caps(arm: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arm.items() if key not in ("largest_budget", "first_seeds")}


def _began(path: Path) -> bool:
    """Whether ``inputs.json`` is missing, or one that a study wrote: whoever else's is not removed."""
    if not path.exists():
        return True
    try:
        found = read_object(path)
    except TransferlabError:
        return False
    return "source" in found and all(isinstance(one, dict) and "mark" in one for one in found.values())
