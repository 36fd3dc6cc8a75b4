"""Labels: which values are the same class, which are missing, and which columns are not classes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import transferlab as tl
from transferlab.data.columns import Numbers
from transferlab.data.splits import stratified_order
from transferlab.errors import TransferlabError


def opened(folder: Path, labels: list[Any], kind: str = "csv", **options: Any) -> tl.data.Dataset:
    path = folder / f"t.{kind}"
    if kind == "csv":
        path.write_text("\n".join(["text,label", *(f'film {i},"{label}"' for i, label in enumerate(labels))]))
    else:
        path.write_text("\n".join(json.dumps({"text": f"film {i}", "label": label}) for i, label in enumerate(labels)))
    return tl.dataset(path, test_examples=2, **options)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0", "1", "1.0", "0.0"] * 2, ("0", "1")),
        ([str(i) for i in range(12)] * 2, tuple(map(str, range(12)))),
        (["-1", "1", "0"] * 2, ("-1", "0", "1")),
        (["07", "10", "08"] * 2, ("07", "08", "10")),
        ([" yes", " no"] * 2, ("no", "yes")),
        (["10", "9", "many"] * 2, ("10", "9", "many")),
        (["None", "mild"] * 2, ("None", "mild")),
        (["0%", "50 %"] * 2, ("0%", "50 %")),
        (["2024-01-01", "2024-02-01"] * 2, ("2024-01-01", "2024-02-01")),
        (["sports, men", "sports, women", "shoes, men", "shoes, women"] * 2,
         ("shoes, men", "shoes, women", "sports, men", "sports, women")),
        (["tench, Tinca tinca", "crane", "crane, bird"] * 2, ("crane", "crane, bird", "tench, Tinca tinca")),
    ],
)  # fmt: skip
def test_each_label_is_a_class_and_numbers_are_in_order(tmp_path: Path, labels: list[str], names: tuple) -> None:
    assert opened(tmp_path, labels).label_names == names


@pytest.mark.parametrize("label", ["nan", "NaN", "NA", "", "  ", "<NA>", "null"])
def test_a_missing_label_is_an_error_that_names_its_row(tmp_path: Path, label: str) -> None:
    with pytest.raises(TransferlabError, match=r"t\.csv, row 3: the label is"):
        opened(tmp_path, ["a", "b", label, "a", "b"])


@pytest.mark.parametrize("label", [None, float("nan"), float("inf"), "nan", [], {"a": 1}])
def test_a_missing_label_of_json_is_an_error_that_names_its_row(tmp_path: Path, label: Any) -> None:
    with pytest.raises(TransferlabError, match=r"t\.jsonl, row 3: the label is"):
        opened(tmp_path, [1, 0, label, 1, 0], "jsonl")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1", "01"] * 2, "'1' and '01' are the same number"),
        (["1", "1.0", "many"] * 2, "'1' and '1.0' are the same number"),
        (["1", "None", "0"] * 2, "row 2: the label is 'None', where other rows have numbers"),
        (["True", "true", "False"] * 2, "'True' and 'true' are the same word in two spellings"),
        (["caf\u00e9", "cafe\u0301", "bar"] * 2, "are the same word in two spellings"),
        (["yes", "yes ", "no"] * 2, "differ only in white space"),
        ([f"{i / 7:.1f}" for i in range(60)] * 9 + ["unknown"], r"\d+ distinct numbers and also words, such as 'unknown' in row 541"),
        ([f"2024-01-{i % 28 + 1:02}" for i in range(90)], r"28 distinct dates in 90 rows\. Write each as a number"),
        ([f"2024-01-01T10:{i % 28:02}:00Z" for i in range(90)], r"28 distinct dates in 90 rows\. Write each as a number"),
        ([f"{i % 50}%" for i in range(300)] + ["unknown"], "50 distinct percentages and also words, such as 'unknown' in row 301"),
        ([f"what I think, {i}" for i in range(30)], "30 distinct texts in 30 rows: free text"),
        ([f"what I think {i % 29}" for i in range(40)], "29 distinct texts in 40 rows: free text"),
        (["a|b", "b", "a", "c", "b|c"] * 3, r"such as 'a\|b': tags separated by '\|'\? Then pass separator='\|'"),
        (["a, b", "b, c", "a, c"] * 3, "tags separated by ','"),
        (["['a', 'b']", "a"] * 3, r"row 1: the label is \['a', 'b'\], a list of tags, where other rows have a single label"),
    ],
)  # fmt: skip
def test_columns_that_are_no_target_are_refused(tmp_path: Path, labels: list[str], said: str) -> None:
    with pytest.raises(TransferlabError, match=said):
        opened(tmp_path, labels)


@pytest.mark.parametrize(
    ("labels", "first"),
    [
        ([f"{i / 7:.3f}" for i in range(281)] + ["0.143"] * 19, [0.0, 0.143]),
        (["0.5", "1.5"] * 4, [0.5, 1.5]),
        ([str(i % 21) for i in range(84)], [0.0, 1.0]),
        (["0", "1", "0", "1", "7"], [0.0, 1.0]),
        ([f"{i % 100}%" for i in range(300)], [0.0, 1.0]),
        (["0.5%", "1.5 %"] * 4, [0.5, 1.5]),
        (["0,0", "0,5", "1,5"] * 4, [0.0, 0.5]),
        (["0", "50%", "0.5%"] * 4, [0.0, 50.0]),
    ],
)
def test_other_numbers_are_a_regression(tmp_path: Path, labels: list[str], first: list[float]) -> None:
    data = opened(tmp_path, labels)
    assert isinstance(data.target, Numbers) and data.target.values[:2, 0].tolist() == first
    with pytest.raises(TransferlabError, match="row 3: label is 'many', where a finite number is expected"):
        opened(tmp_path, ["1", "2", "many"], label_kind="numbers")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1,234", "950", "12,000"], r"row 1: label is '1,234', and a comma may stand for thousands or for a point"),
        (["0,5", "1.5", "2"], r"row 2: label is '1\.5', and a comma may stand for"),
        (["50%", "0.25", "30%"], r"row 2: label is '0\.25', where other rows are percentages"),
        (["1", "2", "1e400"], r"row 3: label is '1e400', where a finite number is expected"),
    ],
)
def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, labels: list[str], said: str) -> None:
    with pytest.raises(TransferlabError, match=said):
        opened(tmp_path, labels, label_kind="numbers")


def test_integers_that_may_be_classes_are_pointed_out(tmp_path: Path) -> None:
    note = r"label: 30 integers from 0 to 29 are taken as numbers; if they are classes, pass label_kind='classes'"
    assert note in opened(tmp_path, [str(i % 30) for i in range(90)]).summary
    for labels in (
        [str(i % 30 + 5) for i in range(90)],
        [str(i) for i in range(90)],
        [str(i % 30 / 2) for i in range(90)],
    ):
        assert "taken as numbers" not in opened(tmp_path, labels).summary


def test_arguments_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for options, said in (
        ({"target": ()}, "target is ()"),
        ({"target": ("label", "label")}, "several different ones"),
        ({"separator": ""}, "separator is ''"),
        ({"separator": "|", "label_kind": "classes"}, "separator is '|' and label_kind is 'classes'"),
    ):
        with pytest.raises(TransferlabError, match=re.escape(said)):
            opened(tmp_path, ["a", "b"] * 3, "csv", **options)


def test_label_kind_classes_makes_every_value_a_class(tmp_path: Path) -> None:
    many = [str(i % 300) for i in range(700)]
    assert opened(tmp_path, many, label_kind="classes").label_names == tuple(map(str, range(300)))
    # In JSON a number may be written as a text, and is then none.
    assert len(opened(tmp_path, many, "jsonl").label_names) == 300
    for labels in (["a|b", "b", "a"], ["0.5", "1.5"], [f"topic {i % 29}" for i in range(40)]):
        assert opened(tmp_path, labels * 2, label_kind="classes").label_names
    with pytest.raises(TransferlabError, match=r"label_kind is 'class'\. Did you mean 'classes'"):
        opened(tmp_path, ["a", "b"], label_kind="class")


def test_numbers_of_json_are_classes_by_value(tmp_path: Path) -> None:
    assert opened(tmp_path, [1, 1.0, "1", 0, 10, 10, 2, 2, 0], "jsonl").label_names == ("0", "1", "2", "10")
    assert isinstance(opened(tmp_path, [0.1 * i for i in range(30)], "jsonl").target, Numbers)


def test_true_and_one_of_json_are_two_classes(tmp_path: Path) -> None:
    assert opened(tmp_path, [True, False] * 3, "jsonl").label_names == ("false", "true")
    for labels, said in (
        (
            [1, 0, 1, True, 0],
            r"row 4: the label is true, but in row 1 it is 1\. A column cannot mix true or false with numbers",
        ),
        ([True, False, 1.0, True], r"row 3: the label is 1\.0, but in row 1 it is true"),
    ):
        with pytest.raises(TransferlabError, match=said):
            opened(tmp_path, labels, "jsonl", label_kind="classes")


def test_folders_of_images_are_classes_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for label in ("10", "9", "NA"):
        (tmp_path / "mixed" / label).mkdir(parents=True)
        (tmp_path / "numbers" / label.replace("NA", "0")).mkdir(parents=True)
    for number, folder in enumerate(sorted(tmp_path.glob("*/*"))):
        for i in range(2):
            Image.fromarray(np.full((3, 3), 20 * number + i, np.uint8)).save(folder / f"{i}.png")
    assert tl.dataset(tmp_path / "mixed", test_examples=1).label_names == ("10", "9", "NA")
    assert tl.dataset(tmp_path / "numbers", test_examples=1).label_names == ("0", "9", "10")
    (tmp_path / "numbers" / "9 ").mkdir()
    with pytest.raises(TransferlabError, match="'9' and '9 ' differ only in white space"):
        tl.dataset(tmp_path / "numbers", test_examples=1)


def test_each_of_fifty_thousand_labels_comes_once_before_any_comes_twice() -> None:
    labels = (np.arange(100_000) % 50_000).astype(np.int32)
    order = stratified_order(labels, 0, 50_000)
    assert len(set(labels[order[:50_000]].tolist())) == 50_000


def test_how_a_data_set_was_read_is_one_line(tmp_path: Path) -> None:
    data = opened(tmp_path, ["cat", "dog"] * 20)
    assert (
        repr(data)
        == f"Dataset('{tmp_path / 't.csv'}': 40 texts of 2 labels (cat: 20, dog: 20): 38 to train, 2 to test, stratified)"
    )
    assert data.describe()["summary"] == data.summary
    assert (
        "8 to train, 2 to validate, 2 to test, stratified; 28 are not used"
        in data.subset(10, 0).hold_out(0.2, 0).summary
    )
    assert "32 to train, 8 to test, stratified" in repr(tl.dataset(tmp_path / "t.csv"))
    halved = tl.dataset(tmp_path / "t.csv", test_examples=100)
    assert repr(halved).endswith("20 to train, 20 to test, stratified, at most half (test_examples is 100))")
    few = tl.dataset({"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})
    assert few.summary.endswith("2 to test, stratified; half of the data is tested, test_examples sets how many")
