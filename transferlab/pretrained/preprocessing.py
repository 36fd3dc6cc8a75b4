"""Hugging Face's ``processor_config.json`` and ``preprocessor_config.json`` as the transform that travels with the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transferlab.data.images import Filter, Fit, ImageTransform, crop_fraction
from transferlab.errors import TransferlabError, nearest
from transferlab.fields import given_fields
from transferlab.files import write_json
from transferlab.reading import read_json

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
"""Where transformers 5 keeps the settings of all of a model's processors, by name; where a single processor's are."""

_FILTERS: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers."""

_HALF = [0.5, 0.5, 0.5]
_OPENAI = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_SHORTER_224 = {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True, "resample": 3}
_PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"size": {"height": 224, "width": 224}, "resample": 2},
    "DeiT": {"size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True, "resample": 3},
    "CLIP": _SHORTER_224 | _OPENAI,
    "Bit": _SHORTER_224 | _OPENAI,
    "Siglip": {"size": {"height": 224, "width": 224}, "resample": 3},
    "ConvNext": {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256, "resample": 3},
    "MobileNetV2": _SHORTER_224 | {"size": {"shortest_edge": 256}, "resample": 2},
}
"""Defaults of each processor of transformers, for fields that its file lacks or has as null."""

_BY_SHORTER_SIDE = ("CLIP", "Bit", "Siglip", "ConvNext", "MobileNetV2")
"""Processors with ``default_to_square = False``: a bare number is the shorter side."""


_FLAGS: dict[str, type] = dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), bool)
"""Settings that are true or false; a string would be true, whatever it says."""

_OF_OTHERS = (
    "rescale_offset", "pad_size", "do_reduce_labels", "do_pad", "do_flip_channel_order", "do_thumbnail", "do_align_long_axis",
)  # fmt: skip
"""Settings of other processors, which would change the image."""


def processor_settings(directory: Path, *names: str) -> tuple[Path, Mapping[str, Any]] | None:
    """Return (the file, what it says) of a processor, in transformers' order: its part of ``processor_config.json``, else
    ``preprocessor_config.json``; None where neither is there.

    Args:
        directory: with the model's files.
        names: of the part, as ``image_processor``.
    """
    for file in (PROCESSOR, PREPROCESSOR):
        if not (path := directory / file).exists():
            continue
        raw = read_json(path)
        if file == PROCESSOR and isinstance(raw, dict):
            # Older ones only name a class, or hold the settings of texts and images together.
            raw = next((raw[name] for name in names if raw.get(name) is not None), None)
        if raw is None:
            continue
        if not isinstance(raw, dict):
            raise TransferlabError(f"{path}: expected a JSON object with the settings of a processor.")
        return path, raw
    return None


def read_preprocessor(directory: Path, channels: int = 3) -> ImageTransform | None:
    """Return the transform that the directory's :func:`processor_settings` describe; None without any.

    Args:
        directory: with the model's files.
        channels: of the images that the model reads.

    Raises:
        TransferlabError: a setting that :class:`ImageTransform` does not support; the field is named.
    """
    settings = processor_settings(directory, "image_processor")
    if settings is None:
        return None
    path, raw = settings
    given_fields(_FLAGS, raw, where=str(path))
    try:
        return _transform(raw, channels)
    except TransferlabError as error:
        raise TransferlabError(f"{path}: {error}") from None


def write_preprocessor(directory: Path, transform: ImageTransform) -> None:
    """Write the transform where it is looked for first; other settings in that file stay."""
    path = directory / PROCESSOR
    whole = read_json(path) if path.exists() else {}
    if isinstance(old := whole.get("image_processor"), dict):
        write_json(path, {**whole, "image_processor": to_preprocessor(transform, old)})
        return
    path = directory / PREPROCESSOR
    write_json(path, to_preprocessor(transform, read_json(path) if path.exists() else {}))


def to_preprocessor(transform: ImageTransform, old: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` of a transform, in fields that every processor of transformers knows.

    Args:
        transform: to write.
        old: the file before; its other fields stay, except those of ConvNeXt's processor, which reads them differently.
    """
    resized = transform.resized
    side = {"height": transform.size, "width": transform.size}
    crops = transform.fit == "crop"
    fields = {name: value for name, value in (old or {}).items() if name not in ("feature_extractor_type", "crop_pct")}
    if _kind(old or {}) in ("", "ConvNext"):
        # Without it, transformers chooses by the model, and uses ConvNeXt's for a ResNet.
        fields["image_processor_type"] = "CLIPImageProcessor" if crops else "ViTImageProcessor"
    elif "feature_extractor_type" in (old or {}) and "image_processor_type" not in fields:
        fields["image_processor_type"] = f"{_kind(old or {})}ImageProcessor"
    return {
        **fields,
        "do_resize": True,
        "size": {"shortest_edge": resized} if crops else {"height": resized, "width": resized},
        "resample": next(number for number, name in _FILTERS.items() if name == transform.resize),
        "do_center_crop": crops or resized != transform.size,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.per_channel(transform.mean)),
        "image_std": list(transform.per_channel(transform.std)),
    }


def _transform(raw: Mapping[str, Any], channels: int) -> ImageTransform:
    if not isinstance(raw, dict):
        raise TransferlabError("expected a JSON object.")
    kind = _kind(raw)
    raw = _PROCESSORS.get(kind, {}) | {name: value for name, value in raw.items() if value is not None}
    if not raw.get("do_resize", True):
        raise TransferlabError("do_resize is false; images of varying size are not supported.")
    if field := next((name for name in _OF_OTHERS if raw.get(name)), None):
        raise TransferlabError(f"{field} is {raw[field]!r}, which is not supported.")
    resample = raw.get("resample", 2)
    if resample not in _FILTERS or isinstance(resample, bool):
        known = ", ".join(f"{number} ({name})" for number, name in _FILTERS.items())
        raise TransferlabError(f"resample is {resample!r}; expected one of {known}.")
    if kind == "ConvNext":
        raw = _convnext(raw)
    resized, fit = _resized(raw, kind)
    crops = raw.get("do_center_crop", not kind and raw.get("crop_size") is not None)
    size = _side(raw.get("crop_size", resized), "crop_size") if crops else resized
    if fit == "crop" and not crops:
        raise TransferlabError("size has a shortest_edge and do_center_crop is false: images would differ in shape.")
    # transformers computes (pixel · factor - mean) / std; the transform's own factor is 1/255.
    factor = (
        255.0 * _positive(raw.get("rescale_factor", 1 / 255), "rescale_factor")
        if raw.get("do_rescale", True)
        else 255.0
    )
    factor = 1.0 if math.isclose(factor, 1.0, rel_tol=1e-6) else factor
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if raw.get("do_normalize", True):
        moments = (per_channel(raw.get(field, _HALF), channels, field) for field in ("image_mean", "image_std"))
        mean, std = (tuple(value / factor for value in values) for values in moments)
    else:
        std = (1 / factor, 1 / factor, 1 / factor)
    return ImageTransform(size, mean, std, _FILTERS[resample], crop_fraction(size, resized), fit, channels)


def _kind(raw: Mapping[str, Any]) -> str:
    """Return the processor's name in ``_PROCESSORS``; empty where the file does not say it."""
    field = "image_processor_type" if raw.get("image_processor_type") else "feature_extractor_type"
    name = str(raw.get(field) or "")
    kind = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", name)
    if name and kind not in _PROCESSORS:
        known = [f"{each}ImageProcessor" for each in _PROCESSORS]
        raise TransferlabError(f"{field} '{name}' is not supported.{nearest(name, known)}")
    return kind


def _convnext(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return ConvNeXt's settings in other processors' fields: below 384 pixels, resize to size / crop_pct and center crop."""
    value = raw["size"]
    size = _side(value["shortest_edge"] if isinstance(value, Mapping) and "shortest_edge" in value else value, "size")
    if raw.get("do_center_crop") and _side(raw.get("crop_size", size), "crop_size") != size:
        raise TransferlabError(f"crop_size {raw['crop_size']} is not size {size}; a second crop is not supported.")
    fields: dict[str, Any] = {"size": {"height": size, "width": size}, "do_center_crop": False}
    if size < 384:
        resized = int(size / _positive(raw["crop_pct"], "crop_pct"))
        fields = {"size": {"shortest_edge": resized}, "do_center_crop": True, "crop_size": size}
    return {**raw, **fields}


def _resized(raw: Mapping[str, Any], kind: str) -> tuple[int, Fit]:
    """Return the side that images are resized to, and how: the shorter one, or both regardless of the aspect ratio."""
    size = raw.get("size", 224)
    if isinstance(size, Mapping):
        size = {name: value for name, value in size.items() if value is not None}
        if size.keys() == {"shortest_edge"}:
            return _side(size["shortest_edge"], "size.shortest_edge"), "crop"
        if size.keys() != {"height", "width"}:
            raise TransferlabError(f"size {size} is not supported; expected shortest_edge, or height and width.")
    return _side(size, "size"), "crop" if isinstance(size, int) and kind in _BY_SHORTER_SIDE else "squash"


def per_channel(value: Any, channels: int, field: str) -> tuple[float, ...]:
    """Return a mean or standard deviation by which images of this many channels can be normalized.

    Raises:
        TransferlabError: it has another number of values; the message begins with ``field``.
    """
    values = tuple(float(x) for x in (value if isinstance(value, (list, tuple)) else (value,)))
    # That of RGB images is accepted for other channels too: the transform says how it is used.
    fitting = sorted({1, 3, channels})
    if len(values) not in fitting:
        raise TransferlabError(
            f"{field} {list(values)} has {len(values)} values; for images of {channels} channels it can have "
            f"{', '.join(map(str, fitting[:-1]))} or {fitting[-1]}."
        )
    return values


def _positive(value: Any, field: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise TransferlabError(f"{field} is {value!r}; it must be a number above 0.")
    return float(value)


def _side(size: Any, field: str) -> int:
    """Return the side of a square: an integer, two equal ones, or height and width."""
    if isinstance(size, Mapping):
        sides = [size.get("height"), size.get("width")]
    else:
        sides = list(size) if isinstance(size, (list, tuple)) else [size, size]
    if len(sides) != 2 or sides[0] != sides[1]:
        raise TransferlabError(f"{field} {size} is not square; only square images are supported.")
    if not isinstance(sides[0], int) or isinstance(sides[0], bool) or sides[0] < 1:
        raise TransferlabError(f"{field} is {size!r}; it must be a positive integer of pixels.")
    return sides[0]
