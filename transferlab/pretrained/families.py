"""What loading needs to know of each family: its config, its name tables, its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from transferlab.data.images import ImageTransform
from transferlab.errors import TransferlabError
from transferlab.models.bert import BertConfig
from transferlab.models.efficientnet import EfficientNetConfig
from transferlab.models.heads import Pooling
from transferlab.models.vit import ViTConfig
from transferlab.pretrained.bert import bert_names
from transferlab.pretrained.efficientnet import TIMM_EFFICIENTNETS, efficientnet_from_timm, efficientnet_names
from transferlab.pretrained.names import Names
from transferlab.pretrained.positions import Resize, position_resize
from transferlab.pretrained.timm import TimmConfig
from transferlab.pretrained.vit import TIMM_VITS, vit_from_hf, vit_from_timm, vit_names


@dataclass(frozen=True)
class Family:
    """One architecture family.

    Attributes:
        name: as in error messages and checkpoints.
        config: its config dataclass.
        modality: what it reads.
        inputs: names of its inputs, the required one first.
        model_types: values of ``model_type`` in Hugging Face's ``config.json``.
        architectures: those of timm, as a regular expression; empty if none is read.
        names: config → the name tables that its files may follow.
        from_hf, from_timm: ``config.json`` → config.
        adjust: (config, paths found in the file) → the config of what the file really holds.
        transform: config → preprocessing, where the weights bring none.
        head_pooling: config → how the origin's own head pools.
        head_dropout: ``config.json`` → rate of the dropout before the origin's own head.
        resized: (config, shapes of the leaves, pixels) → the config for that image size, and the leaves to resize.
    """

    name: str
    config: type
    modality: Literal["text", "image"]
    inputs: tuple[str, ...]
    model_types: tuple[str, ...]
    architectures: str
    names: Callable[[Any], tuple[Names, ...]]
    from_hf: Callable[[Mapping[str, Any]], Any]
    from_timm: Callable[[TimmConfig], Any]
    adjust: Callable[[Any, set[str]], Any]
    transform: Callable[[Any], ImageTransform | None]
    head_pooling: Callable[[Any], Pooling] = lambda config: "mean"
    head_dropout: Callable[[Mapping[str, Any]], float] = lambda raw: 0.0
    resized: Callable[[Any, Mapping[str, tuple[int, ...]], int], tuple[Any, dict[str, Resize | None]]] = (
        lambda config, shapes, image_size: (config, {})
    )


def _bert_adjust(config: BertConfig, found: set[str]) -> BertConfig:
    return config if "pooler/kernel" in found else config.without_pooler()


def _bert_head_dropout(raw: Mapping[str, Any]) -> float:
    rate = raw.get("classifier_dropout")
    return float(raw.get("hidden_dropout_prob", 0.0) if rate is None else rate)


def _vit_adjust(config: ViTConfig, found: set[str]) -> ViTConfig:
    return config if "pooler/kernel" in found else config.without_pooler()


def _vit_resized(
    config: ViTConfig, shapes: Mapping[str, tuple[int, ...]], image_size: int
) -> tuple[ViTConfig, dict[str, Resize | None]]:
    new = replace(config, image_size=image_size)
    path = "embed/position"
    return new, {path: position_resize(shapes[path], config.position_slots, new.grid, config.position_rule)}


def _unread(config: Any) -> Any:
    raise TransferlabError("config.json: this family is not read from a directory of this kind.")


def _efficientnet_transform(config: EfficientNetConfig) -> ImageTransform:
    # 127 and 128 of 255, as the Lite weights were trained; the others take ImageNet's mean and deviation.
    if config.lite:
        # 127 and 128 of 255, as the Lite weights were trained; timm's config of the same weights says crop .875, bicubic.
        grey, spread = 127 / 255, 128 / 255
        return ImageTransform(config.image_size, (grey, grey, grey), (spread, spread, spread))
    return ImageTransform(config.image_size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _vit_transform(config: ViTConfig) -> ImageTransform:
    # As Hugging Face's ViTImageProcessor, which the files of a ViT that bring no preprocessing were made for.
    half = (0.5, 0.5, 0.5)
    return ImageTransform(config.image_size, half, half, "bilinear", 1.0, "squash")


FAMILIES: dict[str, Family] = {
    "bert": Family(
        name="bert",
        config=BertConfig,
        modality="text",
        inputs=("input_ids", "attention_mask", "token_type_ids", "position_ids"),
        model_types=("bert",),
        architectures="",
        names=lambda config: (bert_names(config),),
        from_hf=BertConfig.from_hf,
        from_timm=_unread,
        adjust=_bert_adjust,
        transform=lambda config: None,
        head_pooling=lambda config: "pooler" if config.pooler else "mean",
        head_dropout=_bert_head_dropout,
    ),
    "efficientnet": Family(
        name="efficientnet",
        config=EfficientNetConfig,
        modality="image",
        inputs=("pixel_values",),
        model_types=(),
        architectures=TIMM_EFFICIENTNETS,
        names=lambda config: (efficientnet_names(config, "port"), efficientnet_names(config, "timm")),
        from_hf=_unread,
        from_timm=efficientnet_from_timm,
        adjust=lambda config, found: config,
        transform=_efficientnet_transform,
    ),
    "vit": Family(
        name="vit",
        config=ViTConfig,
        modality="image",
        inputs=("pixel_values",),
        model_types=("vit", "deit", "dinov2", "dinov2_with_registers"),
        architectures=TIMM_VITS,
        names=lambda config: tuple(vit_names(config, dialect) for dialect in ("vit", "dinov2", "timm")),
        from_hf=vit_from_hf,
        from_timm=vit_from_timm,
        adjust=_vit_adjust,
        transform=_vit_transform,
        head_pooling=lambda config: config.pooling,
        resized=_vit_resized,
    ),
}


def family_of(config: Any) -> Family:
    """Return the family whose config this is."""
    for family in FAMILIES.values():
        if isinstance(config, family.config):
            return family
    raise TransferlabError(f"{type(config).__name__} is the config of no known family ({', '.join(FAMILIES)}).")
