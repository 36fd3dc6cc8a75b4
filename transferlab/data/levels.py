"""Images whose values are no bytes, as bytes: 16 and 32 bits, and floating-point numbers.

A file of 16 bits may hold 12 of them, and one of 32 bits may hold bytes: how much is white is known only where the values
fill their bits, or where the format or the caller says it. What cannot be known is an error, not an image that is black.
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
"""White of an image of 16 bits that uses all of them."""


def check_white(white: Any) -> None:
    """Raise for what is no value that white could have."""
    if not isinstance(white, Real) or isinstance(white, bool) or not 0 < float(white) < math.inf:
        raise TransferlabError(f"white is {white!r}; it must be a number above 0, as 4095 for images of 12 bits.")


def stored_as(picture: Image.Image) -> str:
    """Return the image's layout in the file, as Pillow calls it (``I;16B``, ``RGB;16B``); empty once it is decoded."""
    tiles = picture.tile if isinstance(picture, ImageFile.ImageFile) else []
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def as_bytes(picture: Image.Image, layout: str, white: float | int | None) -> Image.Image:
    """Return the image with 8 bits a channel; one that has them already as it is.

    Args:
        picture: decoded.
        layout: of the file: :func:`stored_as`.
        white: the value that is white where the file does not say it.

    Raises:
        ValueError: what is white is not known, or is not what the values are.
    """
    if re.search(r";16[BLN]$", layout) and not picture.mode.startswith("I"):
        return _colors(picture, white)
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture
    # Of 53 bits, and so exact for all that are whole.
    values = np.asarray(picture).astype(np.float64)
    least, most = values.min(), values.max()
    if not np.isfinite(least) or not np.isfinite(most):
        raise ValueError("it holds values that are not finite numbers")
    if least < 0:
        raise ValueError(f"its least value is {least:g}; black is 0, so there can be none below. Write it at 8 bits")
    # Nothing but black is black whatever is white.
    known = _known(picture, layout) or white or (DEEPEST if most == 0 else None)
    if known is None and picture.mode == "F":
        raise ValueError(f"its values are floating-point numbers, the largest {most:g}; {_mending('1.0')}")
    if known is None and (picture.mode == "I" or most <= DEEPEST // 2):
        bits = 32 if picture.mode == "I" else 16
        raise ValueError(f"its values have {bits} bits, but the largest is {most:.0f}; {_mending(_likely(int(most)))}")
    known = known or DEEPEST
    if most > known:
        raise ValueError(f"its largest value is {most:g}, and white is {known:g}")
    whole = values // 256 if known == DEEPEST and picture.mode != "F" else np.rint(values * (255.0 / known))
    return Image.fromarray(whole.astype(np.uint8))


def _colors(picture: Image.Image, white: float | int | None) -> Image.Image:
    """Colors of 16 bits: of these Pillow reads the upper 8."""
    values = np.asarray(picture)
    most = int((values[..., :-1] if picture.mode[-1] == "A" else values).max())
    if white is None and most < 128:
        raise ValueError(f"its colors have 16 bits, but the largest is below {256 * (most + 1)}; {_mending(DEEPEST)}")
    if white not in (None, DEEPEST):
        raise ValueError(f"its colors have 16 bits, which are read for white={DEEPEST} alone. Write it at 8 bits")
    return picture


def _known(picture: Image.Image, layout: str) -> int | None:
    """What is white by the format: PGM says it, and Pillow scales by it; TIFF has layouts of 12 bits."""
    if picture.format == "PPM" and picture.mode != "F":
        return DEEPEST
    return 4095 if layout == "I;12" else None


def _likely(most: int) -> int:
    """The white of the fewest bits, of 8, 10, 12, 14, 16 or 32, that hold this value."""
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16, 32) if most < 2**bits)


def _mending(white: object) -> str:
    return f"nothing tells which value is white. Say it, as tl.dataset(…, white={white}) or predict --white {white}"
