"""EfficientNet's names: those of the ``efficientnet_pytorch`` ports and those of timm."""

from __future__ import annotations

from typing import Literal

import numpy as np

from transferlab.models.efficientnet import EfficientNetConfig
from transferlab.pretrained.names import CONV, LINEAR, Layout, Name, Names

POINTWISE = Layout(
    "OI11 to IO",
    lambda x: x[:, :, 0, 0].T,
    lambda x: np.ascontiguousarray(x.T)[:, :, None, None],
    lambda shape: (shape[1], shape[0]),
)
"""torch's 1×1 convolution (out, in, 1, 1) ↔ kernel (in, out)."""


def efficientnet_names(config: EfficientNetConfig, dialect: Literal["port", "timm"]) -> Names:
    """Return the table for this config in one of the two dialects."""
    port = dialect == "port"
    names = [
        Name("stem/conv/kernel", "_conv_stem.weight" if port else "conv_stem.weight", CONV),
        *_norm("stem/norm", "_bn0" if port else "bn1"),
    ]
    number = 0
    for s, stage in enumerate(config.blocks()):
        for b, block in enumerate(stage):
            here = f"stages/{s}/{b}"
            there = f"_blocks.{number}" if port else f"blocks.{s}.{b}"
            number += 1
            plain = block.expansion == 1
            # timm numbers norms from 1 and calls a block's only pointwise convolution `conv_pw`.
            keys = {
                "expand": "_expand_conv" if port else "conv_pw",
                "expand_norm": "_bn0" if port else "bn1",
                "depthwise": "_depthwise_conv" if port else "conv_dw",
                "depthwise_norm": "_bn1" if port or plain else "bn2",
                "reduce": "_se_reduce" if port else "se.conv_reduce",
                "excite": "_se_expand" if port else "se.conv_expand",
                "project": "_project_conv" if port else "conv_pw" if plain else "conv_pwl",
                "project_norm": "_bn2" if port or plain else "bn3",
            }
            if not port and plain:
                keys["depthwise_norm"] = "bn1"
            if not plain:
                names.append(Name(f"{here}/expand/kernel", f"{there}.{keys['expand']}.weight", POINTWISE))
                names += _norm(f"{here}/expand_norm", f"{there}.{keys['expand_norm']}")
            names.append(Name(f"{here}/depthwise/kernel", f"{there}.{keys['depthwise']}.weight", CONV))
            names += _norm(f"{here}/depthwise_norm", f"{there}.{keys['depthwise_norm']}")
            if not config.lite:
                for part, key in (("reduce", keys["reduce"]), ("expand", keys["excite"])):
                    names.append(Name(f"{here}/squeeze_excite/{part}/kernel", f"{there}.{key}.weight", POINTWISE))
                    names.append(Name(f"{here}/squeeze_excite/{part}/bias", f"{there}.{key}.bias"))
            names.append(Name(f"{here}/project/kernel", f"{there}.{keys['project']}.weight", POINTWISE))
            names += _norm(f"{here}/project_norm", f"{there}.{keys['project_norm']}")
    names.append(Name("top/conv/kernel", "_conv_head.weight" if port else "conv_head.weight", POINTWISE))
    names += _norm("top/norm", "_bn1" if port else "bn2")
    head = "_fc" if port else "classifier"
    names += [Name("head/kernel", f"{head}.weight", LINEAR), Name("head/bias", f"{head}.bias")]
    return Names(tuple(names), ignored=((r".*\.num_batches_tracked", "a counter, no parameter"),))


def _norm(path: str, key: str) -> list[Name]:
    table = (("scale", "weight"), ("bias", "bias"), ("mean", "running_mean"), ("var", "running_var"))
    return [Name(f"{path}/{ours}", f"{key}.{theirs}") for ours, theirs in table]
