"""What a plan is made of before it says what trains: the target without arrays, which a method may edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from transferlab import trees
from transferlab.errors import TransferlabError, nearest
from transferlab.models.backbone import Owner
from transferlab.models.foreign.headed import HeadedNetwork
from transferlab.models.foreign.network import ForeignNetwork
from transferlab.models.heads import HeadConfig
from transferlab.models.network import Network
from transferlab.models.nnx_network import NnxNetwork
from transferlab.pretrained.network_source import NetworkSource
from transferlab.selectors import owns
from transferlab.transfer.groups import LeafSettings
from transferlab.transfer.recipe import Recipe

if TYPE_CHECKING:
    from transferlab.pretrained.source import Source

Edit = Callable[[ForeignNetwork, Any], ForeignNetwork]
"""(network of somebody else's module, method) → the network as the method edits it."""


@runtime_checkable
class Draft(Protocol):
    """The target of a plan."""

    @property
    def network(self) -> Network:
        """As it is now."""
        ...

    @property
    def backbone(self) -> Sequence[Owner]:
        """Its stages before the head's."""
        ...

    def edit(self, recipe: Recipe) -> None:
        """Change it as a method does."""
        ...

    def phase(self, settings: Mapping[str, LeafSettings], training: frozenset[str]) -> tuple[frozenset[str], Network]:
        """Return (paths of the state that moves, the network) where these leaves and stages train."""
        ...


def draft_of(source: Source, head: HeadConfig, edit: Edit | None) -> Draft:
    """Return the source's architecture with the new head.

    Raises:
        TransferlabError: the source cannot pool as the head does, or has no place for it.
    """
    if isinstance(source, NetworkSource):
        return _NetworkDraft(source.headed(head), edit)
    return _ModuleDraft(_module(source, head))


@dataclass
class _ModuleDraft:
    """A module of one of our families."""

    module: Any

    @property
    def network(self) -> NnxNetwork:
        return NnxNetwork(trees.define(self.module))

    @property
    def backbone(self) -> Sequence[Owner]:
        return self.module.backbone_stages()

    def edit(self, recipe: Recipe) -> None:
        recipe.edit(self.module)

    def phase(self, settings: Mapping[str, LeafSettings], training: frozenset[str]) -> tuple[frozenset[str], Network]:
        """Batch statistics are frozen except where the norm's own parameters train."""
        moving = set()
        for path in trees.flatten(trees.define(self.module).state):
            norm = path.rpartition("/")[0]
            trains = any(trainable.startswith(norm + "/") for trainable in settings)
            trees.submodule(self.module, norm).frozen = not trains
            if trains:
                moving.add(path)
        return frozenset(moving), self.network


@dataclass
class _NetworkDraft:
    """A network of somebody else's module."""

    network: HeadedNetwork
    change: Edit | None

    @property
    def backbone(self) -> Sequence[Owner]:
        return self.network.stages[: self.network.backbone]

    def edit(self, recipe: Recipe) -> None:
        if self.change is not None:
            self.network = replace(self.network, body=self.change(self.network.body, recipe))

    def phase(self, settings: Mapping[str, LeafSettings], training: frozenset[str]) -> tuple[frozenset[str], Network]:
        """State moves where its stage trains; of a module with one mode, where all of its stages do."""
        body = self.network.body
        still = body.module.one_mode and not body.divisible and any(stage.name not in training for stage in body.stages)
        owned = [] if still else [prefix for stage in body.stages if stage.name in training for prefix in stage.owns]
        return frozenset(path for path in trees.flatten(body.state) if owns(owned, path)), self.network


def _module(source: Source, head: HeadConfig) -> Any:
    """The source's architecture with the new head, without arrays, and without what that head does not read."""
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
    return module
