"""Image preprocessing: reading any image as RGB, and the transform that travels with a model's weights."""

from __future__ import annotations

import io
import logging
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from transferlab import limits
from transferlab.bounds import Count, Positive
from transferlab.data.levels import as_bytes, stored_as
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.reading import check_file, reading

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".apng", ".avif", ".avifs",
    ".blp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".fit", ".fits", ".flc", ".fli", ".ftc", ".ftu", ".gbr", ".icb", ".icns",
    ".ico", ".im", ".j2c", ".j2k", ".jfif", ".jpc", ".jpe", ".jpf", ".jpx", ".mpo", ".msp", ".pbm", ".pcd", ".pcx", ".pfm",
    ".pnm", ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".vda", ".vst", ".xbm", ".xpm",
)  # fmt: skip
"""Suffixes of images in folders, in any case: all that Pillow decodes without another program."""

_UNREAD = (
    ".heic",
    ".heif",
    ".jxl",
    ".svg",
    ".eps",
    ".emf",
    ".wmf",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raw",
    ".dcm",
)
"""Suffixes of images that are not read: in a folder they are an error, as nobody means to leave them out."""

_UNREADABLE = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError,
    TypeError, OverflowError, RuntimeError, struct.error,
)  # fmt: skip
"""Exceptions that Pillow raises for files that are damaged or not images."""

Fit = Literal["crop", "squash"]
Filter = Literal["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"]

_RESAMPLE: dict[Filter, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

_LARGEST = 1 << 28
"""Largest number of pixels of a resized image: one of 1 × 3000 would be 3000 times as long as the model's input."""

_LONGEST = math.isqrt(_LARGEST)
"""Pixels of a side that a transform can ask for."""


@dataclass(frozen=True)
class ImageTransform:
    """Resize, cut the center, normalize: deterministic, as the reference implementations evaluate.

    An image smaller than ``size`` is enlarged like any other; where the resized one is smaller (``crop_fraction`` above 1),
    it is centered on black.

    Attributes:
        size: height and width of the result, in pixels.
        mean, std: per channel, of values from 0 to 1; a single value applies to every channel.
        resize: Pillow's filter.
        crop_fraction: images are resized to ``size / crop_fraction``, rounded down, before the center is cut.
        fit: which side gets that length: the shorter one (``crop``), or both, whatever the image's proportions
            (``squash``); with ``crop_fraction`` 1 the latter is a plain resize.
        channels: 3 reads images as RGB, 1 as gray with the mean of ``mean`` and of ``std``; any other number takes
            arrays of that many channels as they are, with ``mean`` and ``std`` repeated in turn.
        crop_rounds: whether half a pixel of the center's offset is rounded to even, as in torchvision (timm, open_clip),
            not down, as in transformers; and that of a border to the right, not to the left.

    Example:
        >>> transform = tl.data.ImageTransform(size=224, mean=(0.5,), std=(0.5,))
        >>> transform(np.zeros((300, 400, 3), np.uint8)).shape
        (224, 224, 3)
    """

    size: Count
    mean: tuple[float, ...]
    std: tuple[Positive, ...]
    resize: Filter = "bicubic"
    crop_fraction: Positive = 0.875
    fit: Fit = "crop"
    channels: Count = 3
    crop_rounds: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "ImageTransform")
        resized = self.size / self.crop_fraction
        if self.size > _LONGEST:
            raise TransferlabError(f"ImageTransform: size is {self.size}; it must be from 1 to {_LONGEST} pixels.")
        if not 1 <= resized < _LONGEST + 1:
            raise TransferlabError(
                f"ImageTransform: crop_fraction is {self.crop_fraction:g}, by which images would be resized to {resized:g} "
                f"pixels before the center of {self.size} is cut; it must be from 1 to {_LONGEST} pixels."
            )

    def __call__(self, image: UInt8[np.ndarray, "height width channels"]) -> Float[np.ndarray, "size size bands"]:
        """Return float32 (size, size, channels).

        Raises:
            TransferlabError: an image of another number of channels, or one that would be too large once resized.
        """
        if self.channels not in (1, 3) and image.shape[-1] != self.channels:
            raise TransferlabError(f"An image has {image.shape[-1]} channels; this model reads {self.channels}.")
        layers = [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)] if self.channels in (1, 3) else [
            Image.fromarray(image[..., i]) for i in range(self.channels)
        ]  # fmt: skip
        kind = "RGB" if self.channels == 3 else "L"
        cuts = [np.atleast_3d(self._cut(layer.convert(kind))) for layer in layers]
        mean, std = (np.array(self.per_channel(values), np.float32) for values in (self.mean, self.std))
        return (np.concatenate(cuts, -1) - mean) / std

    def per_channel(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return ``mean`` or ``std`` with one value for each channel that is read."""
        if self.channels == 1:
            return (sum(values) / len(values),)
        return tuple(values[i % len(values)] for i in range(self.channels))

    def _cut(self, image: Image.Image) -> Float[np.ndarray, "size size *bands"]:
        """The resized image's center, from 0 to 1."""
        target = self.resized
        if self.fit == "squash":
            width = height = target
        else:
            shorter = min(image.size)
            width, height = (target * side // shorter for side in image.size)
        if width * height > _LARGEST:
            raise TransferlabError(
                f"An image of {image.width} × {image.height} pixels would be {width} × {height} once its shorter side "
                f"has {target}. Leave it out, or cut its longer side."
            )
        image = image.resize((width, height), _RESAMPLE[self.resize])
        left, top = (self._offset(side) for side in (width, height))
        # Pixels beyond the image are black.
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)), np.float32) / 255.0

    def _offset(self, side: int) -> int:
        """Where the cut starts on a side of the resized image; a negative number is the width of a black border."""
        over = side - self.size
        if not self.crop_rounds:
            return over // 2
        return round(over / 2) if over > 0 else -(-over // 2)

    @property
    def resized(self) -> int:
        """Length to which a side is resized before the center is cut, in pixels."""
        return math.floor(self.size / self.crop_fraction)

    def describe(self) -> dict[str, object]:
        """Return the fields that identify this preprocessing, as plain data."""
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if not self.crop_rounds:
            fields.pop("crop_rounds")
        return {"kind": "image", **fields}


def crop_fraction(size: int, resized: int) -> float:
    """Return the ``crop_fraction`` with which :attr:`ImageTransform.resized` is ``resized`` for this size."""
    fraction = size / resized
    return fraction if math.floor(size / fraction) == resized else math.nextafter(fraction, 0.0)


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder, by name, without hidden files (such as macOS's ``._1.jpg``).

    Raises:
        TransferlabError: an image of a kind that is not read, or one whose suffix is not an image's.
    """
    paths = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for path in paths:
        kind = path.suffix.lower()
        if kind in _UNREAD:
            raise TransferlabError(f"{path} is an image of a kind that is not read; save it as PNG or JPEG.")
        if kind not in SUFFIXES and path.is_file() and (content := _content(path)):
            raise TransferlabError(
                f"{path} is an image ({content}), but would be left out because of its suffix. Name it "
                f"{path.name}.{content.lower()}, or move it elsewhere."
            )
    return [path for path in paths if path.suffix.lower() in SUFFIXES]


def passed_over(folders: Sequence[Path], suffixes: tuple[str, ...] = SUFFIXES, word: str = "image") -> str:
    """Return how many files of these folders are not images, or not what else is read of them, and the first.

    It is empty if there are none, and is also logged.
    """
    ignored = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix.lower() not in suffixes and not path.name.startswith(".")
    ]
    if not ignored:
        return ""
    single = f"1 file that is not {'an' if word == 'image' else 'a'} {word}, {ignored[0].name}"
    text = single if len(ignored) == 1 else f"{len(ignored)} files that are not {word}s, {ignored[0].name} among them"
    logging.getLogger(__name__).warning("%s: passed over %s.", ignored[0].parent, text)
    return text


def _content(path: Path) -> str:
    """The image format that Pillow recognises in the file's content; empty for anything else."""
    try:
        with Image.open(path) as image:
            return str(image.format)
    except _UNREADABLE:
        return ""


def nested_images(folder: Path) -> list[Path]:
    """Return the images in sub-folders, at any depth, which :func:`image_files` leaves out; hidden folders are skipped."""
    paths = []
    for place, inside, _ in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        paths += image_files(Path(place)) if Path(place) != folder else []
    return paths


def read_image(
    file: str | Path | BinaryIO | bytes, white: float | int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image as RGB: gray, palette, alpha and CMYK are converted, EXIF rotation is applied.

    Of an animated file, the first frame is read. Values of 16 bits are divided by 256 where they fill their bits.

    Args:
        file: path, open file or content.
        white: the value of white in images of 16 or 32 bits or of floating-point numbers, whose files do not state it:
            4095 for 12 bits, 1.0 for fractions. Images of 8 bits are read as they are.

    Raises:
        TransferlabError: not a file (a directory, a pipe, a device), not an image, a truncated or too large one, or one
            whose ``white`` is not known; the file is named.
    """
    name = str(file) if isinstance(file, (str, Path)) else "image"
    if isinstance(file, (str, Path)):
        check_file(Path(file), limits.IMAGE_BYTES)
    with reading(name):
        return _decoded(file, name, white)


def _decoded(file: str | Path | BinaryIO | bytes, name: str, white: float | int | None) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            layout, kind = stored_as(image), image.format
            upright = _upright(image)
            upright.format = kind
            upright = as_bytes(upright, layout, white)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                # Transparent parts become white, as in transformers' convert_to_rgb; timm's reader drops the channel.
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return np.array(upright.convert("RGB"))
    except _UNREADABLE as error:
        raise TransferlabError(f"{name} cannot be read as an image ({error}).") from None


def _upright(image: Image.Image) -> Image.Image:
    """The image rotated by its EXIF block; a damaged block is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except (struct.error, SyntaxError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return image


def png(image: UInt8[np.ndarray, "height width *channels"]) -> bytes:
    """Return the image as PNG bytes."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def line_for_pixels(pixels: Any) -> str:
    """Return what makes an array an image of uint8 (height, width, channels), after a space; empty where nothing is known to."""
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3):
        return ""
    if pixels.dtype.kind == "f" and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
        return " Of fractions from 0 to 1: (image * 255).round().astype(numpy.uint8)."
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] > 4:
        return " Channels come last: image.transpose(1, 2, 0)."
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return " Without transparency: image[..., :3]."
    return " Of values from 0 to 255: image.astype(numpy.uint8)." if pixels.dtype != np.uint8 else ""
