"""Data: splits that do not leak, subsets that nest, and every awkward row handled or named."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import transferlab as tl
from transferlab.data.splits import stratified_order
from transferlab.errors import TransferlabError


def write(path: Path, rows: Sequence[tuple[str, object]], header: str = "text,label") -> Path:
    path.write_text(header + "\n" + "\n".join(f'"{text}",{label}' for text, label in rows), "utf-8")
    return path


ROWS = [(f"sentence number {i}", "yes" if i % 4 == 0 else "no") for i in range(80)]


def test_subsets_are_nested_stratified_and_disjoint_from_the_test_split(tmp_path: Path) -> None:
    data = tl.dataset(write(tmp_path / "t.csv", ROWS), test_examples=20)
    subsets = [data.subset(n, 3) for n in (8, 16, 40)]
    for small, large in itertools.pairwise(subsets):
        assert set(small.train) < set(large.train)
    for subset in subsets:
        assert not set(subset.train) & set(subset.test)
        assert (subset.labels[subset.train] == 1).sum() == len(subset.train) // 4
        np.testing.assert_array_equal(subset.test, data.test)
    assert set(data.subset(16, 0).train) != set(data.subset(16, 1).train)


@pytest.mark.parametrize("counts", [(50, 50), (90, 10), (30, 30, 40), (5, 200)])
def test_every_prefix_is_as_close_to_the_proportions_as_whole_examples_allow(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    order = stratified_order(labels, 0)
    assert sorted(order.tolist()) == list(range(len(labels)))
    proportions = np.array(counts) / sum(counts)
    for n in range(1, len(labels) + 1):
        got = np.bincount(labels[order[:n]], minlength=len(counts))
        assert np.abs(got - n * proportions).max() <= 1.0


def test_ten_labels_of_ten_classes_are_one_of_each() -> None:
    data = tl.dataset("digits")
    assert sorted(data.labels[data.subset(10, 4).train].tolist()) == list(range(10))


def test_holding_out_takes_a_fifth_of_the_budget_and_no_more_labels(tmp_path: Path) -> None:
    data = tl.dataset(write(tmp_path / "t.csv", ROWS), test_examples=20).subset(20, 0)
    split = data.hold_out(0.2, 0)
    assert len(split.validation) == 4 and len(split.train) == 16
    assert set(split.validation) | set(split.train) == set(data.train)


def test_exact_duplicates_are_removed_before_the_split_and_conflicts_are_counted(tmp_path: Path) -> None:
    rows = [*ROWS, ("Sentence  number 0", "yes"), ("sentence number 1", "yes"), ("A &amp; B", "no"), ("a & b", "no")]
    data = tl.dataset(write(tmp_path / "t.csv", rows), test_examples=20)
    assert data.duplicates_removed == 3 and data.conflicting == 1
    assert "labels (no: 61, yes: 20), 3 duplicates left out (1 with another label than the one kept): " in repr(data)
    texts = [data.records[i]["text"].casefold() for i in range(len(data.records))]
    assert len(texts) == 81 and texts.count("sentence number 0") == 1


def test_more_labels_than_there_are_is_an_error_that_gives_both_numbers(tmp_path: Path) -> None:
    data = tl.dataset(write(tmp_path / "t.csv", ROWS), test_examples=20)
    with pytest.raises(TransferlabError, match=r"examples is 61; .* has 60 labels for training"):
        data.subset(61, 0)


def test_a_single_class_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TransferlabError, match="the target is 'no' in every example"):
        tl.dataset(write(tmp_path / "t.csv", [(text, "no") for text, _ in ROWS]))
    with pytest.raises(TransferlabError, match=r"1 labels of .*: the target is 'no' in every example"):
        tl.dataset(write(tmp_path / "u.csv", ROWS), test_examples=20).subset(1, 0)


def test_a_class_whose_texts_are_all_duplicates_is_reported(tmp_path: Path) -> None:
    copies = [(text, "2") for text, _ in ROWS[:4]]
    with pytest.raises(
        TransferlabError,
        match=r"the target is '1' in every example.* \(label '2': all 4 were duplicates of other examples\)",
    ):
        tl.dataset(write(tmp_path / "t.csv", [*((text, "1") for text, _ in ROWS), *copies]))
    data = tl.dataset(write(tmp_path / "t.csv", [*ROWS, *copies]), test_examples=20)
    assert data.summary.endswith("20 to test, stratified; label '2': all 4 were duplicates of other examples")


def test_labels_that_differ_only_in_case_are_reported(tmp_path: Path) -> None:
    rows = [(f"t {i}", ("Pos", "pos", "neg", "Neg")[i % 4]) for i in range(40)]
    data = tl.dataset(write(tmp_path / "t.csv", [row for row in rows if row[1] != "Neg"]), test_examples=8)
    assert len(data.label_names) == 3 and data.summary.endswith("; labels 'Pos' and 'pos' differ only in case")
    both = tl.dataset(write(tmp_path / "t.csv", rows), test_examples=8)
    assert both.summary.endswith("; labels 'Neg' and 'neg' differ only in case (2 such pairs)")


def test_the_hash_of_the_data_follows_contents_and_labels(tmp_path: Path) -> None:
    hashes = set()
    for i, rows in enumerate((ROWS, [("changed", "no"), *ROWS[1:]], [(ROWS[0][0], "no"), *ROWS[1:]], ROWS)):
        hashes.add(tl.dataset(write(tmp_path / f"{i}.csv", rows)).sha256)
    assert len(hashes) == 3


def test_awkward_tables_are_handled_or_named(tmp_path: Path) -> None:
    with pytest.raises(TransferlabError, match=r"t\.csv has no column 'label'.*'lable'"):
        tl.dataset(write(tmp_path / "t.csv", ROWS, "text,lable"), target="label")
    (tmp_path / "u.csv").write_bytes(b"text,label\nfine,a\ncaf\xe9,b\n")
    with pytest.raises(TransferlabError, match=r"u\.csv, line 3: not UTF-8"):
        tl.dataset(tmp_path / "u.csv")
    with pytest.raises(TransferlabError, match=r"v\.csv, row 2: the label is empty"):
        tl.dataset(write(tmp_path / "v.csv", [("a", "x"), ("b", "")]))
    (tmp_path / "w.jsonl").write_text('{"text": "a", "label": 1}\nnot json\n')
    with pytest.raises(TransferlabError, match=r"w\.jsonl, line 2"):
        tl.dataset(tmp_path / "w.jsonl")
    empty = tl.dataset(write(tmp_path / "x.csv", [("", "no"), *ROWS]), test_examples=10)
    assert len(empty.records) == 81  # an empty text is a text
    assert empty.summary.endswith("; 1 text is empty")
    empty = tl.dataset(write(tmp_path / "x.csv", [("", "no"), (" ", "yes"), *ROWS]), test_examples=10)
    assert empty.summary.endswith("; 2 texts are empty, of which one is kept")
    with pytest.raises(TransferlabError, match="Did you mean 'tweets'"):
        tl.dataset("tweet")
    with pytest.raises(TransferlabError, match="There is no file"):
        tl.dataset("data/none.csv")


def test_a_row_with_an_unquoted_separator_is_named_and_makes_no_label_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\nfine,a\nI like it, really,a\nbad,b\n")
    with pytest.raises(TransferlabError, match=r"t\.csv, row 2: 3 fields"):
        tl.dataset(tmp_path / "t.csv")


def test_stray_quotes_in_a_tsv_swallow_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('text\tlabel\n"hello\ta\nmiddle\tb\nbye" all\tb\nmore\ta\n')
    data = tl.dataset(tmp_path / "t.tsv", test_examples=2)
    assert [data.records[i]["text"] for i in range(4)] == ['"hello', "middle", 'bye" all', "more"]


def test_tables_in_capitals_with_marks_and_odd_line_ends_are_read(tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "line\u2028{i}", "label": {i % 2}}}\n' for i in range(8))
    (tmp_path / "t.JSONL").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert len(tl.dataset(tmp_path / "t.JSONL", test_examples=2).records) == 8
    (tmp_path / "u.jsonl").write_text('{"text": "a", "label": 1}\n{"txt": "b", "label": 2}\n')
    with pytest.raises(TransferlabError, match=r"u\.jsonl, line 2: there is no 'text'.*'txt'"):
        tl.dataset(tmp_path / "u.jsonl", text="text")
    with pytest.raises(TransferlabError, match=r"u\.jsonl, row 2: the text is missing"):
        tl.dataset(tmp_path / "u.jsonl", target="label")
    (tmp_path / "v.csv").write_text("text,label\n")
    with pytest.raises(TransferlabError, match="has no examples"):
        tl.dataset(tmp_path / "v.csv")


def test_labels_that_differ_only_in_white_space_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"film {i},good{' ' * (i % 2)}\n" for i in range(9)))
    with pytest.raises(TransferlabError, match=r"t\.csv: the labels 'good' and 'good ' differ only in white space"):
        tl.dataset(tmp_path / "t.csv", test_examples=2)


def test_a_text_as_long_as_a_book_is_read_from_a_table(tmp_path: Path) -> None:
    limit, book = csv.field_size_limit(), "word " * 40_000
    lines = [f"{book},1", *(f"film {i},{i % 2}" for i in range(8))]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines]))
    assert len(tl.dataset(tmp_path / "t.csv", test_examples=2).records[0]["text"]) == len(book)
    assert csv.field_size_limit() == limit


def test_seeds_and_sizes_out_of_range_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ROWS)
    wrong: tuple[dict[str, Any], ...] = ({"seed": -1}, {"split_seed": -1}, {"test_examples": 0})
    for given in wrong:
        ((name, value),) = given.items()
        with pytest.raises(TransferlabError, match=f"{name} is {value}"):
            tl.dataset(path, **given)


def test_images_of_every_kind_become_rgb(tmp_path: Path) -> None:
    from transferlab.data.images import read_image

    grey = Image.fromarray(np.full((4, 6), 100, np.uint8))
    for name, image in {"grey.png": grey, "palette.png": grey.convert("P"), "cmyk.jpg": grey.convert("CMYK"),
                          "alpha.png": grey.convert("RGBA")}.items():  # fmt: skip
        image.save(tmp_path / name)
        assert read_image(tmp_path / name).shape == (4, 6, 3)
    deep = np.array([[0, 100 << 8, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 100, 255]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    grey.convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (6, 4, 3)
    data = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(TransferlabError, match=r"cut\.jpg cannot be read as an image"):
        read_image(tmp_path / "cut.jpg")


def test_a_folder_of_images_is_a_data_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(tmp_path / label / f"{i}.png")
    (tmp_path / "dog" / "copy.png").write_bytes((tmp_path / "dog" / "0.png").read_bytes())
    data = tl.dataset(tmp_path, test_examples=4)
    assert data.label_names == ("cat", "dog") and data.duplicates_removed == 1
    assert ", 1 duplicate left out: " in data.summary
    assert data.records[0]["image"].shape == (9, 7, 3) and len(data.train) == 8


def test_a_folder_names_labels_without_images_and_skips_hidden_files(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(2):
            Image.fromarray(np.full((3, 3), 10 * i + ord(label[0]), np.uint8)).save(tmp_path / label / f"{i}.png")
        (tmp_path / label / "._0.png").write_bytes(b"what macOS leaves next to a file")
    assert len(tl.dataset(tmp_path, test_examples=1).records) == 4
    (tmp_path / "emu").mkdir()
    with pytest.raises(TransferlabError, match="emu holds no images"):
        tl.dataset(tmp_path, test_examples=1)


def test_images_a_folder_deeper_are_refused_and_hidden_ones_skipped(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for place in (tmp_path / label, tmp_path / label / ".thumbnails"):
            place.mkdir()
            for i in range(2):
                Image.fromarray(np.full((3, 3), 10 * i + ord(label[0]), np.uint8)).save(place / f"{i}.tiff")
    assert len(tl.dataset(tmp_path, test_examples=1).records) == 4
    (tmp_path / "dog" / "puppies" / "more").mkdir(parents=True)
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "dog" / "puppies" / "more" / "a.png")
    with pytest.raises(TransferlabError, match=r"puppies/more/a\.png is a folder deeper .* one of 1 such"):
        tl.dataset(tmp_path, test_examples=1)


def test_numbers_of_a_json_table_are_the_same_label_however_they_are_written(tmp_path: Path) -> None:
    rows = [("1", i) for i in range(4)] + [("1.0", i) for i in range(4, 8)] + [("2", i) for i in range(8, 16)]
    lines = [f'{{"text": "film {i}", "label": {label}}}' for label, i in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert tl.dataset(tmp_path / "t.jsonl", test_examples=4).label_names == ("1", "2")
    (tmp_path / "u.jsonl").write_text('{"text": "b", "label": 1}\n{"text": "a", "label": ["x", "y"]}\n')
    with pytest.raises(
        TransferlabError, match=r"u\.jsonl, row 2: the label is \['x', 'y'\], where other rows have a single"
    ):
        tl.dataset(tmp_path / "u.jsonl", test_examples=1)


def test_an_image_too_large_to_decode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transferlab.data.images import read_image

    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(TransferlabError, match=r"huge\.png cannot be read"):
        read_image(tmp_path / "huge.png")


@pytest.mark.network
def test_tweets_and_animals_are_the_published_data() -> None:
    tweets, animals = tl.dataset("tweets"), tl.dataset("animals")
    assert len(tweets.records) == 4136 and tweets.duplicates_removed == 60
    assert animals.duplicates_removed == 284 and len(animals.records) == 9716
    assert animals.records[0]["image"].shape == (28, 28, 3)
    positive = [
        tweets.records[i]["text"] for i in range(len(tweets.records)) if "LMAO, AMAZING" in tweets.records[i]["text"]
    ]
    assert len(positive) == 1


def test_data_sets_that_differ_only_in_case_have_different_hashes(tmp_path: Path) -> None:
    loud = [(text.upper(), label) for text, label in ROWS]
    one, other = (
        tl.dataset(write(tmp_path / name, rows), test_examples=20) for name, rows in (("a.csv", ROWS), ("b.csv", loud))
    )
    assert one.sha256 != other.sha256
    assert one.sha256 == tl.dataset(write(tmp_path / "a.csv", ROWS), test_examples=20).sha256


def test_small_classes_are_tested_in_proportion_and_a_class_of_one_is_trained_on(tmp_path: Path) -> None:
    rows = [(f"o{i}", "other") for i in range(180)] + [(f"{c}.{i}", f"intent {c}") for c in range(40) for i in range(3)]
    data = tl.dataset(write(tmp_path / "t.csv", [*rows, ("alone", "single")]), test_examples=30)
    tested = data.labels[data.test]
    assert abs((tested == data.label_names.index("other")).mean() - 0.6) < 0.04
    assert len(set(tested.tolist())) >= 12
    single = data.label_names.index("single")
    assert single not in tested and single in data.labels[data.train]
    assert single in data.labels[data.hold_out(0.3, 0).train]


def test_half_a_character_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"t {i}", "label": i % 2}) for i in range(9)) + "\n"
                    + json.dumps({"text": "cut \ud83d", "label": 1}))  # fmt: skip
    with pytest.raises(TransferlabError, match="row 10: the text holds half of a character"):
        tl.dataset(path)


@pytest.mark.parametrize("given", [{"text": "body"}, {"target": "y"}, {"label_kind": "classes"}])
def test_an_argument_for_tables_is_refused_for_a_named_data_set(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(
        TransferlabError,
        match=rf"{name} is '.*', but 'digits' is a named data set and not a table.*(?s:.*)tl\.dataset\('digits'",
    ):
        tl.dataset("digits", **given)
    with pytest.raises(TransferlabError, match=r"white is 255, but 'digits' \(name of a data set\) does not take it"):
        tl.dataset("digits", white=255)


def test_what_training_lacks_is_said_of_tags_and_refused_of_numbers() -> None:
    def rows(*targets):
        return [{"text": f"film {i} of {targets}", "target": target} for i, target in enumerate(targets)]

    data = tl.dataset({"train": rows(["a"], ["b"], ["a"]), "test": rows(["a", "c"], ["b"])})
    assert "no training example has the tag c" in data.summary
    words = [{"words": ["Ada", "runs", str(i)], "tags": ["B", "O", "O"]} for i in range(4)]
    data = tl.dataset({"train": words, "test": [{"words": ["Bob", "sits"], "tags": ["B", "V"]}]})
    assert "no training example has the tag V" in data.summary
    with pytest.raises(TransferlabError, match=r"The training split as given: target is 1\.5 in every example"):
        tl.dataset({"train": rows(1.5, 1.5, 1.5), "test": rows(2.5, 3.25, 0.125)})
