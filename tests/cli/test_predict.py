"""``transferlab predict`` on images: files, folders of folders, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.checkpoints import write_vit

import transferlab as tl
from transferlab.cli.main import cli
from transferlab.data.examples import as_records
from transferlab.errors import TransferlabError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_vit(folder / "vit", "vit")
    for number, label in enumerate(("emu", "yak")):
        (folder / "data" / label).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((16, 16, 3), 100 * number + i, np.uint8)).save(folder / "data" / label / f"{i}.png")
    data = tl.dataset(folder / "data", test_examples=2)
    settings = tl.train.Settings(max_steps=1)
    tl.adapt(
        tl.load(folder / "vit"), data, method=tl.methods.Probe(), settings=settings, directory=folder / "run"
    ).fit()
    return folder / "run"


def test_images_in_nested_folders_are_predicted(run: Path, tmp_path: Path) -> None:
    for place in ("a", "a/b", ".hidden"):
        (tmp_path / place).mkdir()
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / place / "1.png")
    done = CliRunner().invoke(cli, ["predict", str(run), str(tmp_path)])
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == [
        str(tmp_path / "a" / "1.png"), str(tmp_path / "a" / "b" / "1.png"),
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(cli, ["predict", str(run), str(tmp_path / "empty")])
    assert done.exit_code == 1 and "empty holds no images" in done.output


def test_a_predictor_names_an_example_that_is_not_an_image(run: Path) -> None:
    predictor = tl.open_run(run)
    image = np.zeros((16, 16, 3), np.uint8)
    assert predictor([image]).shape == (1, 2)
    for wrong, said in (
        ([None], r"examples\[0\] is None; an image is a path, or a uint8 array"),
        ([image, image / 255], r"examples\[1\] is float64 \(16, 16, 3\)"),
        (list(image), r"examples\[0\] is uint8 \(16, 3\)"),
        ([image, "1.png"], r"examples\[1\]: there is no file '1.png'"),
    ):
        with pytest.raises(TransferlabError, match=said):
            predictor(wrong)


def test_a_predictor_reads_images_from_their_paths(run: Path, tmp_path: Path) -> None:
    predictor, file = tl.open_run(run), tmp_path / "1.png"
    image = np.random.default_rng(0).integers(0, 256, (20, 18, 3), np.uint8)
    Image.fromarray(image).save(file)
    of_array = predictor([image, image])
    np.testing.assert_array_equal(predictor([str(file), image]), of_array)
    np.testing.assert_array_equal(predictor(tmp_path.glob("*.png")), of_array[:1])
    file.write_bytes(b"no image")
    with pytest.raises(TransferlabError, match=r"1\.png"):
        as_records([file], "image")[1][0]


def test_predict_refuses_the_name_of_a_column_where_there_is_no_table(run: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "1.png")
    done = CliRunner().invoke(cli, ["predict", str(run), str(tmp_path / "1.png"), "--text", "body"])
    assert done.exit_code == 1 and "--text is for tables" in done.output and "reads images" in done.output
