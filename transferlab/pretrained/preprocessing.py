"""Hugging Face's ``processor_config.json`` and ``preprocessor_config.json`` as the transform that travels with the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transferlab.data.images import Filter, Fit, ImageTransform
from transferlab.errors import TransferlabError
from transferlab.files import read_json, write_json

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
"""Where transformers 5 keeps the settings of a model's every processor, each under its name; where a processor alone has them."""

_FILTERS: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


_OF_OTHERS = ("do_pad", "do_flip_channel_order", "rescale_offset", "do_thumbnail", "do_align_long_axis")
"""Settings of other processors, which change the picture."""


def processor_settings(directory: Path, *names: str) -> tuple[Path, Mapping[str, Any]] | None:
    """Return (the file, what it says) of a processor, in the origin's order: its part of ``processor_config.json``, else
    ``preprocessor_config.json``; None where neither is there.

    Args:
        directory: with the model's files.
        names: that the part can have, as ``image_processor``.
    """
    for file in (PROCESSOR, PREPROCESSOR):
        if not (path := directory / file).exists():
            continue
        raw = read_json(path)
        if file == PROCESSOR and isinstance(raw, dict):
            # Older ones name a class alone, or settings of texts and pictures together.
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
        channels: of the pictures that the model reads.

    Raises:
        TransferlabError: what :class:`ImageTransform` cannot do; the field is named.
    """
    found = processor_settings(directory, "image_processor")
    if found is None:
        return None
    path, raw = found
    try:
        return _transform(raw, channels)
    except TransferlabError as error:
        raise TransferlabError(f"{path}: {error}") from None


def write_preprocessor(directory: Path, transform: ImageTransform) -> None:
    """Write the transform where it is looked for first, over what the files there say of other matters."""
    path = directory / PROCESSOR
    whole = read_json(path) if path.exists() else {}
    if isinstance(old := whole.get("image_processor"), dict):
        write_json(path, {**whole, "image_processor": _over(old, transform)})
        return
    path = directory / PREPROCESSOR
    write_json(path, _over(read_json(path) if path.exists() else {}, transform))


def _over(old: Mapping[str, Any], transform: ImageTransform) -> dict[str, Any]:
    if str(old.get("image_processor_type") or old.get("feature_extractor_type") or "").startswith("ConvNext"):
        # A class that has rules of its own for sizes; the fields below say all of it for this one.
        old = {name: value for name, value in old.items() if name not in ("crop_pct", "feature_extractor_type")}
        old["image_processor_type"] = "BitImageProcessor"
    return {**old, **to_preprocessor(transform)}


def to_preprocessor(transform: ImageTransform) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` that says this, in the fields that every processor of transformers knows."""
    resized = math.floor(transform.size / transform.crop_fraction + 1e-6)
    side = {"height": transform.size, "width": transform.size}
    crops = transform.fit == "crop"
    return {
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
    if not raw.get("do_resize", True):
        raise TransferlabError("do_resize is false; pictures of any size are not supported.")
    if said := next((field for field in _OF_OTHERS if raw.get(field)), None):
        raise TransferlabError(f"{said} is {raw[said]!r}, which is not supported.")
    resample = raw.get("resample", 2)
    if resample not in _FILTERS:
        raise TransferlabError(f"resample is {resample}; it can be 2 (bilinear) or 3 (bicubic).")
    kind = str(raw.get("image_processor_type") or raw.get("feature_extractor_type") or "")
    if kind.startswith("ConvNext"):
        # Below 384 pixels it resizes to size / crop_pct and cuts the centre; from 384 on it only resizes.
        raw, small = dict(raw), (size := _shorter(raw)) < 384
        raw |= {"size": {"shortest_edge": int(size / (raw.get("crop_pct") or 224 / 256))}} if small else {"size": size}
        raw |= {"do_center_crop": small, "crop_size": size}
    resized, fit = _resized(raw)
    crops = raw.get("do_center_crop", raw.get("crop_size") is not None)
    size = _side(raw.get("crop_size", resized), "crop_size") if crops else resized
    if size > resized:
        raise TransferlabError(f"crop_size {size} is larger than size {resized}.")
    if fit == "crop" and not crops:
        raise TransferlabError("size has a shortest_edge and do_center_crop is false: pictures would differ in shape.")
    # The origin computes (pixel · factor - mean) / std; the transform's own factor is 1/255.
    scale = float(raw.get("rescale_factor", 1 / 255)) if raw.get("do_rescale", True) else 1.0
    if not 0.0 < scale < math.inf:
        raise TransferlabError(f"rescale_factor is {scale}; it must be greater than 0.")
    factor = 255.0 * scale
    factor = 1.0 if math.isclose(factor, 1.0, rel_tol=1e-6) else factor
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if raw.get("do_normalize", True):
        given = (per_channel(raw.get(field, (0.5, 0.5, 0.5)), channels, field) for field in ("image_mean", "image_std"))
        mean, std = (tuple(value / factor for value in values) for values in given)
    else:
        std = (1 / factor, 1 / factor, 1 / factor)
    return ImageTransform(size, mean, std, _FILTERS[resample], size / resized, fit, channels)


def _resized(raw: Mapping[str, Any]) -> tuple[int, Fit]:
    """Return the side that pictures are resized to, and how: the shorter one, or both whatever the proportions."""
    size = raw.get("size", 224)
    if isinstance(size, Mapping) and size.get("shortest_edge") is not None:
        if size.get("longest_edge") is not None:
            raise TransferlabError(f"size {dict(size)} bounds the longer side too, which is not supported.")
        return _side(size["shortest_edge"], "size"), "crop"
    # A bare number is a square, but for the processors that say default_to_square = False.
    kind = str(raw.get("image_processor_type") or raw.get("feature_extractor_type") or "")
    shorter = isinstance(size, int) and not raw.get("default_to_square", not kind.startswith(("Bit", "CLIP")))
    return _side(size, "size"), "crop" if shorter else "squash"


def _shorter(raw: Mapping[str, Any]) -> int:
    """Return the size of a processor whose bare number is the shorter side."""
    size = raw.get("size", 384)
    return _side(size["shortest_edge"] if isinstance(size, Mapping) and "shortest_edge" in size else size, "size")


def per_channel(given: Any, channels: int, field: str) -> tuple[float, ...]:
    """Return a mean or deviation that pictures of so many channels can be normalised by; ``field`` begins the error."""
    values = tuple(float(x) for x in (given if isinstance(given, (list, tuple)) else (given,)))
    # That of RGB pictures is known for others too: the transform says what it does with it.
    fitting = sorted({1, 3, channels})
    if len(values) not in fitting:
        raise TransferlabError(
            f"{field} {list(values)} has {len(values)} values; for pictures of {channels} channels it can have "
            f"{', '.join(map(str, fitting[:-1]))} or {fitting[-1]}."
        )
    return values


def _side(size: Any, field: str) -> int:
    if isinstance(size, int):
        return size
    sides = size.get("height"), size.get("width")
    if None in sides or sides[0] != sides[1]:
        raise TransferlabError(f"{field} {dict(size)} is no square.")
    return int(sides[0])
