"""Stages of somebody else's module: what they own, and how they are run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.models.network import StageInfo


@dataclass(frozen=True)
class StageRule:
    """One stage, or one for each number that ``*`` stands for; :func:`stage` makes one."""

    name: str
    owns: tuple[str, ...]
    borrows: tuple[str, ...]
    run: Callable[..., Any] | None


@dataclass(frozen=True)
class Step(StageInfo):
    """A stage with the function (module, value) → value that runs it; None where it is run only with all others."""

    run: Callable[[Any, Any, bool], Any] | None = None


@check_arguments
def stage(
    name: str,
    run: Callable[..., Any] | None = None,
    *,
    owns: str | Sequence[str] | None = None,
    borrows: str | Sequence[str] = (),
) -> StageRule:
    """Describe a stage of a module for :func:`transferlab.network` and its kin.

    Args:
        name: as in ``layers/*``, where ``*`` stands for each number that the tree has there.
        run: (module, value) → value, or (module, value, number) → value where the name has a ``*``. A value is what the stage
            before returned: an array (examples first) or a dict of arrays. The first stage gets the input, or a dict of
            them by name where there are several. A parameter named ``training`` is told whether the stage trains. Where all
            stages can be run, those before the first that trains are computed once for each example; where one cannot,
            stages only tell the depth of a leaf.
        owns: path prefixes of its leaves, the name itself by default; ``*`` is the same number in each.
        borrows: path prefixes of leaves that it uses but another stage owns, as a table that is tied to the output.

    Example:
        >>> tl.stage("layers/*", lambda module, x, i: module.layers[i](x))
    """
    own = (name,) if owns is None else _texts(owns)
    if not name or not own:
        raise TransferlabError("A stage needs a name and a path that it owns, as tl.stage('head').")
    return StageRule(name, own, _texts(borrows), run)


def expand(rules: Iterable[StageRule], paths: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the stages that these rules describe of a tree with these paths.

    Raises:
        TransferlabError: a rule that owns no leaf (the nearest path is named), two stages of one name.
    """
    steps: list[Step] = []
    for rule in rules:
        if not isinstance(rule, StageRule):
            raise TransferlabError(f"stages holds {str(rule)[:60]!r}; describe each as tl.stage('layers/*').")
        if "*" not in rule.name:
            steps.append(_step(rule, None))
        else:
            numbers = _numbers(rule.owns, paths)
            steps += [_step(_numbered(rule, number), number) for number in sorted(numbers)]
            if not numbers:
                raise TransferlabError(
                    f"The stage '{rule.name}' owns no leaf: '{rule.owns[0]}' matches none.{nearest(rule.owns[0], paths)}"
                )
    names = [step.name for step in steps]
    for step in steps:
        if names.count(step.name) > 1:
            raise TransferlabError(f"Two stages are called '{step.name}'; give one another name.")
        # A stage without leaves, such as pooling, says so by a run of its own.
        if step.run is None and not any(path == p or path.startswith(p + "/") for p in step.owns for path in paths):
            raise TransferlabError(f"The stage '{step.name}' owns no leaf.{nearest(step.owns[0], paths)}")
    return tuple(steps)


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _numbers(owns: Iterable[str], paths: Iterable[str]) -> set[int]:
    patterns = [
        re.compile(re.escape(own).replace(r"\*", r"(\d+)", 1).replace(r"\*", r"\1") + r"(?:/|$)") for own in owns
    ]
    return {int(found[1]) for path in paths for pattern in patterns if (found := pattern.match(path))}


def _numbered(rule: StageRule, number: int) -> StageRule:
    name, *rest = (text.replace("*", str(number)) for text in (rule.name, *rule.owns, *rule.borrows))
    return replace(rule, name=name, owns=tuple(rest[: len(rule.owns)]), borrows=tuple(rest[len(rule.owns) :]))


def _step(rule: StageRule, number: int | None) -> Step:
    if (run := rule.run) is None:
        return Step(rule.name, rule.owns, rule.borrows)
    told = "training" in inspect.signature(run).parameters
    extra = () if number is None else (number,)

    def call(module: Any, value: Any, training: bool) -> Any:
        return run(module, value, *extra, training=training) if told else run(module, value, *extra)

    return Step(rule.name, rule.owns, rule.borrows, run=call)
