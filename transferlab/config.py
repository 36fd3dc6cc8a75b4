"""Experiment configs: an ``ml_collections`` file with ``get_config()``, overridden on the command line, parsed into dataclasses.

Everything is checked before anything is loaded: an unknown or mistyped field is an error that names the nearest field.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from transferlab.errors import FieldError, TransferlabError, nearest
from transferlab.methods import METHODS, Scratch, method_named
from transferlab.studies.settings import BASELINES, ArmConfig, StudyConfig
from transferlab.train.settings import Settings, current_names


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a config file and apply ``--config.path=value`` overrides.

    Raises:
        TransferlabError: no such file, no ``get_config``, an override of the wrong form, or an invalid field.
    """
    path = Path(path)
    if not path.exists():
        there = [str(p) for p in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise TransferlabError(f"There is no config '{path}'.{nearest(str(path), there)}")
    spec = importlib.util.spec_from_file_location(f"transferlab_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TransferlabError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise TransferlabError(f"{path}: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise TransferlabError(f"{path} has no function get_config().")
    config = module.get_config()
    raw = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    raw.setdefault("name", path.stem)
    for override in overrides:
        _override(raw, override)
    return parse_config(raw)


def parse_config(raw: Mapping[str, Any]) -> StudyConfig:
    """Validate plain nested data into a :class:`StudyConfig`."""
    raw = {str(key): _plain(value) for key, value in raw.items()}
    known = {f.name for f in fields(StudyConfig)} - {"raw"} | {"train"}
    _known(raw, known, "config")
    for name in ("source", "data", "methods", "budgets", "seeds"):
        if name not in raw:
            raise TransferlabError(f"config.{name} is missing.")
    if not isinstance(raw["methods"], dict) or not raw["methods"]:
        raise TransferlabError("config.methods must map at least one arm's name to its fields.")
    common = current_names(_mapping(raw.get("train", {}), "config.train"), "config.train")
    arms = {name: _arm(name, given, common) for name, given in raw["methods"].items()}
    values = {
        f.name: _checked(raw[f.name], typing.get_type_hints(StudyConfig)[f.name], f"config.{f.name}")
        for f in fields(StudyConfig)
        if f.name in raw and f.name not in ("methods", "raw")
    }
    # One value may stand for several: what is recorded, and held against a study's directory, has them as a tuple too.
    raw |= {name: value for name, value in values.items() if isinstance(value, tuple)}
    out = StudyConfig(**values, methods=arms, raw=raw)
    for name in out.baselines:
        if name not in BASELINES:
            raise TransferlabError(f"config.baselines: unknown baseline '{name}'.{nearest(name, BASELINES)}")
        if name in arms:
            raise TransferlabError(f"config.methods.{name} has the name of a baseline.")
    for name in ("budgets", "seeds"):
        given = getattr(out, name)
        if not given or len(set(given)) != len(given):
            raise TransferlabError(f"config.{name} is {given}; it needs at least one value, each once.")
    if min(out.budgets) < 1:
        raise TransferlabError(f"config.budgets is {out.budgets}; a budget is at least one label.")
    if min(out.seeds) < 0 or max(out.seeds) >= 2**32:
        raise TransferlabError(f"config.seeds is {out.seeds}; a seed is from 0 to 2³² − 1.")
    if out.white is not None:
        from transferlab.data.levels import check_white

        check_white(out.white)
    for name in ("test_examples", "image_size"):
        value = getattr(out, name)
        if value is not None and value < 1:
            raise TransferlabError(f"config.{name} is {value}; it must be at least 1.")
    return out


def _arm(name: str, given: Any, common: Mapping[str, Any]) -> ArmConfig:
    where = f"config.methods.{name}"
    if not isinstance(given, dict):
        raise TransferlabError(f"{where} is {given!r}; it must be a mapping of fields, {{}} for the defaults.")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise TransferlabError(f"{where}: an arm's name is also a folder; use letters, digits, '-' and '_'.")
    given = dict(given)
    kind = given.pop("method", name)
    if kind not in METHODS:
        raise TransferlabError(f"{where}: unknown method '{kind}'.{nearest(str(kind), METHODS)}")
    cls = method_named(kind)
    own = {f.name for f in fields(cls)}
    arm = {f.name for f in fields(ArmConfig)} - {"method"}
    _known(given, own | arm | {"method"}, where)
    hints = typing.get_type_hints(cls)
    method = _made(cls, {k: _checked(v, hints[k], f"{where}.{k}") for k, v in given.items() if k in own}, where)
    own_train = _mapping(given.get("train", {}), f"{where}.train")
    own_train = current_names(own_train, f"{where}.train")
    train = _settings({**cls.defaults, **common, **own_train}, f"{where}.train")
    hints = typing.get_type_hints(ArmConfig)
    rest = {k: _checked(v, hints[k], f"{where}.{k}") for k, v in given.items() if k in arm and k != "train"}
    if "tune" in rest:
        rest["tune"] = tuple(_trial(train, trial, f"{where}.tune[{i}]") for i, trial in enumerate(rest["tune"]))
    if name == "scratch" and not isinstance(method, Scratch):
        raise TransferlabError(f"{where} is of the method '{kind}'; name it otherwise: 'scratch' is the control.")
    for cap in ("largest_budget", "first_seeds"):
        if rest.get(cap) is not None and rest[cap] < 1:
            raise TransferlabError(f"{where}.{cap} is {rest[cap]}; it must be at least 1.")
    return ArmConfig(method, train, **rest)


def _trial(train: Settings, changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a trial changes of the arm's settings, as the settings hold it."""
    changes = current_names(changes, where)
    made = _settings({**dataclasses.asdict(train), **changes}, where)
    return {name: getattr(made, name) for name in changes}


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TransferlabError(f"{where} is {value!r}; expected a mapping.")
    return value


def _settings(given: Mapping[str, Any], where: str) -> Settings:
    return _dataclass(Settings, given, where)


def _dataclass(cls: Any, given: Any, where: str) -> Any:
    if isinstance(given, cls):
        return given
    if not isinstance(given, Mapping):
        raise TransferlabError(f"{where} is {given!r}; it must be a mapping with fields of {cls.__name__}.")
    hints = typing.get_type_hints(cls)
    _known(given, hints, where)
    values = {name: _checked(value, hints[name], f"{where}.{name}") for name, value in given.items()}
    return _made(cls, values, where)


def _made(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    try:
        return cls(**values)
    except FieldError as error:
        raise TransferlabError(f"{where}.{error}") from None


def _known(given: Mapping[str, Any], known: Any, where: str) -> None:
    for name in given:
        if name not in known:
            raise TransferlabError(f"Unknown field {where}.{name}.{nearest(str(name), known)}")


def _checked(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` as the hint wants it (an int may stand for a float, a list for a tuple), or say what is wrong."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        rest = [arg for arg in args if arg is not type(None)]
        return _checked(value, rest[0], where)
    if origin is Literal:
        if value not in args:
            raise TransferlabError(f"{where} is {value!r}.{nearest(str(value), map(str, args))}")
        return value
    if origin is tuple:
        items = (value,) if isinstance(value, (int, float, str)) else value
        if not isinstance(items, (list, tuple)):
            raise TransferlabError(f"{where} is {value!r}; expected a tuple of {_name(args[0])}.")
        return tuple(_checked(item, args[0], f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict or hint is dict:
        return _mapping(value, where)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where)
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TransferlabError(f"{where} is {value!r} ({type(value).__name__}); expected {_name(hint)}.")
    return value


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))


def _override(raw: dict[str, Any], text: str) -> None:
    """Apply one ``--config.a.b=value``; the value is a Python literal, or else the text itself."""
    name, equals, value = text.removeprefix("--").partition("=")
    if not name.startswith("config.") or not equals:
        raise TransferlabError(f"'{text}' is not understood; an override is written --config.path=value.")
    *folders, last = name.split(".")[1:]
    node = raw
    for i, folder in enumerate(folders):
        here = ".".join(["config", *folders[: i + 1]])
        if folder not in node and i == 0:
            known = {f.name for f in fields(StudyConfig)} | {"train"}
            if folder not in known:
                raise TransferlabError(f"Unknown field {here}.{nearest(folder, known)}")
        if folder not in node and folders[0] == "methods" and i == 1:
            raise TransferlabError(f"Unknown arm {here}.{nearest(folder, node)}")
        node = node.setdefault(folder, {})
        if not isinstance(node, dict):
            raise TransferlabError(f"{here} is {node!r}, which has no field '{name.split('.')[-1]}'.")
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        parsed = {"true": True, "false": False, "none": None}.get(value.lower(), value)
    node[last] = parsed


def _plain(value: Any) -> Any:
    """ConfigDicts, lists and tuples as plain data."""
    if isinstance(value, (ConfigDict, Mapping)):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    return value
