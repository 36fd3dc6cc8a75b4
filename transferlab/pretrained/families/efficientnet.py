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
from transferlab.pretrained.names import NameTable
from transferlab.pretrained.rules import leaves_of, named
from transferlab.pretrained.timm import TimmConfig

Dialect = Literal["port", "timm"]

# Of the blocks of the first stage, which do not expand, timm numbers the norms from 1 too and calls the only pointwise
# convolution conv_pw.
_RULES: dict[Dialect, str] = {
    "port": """
conv       stem/conv                                        _conv_stem
batch_norm stem/norm                                        _bn0
pointwise  stages/{i}/{i}/{expand,project}                  _blocks.{n}.{_expand_conv,_project_conv}
conv       stages/{i}/{i}/depthwise                         _blocks.{n}._depthwise_conv
pointwise  stages/{i}/{i}/squeeze_excite/{reduce,expand}    _blocks.{n}.{_se_reduce,_se_expand}
batch_norm stages/{i}/{i}/{expand,depthwise,project}_norm   _blocks.{n}.{_bn0,_bn1,_bn2}
pointwise  top/conv                                         _conv_head
batch_norm top/norm                                         _bn1
linear?    head                                             _fc
""",
    "timm": """
conv       stem/conv                                        conv_stem
batch_norm stem/norm                                        bn1
pointwise  stages/0/{i}/project                             blocks.0.{i}.conv_pw
batch_norm stages/0/{i}/{depthwise,project}_norm            blocks.0.{i}.{bn1,bn2}
pointwise  stages/{i}/{i}/{expand,project}                  blocks.{i}.{i}.{conv_pw,conv_pwl}
conv       stages/{i}/{i}/depthwise                         blocks.{i}.{i}.conv_dw
pointwise  stages/{i}/{i}/squeeze_excite/{reduce,expand}    blocks.{i}.{i}.se.{conv_reduce,conv_expand}
batch_norm stages/{i}/{i}/{expand,depthwise,project}_norm   blocks.{i}.{i}.{bn1,bn2,bn3}
pointwise  top/conv                                         conv_head
batch_norm top/norm                                         bn2
linear?    head                                             classifier
""",
}


def efficientnet_names(config: EfficientNetConfig, dialect: Dialect) -> NameTable:
    """Return the table for this config in one of the two dialects."""
    return NameTable(named(_RULES[dialect], leaves_of(config)), ignored=BATCH_COUNTERS)


TIMM_EFFICIENTNETS = r"(tf_)?efficientnet_(lite[0-4]|b[0-3])"
"""Architectures of timm that are read as this family, as a regular expression."""

_SIZES = ("lite0", "lite1", "lite2", "lite3", "lite4", "b0", "b1", "b2", "b3")

_READ = ("img_size", "num_classes", "global_pool", "drop_path_rate")


def efficientnet_from_timm(timm: TimmConfig) -> EfficientNetConfig:
    """Read timm's config. Those with ``tf_`` were born in TensorFlow: SAME padding, eps 1e-3; the others are torch's."""
    arguments = timm.checked(_READ)
    config: EfficientNetConfig = getattr(EfficientNetConfig, timm.architecture.rpartition("_")[2])()
    rate = given_number(arguments, "drop_path_rate", config.drop_path, where="config.json: model_args")
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
