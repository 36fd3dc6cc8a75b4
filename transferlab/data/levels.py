"""Images with values of 16 or 32 bits or of floating-point numbers, converted to bytes.

A file of 16 bits may use only 12 of them, and one of 32 bits only 8: the value of white is known only where the values
fill their bits, or where the format or the caller states it. An unknown white is an error, not a black image.
"""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from transferlab.errors import TransferlabError

DEEPEST = 65535
"""White of an image that uses all of its 16 bits."""


def check_white(white: Any) -> None:
    """Raise for anything that is not a positive, finite number."""
    if not isinstance(white, Real) or isinstance(white, bool) or not 0 < float(white) < math.inf:
        raise TransferlabError(f"white is {white!r}; it must be a number above 0, such as 4095 for images of 12 bits.")


def stored_as(image: Image.Image) -> str:
    """Return the image's layout in the file, as Pillow calls it (``I;16B``, ``RGB;16B``); empty once it is decoded."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def as_bytes(image: Image.Image, layout: str, white: float | int | None) -> Image.Image:
    """Return the image with 8 bits per channel; one that has them already is returned as it is.

    Args:
        image: decoded.
        layout: of the file, from :func:`stored_as`.
        white: the value of white where the file does not state it.

    Raises:
        ValueError: an unknown white, or one that does not fit the values.
    """
    if re.search(r";16[BLN]$", layout) and not image.mode.startswith("I"):
        return _colors(image, white)
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    # Its 53 bits represent all of these integers exactly.
    values = np.asarray(image).astype(np.float64)
    least, most = values.min(), values.max()
    if not np.isfinite(least) or not np.isfinite(most):
        raise ValueError("it has values that are not finite numbers")
    if least < 0:
        raise ValueError(f"its smallest value is {least:g}, but black is 0. Save it with 8 bits")
    # An all-black image is black whatever white is.
    known = _known(image, layout) or white or (DEEPEST if most == 0 else None)
    if known is None and image.mode == "F":
        raise ValueError(f"its values are floating-point numbers, the largest {most:g}; {_mending('1.0')}")
    if known is None and (image.mode == "I" or most <= DEEPEST // 2):
        bits = 32 if image.mode == "I" else 16
        raise ValueError(f"its values have {bits} bits, but the largest is {most:.0f}; {_mending(_likely(int(most)))}")
    known = known or DEEPEST
    if most > known:
        raise ValueError(f"its largest value is {most:g}, but white is {known:g}")
    levels = values // 256 if known == DEEPEST and image.mode != "F" else np.rint(values * (255.0 / known))
    return Image.fromarray(levels.astype(np.uint8))


def _colors(image: Image.Image, white: float | int | None) -> Image.Image:
    """Check colors of 16 bits, of which Pillow reads the upper 8."""
    values = np.asarray(image)
    most = int((values[..., :-1] if image.mode[-1] == "A" else values).max())
    if white is None and most < 128:
        raise ValueError(f"its colors have 16 bits, but the largest is below {256 * (most + 1)}; {_mending(DEEPEST)}")
    if white not in (None, DEEPEST):
        raise ValueError(f"its colors have 16 bits, which are only read with white={DEEPEST}. Save it with 8 bits")
    return image


def _known(image: Image.Image, layout: str) -> int | None:
    """The white that the format states: in PGM, by which Pillow scales, and in TIFF's layouts of 12 bits."""
    if image.format == "PPM" and image.mode != "F":
        return DEEPEST
    return 4095 if layout == "I;12" else None


def _likely(most: int) -> int:
    """White at the smallest depth, of 8, 10, 12, 14, 16 or 32 bits, that can represent this value."""
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16, 32) if most < 2**bits)


def _mending(white: object) -> str:
    return f"the value of white is unknown. State it, as in tl.dataset(…, white={white}) or predict --white {white}"
