"""Methods, tasks and families that are not ours: how a user names their code, how a run records it, and how it is found again.

Opening a run never imports code that its directory names: what is needed and not at hand is an error that says what it is.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from transferlab.errors import TransferlabError, shown
from transferlab.fields import read, read_values, short
from transferlab.methods import METHODS, MODIFIERS, Method, method_from, modifier_from
from transferlab.models.backbone import Owner
from transferlab.plugins import Registry
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.network_source import NetworkSource
from transferlab.tasks import TASKS, Task, task_from
from transferlab.train.setup import Setup, plan_for
from transferlab.transfer.groups import Group
from transferlab.transfer.leaf import Leaf
from transferlab.user_code import execute, origin, same_place, with_neighbors

_LOG = logging.getLogger(__name__)
_REGISTRIES: tuple[Registry[Any], ...] = (METHODS, MODIFIERS, TASKS, FAMILIES)


def add_code(code: Any) -> None:
    """Make methods, tasks and families known by their names, as commands and records have them.

    One takes the place of another of the same name that was added before; none takes that of one of ours.

    Args:
        code: a Python file, which is executed, with what it imports from the files next to it; an importable module's name; a
            method's or task's class; a :class:`~transferlab.pretrained.families.family.Family`; or several of these.

    Raises:
        TransferlabError: none of these, or a name that is taken.

    Example:
        >>> add_code("my_method.py")
    """
    for one in code if isinstance(code, (list, tuple, set, frozenset)) else [code]:
        registry = next((registry for registry in _REGISTRIES if registry.is_one(one)), None)
        if registry is not None:
            registry.add([one])
        elif isinstance(one, ModuleType):
            add_modules([one], one.__name__)
        elif isinstance(one, (str, Path)):
            add_modules(_modules(one), str(one))
        else:
            raise TransferlabError(
                f"code is {shown(one)}, which is no method, task or family. Pass a file or what it defines: code='my_method.py', or "
                "code=[Mine], a class on transferlab.methods.Method."
            )


def add_modules(modules: Iterable[ModuleType], where: str | None = None) -> None:
    """Make the methods, tasks and families known that these modules contain.

    Args:
        modules: whatever they contain, imported or defined, counts.
        where: for the error if they contain none; None where they need not.
    """
    values = [value for module in modules for value in vars(module).values()]
    found = [registry.among(values) for registry in _REGISTRIES]
    for registry, things in zip(_REGISTRIES, found, strict=True):
        registry.add(things)
    own = [thing for kind, things in zip(_REGISTRIES, found, strict=True) for thing in things if is_own(kind, thing)]
    if where is not None and not own:
        raise TransferlabError(
            f"{where} has no method, task or family of its own: no class on transferlab.methods.Method or transferlab.tasks.Task that "
            "has a name, as name: ClassVar[str] = 'mine', and no transferlab.pretrained.families.family.Family."
        )


def _modules(name: str | Path) -> list[ModuleType]:
    if isinstance(name, Path) or name.endswith(".py") or "/" in name:
        if not Path(name).expanduser().exists():
            raise TransferlabError(f"There is no file '{name}'.")
        return with_neighbors(execute(name))
    try:
        return [importlib.import_module(name)]
    except Exception as error:
        raise TransferlabError(f"The module '{name}' cannot be imported: {type(error).__name__}: {error}") from error


def is_own(registry: Registry, thing: Any) -> bool:
    """Whether a method's or task's class, or a family, is none of ours."""
    return registry.ours.get(thing.name) is not thing


# What a run records ------------------------------------------------------------------------------------------------


def code_of(run: Setup) -> dict[str, Any]:
    """Return where the method, its modifiers, the task and the family of a run are from, as plain data; nothing of those that are
    ours.
    """
    kind, task = type(run.method), type(run.task)
    modifiers = [record_of(MODIFIERS, type(one)) for one in run.method.modifiers if is_own(MODIFIERS, type(one))]
    out: dict[str, Any] = {"modifiers": modifiers} if modifiers else {}
    if is_own(METHODS, kind) or modifiers:
        needed = not _is_rebuilt(run)
        out["method"] = {**record_of(METHODS, kind), "needed": needed, "linear_head": kind.linear_head}
    out |= record_if_own("task", TASKS, task)
    if not isinstance(run.source, NetworkSource):
        out |= record_if_own("family", FAMILIES, FAMILIES[run.source.family])
    return out


def record_of(registry: Registry, thing: Any) -> dict[str, str]:
    """Return the name of a method's or task's class, or of a family, and where its class is from."""
    return {"name": thing.name, **origin(registry.class_of(thing))}


def record_if_own(key: str, registry: Registry, thing: Any) -> dict[str, dict[str, str]]:
    """Return :func:`record_of` under a key; nothing of one of ours."""
    return {key: record_of(registry, thing)} if is_own(registry, thing) else {}


def check_recordable(method: Method, task: Task) -> None:
    """Check that a run's directory can say which method and task it is of, and that they are read from there as they are.

    Raises:
        TransferlabError: one with the name of one of ours; a field that is no JSON or changes on the way.
    """
    for registry, thing in ((METHODS, method), *((MODIFIERS, one) for one in method.modifiers), (TASKS, task)):
        kind = type(thing)
        if not is_own(registry, kind):
            continue
        registry.check_name(kind)
        for of in fields(thing):
            if of.name != "modifiers":
                _check_field(thing, of.name, registry.noun)


def _check_field(thing: Any, name: str, noun: str) -> None:
    value = getattr(thing, name)
    place = f"{noun}.{name} of {type(thing).__qualname__} is {short(value)}"
    try:
        recorded = json.loads(json.dumps(_plain(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TransferlabError(
            f"{place}, which a run's directory cannot record as JSON ({error}). A field is a number, a string, true or false, None, or "
            "a tuple of these."
        ) from None
    try:
        same = read_values(type(thing), {name: recorded}, noun)[name] == value
    except (TransferlabError, NameError) as error:
        raise TransferlabError(f"{place}, which cannot be read from a run's directory again: {error}") from None
    if not same:
        raise TransferlabError(
            f"{place}, and would be another value when the run is opened: {short(recorded)}. Declare the field's type, as x: tuple[int, ...]."
        )


def _plain(value: Any) -> Any:
    """A field as a run's directory has it: dataclasses as mappings."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, kw_only=True)
class Recorded(Method):
    """Stands in for a method whose code is not at hand: its fields that every method has, and the leaves that trained.

    Where a method only chose what trains, the trained model follows from these.

    Attributes:
        paths: of the leaves that trained.
        linear: ``linear_head`` of the method.
        called: its name.
        absent: the record of the code that a study lacks to run it.
    """

    paths: tuple[str, ...] = ()
    linear: bool = False
    called: str = ""
    absent: Mapping[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("linear_head", self.linear), ("name", self.called)):
            object.__setattr__(self, name, value)

    def groups(self, stages: Sequence[Owner]) -> tuple[Group, ...]:
        """The leaves that trained."""
        return tuple(Group(path) for path in self.paths)


def _is_rebuilt(run: Setup) -> bool:
    """Whether the run's module and the first value of each leaf follow from what is recorded, without the code of its method."""
    method, plan = run.method, run.transfer
    if type(method).edit is not Method.edit:
        return False
    stand_in = Recorded(
        weights=method.weights, pooling=method.pooling, head_dropout=method.head_dropout, paths=plan.trainable,
        linear=type(method).linear_head, called=method.name,
    )  # fmt: skip
    try:
        head = run.task.head(run.source, run.outputs, stand_in)
        other = plan_for(run.source, head, stand_in)
    except TransferlabError:
        return False
    return head == plan.head and list(map(_value, other.leaves)) == list(map(_value, plan.leaves))


def _value(leaf: Leaf) -> tuple[Any, ...]:
    return leaf.path, leaf.kind, leaf.shape, leaf.dtype, leaf.action, leaf.source, leaf.trains


# How it is found again ---------------------------------------------------------------------------------------------


def recorded_method(identity: Mapping[str, Any], where: str | Path) -> Method:
    """Return the method of a run's ``run.json``, or what stands in for it.

    Raises:
        TransferlabError: its code is needed and not at hand.
    """
    record, described = identity.get("code", {}).get("method"), dict(identity["method"])
    if record is None:
        return method_from(described)
    if not record["needed"]:
        return Recorded(
            weights=described["weights"], pooling=described["pooling"], head_dropout=described["head_dropout"],
            paths=tuple(identity["trainable"]), linear=record["linear_head"], called=described["name"],
        )  # fmt: skip
    for modifier in identity["code"].get("modifiers", ()):
        find_recorded(MODIFIERS, modifier, where)
    described.pop("name")
    if "modifiers" in described:
        described["modifiers"] = tuple(modifier_from(each, "method.modifiers") for each in described["modifiers"])
    return read(find_recorded(METHODS, record, where), described, "method")


def recorded_task(identity: Mapping[str, Any], where: str | Path, **changes: Any) -> Task:
    """Return the task of a run's ``run.json``, with these fields changed.

    Raises:
        TransferlabError: its code is not at hand.
    """
    record, described = (
        identity.get("code", {}).get("task"),
        {**identity.get("task", {"name": "classification"}), **changes},
    )
    if record is None:
        return task_from(described)
    described.pop("name")
    return read(find_recorded(TASKS, record, where), described, "task")


def check_family(code: Mapping[str, Any], where: str | Path) -> None:
    """Check that the family that a record names is at hand.

    Raises:
        TransferlabError: its code is not.
    """
    if (record := code.get("family")) is not None:
        find_recorded(FAMILIES, record, where)


def find_recorded(registry: Registry, record: Mapping[str, Any], where: str | Path) -> Any:
    """Return what a record names, which is known by its name from then on; a changed file is logged.

    Raises:
        TransferlabError: its code is not at hand.
    """
    thing = registry.find(record["name"], record)
    if thing is None:
        raise not_at_hand(registry, record, where)
    warn_of_change(registry, thing, record, where)
    if thing.name:  # a class without one is found where it was imported, and only there
        registry.add([thing])
    return thing


def warn_of_changes(run: Setup, code: Mapping[str, Any], where: str | Path) -> None:
    """Log where the classes of a run that is continued are not those that its directory records."""
    things: dict[str, tuple[Registry, Any]] = {
        "method": (METHODS, type(run.method)),
        "task": (TASKS, type(run.task)),
    }
    if not isinstance(run.source, NetworkSource):
        things["family"] = (FAMILIES, FAMILIES[run.source.family])
    for name, (registry, thing) in things.items():
        if name in code:
            warn_of_change(registry, thing, code[name], where)
    for modifier, record in zip(run.method.modifiers, code.get("modifiers", ()), strict=False):
        warn_of_change(MODIFIERS, type(modifier), record, where)


def warn_of_change(registry: Registry, thing: Any, record: Mapping[str, Any], where: str | Path) -> None:
    """Log that a class is from another place than a record says, or that its file has other contents."""
    now = origin(registry.class_of(thing))
    if not same_place(now, record):
        _LOG.warning(
            "%s: the %s '%s' is %s now, and was %s.", where, registry.noun, thing.name, _place(now), _place(record)
        )
    elif now.get("sha256") != record.get("sha256", now.get("sha256")):
        _LOG.warning(
            "%s: the file %s of the %s '%s' has changed since (SHA-256 %s…, now %s…).",
            where, record["file"], registry.noun, thing.name, record["sha256"][:12], now.get("sha256", "")[:12],
        )  # fmt: skip


def _place(record: Mapping[str, Any]) -> str:
    return f"the class {record['class']} of " + (
        f"the file {record['file']}" if "file" in record else f"the module {record['module']}"
    )


def not_at_hand(registry: Registry, record: Mapping[str, Any], where: str | Path) -> TransferlabError:
    """Return the error for code that is needed and was not given: it says which, and how to give it."""
    name, module, kind, file = record["name"], record["module"], record["class"], record.get("file")
    what = f"{where} needs the {registry.noun} '{name}', {_place(record)}"
    if module == "__main__" and not file:
        how = f"It was defined in an interactive session. Define it again, and pass it: tl.open_run(…, code=[{kind}])"
    else:
        how = f"If you trust that code, name it: --code {file or module}, or in Python tl.open_run(…, code='{file or module}')."
    return TransferlabError(f"{what}, and nothing that a directory names is imported. {how}")
