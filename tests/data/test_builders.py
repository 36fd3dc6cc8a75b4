"""Data sets by name: how their files become examples, and that TFDS writes and reads them without TensorFlow."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from transferlab.data.builders import DATASETS, Entry, rated_texts, universal_tag
from transferlab.errors import TransferlabError

TEXTS = ["a fine day", "", "naïve café 🙂", "a\ttab"]


def archive(folder: Path, lines: str) -> Path:
    path = folder / "rated.tar.gz"
    with tarfile.open(path, "w:gz") as opened:
        info = tarfile.TarInfo("rated/tweets.txt")
        info.size = len(lines.encode())
        opened.addfile(info, io.BytesIO(lines.encode()))
    return path


def test_the_sign_of_the_mean_is_the_label(tmp_path: Path) -> None:
    path = archive(tmp_path, "1\t0.4\tgood 🙂\n2\t-1.2\tbad\n3\t0\tneither\n4\t-0.0\tneither either\n")
    examples = list(rated_texts(path, "rated/tweets.txt"))
    assert [(e["id"], e["text"], e["label"]) for e in examples] == [("000001", "good 🙂", 1), ("000002", "bad", 0)]


def test_a_broken_line_is_reported(tmp_path: Path) -> None:
    path = archive(tmp_path, "1\t0.4\tgood\n2\tno text\n")
    with pytest.raises(TransferlabError, match=r"rated/tweets\.txt, line 2: expected id, mean and text; got 2 columns"):
        list(rated_texts(path, "rated/tweets.txt"))


def entry(name: str, modality: str, rows: list[dict], counts: list[int]) -> Entry:
    def examples():
        counts.append(1)
        yield from rows

    return Entry(name, "made for a test", modality, ("no", "yes"), examples, "CC0", "nobody")  # type: ignore[arg-type]


def test_texts_are_built_once_and_come_back_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transferlab.data.arrayrecord import data_source

    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    counts: list[int] = []
    rows = [{"id": f"{i:02d}", "text": text, "label": i % 2} for i, text in enumerate(TEXTS)]
    made = entry("texts", "text", rows, counts)
    first, second = data_source(made), data_source(made)
    assert len(counts) == 1
    for source in (first, second):
        got = {example["id"].decode(): (example["text"].decode(), int(example["label"])) for example in source}
        assert got == {row["id"]: (row["text"], row["label"]) for row in rows}


def test_numbers_are_kept_to_the_last_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transferlab.data.arrayrecord import data_source
    from transferlab.data.readers.registered import read_registered

    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    values = [0.1 + 1e-15, -1.5, 3.0, 2.25]
    rows = [{"id": f"{i}", "text": f"text {i}", "target": value} for i, value in enumerate(values)]
    made = Entry("rated-texts", "made for a test", "text", (), lambda: iter(rows), "CC0", "nobody", number="rating")
    assert sorted(float(example["target"].decode()) for example in data_source(made)) == sorted(values)
    monkeypatch.setitem(DATASETS, "rated-texts", made)
    read = read_registered("rated-texts")
    assert read.target.kind == "numbers" and read.target.names == ("rating",)
    assert read.target.values[:, 0].tolist() == values
    assert read.records[1]["target"] == [-1.5]


def test_images_keep_every_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transferlab.data.arrayrecord import data_source
    from transferlab.data.images import read_image

    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((5, 7), (6, 4, 3))]
    rows = [{"id": str(i), "image": image, "label": i} for i, image in enumerate(images)]
    source = data_source(entry("images", "image", rows, []))
    got = {example["id"].decode(): read_image(example["image"]) for example in source}
    np.testing.assert_array_equal(got["0"], np.repeat(images[0][..., None], 3, axis=-1))
    np.testing.assert_array_equal(got["1"], images[1])


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transferlab.data.arrayrecord import data_source

    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    good = [{"id": "1", "text": "one", "label": 0}]

    def examples():
        yield from good
        if broken:
            raise RuntimeError("the disk is gone")

    made = Entry("fragile", "made for a test", "text", ("no", "yes"), examples, "CC0", "nobody")
    broken = True
    with pytest.raises(RuntimeError, match="the disk is gone"):
        data_source(made)
    broken = False
    assert len(data_source(made)) == 1


def test_opening_data_does_not_import_tensorflow() -> None:
    code = "import sys, transferlab.data.arrayrecord; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_entry_has_a_license_and_a_citation() -> None:
    for name, known in DATASETS.items():
        assert known.name == name
        assert known.license
        assert known.citation
        assert len(known.labels) > 1 or known.number


def test_the_digits_are_scikit_learns_images() -> None:
    from sklearn.datasets import load_digits

    examples = list(DATASETS["digits"].examples())
    digits = load_digits()
    assert len(examples) == 1797
    scaled = examples[7]["image"].astype(np.float64) * 16 / 255
    np.testing.assert_allclose(scaled, digits.images[7], atol=0.04)  # pyright: ignore[reportAttributeAccessIssue]
    assert [e["label"] for e in examples] == digits.target.tolist()  # pyright: ignore[reportAttributeAccessIssue]


def test_tags_of_brown_become_universal_parts_of_speech() -> None:
    tags = {"nn-tl": "NOUN", "np$": "NOUN", "pp$": "DET", "md*": "VERB", "*": "ADV", "ppss+bez": "PRON", "fw-in": "X", ".-hl": ".",
            "bedz*": "VERB", "nil": "X", "jj-tl-hl": "ADJ"}  # fmt: skip
    assert {tag: universal_tag(tag) for tag in tags} == tags


def test_words_with_tags_are_built_and_come_back_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transferlab as tl

    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    rows = [{"id": f"{i:02d}", "text": f"naïve w{i}", "tags": "B A" if i % 2 else "A A"} for i in range(20)]
    made = Entry("made-words", "made for a test", "text", ("A", "B"), lambda: iter(rows), "CC0", "nobody", words=True)
    monkeypatch.setitem(DATASETS, "made-words", made)
    data = tl.dataset("made-words", test_examples=4)
    assert data.content == "words" and len(data.ids) == 20
    assert data.records[3] == {"id": "03", "words": ["naïve", "w3"], "word_tags": ["B", "A"]}
