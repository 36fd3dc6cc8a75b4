"""Layer-wise decay of the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from transferlab.bounds import Bounds
from transferlab.errors import TransferlabError
from transferlab.methods.base import Modifier
from transferlab.models.backbone import Owner
from transferlab.transfer.depths import depth_of, layer_depths
from transferlab.transfer.groups import LeafSettings
from transferlab.transfer.leaf import Leaf


@dataclass(frozen=True)
class LayerDecay(Modifier):
    """The learning rate falls by a factor with each layer from the head towards the input (Howard & Ruder 2018, section 3.2;
    Clark et al. 2020, appendix B): the last layer has ``rate`` times the head's, what is before the first ``rate ** (layers + 1)``.

    Layers are counted as timm does (``timm/optim/_param_groups.py``): a final norm has the rate of the last layer.

    Example:
        >>> tl.methods.Full() | tl.methods.LayerDecay(0.75)

    Attributes:
        rate: the factor, as 1 / 2.6 of ULMFiT, 0.8 of ELECTRA-Base (Clark et al. 2020), 0.65 of MAE's ViT-B (He et al. 2021).
    """

    rate: Annotated[float, Bounds(0.0, 1.0, above=True)] = 0.75

    name: ClassVar[str] = "layer_decay"
    summary: ClassVar[str] = "learning rates fall with each layer from the head to the input"

    def leaf_settings(self, assigned: Mapping[str, LeafSettings], stages: Sequence[Owner]) -> dict[str, LeafSettings]:
        """Scale the rate of each leaf of the backbone by its depth."""
        depths = layer_depths(stages)
        settings = {}
        for path, own in assigned.items():
            depth = depth_of(path, stages, depths)
            scale = 1.0 if depth is None else self.rate ** (depths[-1] + 1 - depth)
            settings[path] = own if scale == 1.0 else replace(own, lr_scale=own.lr_scale * scale)
        return settings

    def check(self, leaves: Sequence[Leaf], stages: Sequence[Owner]) -> None:
        """Refuse a method of which no leaf of the backbone trains."""
        depths = layer_depths(stages)
        if all(depth_of(leaf.path, stages, depths) is None for leaf in leaves):
            raise TransferlabError("LayerDecay has no effect: no leaf of the backbone trains. Leave it out.")
