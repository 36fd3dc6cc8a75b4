"""``plan``: rules that say where each leaf of the target comes from, and what trains in which phase."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError, nearest
from transferlab.models.backbone import Owner, check_ownership, frontier, training_stages
from transferlab.models.heads import ClassifierConfig, HeadConfig, TokenClassifierConfig
from transferlab.pretrained.network_source import NetworkSource
from transferlab.selectors import owns, select
from transferlab.transfer.derived import Derived
from transferlab.transfer.drafts import Edit, draft_of
from transferlab.transfer.groups import Group, LeafSettings, assign_groups
from transferlab.transfer.leaf import Leaf, Made
from transferlab.transfer.phases import Phase, PhasePlan, births_of, check_fractions
from transferlab.transfer.plan import Plan, trained
from transferlab.transfer.recipe import Recipe
from transferlab.transfer.resize import label_rows, take_rows

if TYPE_CHECKING:
    from transferlab.pretrained.leaves import LazyLeaf
    from transferlab.pretrained.source import Source


@dataclass(frozen=True)
class Target:
    """What leaves are asked for, and of whom.

    Attributes:
        source: where weights come from.
        head: the new head.
        method: its name.
        random: whether the source's weights are passed over.
        own: paths of the target without the method.
        allowed: paths that may be initialised where the source lacks them.
        initialise: the selector of those.
    """

    source: Source
    head: HeadConfig
    method: str
    random: bool
    own: Collection[str]
    allowed: Collection[str]
    initialise: str | None


Rule = Callable[[Target, Leaf, "LazyLeaf | None"], Leaf | None]
"""(target, leaf of the target, leaf of the source of its path) → the leaf with its origin; None where the rule does not apply."""


def plan(
    source: Source, head: HeadConfig, recipe: Recipe, *, initialise: str | None = None, edit: Edit | None = None
) -> Plan:
    """Work out what would be copied, derived, initialised, frozen and trained, and when. Nothing is allocated.

    Args:
        source: where weights come from.
        head: the new head.
        recipe: a :class:`transferlab.methods.Method`, with its modifiers.
        initialise: selector of backbone leaves that may be initialised where the source lacks them.
        edit: how the method edits a network of somebody else's module, which has no module of ours.

    Raises:
        TransferlabError: with every leaf, key, selector, group or phase that cannot be accounted for.
    """
    draft = draft_of(source, head, edit)
    before = draft.network
    draft.edit(recipe)
    network = draft.network
    params, state = trees.flatten(network.params), trees.flatten(network.state)
    everything = {**params, **state}
    stages, backbone = network.stages, draft.backbone
    check_ownership(stages, everything)
    phases = recipe.modified_phases(backbone)
    check_fractions(phases, recipe.title)
    assigned = [
        _assigned(phase, recipe, params, backbone, "" if len(phases) == 1 else f"Phase {number}, '{phase.name}': ")
        for number, phase in enumerate(phases, 1)
    ]
    target = Target(
        source, head, recipe.title, recipe.weights == "random", {*trees.flatten(before.params), *trees.flatten(before.state)},
        select(initialise).match(everything, [stage.owns for stage in backbone]) if initialise else set(), initialise,
    )  # fmt: skip
    paths = sorted(everything, key=lambda path: _order(path, stages))
    asked = [Leaf.plain(path, "param" if path in params else "state", everything[path]) for path in paths]
    rows, unused = _account(target, asked)
    # Those of a network of somebody else's are by its own paths and the axes of its kernels.
    own = getattr(network, "derived", None)
    rows = _derived(rows, recipe.derive(params) if own is None else own, recipe.title)
    births, planned = births_of(assigned), []
    for phase, settings, since in zip(phases, assigned, births, strict=True):
        training = training_stages(stages, set(settings))
        moving, trained_network = draft.phase(settings, training)
        penalties = recipe.penalties_on([row for row in rows if row.path in settings])
        planned.append(
            PhasePlan(
                phase.name, phase.fraction, dict(phase.settings), settings, moving, since, frontier(stages, set(settings)),
                training, penalties, trained_network,
            )
        )  # fmt: skip
    union = {path: settings for one in planned for path, settings in one.leaf_settings.items()}
    recipe.check_modifiers([row for row in rows if row.path in union], backbone)
    all_moving, all_training = ({name for one in planned for name in names(one)} for names in (_moving, _training))
    leaves = tuple(
        replace(trained(row, union.get(row.path), row.path in all_moving), phases=_numbers(row.path, planned))
        for row in rows
    )
    return Plan(
        recipe.title, recipe.weights, leaves, unused, planned[-1].network, union, head, min(one.frontier for one in planned),
        tuple(stage.name for stage in stages), frozenset(all_training),
        (*_resized_note(source, rows), *getattr(network, "notes", ()), *_notes(planned)), tuple(planned),
    )  # fmt: skip


def _numbers(path: str, phases: Sequence[PhasePlan]) -> tuple[int, ...]:
    """Numbers of the phases in which a leaf trains; none where there is one phase."""
    numbered = enumerate(phases, 1) if len(phases) > 1 else ()
    return tuple(number for number, phase in numbered if path in phase.leaf_settings or path in phase.moving)


def _notes(phases: Sequence[PhasePlan]) -> tuple[str, ...]:
    """What there is to say of phases and penalties."""
    notes = []
    if len(phases) > 1:
        each = ", ".join(f"{number} {phase.name} ({phase.fraction:.0%})" for number, phase in enumerate(phases, 1))
        notes.append(f"phases, with their part of the steps: {each}")
    terms = {each.name: each for phase in phases for each in phase.penalties}
    notes += [f"the loss has the penalty {name}, with weight {each.weight:g}" for name, each in terms.items()]
    return tuple(notes)


def _account(target: Target, asked: Sequence[Leaf]) -> tuple[list[Leaf], tuple[tuple[str, str], ...]]:
    """Each leaf with its origin, by the first rule that applies; and keys of the source that no leaf uses, with the reason.

    Raises:
        TransferlabError: a leaf to which no rule applies, or a key that is left over without one; all are named.
    """
    source, rows, problems, used = target.source, [], [], set()
    for leaf in asked:
        found = source.leaves.get(leaf.path)
        row = next((row for rule in RULES if (row := rule(target, leaf, found)) is not None), None)
        if row is None:
            problems.append(_problem(target, leaf, found, named=len(problems) < _SHOWN))
        elif row.source:
            used.add(leaf.path)
        rows.append(leaf if row is None else row)
    unused = list(source.unused)
    for path, leaf in source.leaves.items():
        if path in used or target.random:
            continue
        if path.startswith("head/"):
            unused.append((leaf.key, "replaced by the new head"))
        elif path.startswith(("pooler/", "projection/")):
            pooling = target.head.pooling
            unused.append(
                (leaf.key, f"the new head {'reads each token' if pooling is None else f'pools by {pooling}'}")
            )
        else:
            problems.append(f"Key '{leaf.key}' (→ '{path}') is not used by the target.")
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise TransferlabError(
            f"{source.name} cannot be transferred to this target: {count}:\n  "
            + "\n  ".join([*problems[:_SHOWN], *more])
        )
    return rows, tuple(unused)


_SHOWN = 20
"""Most problems that an error lists; nearest names are computed for those alone."""


def _problem(target: Target, leaf: Leaf, found: LazyLeaf | None, *, named: bool) -> str:
    if found is not None:
        return f"'{leaf.path}' is {found.shape} in the source and {leaf.shape} in the target; no rule resizes it."
    return (
        f"'{leaf.path}' {leaf.shape} is not in the source.{nearest(leaf.path, target.source.leaves) if named else ''}"
    )


# Rules -----------------------------------------------------------------------------------------------------------


def _added(target: Target, leaf: Leaf, found: LazyLeaf | None) -> Leaf | None:
    return None if leaf.path in target.own else replace(leaf, reason=f"added by {target.method}")


def _random(target: Target, leaf: Leaf, found: LazyLeaf | None) -> Leaf | None:
    return replace(leaf, reason="random weights were requested") if target.random else None


def _before_labels(target: Target, leaf: Leaf, found: LazyLeaf | None) -> Leaf | None:
    deep = leaf.path.startswith(("head/dense/", "head/norm/")) and bool(target.head.labels)
    if not deep or found is None or not _same_head(target.source.head, target.head):
        return None
    return replace(leaf, action="copied", source=(found.key,), reason="the layer before the labels", read=found.read)


def _own_head(target: Target, leaf: Leaf, found: LazyLeaf | None) -> Leaf | None:
    """A network of somebody else that puts out logits keeps its head, unless it is said to be of other labels."""
    source = target.source
    if not isinstance(source, NetworkSource) or source.body.output != "logits" or not leaf.path.startswith("head/"):
        return None
    if found is None or (source.labels and source.labels != target.head.labels):
        return replace(leaf, reason=f"the network's head, anew for {len(target.head.labels)} labels")
    return _copied(target, leaf, found)


def _head(target: Target, leaf: Leaf, found: LazyLeaf | None) -> Leaf | None:
    """A head is new unless it shares labels with the source's: their rows are kept, by name, and the others initialised."""
    if not leaf.path.startswith("head/"):
        return None
    head, own = target.head, target.source.head
    numbers = isinstance(head, ClassifierConfig) and head.problem == "regression"
    what = "number" if numbers else "label"
    count = f" for {len(head.labels)} {what}{'' if len(head.labels) == 1 else 's'}" if head.labels else ""
    new = replace(leaf, reason=f"new head{count}")
    if found is None or own is None or not _same_head(own, head) or numbers:
        # A head of numbers is trained in standard deviations of the target, so that rows in other units do not help.
        return new
    if own.labels == head.labels and found.shape == leaf.shape:
        same = "the labels are the same" if head.labels else "the same head"
        return replace(leaf, action="copied", source=(found.key,), reason=same, read=found.read)
    pairs, sentence = label_rows(own.labels, head.labels)
    if not pairs or found.shape[:-1] != leaf.shape[:-1]:
        return new
    return replace(
        leaf, action="derived", source=(found.key,), reason=sentence,
        derive=lambda initial: take_rows(found.read, pairs, initial),
    )  # fmt: skip


def _copied(target: Target, leaf: Leaf, found: LazyLeaf | None) -> Leaf | None:
    if found is None or found.shape != leaf.shape:
        return None
    change = found.resize.how if found.resize else found.layout.name
    reason = change if str(found.dtype) == leaf.dtype else f"{change}, {found.dtype} to {leaf.dtype}"
    action = "resized" if found.resize else "copied"
    return replace(leaf, action=action, source=(found.key,), reason=reason, read=found.read)


def _allowed(target: Target, leaf: Leaf, found: LazyLeaf | None) -> Leaf | None:
    if leaf.path not in target.allowed:
        return None
    return replace(leaf, reason=f"the source lacks it and initialise='{target.initialise}' allows that")


RULES: tuple[Rule, ...] = (_added, _random, _own_head, _before_labels, _head, _copied, _allowed)
"""Where a leaf comes from: the first of these that applies says so."""


# What trains -----------------------------------------------------------------------------------------------------


def _moving(phase: PhasePlan) -> Collection[str]:
    return phase.moving


def _training(phase: PhasePlan) -> Collection[str]:
    return phase.training


def _assigned(
    phase: Phase, recipe: Recipe, params: Collection[str], backbone: Sequence[Owner], where: str
) -> dict[str, LeafSettings]:
    """Settings of the leaves that train in a phase, as its groups and the modifiers say."""
    owned = [stage.owns for stage in backbone]
    try:
        assigned = assign_groups(_without_head(phase.groups, params, recipe.title), params, owned)
    except TransferlabError as error:
        raise TransferlabError(f"{where}{error}") from None
    if phase.last is not None:
        frozen = [prefix for own in owned[: len(owned) - phase.last] for prefix in own]
        assigned = {path: settings for path, settings in assigned.items() if not owns(frozen, path)}
    if not assigned:
        raise TransferlabError(
            f"{where or recipe.title + ': '}nothing would train: its groups are all of earlier stages."
        )
    return recipe.modified_settings(assigned, backbone)


def _derived(rows: list[Leaf], rules: Mapping[str | tuple[str, ...], Derived], method: str) -> list[Leaf]:
    """The rows, with those that the method makes of others."""
    leaves = {row.path: row for row in rows}
    out = dict(leaves)
    for key, rule in rules.items():
        paths = (key,) if isinstance(key, str) else key
        for path in (*paths, *rule.sources):
            if path not in leaves:
                raise TransferlabError(f"'{method}' derives '{path}', which the target lacks.{nearest(path, leaves)}")
        of = tuple(leaves[path] for path in rule.sources)

        def make(*values: np.ndarray, rule: Derived = rule, several: bool = not isinstance(key, str)) -> Any:
            result = rule.make(*values)
            return tuple(result) if several else (result,)

        keys = tuple(key for leaf in of for key in leaf.source) or tuple(leaf.path for leaf in of)
        for path in paths:
            reason = f"{rule.how}, {method}"
            out[path] = replace(
                leaves[path],
                action="derived",
                source=keys,
                reason=reason,
                read=None,
                derive=None,
                made=Made(paths, of, make),
            )
    return list(out.values())


def _without_head(groups: tuple[Group, ...], params: Collection[str], method: str) -> tuple[Group, ...]:
    """The groups; where the head has no parameters, as a sentence encoder's, those of other leaves, which must exist."""
    if any(path.startswith("head/") for path in params):
        return groups
    rest = tuple(group for group in groups if str(group.selector) != "head")
    if not rest:
        raise TransferlabError(
            f"The method '{method}' trains the head alone, and a head that pools has no parameters: nothing would train. Let the "
            "backbone train: method=tl.methods.LoRA()."
        )
    return tuple(replace(group, selector="**") if str(group.selector) == "~head" else group for group in rest)


def _resized_note(source: Source, rows: list[Leaf]) -> tuple[str, ...]:
    """Say that images are read otherwise than the weights in the file were trained for; nothing where they are not."""
    resized, images = (
        [f"'{row.path}' is resized, {row.reason}" for row in rows if row.action == "resized"],
        source.image_transform,
    )
    if images is None or not resized:
        return ()
    read = f"{images.size}×{images.size} pixels" + (f" of {images.channels} channels" if images.channels != 3 else "")
    return (f"images are read as {read}, for which {'; '.join(resized)}",)


def _computed(head: HeadConfig) -> Any:
    """What a head computes from the features, apart from its outputs."""
    if isinstance(head, ClassifierConfig):
        return head.pooling, head.hidden, head.problem
    return head.hidden if isinstance(head, TokenClassifierConfig) else head


def _same_head(own: HeadConfig | None, head: HeadConfig) -> bool:
    """Whether two heads compute the same but for their outputs."""
    return own is not None and type(own) is type(head) and _computed(own) == _computed(head)


def _order(path: str, stages: tuple[Any, ...]) -> tuple[int, str]:
    return next((i for i, stage in enumerate(stages) if owns(stage.owns, path)), len(stages)), path
