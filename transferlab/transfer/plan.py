"""The plan: what happens to every leaf of the target, and to every key of the source, before anything is allocated.

Whatever it cannot account for is an error that names the keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError, nearest
from transferlab.models.backbone import check_ownership, frontier, training_stages
from transferlab.models.heads import ClassifierConfig, HeadConfig, TokenClassifierConfig
from transferlab.selectors import owns, select
from transferlab.transfer.groups import Group, LeafSettings, assign_groups
from transferlab.transfer.leaf import Action, Leaf
from transferlab.transfer.resize import label_rows, take_rows
from transferlab.transfer.show import FittedTable, as_text, plan_table

if TYPE_CHECKING:
    from transferlab.pretrained.leaves import LazyLeaf
    from transferlab.pretrained.source import Source

Weights = Literal["pretrained", "random"]

SMALL = 1 << 16
"""Most elements of an initialised leaf that runs share in memory."""


@dataclass(frozen=True)
class Plan:
    """Every leaf of the target, every unused key, and what follows for the step.

    ``print(plan)`` shows it collapsed by layer; ``to_dict()`` is the content of ``plan.json``. :func:`transferlab.train.adapt`
    makes one as ``run.plan``; :class:`transferlab.transfer.Leaf` is one of its rows.

    Example:
        >>> plan = tl.adapt(source, data, method=tl.methods.LoRA(rank=8)).plan
        >>> [leaf.path for leaf in plan.leaves if leaf.action == "initialised"]

    Attributes:
        method: its name.
        weights: ``pretrained``, or ``random`` for the same network untrained.
        leaves: one row for each leaf of the target, in the model's order.
        unused: (key of the source, why it is not used).
        definition: the target without arrays.
        leaf_settings: of each parameter that trains, by path.
        head: the new head.
        frontier: index of the first stage that a gradient reaches.
        stages: names of the target's stages, in order.
        training: names of those that run as in training.
        notes: what else a user should know, a sentence each.
    """

    method: str
    weights: Weights
    leaves: tuple[Leaf, ...]
    unused: tuple[tuple[str, str], ...]
    definition: trees.Definition = field(repr=False)
    leaf_settings: dict[str, LeafSettings] = field(repr=False)
    head: HeadConfig
    frontier: int
    stages: tuple[str, ...]
    training: frozenset[str]
    notes: tuple[str, ...] = ()

    @property
    def trainable(self) -> tuple[str, ...]:
        """Paths of the leaves that train, sorted."""
        return tuple(sorted(self.leaf_settings))

    @property
    def trainable_parameters(self) -> int:
        """Number of scalars that train."""
        return sum(int(np.prod(leaf.shape)) for leaf in self.leaves if leaf.trains and leaf.kind == "param")

    @property
    def parameters(self) -> int:
        """Number of scalars in all parameters."""
        return sum(int(np.prod(leaf.shape)) for leaf in self.leaves if leaf.kind == "param")

    def totals(self) -> dict[str, Any]:
        """Counts and bytes by action, and what trains."""
        actions = Counter(leaf.action for leaf in self.leaves)
        moved = [leaf for leaf in self.leaves if leaf.action in ("copied", "resized")]
        return {
            "leaves": len(self.leaves),
            "by_action": dict(actions),
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "bytes": sum(leaf.bytes for leaf in self.leaves),
            "bytes_from_source": sum(leaf.bytes for leaf in moved),
            "bytes_trainable": sum(leaf.bytes for leaf in self.leaves if leaf.trains),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the whole plan as plain data."""
        return {
            "method": self.method,
            "weights": self.weights,
            "totals": self.totals(),
            "stages": list(self.stages),
            "frontier": self.stages[self.frontier] if self.frontier < len(self.stages) else None,
            "training_stages": [name for name in self.stages if name in self.training],
            "notes": list(self.notes),
            "labels": list(self.head.labels),
            "leaves": [
                {
                    "path": leaf.path,
                    "kind": leaf.kind,
                    "shape": list(leaf.shape),
                    "dtype": leaf.dtype,
                    "action": leaf.action,
                    "source": list(leaf.source),
                    "reason": leaf.reason,
                    "trains": leaf.trains,
                    "lr_scale": leaf.lr_scale,
                    "decay": leaf.decay,
                    "schedule": leaf.schedule,
                    "bytes": leaf.bytes,
                }
                for leaf in self.leaves
            ],
            "unused": [{"key": key, "reason": reason} for key, reason in self.unused],
        }

    def place(
        self, seed: int, shared: MutableMapping[Any, Any] | None = None, only: Collection[str] | None = None
    ) -> tuple[trees.Tree, trees.Tree]:
        """Return (params, state) in memory: copied leaves read once, the others initialised by one compiled program.

        Args:
            seed: of the initialisation.
            shared: leaves that are in memory already: copied ones by path, initialised ones by (definition, seed, path).
                Leaves that are read are added to it, and small ones that are initialised. For runs on one source that exist
                at the same time.
            only: paths of the parameters to return; all by default. A leaf's value does not depend on the others asked for.
        """
        shared = {} if shared is None else shared
        leaves = [leaf for leaf in self.leaves if only is None or leaf.kind == "state" or leaf.path in only]
        keys = {leaf.path: (self.definition, seed, leaf.path) for leaf in leaves if leaf.read is None}
        values: dict[str, Any] = {path: value for path, key in keys.items() if (value := shared.get(key)) is not None}
        if new := [path for path in keys if path not in values]:
            values |= self.definition.initialise(new, jax.random.key(seed))
            shared.update({keys[path]: values[path] for path in new if values[path].size <= SMALL})
        for leaf in leaves:
            if leaf.derive is not None:
                values[leaf.path] = trees.placed(leaf.derive(np.asarray(values[leaf.path])), leaf.dtype)
            if leaf.read is None:
                continue
            if leaf.action != "copied":
                values[leaf.path] = trees.placed(leaf.read(), leaf.dtype, _named(leaf))
            else:
                if (value := shared.get(leaf.path)) is None:
                    value = shared[leaf.path] = trees.placed(leaf.read(), leaf.dtype, _named(leaf))
                values[leaf.path] = value
        params = {leaf.path: values[leaf.path] for leaf in leaves if leaf.kind == "param"}
        state = {leaf.path: values[leaf.path] for leaf in leaves if leaf.kind == "state"}
        return trees.unflatten(params), trees.unflatten(state)

    def initialised(self, seed: int) -> trees.Tree:
        """Frozen parameters that are not the source's own: those that are initialised or derived."""
        paths = [leaf.path for leaf in self.leaves if leaf.kind == "param" and not leaf.trains
                 and leaf.action in ("initialised", "derived")]  # fmt: skip
        return self.place(seed, only=frozenset(paths))[0] if paths else {}

    def table(self, whole: bool = False) -> FittedTable:
        """Return the plan as a rich table, collapsed by layer unless ``whole``."""
        return plan_table(self, whole)

    def __str__(self) -> str:
        return as_text(self.table())

    def _repr_html_(self) -> str:
        return self.table().html()


def plan(
    source: Source,
    head: HeadConfig,
    *,
    method: str,
    groups: tuple[Group, ...],
    edit: Callable[[Any], None] | None = None,
    weights: Weights = "pretrained",
    initialise: str | None = None,
) -> Plan:
    """Work out what would be copied, derived, initialised, frozen and trained.

    :func:`transferlab.train.adapt` calls it with a method's groups and edit. Nothing is allocated.

    Args:
        source: where weights come from.
        head: the new head.
        method: its name, for the reasons in the plan.
        groups: what trains.
        edit: the method's edit of the new (abstract) module.
        weights: ``random`` takes the architecture alone, for scratch arms.
        initialise: selector of backbone leaves that may be initialised where the source lacks them.

    Raises:
        TransferlabError: with every leaf, key, selector or group that cannot be accounted for.
    """
    config = source.config
    if head.pooling != "pooler" and getattr(config, "pooler", False) and hasattr(config, "without_pooler"):
        config = config.without_pooler()
    if head.pooling != "embedding" and getattr(config, "projection_dim", None):
        config = config.without_projection()
    module = config.build(head)
    if head.pooling is not None and head.pooling not in module.poolings:
        raise TransferlabError(
            f"{source.name} cannot pool by '{head.pooling}'.{nearest(head.pooling, module.poolings)} "
            f"It can pool by {', '.join(module.poolings)}."
        )
    before = trees.define(module)
    if edit is not None:
        edit(module)
    definition = trees.define(module)
    own = {**trees.flatten(before.params), **trees.flatten(before.state)}
    params, state = trees.flatten(definition.params), trees.flatten(definition.state)
    everything = {**params, **state}
    stages = module.all_stages()
    check_ownership(stages, everything)
    owned = [stage.owns for stage in module.backbone_stages()]
    assigned = assign_groups(_without_head(groups, params, method), params, owned)
    training = training_stages(stages, set(assigned))
    moving = _freeze_statistics(module, state, assigned)
    definition = trees.define(module)
    allowed = select(initialise).match(everything, owned) if initialise else set()

    own_head = source.head
    deep = _same_head(own_head, head)
    rows, problems, used = [], [], set()
    for path in sorted(everything, key=lambda p: _order(p, stages)):
        shape, dtype = tuple(everything[path].shape), str(everything[path].dtype)
        action, keys, reason, read, derive = "initialised", (), "", None, None
        leaf = source.leaves.get(path)
        if path not in own:
            reason = f"added by {method}"
        elif weights == "random":
            reason = "random weights were requested"
        elif path.startswith(("head/dense/", "head/norm/")) and leaf is not None and deep and head.labels:
            action, keys, reason, read = "copied", (leaf.key,), "the layer before the labels", leaf.read
        elif path.startswith("head/"):
            action, keys, reason, read, derive = _head_leaf(source, head, shape, leaf)
        elif leaf is not None and leaf.shape == shape:
            action, keys, read = "resized" if leaf.resize else "copied", (leaf.key,), leaf.read
            change = leaf.resize.how if leaf.resize else leaf.layout.name
            reason = change if str(leaf.dtype) == dtype else f"{change}, {leaf.dtype} to {dtype}"
        elif path in allowed:
            reason = f"the source lacks it and initialise='{initialise}' allows that"
        elif leaf is not None:
            problems.append(f"'{path}' is {leaf.shape} in the source and {shape} in the target; no rule resizes it.")
        else:
            hint = nearest(path, source.leaves) if len(problems) < _SHOWN else ""
            problems.append(f"'{path}' {shape} is not in the source.{hint}")
        if keys:
            used.add(path)
        settings = assigned.get(path)
        moves = path in moving
        rows.append(
            Leaf(
                path,
                "param" if path in params else "state",
                shape,
                dtype,
                action,
                keys,
                reason,
                settings is not None or moves,
                settings.lr_scale if settings else 0.0,
                settings.decay if settings else 0.0,
                trees.leaf_bytes(everything[path]),
                _schedule(settings),
                read,
                derive,
            )
        )
    unused = list(source.unused)
    for path, leaf in source.leaves.items():
        if path in used:
            continue
        if weights == "random":
            continue
        if path.startswith("head/"):
            unused.append((leaf.key, "replaced by the new head"))
        elif path.startswith(("pooler/", "projection/")):
            reads = "reads each token" if head.pooling is None else f"pools by {head.pooling}"
            unused.append((leaf.key, f"the new head {reads}"))
        else:
            problems.append(f"Key '{leaf.key}' (→ '{path}') is not used by the target.")
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise TransferlabError(
            f"{source.name} cannot be transferred to this target: {count}:\n  "
            + "\n  ".join([*problems[:_SHOWN], *more])
        )
    return Plan(
        method, weights, tuple(rows), tuple(unused), definition, assigned, head, frontier(stages, set(assigned)),
        tuple(stage.name for stage in stages), training, _resized_note(source, rows),
    )  # fmt: skip


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


_SHOWN = 20
"""Most problems that an error lists; nearest names are computed for those alone."""


def _named(leaf: Leaf) -> str:
    return f"'{leaf.path}' (key '{leaf.source[0]}')" if leaf.source else f"'{leaf.path}'"


def _schedule(settings: LeafSettings | None) -> str:
    if settings is None or (settings.schedule is None and settings.warmup is None):
        return ""
    rising = "" if settings.warmup is None else f"warm-up {settings.warmup:g}"
    return ", ".join(part for part in (settings.schedule or "", rising) if part)


def _freeze_statistics(module: Any, state: Mapping[str, Any], assigned: Mapping[str, LeafSettings]) -> set[str]:
    """Freeze batch statistics except where the norm's own parameters train; return the paths of those that move."""
    moving = set()
    for path in state:
        norm = path.rpartition("/")[0]
        trains = any(trainable.startswith(norm + "/") for trainable in assigned)
        trees.submodule(module, norm).frozen = not trains
        if trains:
            moving.add(path)
    return moving


def _computed(head: HeadConfig) -> Any:
    """What a head computes from the features, apart from its outputs."""
    if isinstance(head, ClassifierConfig):
        return head.pooling, head.hidden, head.problem
    return head.hidden if isinstance(head, TokenClassifierConfig) else head


def _same_head(own: HeadConfig | None, head: HeadConfig) -> bool:
    """Whether two heads compute the same but for their outputs."""
    return own is not None and type(own) is type(head) and _computed(own) == _computed(head)


def _head_leaf(
    source: Source, head: HeadConfig, shape: tuple[int, ...], leaf: LazyLeaf | None
) -> tuple[
    Action, tuple[str, ...], str, Callable[[], np.ndarray] | None, Callable[[np.ndarray], np.ndarray] | None
]:  # fmt: skip
    """A head is new unless it shares labels with the source's: their rows are kept, by name, and the others initialised."""
    numbers = isinstance(head, ClassifierConfig) and head.problem == "regression"
    what = "number" if numbers else "label"
    count = f" for {len(head.labels)} {what}{'' if len(head.labels) == 1 else 's'}" if head.labels else ""
    new = f"new head{count}"
    own = source.head
    if leaf is None or own is None or not _same_head(own, head) or numbers:
        # A head of numbers is trained in standard deviations of the target, so that rows in other units do not help.
        return "initialised", (), new, None, None
    if own.labels == head.labels and leaf.shape == shape:
        same = "the labels are the same" if head.labels else "the same head"
        return "copied", (leaf.key,), same, leaf.read, None
    pairs, sentence = label_rows(own.labels, head.labels)
    if not pairs or leaf.shape[:-1] != shape[:-1]:
        return "initialised", (), new, None, None
    return "derived", (leaf.key,), sentence, None, lambda initial: take_rows(leaf.read, pairs, initial)


def _order(path: str, stages: tuple[Any, ...]) -> tuple[int, str]:
    return next((i for i, stage in enumerate(stages) if owns(stage.owns, path)), len(stages)), path
