"""The directory of a study: its config and the hashes of its inputs, which a study that is continued there must match."""

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
from transferlab.studies.settings import CODE, ArmConfig, StudyConfig, current_data
from transferlab.train.settings import RENAMED

INPUTS, LOCK = "inputs.json", ".lock"
"""Files in a study's directory: hashes of its inputs, and the lock of a running process."""
RESUMABLE = ("budgets", "seeds", "methods", "baselines", "workdir", "grid", "keep_weights", CODE)
"""Fields that may differ when a study is continued; the fields of an existing arm may not."""


def verify_directory(directory: Path, config: StudyConfig, source: Source, data: Dataset) -> None:
    """Write the config and the hashes of the study's inputs, or check them against those in the directory.

    Raises:
        TransferlabError: the directory holds another study (the fields that differ are named), or other files.
    """
    path = directory / "config.json"
    try:
        mine = json.loads(json.dumps(config.raw))
    except (TypeError, ValueError) as error:
        raise TransferlabError(f"The config cannot be recorded as JSON: {error}.") from None
    if path.exists():
        theirs = current_data(read_object(path))
        problems = sorted(_changed(theirs, mine))
        if problems:
            raise TransferlabError(
                f"{directory} holds a study with another config; these fields differ: {', '.join(problems)}. "
                "A study can be continued with more seeds, budgets and methods only; choose another --config.workdir."
            )
    elif directory.is_dir():
        drop_litter(directory)
        # A study that was killed before it wrote its config has run nothing: it starts over, on its inputs as they are now.
        names = {path.name for path in directory.iterdir() if not path.name.endswith(TEMPORARY)}
        if names - {INPUTS, LOCK} or not _began(directory / INPUTS):
            raise TransferlabError(f"{directory} is not empty and holds no study; choose another --config.workdir.")
        (directory / INPUTS).unlink(missing_ok=True)
    new_folder(directory)
    verify_inputs(directory, config, source, data)
    write_json(path, mine)


def verify_inputs(directory: Path, config: StudyConfig, source: Source, data: Dataset) -> None:
    """Check weights, preprocessing and data against those that the study started with: a table has one of each.

    A config says where they are; the files may have changed since.

    Raises:
        TransferlabError: one of them has other contents; it is named.
    """
    assert source.transform is not None
    mine = {
        "source": {"name": source.name, "mark": source.sha256},
        "preprocessing": {"name": source.name, "mark": source.transform.describe()},
        "data": {"name": data.name, "mark": data.sha256},
    }
    # A config's paths may be relative to the directory that the study was started in.
    for kind, name in (("source", config.source), ("data", str(config.data))):
        if Path(name).expanduser().exists():
            mine[kind]["path"] = str(Path(name).expanduser().resolve())
    path = directory / INPUTS
    if not path.exists():
        write_json(path, mine)
        return
    theirs = read_object(path)
    changed = [f"{kind} '{one['name']}'" for kind, one in mine.items() if theirs.get(kind, one)["mark"] != one["mark"]]
    if changed:
        raise TransferlabError(
            f"{directory} holds a study on other contents of its {', '.join(changed)}: new runs cannot be put in one table "
            "with its runs. Restore the files, or choose another --config.workdir."
        )


def recorded_config(directory: Path) -> dict[str, Any]:
    """Return the config recorded in a study's directory; paths of its source and data are resolved from here.

    Raises:
        TransferlabError: there is no study.
    """
    if not (directory / "config.json").exists():
        raise TransferlabError(f"{directory} holds no study (no config.json).")
    raw = {**current_data(read_object(directory / "config.json")), "workdir": str(directory)}
    inputs = read_object(directory / INPUTS) if (directory / INPUTS).exists() else {}
    for kind in ("source", "data"):
        path = inputs.get(kind, {}).get("path")
        name = raw[kind]["source"] if isinstance(raw[kind], dict) else raw[kind]
        if path is not None and Path(path).exists() and not Path(str(name)).expanduser().exists():
            raw[kind] = {**raw[kind], "source": path} if isinstance(raw[kind], dict) else path
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
    # Under their former names, so that a directory that an earlier version named is found again.
    former = {name: before for before, name in RENAMED.items()}
    train = {former.get(name, name): value for name, value in asdict(arm.train).items()}
    method = arm.method.record()
    return {"method": method.pop("name"), **method, "train": train}


def _changed(theirs: dict[str, Any], mine: dict[str, Any]) -> Iterable[str]:
    """Names of the fields that differ but may not."""
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
    """Seeds or budgets of a ``config.json``, in which earlier versions wrote a single value as it was given."""
    return set(value) if isinstance(value, list) else {value} - {None}


def _without_caps(arm: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arm.items() if key not in ("largest_budget", "first_seeds")}


def _began(path: Path) -> bool:
    """Whether ``inputs.json`` is missing, or was written by a study: any other file of that name is not removed."""
    if not path.exists():
        return True
    try:
        inputs = read_object(path)
    except TransferlabError:
        return False
    return "source" in inputs and all(isinstance(one, dict) and "mark" in one for one in inputs.values())
