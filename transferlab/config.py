"""Study configs: an ``ml_collections`` file with ``get_config()``, overridden on the command line, parsed into dataclasses.

Everything is checked before anything is loaded: an unknown or misspelled field is an error that names the nearest field.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from transferlab.errors import TransferlabError, nearest
from transferlab.fields import check_mapping, check_names, read, read_values
from transferlab.methods import METHODS, MODIFIERS, Method, Modifier, Scratch, modifier_from
from transferlab.studies.settings import AUTO, CODE, FLAT, ArmConfig, StudyConfig
from transferlab.tasks import TASKS, task_from, tasks
from transferlab.train.own_code import Recorded, add_modules, find_recorded, record_if_own
from transferlab.train.settings import Settings, current_names
from transferlab.user_code import execute, with_neighbors


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a config file and apply ``--config.path=value`` overrides. :func:`transferlab.run_study` runs the result.

    The file may define methods, tasks and families of one's own, or import them from files next to it: ``from my_method import
    Mine``. Arms and ``config.task`` then have them by their names. Its folder is not put on ``sys.path``
    (:mod:`transferlab.user_code`).

    Example:
        >>> config = transferlab.config.read_config("configs/tweets.py", ["--config.methods.lora.rank=4"])
        >>> config.methods["lora"].method.rank
        4

    Raises:
        TransferlabError: the file does not exist or has no ``get_config``, an override has the wrong form, or a field is
            invalid.
    """
    path = Path(path)
    if not path.exists():
        files = [str(p) for p in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise TransferlabError(f"There is no config '{path}'.{nearest(str(path), files)}")
    module = execute(path)
    add_modules(with_neighbors(module))
    if not hasattr(module, "get_config"):
        raise TransferlabError(f"{path} has no function get_config().")
    config = module.get_config()
    if not isinstance(config, (ConfigDict, Mapping)):
        raise TransferlabError(f"{path}: get_config() returns {str(config)[:40]}; it must return a ConfigDict.")
    add_modules(with_neighbors(module))  # get_config may have imported more
    raw = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    check_names({CODE} & raw.keys(), (), "config")
    raw.setdefault("name", path.stem)
    for override in overrides:
        _override(raw, override)
    return parse_config(raw)


def parse_config(raw: Mapping[str, Any]) -> StudyConfig:
    """Validate plain nested data, and return it as a :class:`transferlab.studies.settings.StudyConfig`.

    Of a study's directory (:func:`transferlab.studies.directory.recorded_config`) it may name methods whose code is not at hand:
    the study can be reported on, and not be continued.

    Raises:
        TransferlabError: a field is missing, unknown or invalid.
    """
    raw = {str(key): _plain(value) for key, value in raw.items()}
    code = raw.pop(CODE, {})
    if "task" in code:
        find_recorded(TASKS, code["task"], "This study")
    known = {f.name for f in fields(StudyConfig)} - {"raw"} | {"train"}
    if moved := next((name for name in FLAT if name in raw), None):
        source = raw.get("data", "…")
        raise TransferlabError(
            f"config.{moved} is a field of the data: config.data = {{'source': {source!r}, {FLAT[moved]!r}: {raw[moved]!r}}}."
        )
    check_names(raw, known, "config")
    for name in ("source", "data", "methods", "budgets", "seeds"):
        if name not in raw:
            raise TransferlabError(f"config.{name} is missing.")
    if not isinstance(raw["methods"], dict) or not raw["methods"]:
        raise TransferlabError("config.methods must map the name of at least one arm to its fields, as {'probe': {}}.")
    common = current_names(check_mapping(raw.get("train", {}), "config.train"), "config.train")
    arms = {name: _arm(name, arm, common, code) for name, arm in raw["methods"].items()}
    own = {name: value for name, value in raw.items() if name not in ("methods", "train")}
    if "task" in own:
        raw["task"] = own["task"] = _task(own["task"])
    if isinstance(own["data"], str):
        own["data"] = {"source": own["data"]}
    values = read_values(StudyConfig, own, "config")
    # Where a single value was given for several, it is recorded, and checked against a study's directory, as a tuple too.
    raw |= {name: value for name, value in values.items() if isinstance(value, tuple)}
    raw["test_examples"] = values.get("test_examples")
    raw |= _code(arms, code)
    out = StudyConfig(**values, methods=arms, raw=raw)
    for name in out.baselines:
        if TASKS.first(lambda kind, name=name: name in kind.baselines) is None:
            known = {name for kind in TASKS.values() for name in kind.baselines}
            raise TransferlabError(f"config.baselines: unknown baseline '{name}'.{nearest(name, known)}")
        if name in arms:
            raise TransferlabError(f"config.methods.{name} has the name of a baseline; rename the arm.")
    for name in ("budgets", "seeds"):
        several = getattr(out, name)
        if not several or len(set(several)) != len(several):
            raise TransferlabError(f"config.{name} is {several}; it needs at least one value, each once.")
    if min(out.budgets) < 1:
        raise TransferlabError(f"config.budgets is {out.budgets}; a budget is at least one label.")
    if min(out.seeds) < 0 or max(out.seeds) >= 2**32:
        raise TransferlabError(f"config.seeds is {out.seeds}; a seed is from 0 to 2³² − 1.")
    if out.data.white is not None:
        from transferlab.data.levels import check_white

        check_white(out.data.white)
    for name in ("test_examples", "image_size"):
        value = getattr(out, name)
        if value is not None and value < 1:
            raise TransferlabError(f"config.{name} is {value}; it must be at least 1.")
    return out


def _code(arms: Mapping[str, ArmConfig], recorded: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Where the code of the arms' methods and modifiers is from, with what else is recorded; nothing where all are ours."""
    out = dict(recorded)
    for method in (arm.method for arm in arms.values() if not isinstance(arm.method, Recorded)):
        if own := record_if_own(method.name, METHODS, type(method)):
            out["methods"] = {**out.get("methods", {}), **own}
        for modifier in method.modifiers:
            if own := record_if_own(modifier.name, MODIFIERS, type(modifier)):
                out["modifiers"] = {**out.get("modifiers", {}), **own}
    return {CODE: out} if out else {}


def _absent(kind: str, modifiers: Any, recorded: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The record of the first part of a recorded arm's method whose code is not at hand; None if all of it is."""
    several = modifiers if isinstance(modifiers, (list, tuple)) else (modifiers,)
    names = [each.get("name") if isinstance(each, Mapping) else each for each in several]
    parts = [
        (METHODS, kind, recorded.get("methods", {})),
        *((MODIFIERS, name, recorded.get("modifiers", {})) for name in names),
    ]
    for registry, name, records in parts:
        if name in records:
            if (thing := registry.find(name, records[name])) is None:
                return records[name]
            registry.add([thing])
    return None


def _task(raw: Any) -> dict[str, Any]:
    """The section ``config.task``: a name, or a mapping with ``name`` and the task's fields, checked where it is named."""
    section = {"name": raw} if isinstance(raw, str) else dict(check_mapping(raw, "config.task"))
    name = section.setdefault("name", AUTO)
    if name == AUTO:
        # Which of them it is follows from the data; until then a field of any task may be meant.
        check_names(section, {"name", *(f.name for kind in tasks().values() for f in fields(kind))}, "config.task")
    elif name not in tasks():
        raise TransferlabError(f"config.task: unknown task '{name}'.{nearest(str(name), (AUTO, *tasks()))}")
    else:
        task_from(section, "config.task")
    return section


def _arm(name: str, fields_: Any, common: Mapping[str, Any], records: Mapping[str, Any]) -> ArmConfig:
    where = f"config.methods.{name}"
    if not isinstance(fields_, dict):
        raise TransferlabError(f"{where} is {fields_!r}; it must be a mapping of fields, {{}} for the defaults.")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise TransferlabError(f"{where}: an arm's name is also a folder; use letters, digits, '-' and '_'.")
    raw = dict(fields_)
    kind = raw.pop("method", name)
    cls = METHODS.find(kind, records.get("methods", {}).get(kind))
    if cls is None and kind not in records.get("methods", {}):
        raise TransferlabError(f"{where}: unknown method '{kind}'.{nearest(str(kind), METHODS)}")
    own, arm = {f.name for f in fields(cls or Method)}, {f.name for f in fields(ArmConfig)} - {"method"}
    if cls is not None:
        check_names(raw, own | arm | {"method"}, where)
    if absent := _absent(kind, raw.get("modifiers", ()), records):
        method: Method = Recorded(called=kind, absent=absent)
    else:
        assert cls is not None
        if "modifiers" in raw:
            raw["modifiers"] = _modifiers(raw["modifiers"], f"{where}.modifiers")
        method = read(cls, {k: v for k, v in raw.items() if k in own}, where)
    own_train = current_names(check_mapping(raw.get("train", {}), f"{where}.train"), f"{where}.train")
    train = read(Settings, {**(cls or Method).defaults, **common, **own_train}, f"{where}.train")
    rest = read_values(ArmConfig, {k: v for k, v in raw.items() if k in arm and k != "train"}, where)
    if "tune" in rest:
        rest["tune"] = tuple(_trial(train, trial, f"{where}.tune[{i}]") for i, trial in enumerate(rest["tune"]))
    if name == "scratch" and not isinstance(method, Scratch):
        raise TransferlabError(f"{where} has the method '{kind}'; rename the arm: 'scratch' is the control.")
    for cap in ("largest_budget", "first_seeds"):
        if rest.get(cap) is not None and rest[cap] < 1:
            raise TransferlabError(f"{where}.{cap} is {rest[cap]}; it must be at least 1.")
    return ArmConfig(method, train, **rest)


def _modifiers(raw: Any, where: str) -> tuple[Modifier, ...]:
    """Modifiers of an arm's method: a name, a mapping with ``name`` and fields, or several of either."""
    several = raw if isinstance(raw, (list, tuple)) else (raw,)
    return tuple(modifier_from(each, f"{where}[{number}]") for number, each in enumerate(several))


def _trial(train: Settings, changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A trial's changes to the arm's settings, validated and converted."""
    changes = current_names(changes, where)
    settings = read(Settings, {**dataclasses.asdict(train), **changes}, where)
    return {name: getattr(settings, name) for name in changes}


def _override(raw: dict[str, Any], text: str) -> None:
    """Apply one ``--config.a.b=value``; the value is a Python literal, or else the text itself."""
    name, equals, value = text.removeprefix("--").partition("=")
    if not name.startswith("config.") or not equals:
        raise TransferlabError(f"'{text}' is not understood; an override is written --config.path=value.")
    *folders, last = name.split(".")[1:]
    node = raw
    for i, folder in enumerate(folders):
        path = ".".join(["config", *folders[: i + 1]])
        if folder not in node and i == 0:
            known = {f.name for f in fields(StudyConfig)} | {"train"}
            if folder not in known:
                raise TransferlabError(f"Unknown field {path}.{nearest(folder, known)}")
        if folder not in node and folders[0] == "methods" and i == 1:
            raise TransferlabError(f"Unknown arm {path}.{nearest(folder, node)}")
        if path == "config.data" and isinstance(node.get(folder), str):
            node[folder] = {"source": node[folder]}
        node = node.setdefault(folder, {})
        if not isinstance(node, dict):
            raise TransferlabError(f"{path} is {node!r}, which has no field '{name.split('.')[-1]}'.")
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        parsed = {"true": True, "false": False, "none": None}.get(value.lower(), value)
    node[last] = parsed


def _plain(value: Any) -> Any:
    """ConfigDicts, mappings, lists, tuples and sets as plain dicts and tuples."""
    if isinstance(value, (ConfigDict, Mapping)):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(map(_plain, value), key=str))
    return value
