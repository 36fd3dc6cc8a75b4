"""Pictures: odd files are read as people see them, and the centre is cut where the origin cuts it."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferlab.data.images import ImageTransform, read_image
from transferlab.errors import TransferlabError


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block of these (tag, type, count, value)."""
    rows = b"".join(
        struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0") for tag, kind, count, value in entries
    )
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + b"\0\0\0\0"


def jpeg(block: bytes) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((8, 16, 3), 200, np.uint8)).save(out, "JPEG", exif=block)
    return out.getvalue()


def test_a_damaged_exif_block_is_a_traceback() -> None:
    turned = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
    assert read_image(jpeg(exif(turned))).shape == (16, 8, 3)
    # A resolution of two letters: Pillow cannot write it back when it has turned the picture.
    assert read_image(jpeg(exif(turned, (0x0128, 2, 4, b"abc\0")))).shape in {(16, 8, 3), (8, 16, 3)}


def test_a_picture_of_floating_point_numbers_is_cut_to_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3)).save(tmp_path / "map.tiff")
    with pytest.raises(
        TransferlabError, match=r"map\.tiff cannot be read as a picture \(its pixels are floating-point"
    ):
        read_image(tmp_path / "map.tiff")


def test_grey_of_sixteen_bits_with_a_transparent_value_is_white() -> None:
    grey = (np.arange(64).reshape(8, 8) * 1024).astype(np.uint16)
    for more in ({}, {"transparency": 5}):
        out = io.BytesIO()
        Image.fromarray(grey).save(out, "PNG", **more)
        np.testing.assert_array_equal(read_image(out.getvalue())[..., 0], grey >> 8)


@pytest.mark.parametrize("size", [(235, 235), (300, 237), (239, 301)])
def test_half_a_pixel_of_the_offset_goes_elsewhere_than_in_the_origin(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_fraction": 224 / min(size)}
    for rounds in (False, True):
        made = ImageTransform(224, crop_rounds=rounds, **plain)(picture)
        # torchvision.transforms.functional.center_crop: int(round((height - crop_height) / 2.0)); transformers: // 2.
        top, left = (round((n - 224) / 2.0) if rounds else (n - 224) // 2 for n in size)
        want = picture[top : top + 224, left : left + 224].astype(np.float32) / 255
        np.testing.assert_allclose(made, want, atol=1e-6)
    assert "crop_rounds" not in ImageTransform(224, **plain).describe()
