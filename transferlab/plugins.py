"""What is found by being there: the files of one of our folders, what a user's own file holds, and what installed packages add to it
by an entry point.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from transferlab.errors import TransferlabError, check_arguments, no_attribute
from transferlab.user_code import origin, same_place

Kind = TypeVar("Kind")


def members(package: str) -> Iterator[Any]:
    """Iterate over what the modules of a package contain, then over what entry points of the group of its name are or contain.

    Another distribution adds to ``transferlab.tasks`` with these lines of its ``pyproject.toml``::

        [project.entry-points."transferlab.tasks"]
        ranking = "my_package.ranking"

    Raises:
        TransferlabError: an entry point that cannot be loaded; it is named with its distribution.
    """
    yield from _ours(package)
    for _, values in _installed(package):
        yield from values


def _ours(package: str) -> Iterator[Any]:
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        yield from vars(importlib.import_module(f"{package}.{module.name}")).values()


def _installed(group: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield for each entry point of the group how errors name it, and what it is or contains."""
    for point in entry_points(group=group):
        owner = point.dist.name if point.dist is not None else "a package"
        value = _loaded(point, owner)
        where = f"The entry point '{point.name}' of {owner} in the group '{group}' ({point.value})"
        yield where, tuple(vars(value).values()) if isinstance(value, ModuleType) else (value,)


def _loaded(point: EntryPoint, owner: str) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise TransferlabError(
            f"The entry point '{point.name}' of {owner} in the group '{point.group}' cannot be loaded ({point.value}): "
            f"{type(error).__name__}: {error}. Mend {owner}, or remove it:\n  pip uninstall {owner}"
        ) from error


class Registry(Generic[Kind]):
    """Things of one kind by their names, like a mapping.

    Those of a folder of ours are there from the start. Those of installed packages are imported once a name is asked for that none
    of the others has, or all are listed. A user's own are added from a file that the user names, or found where their class was
    imported already.

    Args:
        package: our folder.
        noun: of one of them, for errors.
        base: their class.
        group: of entry points; by default the folder's name.
        instances: whether they are instances of ``base``; subclasses of it otherwise.
        check: called with each that is not ours, before it is added; raises what is wrong with it.
    """

    def __init__(
        self,
        package: str,
        noun: str,
        base: type,
        *,
        group: str | None = None,
        instances: bool = False,
        check: Callable[[Any], None] = lambda thing: None,
    ) -> None:
        self.noun, self.base, self.instances, self._check = noun, base, instances, check
        self.group = group or package
        self.ours: Mapping[str, Kind] = {}
        self._added: dict[str, Kind] = {}
        self._packages: dict[str, Kind] | None = None
        ours: dict[str, Kind] = {}
        for thing in self.among(_ours(package)):
            self._put(ours, thing, ours)
        self.ours = ours

    def __getitem__(self, name: str) -> Kind:
        found = self.ours.get(name) or self._added.get(name)
        return self._everything()[name] if found is None else found

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in self._added or name in self._everything()

    def __iter__(self) -> Iterator[str]:
        return iter(self._everything())

    def __len__(self) -> int:
        return len(self._everything())

    def values(self) -> Collection[Kind]:
        """All of them."""
        return self._everything().values()

    def items(self) -> Collection[tuple[str, Kind]]:
        """All of them, with their names."""
        return self._everything().items()

    def among(self, values: Iterable[Any]) -> list[Any]:
        """Those of these values that are of this kind and have a name, each once."""
        found: list[Any] = []
        for value in values:
            if self.is_one(value) and getattr(value, "name", "") and not any(value is one for one in found):
                found.append(value)
        return found

    def is_one(self, value: Any) -> bool:
        """Whether a value is of this kind."""
        return (
            isinstance(value, self.base) if self.instances else isinstance(value, type) and issubclass(value, self.base)
        )

    def first(self, accepts: Callable[[Kind], bool]) -> Kind | None:
        """The first that is accepted: of ours, of a user's own, and only then of those of installed packages; None if none is."""
        known = (*self.ours.values(), *self._added.values())
        found = next((thing for thing in known if accepts(thing)), None)
        return found if found is not None else next((thing for thing in self.values() if accepts(thing)), None)

    def add(self, things: Iterable[Any]) -> None:
        """Add a user's own; each takes the place of one of the same name that was added before.

        Raises:
            TransferlabError: one of another kind or without a name, or whose name another one of them, one of ours or one of an
                installed package has.
        """
        new: dict[str, Kind] = {}
        for thing in things:
            if not any(thing is one for one in (*self.ours.values(), *self._added.values())):
                self._put(new, thing, {**self.ours, **(self._packages or {}), **new})
        self._added |= new

    def find(self, name: str, record: Mapping[str, Any] | None = None) -> Kind | None:
        """The one of this name, as a run's directory records it; None if it is not at hand. Nothing is imported but entry points.

        Args:
            name: of the thing.
            record: where it is from (:func:`transferlab.user_code.origin`); its class counts where it was imported already. None
                where it is one of ours.
        """
        found = self.ours.get(name) or self._added.get(name)
        if record is None or (found is not None and same_place(origin(self.class_of(found)), record)):
            return self._everything().get(name) if found is None else found
        if not self.instances:
            live = [kind for kind in self._live(self.base) if getattr(kind, "name", "") == name]
            # A cell of a notebook that was run again has defined a class again.
            imported = next((kind for kind in reversed(live) if same_place(origin(kind), record)), None)
            found = found if imported is None else imported
        return self._everything().get(name) if found is None else found

    def class_of(self, thing: Any) -> type:
        """The class whose code one of these is: of an instance the one of its config."""
        return thing.config if self.instances else thing

    def _live(self, base: type) -> Iterator[Any]:
        for kind in base.__subclasses__():
            yield kind
            yield from self._live(kind)

    def _everything(self) -> dict[str, Kind]:
        if self._packages is None:
            packages: dict[str, Kind] = {}
            for where, values in _installed(self.group):
                found = self.among(values)
                if not found:
                    article = "an instance of" if self.instances else "a subclass of"
                    raise TransferlabError(
                        f"{where} has no {self.noun}: it must be {article} {self.base.__module__}.{self.base.__qualname__} with a name, or "
                        "a module with such."
                    )
                for thing in found:
                    if not any(thing is one for one in (*self.ours.values(), *self._added.values())):
                        self._put(packages, thing, {**self.ours, **self._added, **packages})
            self._packages = packages
        return {**self.ours, **self._packages, **self._added}

    def _put(self, into: dict[str, Kind], thing: Any, taken: Mapping[str, Kind]) -> None:
        if not self.is_one(thing) or not thing.name:
            raise TransferlabError(
                f"{thing!r} is no {self.noun}; one {'is an instance' if self.instances else 'is a subclass'} of "
                f"{self.base.__module__}.{self.base.__qualname__}, with a name."
            )
        self.check_name(thing, taken)
        if self.ours:
            self._check(thing)
        into[thing.name] = thing

    def check_name(self, thing: Any, taken: Mapping[str, Kind] | None = None) -> None:
        """Raise a TransferlabError where another one, by default one of ours, has the name of this one."""
        other = (self.ours if taken is None else taken).get(thing.name)
        if other is not None and other is not thing:
            mine, theirs = (_written(self.class_of(one)) for one in (thing, other))
            raise TransferlabError(
                f"Two {self.noun}s are called '{thing.name}': {theirs} and {mine}. Give yours a name of its own, as name = 'my-{thing.name}'."
            )


def _written(kind: type) -> str:
    place = origin(kind)
    return f"{place['module']}.{place['class']}" + (f" ({place['file']})" if "file" in place else "")


def check_class(kind: type) -> None:
    """Check that a class is a dataclass of its own, and let it refuse unknown arguments by name.

    Raises:
        TransferlabError: it is none, so that what it declares would be no fields.
    """
    if "__dataclass_fields__" not in vars(kind):
        raise TransferlabError(
            f"{_written(kind)} is no dataclass, so that it has no fields of its own. Put above it: @dataclass(frozen=True)"
        )
    check_arguments(kind)


def face_with(
    registry: Registry, module: str, names: list[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a module that has classes of installed packages next to its own names."""

    def found(name: str) -> Any:
        # Notebooks, and import itself, ask for names that no class has.
        kinds = registry.values() if name[:1].isupper() else ()
        if (kind := next((kind for kind in kinds if kind.__name__ == name), None)) is not None:
            return kind
        raise no_attribute(module, name, names)

    return found, lambda: sorted(names)
