"""How deep a leaf is, in layers: what layer-wise decay, last-k and gradual unfreezing count in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transferlab.models.backbone import Owner
from transferlab.selectors import owns


def layer_depths(stages: Sequence[Owner]) -> list[int]:
    """Return the depth of each of the backbone's stages, in layers from the input on.

    What is before the first layer (an embedding, a stem) is 0. Layers are the stages with a number, as ``layers/3`` or
    ``stages/1/0``; what follows one without a number of its own, as a final norm or a pooler, counts to it, as in timm
    (``timm/optim/_param_groups.py``). Where no stage has a number, each is a layer.
    """
    numbered = [re.search(r"(^|/)\d+(/|$)", stage.name) is not None for stage in stages]
    depths: list[int] = []
    for number, has in enumerate(numbered):
        before = depths[-1] if depths else -1
        depths.append(before + 1 if has or number == 0 or not any(numbered) else before)
    return depths


def depth_of(path: str, stages: Sequence[Owner], depths: Sequence[int]) -> int | None:
    """The depth of a leaf; None for one of no backbone stage, as those of the head."""
    return next((depth for stage, depth in zip(stages, depths, strict=True) if owns(stage.owns, path)), None)
