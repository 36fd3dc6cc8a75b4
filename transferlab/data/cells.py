"""Images and sounds in the cells of a table: the path of a file, what such a file holds, or the pixels or samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from transferlab.data.images import read_image
from transferlab.data.sounds import read_sound, samples_in
from transferlab.errors import TransferlabError


def file_of(value: Any, folder: Path | None, where: str) -> Any:
    """Return a cell's file: a path that exists, its content as bytes, or another value as it is.

    Args:
        value: a path, relative to ``folder``; bytes; a mapping with ``bytes`` or ``path``, as Hugging Face stores files.
        folder: of the table.
        where: starts an error.

    Raises:
        TransferlabError: nothing, or a path at which there is no file.
    """
    if isinstance(value, Mapping) and "array" not in value:
        value = value.get("bytes") or value.get("path")
    if value is None or (isinstance(value, str) and not value):
        raise TransferlabError(f"{where}: the file is missing. Fill it in or remove the row.")
    if not isinstance(value, (str, Path)):
        return value
    path = (folder or Path()) / Path(value).expanduser()
    if not path.is_file():
        raise TransferlabError(f"{where}: there is no file '{path}'. Paths are relative to the table's folder.")
    return path


def image_of(value: Any, where: str, white: float | int | None) -> UInt8[np.ndarray, "height width 3"]:
    """Return the image of a cell: a file, bytes, an array of bytes (gray or RGB), or a Pillow image.

    Raises:
        TransferlabError: anything else, or a file that cannot be read.
    """
    if isinstance(value, (Path, bytes)):
        return read_image(value, white)
    pixels = np.asarray(value.convert("RGB") if hasattr(value, "convert") else value)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise TransferlabError(
            f"{where}: the image has shape {pixels.shape} and type {pixels.dtype}; expected uint8 of height × width, or × 3."
        )
    gray = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.ascontiguousarray(np.broadcast_to(gray, (*gray.shape[:2], 3)))


def sound_of(value: Any, where: str) -> tuple[Float[np.ndarray, "samples channels"], int]:
    """Return the samples of a cell and their rate: a file, bytes, or samples in memory (:func:`transferlab.data.sounds.samples_in`).

    Raises:
        TransferlabError: anything else, or a file that cannot be read.
    """
    return read_sound(value, where) if isinstance(value, (Path, bytes)) else samples_in(value, where)
