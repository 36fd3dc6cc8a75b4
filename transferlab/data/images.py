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
from typing import BinaryIO, Literal

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
"""Images that are looked for in folders, in any case: all that Pillow decodes without another program."""

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
"""Images that are not read: in a folder they are an error, as nobody means them to be left out."""

_UNREADABLE = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError,
    TypeError, OverflowError, RuntimeError, struct.error,
)  # fmt: skip
"""What Pillow raises for files that are damaged or no images."""

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
"""Pixels of a resized image, beyond which it is refused: one of 1 × 3000 would be 3000 times as long as the model's input."""

_LONGEST = math.isqrt(_LARGEST)
"""Pixels of a side that a transform can ask for."""


@dataclass(frozen=True)
class ImageTransform:
    """Resize, cut the center, normalize: deterministic, as the reference implementation evaluates.

    An image smaller than ``size`` is enlarged like any other; where the resized one is smaller (``crop_fraction`` above 1),
    it is centered on black.

    Attributes:
        size: height and width of the result, in pixels.
        mean, std: per channel, of values from 0 to 1; one value is that of every channel.
        resize: Pillow's filter.
        crop_fraction: images are resized to ``size / crop_fraction``, rounded down, before the center is cut.
        fit: which side becomes that long: the shorter one (``crop``), or both, whatever the image's proportions
            (``squash``); with ``crop_fraction`` 1 that is a plain resize.
        channels: 3 reads images as RGB, 1 as gray with the mean of ``mean`` and of ``std``; any other number takes
            arrays of so many channels as they are, with ``mean`` and ``std`` repeated in turn.
        crop_rounds: whether half a pixel of the center's offset goes to the even side, as torchvision has it (timm,
            open_clip), not down, as transformers has it; and of a border to the right, not to the left.
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
        """Return float32 (size, size, channels)."""
        if self.channels not in (1, 3) and image.shape[-1] != self.channels:
            raise TransferlabError(f"An image has {image.shape[-1]} channels; this model reads {self.channels}.")
        pictures = [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)] if self.channels in (1, 3) else [
            Image.fromarray(image[..., i]) for i in range(self.channels)
        ]  # fmt: skip
        kind = "RGB" if self.channels == 3 else "L"
        cuts = [np.atleast_3d(self._cut(picture.convert(kind))) for picture in pictures]
        mean, std = (np.array(self.per_channel(values), np.float32) for values in (self.mean, self.std))
        return (np.concatenate(cuts, -1) - mean) / std

    def per_channel(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """``mean`` or ``std`` with one value for each channel that is read."""
        if self.channels == 1:
            return (sum(values) / len(values),)
        return tuple(values[i % len(values)] for i in range(self.channels))

    def _cut(self, picture: Image.Image) -> Float[np.ndarray, "size size *bands"]:
        """The resized image's center, from 0 to 1."""
        target = self.resized
        if self.fit == "squash":
            width = height = target
        else:
            shorter = min(picture.size)
            width, height = (target * side // shorter for side in picture.size)
        if width * height > _LARGEST:
            raise TransferlabError(
                f"An image of {picture.width} × {picture.height} pixels would be {width} × {height} once its shorter side "
                f"has {target}. Leave it out, or cut its longer side."
            )
        picture = picture.resize((width, height), _RESAMPLE[self.resize])
        left, top = (self._offset(side) for side in (width, height))
        # What is beyond the image is black.
        return np.asarray(picture.crop((left, top, left + self.size, top + self.size)), np.float32) / 255.0

    def _offset(self, side: int) -> int:
        """Where the cut begins on a side of the resized image; below 0 that much is black before it."""
        over = side - self.size
        if not self.crop_rounds:
            return over // 2
        return round(over / 2) if over > 0 else -(-over // 2)

    @property
    def resized(self) -> int:
        """Pixels of the side that images are resized to, before the center is cut."""
        return math.floor(self.size / self.crop_fraction)

    def describe(self) -> dict[str, object]:
        """What identifies this preprocessing, as plain data."""
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if not self.crop_rounds:
            given.pop("crop_rounds")
        return {"kind": "image", **given}


def crop_fraction(size: int, resized: int) -> float:
    """Return the ``crop_fraction`` by which :attr:`ImageTransform.resized` is this number, for that size."""
    share = size / resized
    return share if math.floor(size / share) == resized else math.nextafter(share, 0.0)


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder, by name; hidden files (as ``._1.jpg``, which macOS leaves) are none.

    Raises:
        TransferlabError: an image of a kind that is not read, or one whose name does not say that it is one.
    """
    found = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for path in found:
        kind = path.suffix.lower()
        if kind in _UNREAD:
            raise TransferlabError(f"{path} is an image of a kind that is not read; save it as PNG or JPEG.")
        if kind not in SUFFIXES and path.is_file() and (content := _content(path)):
            raise TransferlabError(
                f"{path} is an image ({content}), but its name does not say so, and it would be left out. Name it "
                f"{path.name}.{content.lower()}, or move it away."
            )
    return [path for path in found if path.suffix.lower() in SUFFIXES]


def passed_over(folders: Sequence[Path]) -> str:
    """Return how many files of these folders are no images, and which is the first; empty if there are none. Logged too."""
    others = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix.lower() not in SUFFIXES and not path.name.startswith(".")
    ]
    if not others:
        return ""
    one = f"1 file that is no image, {others[0].name}"
    said = one if len(others) == 1 else f"{len(others)} files that are no images, {others[0].name} among them"
    logging.getLogger(__name__).warning("%s: passed over %s.", others[0].parent, said)
    return said


def _content(path: Path) -> str:
    """What Pillow takes the file for, by its content; empty for no image."""
    try:
        with Image.open(path) as picture:
            return str(picture.format)
    except _UNREADABLE:
        return ""


def nested_images(folder: Path) -> list[Path]:
    """Return images in folders of a folder, at any depth, which :func:`image_files` does not see; not in hidden ones."""
    found = []
    for place, inside, _ in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += image_files(Path(place)) if Path(place) != folder else []
    return found


def read_image(
    file: str | Path | BinaryIO | bytes, white: float | int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image as RGB: one channel, palette, alpha and CMYK are converted, EXIF rotation is applied.

    Of an animated file it is the first frame. Values of 16 bits are divided by 256 where they fill their bits.

    Args:
        file: path, open file or content.
        white: the value that is white in images of 16 or 32 bits or of floating-point numbers, whose files do not say
            it: 4095 for 12 bits, 1.0 for fractions. Images of 8 bits are read as they are.

    Raises:
        TransferlabError: no file (a directory, a pipe, a device), not an image, a truncated or too large one, or one whose ``white`` is not known; the file is named.
    """
    name = str(file) if isinstance(file, (str, Path)) else "image"
    if isinstance(file, (str, Path)):
        check_file(Path(file), limits.IMAGE_BYTES)
    with reading(name):
        return _decoded(file, name, white)


def _decoded(file: str | Path | BinaryIO | bytes, name: str, white: float | int | None) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
            layout, kind = stored_as(picture), picture.format
            upright = _upright(picture)
            upright.format = kind
            upright = as_bytes(upright, layout, white)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                # Transparent parts show white, as in transformers' convert_to_rgb; timm's reader drops the channel.
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return np.array(upright.convert("RGB"))
    except _UNREADABLE as error:
        raise TransferlabError(f"{name} cannot be read as an image ({error}).") from None


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says; a damaged EXIF block says nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except (struct.error, SyntaxError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return picture


def png(image: UInt8[np.ndarray, "height width *channels"]) -> bytes:
    """Return the image as PNG bytes."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
