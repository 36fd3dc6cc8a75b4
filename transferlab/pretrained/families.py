"""What loading needs to know of each family: its config, its name tables, its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transferlab.data.images import ImageTransform
from transferlab.errors import TransferlabError
from transferlab.models.bert import BertConfig
from transferlab.models.efficientnet import EfficientNetConfig
from transferlab.pretrained.bert import bert_names
from transferlab.pretrained.efficientnet import efficientnet_names
from transferlab.pretrained.names import Names


@dataclass(frozen=True)
class Family:
    """One architecture family.

    Attributes:
        name: as in error messages and checkpoints.
        config: its config dataclass.
        modality: what it reads.
        inputs: names of its inputs, the required one first.
        model_types: values of ``model_type`` in Hugging Face's ``config.json``.
        names: config → the name tables that its files may follow.
        from_hf: ``config.json`` → config.
        adjust: (config, paths found in the file) → the config of what the file really holds.
        transform: config → preprocessing, where the weights bring none.
    """

    name: str
    config: type
    modality: Literal["text", "image"]
    inputs: tuple[str, ...]
    model_types: tuple[str, ...]
    names: Callable[[Any], tuple[Names, ...]]
    from_hf: Callable[[Mapping[str, Any]], Any]
    adjust: Callable[[Any, set[str]], Any]
    transform: Callable[[Any], ImageTransform | None]


def _bert_adjust(config: BertConfig, found: set[str]) -> BertConfig:
    return config if "pooler/kernel" in found else config.without_pooler()


def _no_hf(config: Mapping[str, Any]) -> Any:
    raise TransferlabError("config.json: this family is not read from a Hugging Face directory.")


def _efficientnet_transform(config: EfficientNetConfig) -> ImageTransform:
    # 127 and 128 of 255, as the Lite weights were trained; the others take ImageNet's mean and deviation.
    if config.lite:
        # 127 and 128 of 255, as the Lite weights were trained; timm's config of the same weights says crop .875, bicubic.
        grey, spread = 127 / 255, 128 / 255
        return ImageTransform(config.image_size, (grey, grey, grey), (spread, spread, spread))
    return ImageTransform(config.image_size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


FAMILIES: dict[str, Family] = {
    "bert": Family(
        name="bert",
        config=BertConfig,
        modality="text",
        inputs=("input_ids", "attention_mask", "token_type_ids", "position_ids"),
        model_types=("bert",),
        names=lambda config: (bert_names(config),),
        from_hf=BertConfig.from_hf,
        adjust=_bert_adjust,
        transform=lambda config: None,
    ),
    "efficientnet": Family(
        name="efficientnet",
        config=EfficientNetConfig,
        modality="image",
        inputs=("pixel_values",),
        model_types=(),
        names=lambda config: (efficientnet_names(config, "port"), efficientnet_names(config, "timm")),
        from_hf=_no_hf,
        adjust=lambda config, found: config,
        transform=_efficientnet_transform,
    ),
}


def family_of(config: Any) -> Family:
    """Return the family whose config this is."""
    for family in FAMILIES.values():
        if isinstance(config, family.config):
            return family
    raise TransferlabError(f"{type(config).__name__} is the config of no known family ({', '.join(FAMILIES)}).")
