"""Image preprocessing: reading any picture as RGB, and the transform that travels with a model's weights."""

from __future__ import annotations

import io
import math
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from transferlab.bounds import Bounds, Count, Positive
from transferlab.errors import TransferlabError, check_fields

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")
"""Pictures that are looked for in folders, in any case."""

Fit = Literal["crop", "squash"]
Filter = Literal["bicubic", "bilinear"]

_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class ImageTransform:
    """Resize, cut the centre, normalise: deterministic, as the origin evaluates.

    Attributes:
        size: height and width of the result, in pixels.
        mean, std: per channel, of values from 0 to 1; one value is that of every channel.
        resize: Pillow's filter.
        crop_fraction: pictures are resized to ``size / crop_fraction`` before the centre is cut.
        fit: which side becomes that long: the shorter one (``crop``), or both, whatever the picture's proportions
            (``squash``); with ``crop_fraction`` 1 that is a plain resize.
        channels: 3 reads pictures as RGB, 1 as grey with the mean of ``mean`` and of ``std``; any other number takes
            arrays of so many channels as they are, with ``mean`` and ``std`` repeated in turn.
        crop_rounds: whether half a pixel of the centre's offset goes to the even side, as torchvision has it (timm,
            open_clip), not down, as transformers has it.
    """

    size: Count
    mean: tuple[float, ...]
    std: tuple[Positive, ...]
    resize: Filter = "bicubic"
    crop_fraction: Annotated[float, Bounds(0.0, 1.0, above=True)] = 0.875
    fit: Fit = "crop"
    channels: Count = 3
    crop_rounds: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "ImageTransform")

    def __call__(self, image: UInt8[np.ndarray, "height width channels"]) -> Float[np.ndarray, "size size bands"]:
        """Return float32 (size, size, channels)."""
        if self.channels not in (1, 3) and image.shape[-1] != self.channels:
            raise TransferlabError(f"A picture has {image.shape[-1]} channels; this model reads {self.channels}.")
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
        """The resized picture's centre, from 0 to 1."""
        # timm and transformers round down; the small number makes up for a quotient that is just below a whole one.
        target = math.floor(self.size / self.crop_fraction + 1e-6)
        if self.fit == "squash":
            width = height = target
        else:
            # A picture that is already small is scaled to the size itself: cutting its border would lose content.
            shorter = min(picture.size)
            target = self.size if shorter < self.size else target
            width, height = (target * side // shorter for side in picture.size)
        picture = picture.resize((width, height), _RESAMPLE[self.resize])
        over = (width - self.size, height - self.size)
        left, top = (round(n / 2) if self.crop_rounds else n // 2 for n in over)
        return np.asarray(picture.crop((left, top, left + self.size, top + self.size)), np.float32) / 255.0

    def describe(self) -> dict[str, object]:
        """What identifies this preprocessing, as plain data."""
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if not self.crop_rounds:
            given.pop("crop_rounds")
        return {"kind": "image", **given}


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder, by name; hidden files (as ``._1.jpg``, which macOS leaves) are none."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def nested_pictures(folder: Path) -> list[Path]:
    """Return pictures in folders of a folder, at any depth, which :func:`picture_files` does not see; not in hidden ones."""
    found = []
    for place, inside, _ in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += picture_files(Path(place)) if Path(place) != folder else []
    return found


def read_image(file: str | Path | BinaryIO | bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Read a picture as RGB: one channel, 16 bits, palette, alpha and CMYK are converted, EXIF rotation is applied.

    Raises:
        TransferlabError: not a picture, or a truncated one; the file is named.
    """
    name = str(file) if isinstance(file, (str, Path)) else "image"
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
            upright = _upright(picture)
            if upright.mode == "F":
                raise ValueError("its pixels are floating-point numbers, whose range nothing tells")
            if upright.mode.startswith("I"):
                # 16 bits of grey: Pillow would cut all above 255 to white.
                upright = Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                # Transparent parts show white, as on a page.
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return np.array(upright.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise TransferlabError(f"{name} cannot be read as a picture ({error}).") from None


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says; a damaged EXIF block says nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except (struct.error, SyntaxError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return picture


def png(image: UInt8[np.ndarray, "height width *channels"]) -> bytes:
    """Return the picture as PNG bytes."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
