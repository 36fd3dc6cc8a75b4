"""EfficientNet's names: those of the ``efficientnet_pytorch`` ports and those of timm."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from transferlab.data.images import ImageTransform
from transferlab.errors import TransferlabError
from transferlab.fields import given_number
from transferlab.models.efficientnet import EfficientNetConfig
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.images import BATCH_COUNTERS, resized_image
from transferlab.pretrained.names import CONV, LINEAR, POINTWISE, Entry, NameTable, batch_norm
from transferlab.pretrained.timm import TimmConfig


def efficientnet_names(config: EfficientNetConfig, dialect: Literal["port", "timm"]) -> NameTable:
    """Return the table for this config in one of the two dialects."""
    port = dialect == "port"
    names = [
        Entry("stem/conv/kernel", "_conv_stem.weight" if port else "conv_stem.weight", CONV),
        *batch_norm("stem/norm", "_bn0" if port else "bn1"),
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
                "depthwise_norm": "_bn1" if port else "bn1" if plain else "bn2",
                "reduce": "_se_reduce" if port else "se.conv_reduce",
                "excite": "_se_expand" if port else "se.conv_expand",
                "project": "_project_conv" if port else "conv_pw" if plain else "conv_pwl",
                "project_norm": "_bn2" if port else "bn2" if plain else "bn3",
            }
            if not plain:
                names.append(Entry(f"{here}/expand/kernel", f"{there}.{keys['expand']}.weight", POINTWISE))
                names += batch_norm(f"{here}/expand_norm", f"{there}.{keys['expand_norm']}")
            names.append(Entry(f"{here}/depthwise/kernel", f"{there}.{keys['depthwise']}.weight", CONV))
            names += batch_norm(f"{here}/depthwise_norm", f"{there}.{keys['depthwise_norm']}")
            if not config.lite:
                for part, key in (("reduce", keys["reduce"]), ("expand", keys["excite"])):
                    names.append(Entry(f"{here}/squeeze_excite/{part}/kernel", f"{there}.{key}.weight", POINTWISE))
                    names.append(Entry(f"{here}/squeeze_excite/{part}/bias", f"{there}.{key}.bias"))
            names.append(Entry(f"{here}/project/kernel", f"{there}.{keys['project']}.weight", POINTWISE))
            names += batch_norm(f"{here}/project_norm", f"{there}.{keys['project_norm']}")
    names.append(Entry("top/conv/kernel", "_conv_head.weight" if port else "conv_head.weight", POINTWISE))
    names += batch_norm("top/norm", "_bn1" if port else "bn2")
    head = "_fc" if port else "classifier"
    names += [Entry("head/kernel", f"{head}.weight", LINEAR), Entry("head/bias", f"{head}.bias")]
    return NameTable(tuple(names), ignored=BATCH_COUNTERS)


TIMM_EFFICIENTNETS = r"(tf_)?efficientnet_(lite[0-4]|b[0-3])"
"""Architectures of timm that are read as this family, as a regular expression."""

_SIZES = ("lite0", "lite1", "lite2", "lite3", "lite4", "b0", "b1", "b2", "b3")

_READ = ("img_size", "num_classes", "global_pool", "drop_path_rate")


def efficientnet_from_timm(timm: TimmConfig) -> EfficientNetConfig:
    """Read timm's config. Those with ``tf_`` were born in TensorFlow: SAME padding, eps 1e-3; the others are torch's."""
    given = timm.checked(_READ)
    config: EfficientNetConfig = getattr(EfficientNetConfig, timm.architecture.rpartition("_")[2])()
    rate = given_number(given, "drop_path_rate", config.drop_path, where="config.json: model_args")
    config = replace(config, image_size=timm.image_size, drop_path=rate)
    return config if timm.architecture.startswith("tf_") else replace(config, padding="symmetric", eps=1e-5)


def _to_timm(config: EfficientNetConfig) -> tuple[TimmConfig, NameTable]:
    """What no architecture of timm is, is an error that names what differs."""
    born = {"same": ("tf_", 1e-3), "symmetric": ("", 1e-5)}[config.padding]
    if config.eps != born[1]:
        raise TransferlabError(
            f"timm's EfficientNet with padding '{config.padding}' has eps {born[1]}, not {config.eps}."
        )
    if config.num_channels != 3:
        raise TransferlabError(
            f"timm's directories are read with 3 channels, not {config.num_channels}; write 'orbax'."
        )
    sizes = {name: getattr(EfficientNetConfig, name)() for name in _SIZES}
    like = ("width", "depth", "lite")
    size = next((n for n, c in sizes.items() if all(getattr(c, f) == getattr(config, f) for f in like)), None)
    if size is None:
        these = ", ".join(f"{field} {getattr(config, field)}" for field in like)
        raise TransferlabError(f"timm has no EfficientNet of {these}; there are {', '.join(sizes)}.")
    timm = TimmConfig(f"{born[0]}efficientnet_{size}", {"drop_path_rate": config.drop_path}, {})
    return timm, efficientnet_names(config, "timm")


def _transform(config: EfficientNetConfig) -> ImageTransform:
    # 127 and 128 of 255, as the Lite weights were trained; the others take ImageNet's mean and deviation.
    if config.lite:
        # 127 and 128 of 255, as the Lite weights were trained; timm's config of the same weights says crop .875, bicubic.
        grey, spread = 127 / 255, 128 / 255
        return ImageTransform(config.image_size, (grey, grey, grey), (spread, spread, spread))
    return ImageTransform(config.image_size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


EFFICIENTNET = Family(
    name="efficientnet",
    config=EfficientNetConfig,
    modality="image",
    inputs=("pixel_values",),
    model_types=(),
    architectures=TIMM_EFFICIENTNETS,
    names=lambda config: (efficientnet_names(config, "port"), efficientnet_names(config, "timm")),
    from_timm=efficientnet_from_timm,
    transform=_transform,
    to_timm=_to_timm,
    resized=resized_image,
    input_kernel="stem/conv/kernel",
)
