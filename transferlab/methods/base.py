"""What a method is: an edit of the module, how leaves start, what trains in which phase, and terms of the loss on what trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, TypeVar

from transferlab.bounds import Rate
from transferlab.errors import TransferlabError, shown
from transferlab.fields import check_fields
from transferlab.models.backbone import Owner
from transferlab.models.heads import Pooling
from transferlab.transfer.derived import Derived
from transferlab.transfer.groups import Group, LeafSettings
from transferlab.transfer.leaf import Leaf
from transferlab.transfer.penalties import Penalty
from transferlab.transfer.phases import Phase
from transferlab.transfer.recipe import Weights

MethodT = TypeVar("MethodT", bound="Method")


@dataclass(frozen=True)
class Modifier:
    """What changes a method without being one: ``method | modifier``. Frozen dataclasses whose fields a config may set.

    Subclasses: :class:`transferlab.methods.LayerDecay`, :class:`transferlab.methods.L2SP`,
    :class:`transferlab.methods.GradualUnfreezing`. One of your own defines a ``name`` and those of the hooks that it needs.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.Full() | tl.methods.LayerDecay(0.75) | tl.methods.L2SP(0.01))

    Raises:
        TransferlabError: a field with a value that it cannot have.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_fields(self)

    def phases(self, phases: tuple[Phase, ...], stages: Sequence[Owner]) -> tuple[Phase, ...]:
        """Return the phases of the modified method; by default as they are."""
        return phases

    def leaf_settings(self, assigned: Mapping[str, LeafSettings], stages: Sequence[Owner]) -> dict[str, LeafSettings]:
        """Return the settings of the leaves that train in a phase, ``{path: settings}``; by default as they are."""
        return dict(assigned)

    def penalties(self, leaves: Sequence[Leaf]) -> tuple[Penalty, ...]:
        """Return terms of the loss on these leaves, the parameters that train in a phase; by default none."""
        return ()

    def check(self, leaves: Sequence[Leaf], stages: Sequence[Owner]) -> None:
        """Raise a TransferlabError where it has no effect on these leaves, those that train in any phase; by default never."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods: frozen dataclasses whose fields a config may set. ``method | modifier`` composes.

    One of your own defines a ``name``, ``defaults``, and those of the hooks that it needs; ``groups`` is enough for one that
    only chooses what trains. Subclasses here: :func:`transferlab.methods.methods` lists them.

    Attributes:
        weights: ``pretrained``, or ``random`` for the same network untrained.
        pooling: how the features that the head sees are pooled; None follows the source.
        head_dropout: rate on the pooled features, while the head trains.
        modifiers: those that are composed with it, in order.

    Raises:
        TransferlabError: a field with a value that it cannot have.
    """

    weights: Weights = "pretrained"
    pooling: Pooling | None = None
    head_dropout: Rate = 0.0
    modifiers: tuple[Modifier, ...] = ()

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    defaults: ClassVar[dict[str, Any]] = {}
    """Training settings where a caller gives none. Learning rates are those of ``configs/tweets.py``, where they were measured
    with MiniLM-L6 on 16 to 1024 labels; they are not those of the method's paper."""
    linear_head: ClassVar[bool] = False
    """Whether its head is linear by definition. Others take the head of the family's classifier in transformers where they
    pool as it does."""

    def __post_init__(self) -> None:
        check_fields(self)
        for modifier in self.modifiers:
            if not isinstance(modifier, Modifier):
                raise TransferlabError(
                    f"modifiers holds {shown(modifier)}; pass modifiers, as modifiers=(tl.methods.LayerDecay(0.75),)."
                )
        names = [modifier.name for modifier in self.modifiers]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise TransferlabError(
                f"The modifier '{twice}' is given twice; give it once, with the value that is meant."
            )

    def __or__(self: MethodT, other: Any) -> MethodT:
        """Return this method with one more modifier."""
        if isinstance(other, Modifier):
            return replace(self, modifiers=(*self.modifiers, other))
        if isinstance(other, Method):
            raise TransferlabError(
                f"'{self.name}' and '{other.name}' are both methods, of which a run has one; what follows '|' is a modifier, as "
                "tl.methods.Full() | tl.methods.LayerDecay(0.75)."
            )
        return NotImplemented

    @property
    def title(self) -> str:
        """Its name, with those of its modifiers: ``full | layer_decay``."""
        return " | ".join([self.name, *(modifier.name for modifier in self.modifiers)])

    def record(self) -> dict[str, Any]:
        """The method as plain data, from which :func:`transferlab.methods.method_from` makes it again."""
        own = {"name": self.name, **asdict(replace(self, modifiers=()))}
        own.pop("modifiers")
        if self.modifiers:
            own["modifiers"] = [{"name": modifier.name, **asdict(modifier)} for modifier in self.modifiers]
        return own

    # Hooks -----------------------------------------------------------------------------------------------------------

    def edit(self, module: Any) -> None:
        """Change the new, abstract module in place; by default nothing. Paths that it has may not be renamed."""

    def derive(self, shapes: Mapping[str, Any]) -> Mapping[str | tuple[str, ...], Derived]:
        """Return how leaves start that are made of others: ``{path: Derived}``, or a tuple of paths that are made at once.

        Args:
            shapes: path → shape of every parameter after :meth:`edit`. Sources of a :class:`transferlab.Derived` are leaves as
                they would be without the method: those of the source, or random ones.
        """
        return {}

    def groups(self, stages: Sequence[Owner]) -> tuple[Group, ...]:
        """Return the groups of leaves that train; all others are frozen.

        Args:
            stages: the backbone's, from the input on: ``stages[-1].owns`` are the path prefixes of the last one's leaves.
        """
        raise NotImplementedError

    def phases(self, stages: Sequence[Owner]) -> tuple[Phase, ...]:
        """Return the phases of the run, in order; by default one, of :meth:`groups`."""
        return (Phase(self.groups(stages), self.name),)

    def penalties(self, leaves: Sequence[Leaf]) -> tuple[Penalty, ...]:
        """Return terms of the loss on these leaves, the parameters that train in a phase; by default none."""
        return ()

    # What a plan asks for --------------------------------------------------------------------------------------------

    def modified_phases(self, stages: Sequence[Owner]) -> tuple[Phase, ...]:
        """:meth:`phases`, as the modifiers change them."""
        phases = self.phases(stages)
        for modifier in self.modifiers:
            phases = modifier.phases(phases, stages)
        return phases

    def modified_settings(
        self, assigned: Mapping[str, LeafSettings], stages: Sequence[Owner]
    ) -> dict[str, LeafSettings]:
        """Settings of the leaves that train in a phase, as the modifiers change them."""
        for modifier in self.modifiers:
            assigned = modifier.leaf_settings(assigned, stages)
        return dict(assigned)

    def penalties_on(self, leaves: Sequence[Leaf]) -> tuple[Penalty, ...]:
        """:meth:`penalties`, and those of the modifiers."""
        own = [*self.penalties(leaves)]
        for modifier in self.modifiers:
            own += modifier.penalties(leaves)
        return tuple(own)

    def check_modifiers(self, leaves: Sequence[Leaf], stages: Sequence[Owner]) -> None:
        """Raise a TransferlabError for a modifier that has no effect on what trains."""
        for modifier in self.modifiers:
            modifier.check(leaves, stages)
