"""Images: odd files are read as people see them, and the center is cut where the reference implementations cut it."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import transferlab as tl
from transferlab.data.images import SUFFIXES, ImageTransform, crop_fraction, read_image
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


def test_a_damaged_exif_block_is_ignored() -> None:
    turned = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
    assert read_image(jpeg(exif(turned))).shape == (16, 8, 3)
    # A resolution of two letters: Pillow cannot write it back when it has turned the image.
    assert read_image(jpeg(exif(turned, (0x0128, 2, 4, b"abc\0")))).shape in {(16, 8, 3), (8, 16, 3)}


def test_an_image_of_floating_point_numbers_keeps_its_levels(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3)).save(tmp_path / "map.tiff")
    with pytest.raises(
        TransferlabError, match=r"map\.tiff cannot be read as an image \(its values are floating-point .* white=1\.0"
    ):
        read_image(tmp_path / "map.tiff")


def test_gray_of_sixteen_bits_with_a_transparent_value_keeps_its_levels() -> None:
    grey = (np.arange(64).reshape(8, 8) * 1024).astype(np.uint16)
    for more in ({}, {"transparency": 5}):
        out = io.BytesIO()
        Image.fromarray(grey).save(out, "PNG", **more)
        np.testing.assert_array_equal(read_image(out.getvalue())[..., 0], grey >> 8)


@pytest.mark.parametrize("size", [(235, 235), (300, 237), (239, 301)])
def test_half_a_pixel_of_the_offset_is_rounded_as_in_the_reference(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_fraction": 224 / min(size)}
    for rounds in (False, True):
        made = ImageTransform(224, crop_rounds=rounds, **plain)(image)
        # torchvision.transforms.functional.center_crop: int(round((height - crop_height) / 2.0)); transformers: // 2.
        top, left = (round((n - 224) / 2.0) if rounds else (n - 224) // 2 for n in size)
        want = image[top : top + 224, left : left + 224].astype(np.float32) / 255
        np.testing.assert_allclose(made, want, atol=1e-6)
    assert "crop_rounds" not in ImageTransform(224, **plain).describe()


GREY = np.array([[0, 1000, 2000, 4095]], np.uint16)


def saved(values: np.ndarray, kind: str = "PNG", **more) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **more)
    return out.getvalue()


@pytest.mark.parametrize(
    ("values", "kind", "white", "want"),
    [
        (GREY, "PNG", 4095, [0, 62, 125, 255]),
        (GREY, "TIFF", 4095, [0, 62, 125, 255]),
        (GREY.astype(np.int32), "TIFF", 4095, [0, 62, 125, 255]),
        (np.array([[0, 7, 255]], np.int32), "TIFF", 255, [0, 7, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), "TIFF", 1.0, [0, 128, 255]),
        (GREY, "PNG", 65535, [0, 3, 7, 15]),
        (np.array([[0, 256, 65535]], np.uint16), "PNG", None, [0, 1, 255]),
        (np.zeros((1, 3), np.uint16), "PNG", None, [0, 0, 0]),
        (np.array([[0, 3, 200]], np.uint8), "PNG", 4095, [0, 3, 200]),
    ],
)
def test_an_image_of_more_than_8_bits_keeps_its_levels(
    values: np.ndarray, kind: str, white: float | None, want: list
) -> None:
    assert read_image(saved(values, kind), white)[0, :, 0].tolist() == want


@pytest.mark.parametrize(
    ("values", "kind", "white", "message"),
    [
        (GREY, "PNG", None, r"values have 16 bits, but the largest is 4095; .* white=4095"),
        (GREY // 16, "PNG", None, r"largest is 255; .* white=255"),
        (GREY.astype(np.int32) * 999, "TIFF", None, r"32 bits, but the largest is 4090905; .* white=4294967295"),
        (np.array([[0, 7, 255]], np.int32), "TIFF", None, "32 bits, but the largest is 255"),
        (GREY.astype(np.int32) - 9, "TIFF", 4095, "smallest value is -9"),
        (GREY, "PNG", 1023, "largest value is 4095, but white is 1023"),
        (np.array([[0.0, np.nan]], np.float32), "TIFF", 1.0, "not finite"),
    ],
)
def test_an_unknown_white_is_asked_for_and_not_guessed(
    values: np.ndarray, kind: str, white: float | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / f"a.{kind.lower()}").write_bytes(saved(values, kind))
    with pytest.raises(TransferlabError, match=rf"a\.{kind.lower()} cannot be read as an image \(.*{message}"):
        read_image(tmp_path / f"a.{kind.lower()}", white)


def deep_colors(values: np.ndarray) -> bytes:
    """A PNG of 16 bits and three channels, which Pillow reads and does not write."""
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colors_of_16_bits_that_hold_12_keep_their_levels() -> None:
    colors = np.stack([GREY, GREY // 2, GREY // 4], -1)
    assert read_image(deep_colors(colors * 16))[0, 3].tolist() == [255, 127, 63]
    with pytest.raises(TransferlabError, match=r"colors have 16 bits, but the largest is below 4096; .* white=65535"):
        read_image(deep_colors(colors))
    with pytest.raises(TransferlabError, match="only read with white=65535"):
        read_image(deep_colors(colors), 4095)
    assert read_image(deep_colors(colors), 65535)[0, 3].tolist() == [15, 7, 3]


def test_the_range_that_pgm_states_is_used() -> None:
    twelve = b"P5 4 1 4095\n" + GREY.astype(">u2").tobytes()
    assert read_image(twelve)[0, :, 0].tolist() == [0, 62, 125, 255]


def test_every_kind_that_pillow_reads_has_its_suffix_listed() -> None:
    Image.init()
    others = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC"}  # read by other programs, or not at all
    kinds = {
        suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in others
    }
    assert kinds <= set(SUFFIXES)


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8))


def labelled(folder: Path, seed: int = 0) -> Path:
    for label in ("a", "b"):
        (folder / label).mkdir()
        for i in range(3):
            noise(seed + 10 * i + ord(label)).save(folder / label / f"{i}.{'jfif' if i else 'JPG'}", "JPEG")
    return folder


def test_a_jpeg_of_another_suffix_is_found(tmp_path: Path) -> None:
    assert len(tl.dataset(labelled(tmp_path), test_examples=2).records) == 6


def test_folders_of_splits_are_kept_and_a_folder_deeper_is_refused(tmp_path: Path) -> None:
    for number, split in enumerate(("test", "Train", "val")):
        (tmp_path / "img" / split).mkdir(parents=True)
        labelled(tmp_path / "img" / split, 1000 * number)
    data = tl.dataset(tmp_path / "img")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [6, 6, 6] and "as given" in data.summary
    assert [data.ids[i].split("/")[0] for i in data.validation] == ["val"] * 6 and data.label_names == ("a", "b")
    assert len(tl.dataset(tmp_path / "img" / "Train", test_examples=2).records) == 6
    # An archive that contains a folder of its own name.
    with pytest.raises(TransferlabError, match=r"img/Train/a/0\.JPG is a folder deeper"):
        tl.dataset(tmp_path)
    labelled(tmp_path / "img", 5000)
    with pytest.raises(TransferlabError, match=r"folders of splits \(Train, test, val\), and others \(a, b\).*"):
        tl.dataset(tmp_path / "img")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("a/photo.heic", None, r"photo\.heic is an image of a kind that is not read"),
        ("a/photo", "PNG", r"photo is an image \(PNG\), .* Name it photo\.png"),
        ("a/photo.jpg.1", "JPEG", r"photo\.jpg\.1 is an image \(JPEG\)"),
        ("photo.png", "PNG", r"photo\.png is outside the labels' folders"),
    ],
)
def test_an_image_that_would_be_left_out_is_refused(name: str, kind: str | None, message: str, tmp_path: Path) -> None:
    labelled(tmp_path)
    if kind is None:
        (tmp_path / name).write_bytes(b"not looked at")
    else:
        noise(0).save(tmp_path / name, kind)
    with pytest.raises(TransferlabError, match=message):
        tl.dataset(tmp_path, test_examples=2)


def test_files_that_are_not_images_are_reported(tmp_path: Path, caplog) -> None:
    labelled(tmp_path)
    (tmp_path / "a" / "notes.txt").write_text("of the day")
    assert tl.dataset(tmp_path, test_examples=2).about["passed_over"] == "1 file that is not an image, notes.txt"
    (tmp_path / "b" / "Thumbs.db").write_bytes(b"thumbs")
    said = "2 files that are not images, notes.txt among them"
    assert tl.dataset(tmp_path, test_examples=2).describe()["passed_over"] == said
    assert said in caplog.text


def test_white_of_a_folder_is_that_of_its_images(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(3):
            (tmp_path / label / f"{i}.png").write_bytes(saved(np.minimum(GREY, 4095 - i - 50 * (label == "b"))))
    assert tl.dataset(tmp_path, test_examples=2, white=4095).records[0]["image"][0, :, 0].tolist() == [0, 62, 125, 255]
    for white, message in ((0, "white is 0"), (-1.0, "white is -1"), (True, "white is True")):
        with pytest.raises(TransferlabError, match=message):
            tl.dataset(tmp_path, white=white)
    with pytest.raises(TransferlabError, match="does not take it"):
        tl.dataset("animals", white=4095)


PLAIN: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "resize": "nearest"}


def frame(side: int) -> np.ndarray:
    """A black image with a white border of one pixel."""
    image = np.full((side, side, 3), 255, np.uint8)
    image[1:-1, 1:-1] = 0
    return image


def test_a_small_image_loses_the_border_that_the_reference_cuts_away() -> None:
    # 4 pixels become 12, three each; of these the middle 6 are cut: the border is gone.
    assert ImageTransform(6, crop_fraction=0.5, **PLAIN)(frame(4)).max() == 0
    assert ImageTransform(6, crop_fraction=1.0, **PLAIN)(frame(4)).max() == 1


@pytest.mark.parametrize(("rounds", "place"), [(False, slice(2, 4)), (True, slice(1, 3))])
def test_an_image_smaller_than_the_crop_is_centered(rounds: bool, place: slice) -> None:
    made = ImageTransform(5, crop_fraction=2.5, crop_rounds=rounds, **PLAIN)(np.full((2, 2, 3), 255, np.uint8))
    want = np.zeros((5, 5, 3), np.float32)
    want[place, place] = 1
    np.testing.assert_array_equal(made, want)


def test_the_side_that_a_processor_names_is_met_to_the_pixel() -> None:
    # In floating point 40 / (40 / 53) is less than 53.
    for size, resized in ((40, 53), (16, 93), (224, 256), (30, 23)):
        assert ImageTransform(size, crop_fraction=crop_fraction(size, resized), **PLAIN).resized == resized
    assert ImageTransform(224, crop_fraction=0.95, **PLAIN).resized == 235


@pytest.mark.parametrize(
    ("size", "fraction", "message"),
    [
        (16, 2.0**31, r"crop_fraction is 2.14748e\+09, by which images would be resized to 7.45058e-09 pixels"),
        (16, 16.5, "crop_fraction is 16.5"),
        (16, 1e-320, "crop_fraction is .*resized to inf pixels"),
        (224, 1e-4, "must be from 1 to 16384 pixels"),
        (10**6, 1.0, "size is 1000000; it must be from 1 to 16384 pixels"),
    ],
)
def test_a_transform_to_no_pixels_or_too_many_is_refused(size: int, fraction: float, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        ImageTransform(size, crop_fraction=fraction, **PLAIN)
    assert ImageTransform(16, crop_fraction=16.0, **PLAIN).resized == 1


def test_a_line_of_pixels_is_refused_before_it_fills_memory() -> None:
    with pytest.raises(TransferlabError, match="6000 × 1 pixels would be 1344000 × 224"):
        ImageTransform(224, crop_fraction=1.0, **PLAIN)(np.zeros((1, 6000, 3), np.uint8))


def test_predict_reads_images_with_the_white_that_it_is_given(tmp_path: Path) -> None:
    from transferlab.cli.predict import _examples

    (tmp_path / "a.png").write_bytes(saved(GREY))
    for place in (tmp_path, tmp_path / "a.png"):
        ((name, image),) = _examples([str(place)], "image", ("text",), 4095.0, True)
        assert name == str(tmp_path / "a.png") and image[0, :, 0].tolist() == [0, 62, 125, 255]
    (tmp_path / "none").mkdir()
    with pytest.raises(TransferlabError, match="none holds no images"):
        list(_examples([str(tmp_path / "none")], "image", ("text",), None, True))
