"""What examples hold: pairs, words with tags, texts to write, no target; columns that are named or guessed; splits and groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transferlab as tl
from transferlab.data.columns import Classes, NoTarget, Numbers, TagSets, Texts, WordTags
from transferlab.errors import TransferlabError

WORDS = [["Ada", "Lovelace", "wrote"], ["to", "Charles"], ["in", "London"], ["she", "lived", "there"]]
TAGS = [["B-PER", "I-PER", "O"], ["O", "B-PER"], ["O", "B-LOC"], ["O", "O", None]]


def rows(n: int = 40) -> list[dict[str, Any]]:
    return [
        {"premise": f"a man number {i}", "hypothesis": f"someone is {i}", "label": ["yes", "no"][i % 2], "user": f"u{i // 4}"}
        for i in range(n)
    ]  # fmt: skip


def test_two_columns_are_a_pair(tmp_path: Path) -> None:
    data = tl.dataset(rows(), text=("premise", "hypothesis"), target="label", test_examples=8)
    assert data.content == "pair" and data.modality == "text"
    assert data.records[3] == {"id": "row 4", "text": "a man number 3", "text_pair": "someone is 3", "label": 0}
    path = tmp_path / "p.csv"
    path.write_text(
        "premise,hypothesis,label\n"
        + "\n".join(f'"{r["premise"]}, sir",{r["hypothesis"]},{r["label"]}' for r in rows())
    )
    data = tl.dataset(path, test_examples=8)
    assert data.content == "pair" and data.records[0]["text"] == "a man number 0, sir"
    assert "pair: premise and hypothesis" in data.summary


def test_a_pair_in_another_order_is_another_example_and_an_empty_side_is_an_error() -> None:
    sides = [("a b", "c"), ("c", "a b"), ("a", "b c"), ("A  b", "C")] + [(f"x {i}", f"y {i}") for i in range(6)]
    table = {"a": [a for a, _ in sides], "b": [b for _, b in sides], "label": [i % 2 for i in range(10)]}
    data = tl.dataset(table, text=("a", "b"))
    assert len(data.ids) == 9 and data.duplicates_removed == 1
    table["b"][4] = " "
    with pytest.raises(TransferlabError, match="row 5: one text of the pair is empty"):
        tl.dataset(table, text=("a", "b"))


@pytest.mark.parametrize("form", ["json", "csv", "memory", "spaces"])
def test_words_and_as_many_tags(form: str, tmp_path: Path) -> None:
    tags = [[tag for tag in of if tag] if form == "spaces" else of for of in TAGS[:3]] + [["O", "O", "O"]]
    columns: dict[str, list[Any]] = {"tokens": WORDS, "ner": tags}
    if form == "spaces":
        columns = {name: [" ".join(of) for of in values] for name, values in columns.items()}
    source: Any = columns
    if form == "json":
        source = tmp_path / "t.jsonl"
        source.write_text("\n".join(json.dumps({"tokens": w, "ner": t}) for w, t in zip(WORDS, tags, strict=True)))
    elif form == "csv":
        source = tmp_path / "t.csv"
        source.write_text("tokens;ner\n" + "\n".join(f"{w};{t}" for w, t in zip(WORDS, tags, strict=True)))
    data = tl.dataset(source, words="tokens", target="ner", test_examples=1)
    assert data.content == "words" and isinstance(data.target, WordTags)
    assert data.target.names == ("B-LOC", "B-PER", "I-PER", "O")
    assert data.records[0] == {"id": "row 1", "words": WORDS[0], "word_tags": ["B-PER", "I-PER", "O"]}


def test_a_word_without_a_tag_is_not_scored_and_numbers_of_tags_must_be_right() -> None:
    data = tl.dataset({"words": WORDS, "tags": TAGS}, test_examples=1)
    assert isinstance(data.target, WordTags) and data.target.values[3].tolist() == [3, 3, -1]
    with pytest.raises(TransferlabError, match="row 2: there are 2 words and 1 tags; each word needs one"):
        tl.dataset({"words": WORDS, "tags": [TAGS[0], ["O"], *TAGS[2:]]})
    with pytest.raises(TransferlabError, match=r"row 3: the words are '\[\]'; expected a list of at least one"):
        tl.dataset({"words": [*WORDS[:2], [], WORDS[3]], "tags": TAGS})
    one = tl.dataset({"words": WORDS, "label": ["a", "b", "a", "b"]}, test_examples=1)
    assert isinstance(one.target, Classes)


def test_words_that_differ_in_case_are_two_sentences() -> None:
    data = tl.dataset({"words": [["us"], ["US"], ["us"], ["we", "go"]], "tags": [["O"], ["B-LOC"], ["O"], ["O", "O"]]})
    assert len(data.ids) == 3 and data.duplicates_removed == 1


def test_a_text_to_write_and_no_target() -> None:
    table = {"text": [f"to translate {i}" for i in range(10)], "target": [f"zu übersetzen {i}" for i in range(10)]}
    data = tl.dataset(table, label_kind="text", test_examples=2)
    assert isinstance(data.target, Texts) and data.records[0]["target_text"] == "zu übersetzen 0"
    assert "10 texts, the text 'target' to write: 8 to train, 2 to test, at random" in data.summary
    data = tl.dataset(table, target=None, test_examples=2)
    assert isinstance(data.target, NoTarget) and data.records[0] == {"id": "row 1", "text": "to translate 0"}
    assert "10 texts, no target: 8 to train" in data.summary
    with pytest.raises(TransferlabError, match=r"free text .*label_kind='text'"):
        tl.dataset(table)
    with pytest.raises(TransferlabError, match="row 1: target: the text is 3, not a string"):
        tl.dataset({"text": ["a b", "c d"], "target": [3, 4]}, label_kind="text")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"sentence": [f"a text {i}" for i in range(9)], "stars": [0.1 * i for i in range(9)]}, "text: sentence; target: stars"),
        ({"id": range(9), "review": [f"a text {i}" for i in range(9)], "LABEL": [0, 1, 1] * 3}, "text: review; target: LABEL"),
    ],
)  # fmt: skip
def test_columns_are_guessed_where_there_is_one_way(columns: dict[str, Any], said: str) -> None:
    assert said in tl.dataset(columns).summary


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (("body", "title", "label"), r"several columns that may be the content \(body, title\): its columns are body, title, label"),
        (("body", "stars", "likes"), r"several columns that may be the target \(stars, likes\).*(?s:.*)tl\.dataset\(…, text='body', target="),
        (("stars", "label"), "no column of texts"),
    ],
)  # fmt: skip
def test_several_ways_are_an_error_with_the_columns_and_the_line_to_write(columns: tuple[str, ...], said: str) -> None:
    values: dict[str, Any] = {name: [f"some {name} {i}" for i in range(9)] for name in ("body", "title")}
    values |= {"label": [0, 1, 1] * 3, "stars": [0.5 * i for i in range(9)], "likes": list(range(9))}
    with pytest.raises(TransferlabError, match=said):
        tl.dataset({name: values[name] for name in columns})


def test_unknown_columns_and_two_roles_are_errors() -> None:
    for given, said in (
        ({"text": "premis"}, "has no column 'premis'. Did you mean 'premise'"),
        ({"text": "premise", "target": "premise"}, "The column 'premise' has two roles"),
        ({"text": "premise", "words": "hypothesis"}, "holds one of text, words"),
        ({"text": ("premise", "hypothesis", "user")}, "expected a column, or two"),
    ):
        with pytest.raises(TransferlabError, match=said):
            tl.dataset(rows(), **given)  # pyright: ignore[reportArgumentType]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    table = rows(30)
    for name, part in (("a", table[:20]), ("b", table[20:24]), ("c", table[24:])):
        lines = [f"{row['premise']},{row['label']}" for row in part]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]))
    files = {"train": tmp_path / "a.csv", "validation": tmp_path / "b.csv", "test": tmp_path / "c.csv"}
    data = tl.dataset(files)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 6)
    assert data.ids[0] == "row 1 of train" and data.ids[-1] == "row 6 of test"
    assert "20 to train, 4 to validate, 6 to test, as given" in data.summary
    same = tl.dataset({"train": table[:20], "dev": table[20:24], "test": table[24:]}, text="premise")
    assert [len(part) for part in (same.train, same.validation, same.test)] == [20, 4, 6]
    column = [{**row, "fold": "train" if i < 20 else "dev" if i < 24 else "test"} for i, row in enumerate(table)]
    again = tl.dataset(column, text="premise", splits="fold", target="label")
    np.testing.assert_array_equal(again.test, data.test)
    drawn = tl.dataset({"train": table[:20], "validation": table[20:]}, text="premise", target="label")
    assert len(drawn.validation) == 10 and len(drawn.test) == 4
    assert "stratified from the training split given" in drawn.summary


@pytest.mark.parametrize(("name", "value"), [("test_examples", 5), ("split_seed", 3)])
def test_a_draw_that_is_asked_for_where_a_test_split_is_given_is_an_error(name: str, value: int) -> None:
    table = rows(30)
    given: dict[str, Any] = {name: value}
    with pytest.raises(TransferlabError, match=rf"{name} is {value}, but the test split is given \(6 examples\)"):
        tl.dataset({"train": table[:24], "test": table[24:]}, text="premise", target="label", **given)
    drawn = tl.dataset({"train": table[:24], "validation": table[24:]}, text="premise", target="label", **given)
    assert len(drawn.test) == 5


def test_what_is_in_two_given_splits_leaves_the_training_split() -> None:
    table = rows(30)
    test = [*table[24:], table[0], table[1], table[0]]
    # The validation split has one example of the test split, one of the training split, and one that all three have.
    validation = [*table[20:24], table[25], table[2], table[1]]
    data = tl.dataset({"train": table[:20], "validation": validation, "test": test}, text="premise", target="label")
    assert (len(data.train), len(data.validation), len(data.test)) == (17, 7, 9)
    assert data.duplicates_removed == 3 and data.notes[-3:] == (
        "2 training examples were also in the test split",
        "2 training examples were also in the validation split",
        "2 validation examples are also in the test split",
    )
    assert "; 2 training examples were also in the validation split; 2 validation" in data.summary
    # Cut from what is left, a validation part has nothing in common with either.
    cut = data.hold_out(0.25, seed=0)
    texts = [{data.records[int(i)]["text"] for i in part} for part in (cut.train, cut.validation, cut.test)]
    assert all(texts) and not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    one = tl.dataset(
        {"train": table[:21], "validation": table[20:24], "test": table[24:]}, text="premise", target="label"
    )
    assert one.notes[-1] == "1 training example was also in the validation split"


def test_given_splits_that_do_not_go_together_are_errors() -> None:
    table = rows(30)
    lone = {**table[25], "label": "maybe"}
    with pytest.raises(
        TransferlabError, match=r"The test split has the label 'maybe', which no training example has \(1 such"
    ):
        tl.dataset({"train": table[:20], "test": [*table[26:], lone]}, text="premise", target="label")
    with pytest.raises(
        TransferlabError, match="1 groups, such as 'u5', are in the training and the test split as given"
    ):
        tl.dataset({"train": table[:22], "test": table[22:]}, text="premise", target="label", groups="user")
    with pytest.raises(
        TransferlabError, match="1 groups, such as 'u6', are in the validation and the test split as given"
    ):
        parts = {"train": table[:8], "validation": table[24:26], "test": table[26:]}
        tl.dataset(parts, text="premise", target="label", groups="user")
    with pytest.raises(
        TransferlabError, match=r"row 3: fold is 'trian'; expected train, validation or test. Did you mean 'train'"
    ):
        tl.dataset(
            [{**row, "fold": "trian" if i == 2 else "test"} for i, row in enumerate(table)],
            text="premise",
            splits="fold",
        )
    with pytest.raises(TransferlabError, match="No example is left in the training split"):
        tl.dataset({"test": table}, text="premise", target="label")
    with pytest.raises(TransferlabError, match="the test split has no column 'label'"):
        tl.dataset({"train": table[:20], "test": [{"premise": "a b"}]}, text="premise", target="label")


def test_a_group_is_on_one_side_of_every_split() -> None:
    data = tl.dataset(rows(80), text="premise", target="label", groups="user", test_examples=20)
    assert 16 <= len(data.test) <= 20 and "stratified, by group" in data.summary
    small = data.hold_out(0.25, seed=1)
    assert data.groups is not None
    sides = [set(data.groups[part]) for part in (small.train, small.validation, small.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2] and all(sides)
    assert abs((data.labels[data.test] == 0).mean() - 0.5) <= 0.1
    with pytest.raises(TransferlabError, match="Every example is of the group 'one'"):
        tl.dataset([{**row, "user": "one"} for row in rows()], text="premise", target="label", groups="user")
    with pytest.raises(TransferlabError, match="row 2: its group is missing"):
        tl.dataset(
            [{**row, "user": None if i == 1 else i} for i, row in enumerate(rows())],
            text="premise",
            target="label",
            groups="user",
        )


def test_the_default_test_split_is_a_fifth_with_an_example_of_each_class() -> None:
    for n, expected in ((10, 2), (100, 20), (6000, 1000)):
        table = {"text": [f"t {i}" for i in range(n)], "label": [i % 2 for i in range(n)]}
        assert len(tl.dataset(table).test) == expected
    table = {"text": [f"t {i}" for i in range(60)], "label": [f"class {i % 20}" for i in range(60)]}
    data = tl.dataset(table)
    assert len(data.test) == 20 and len(set(data.labels[data.test].tolist())) == 20


def test_lists_are_tags_and_numbers_are_a_regression_in_memory() -> None:
    texts = [f"text {i}" for i in range(24)]
    assert isinstance(tl.dataset({"text": texts, "label": [["a"], ["b"], ["a", "b"]] * 8}).target, TagSets)
    data = tl.dataset({"text": texts, "score": np.linspace(0, 1, 24)})
    assert isinstance(data.target, Numbers) and "score: 24 distinct numbers in 24 rows, a regression" in data.summary


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, "a", 2.5, 1], "row 2: the label is \"a\", but in row 1 it is 1. A column cannot mix texts with numbers"),
        ([object(), 1, 1, 1], "row 1: the label is '<object .*, which is neither a text nor a number"),
        ([{"a": 1}] * 4, "row 1: the label is {'a': 1}"),
        ([[["a"]], [["b"]]] * 2, "row 1: the label is "),
        ([0.5] * 4, "the target is '0.5' in every example, so there is nothing to learn"),
        ([["a"]] * 4, "every example has the same tags \\(a\\), so there is nothing to learn"),
        ([float("inf"), 1, 2, 1], "row 1: the label is Infinity, which is neither a class nor a finite number"),
    ],
)  # fmt: skip
def test_targets_that_are_none_are_one_error(labels: list[Any], said: str) -> None:
    with pytest.raises(TransferlabError, match=said):
        tl.dataset({"text": [f"text {i}" for i in range(4)], "label": labels})


def test_lists_as_numpy_writes_them_are_lists(tmp_path: Path) -> None:
    from transferlab.data.literals import list_in

    assert list_in("['EU' 'rejects']") == ["EU", "rejects"] and list_in("[0 -1 2]") == [0, -1, 2]
    assert list_in('["a", null]') == ["a", None] and list_in("['a',\n 'b']") == ["a", "b"] and list_in("[]") == []
    for text in ("[sic] yes", "[ laughter ]", "[1 2 ... 3 4]", "['a'", "[f'a']", "[['a']]", "a"):
        assert list_in(text) is None, text
    rows = [f"\"['EU' 'w{i}']\",\"['B-ORG' 'O']\",['x' 'y{i % 2}']" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["tokens,tags,topics", *rows]))
    data = tl.dataset(tmp_path / "t.csv", words="tokens", target="tags")
    assert data.records[1] == {"id": "row 2", "words": ["EU", "w1"], "word_tags": ["B-ORG", "O"]}
    data = tl.dataset(tmp_path / "t.csv", text="tokens", target="topics")
    assert data.target.names == ("x", "y0", "y1")
    long = "[" + " ".join(f"'w{i}'" for i in range(3)) + " ... 'w9']"
    with pytest.raises(TransferlabError, match=r"row 1: the words are .*; expected a list"):
        tl.dataset({"words": [long, "a b"], "tags": [["O"], ["O", "O"]]}, words="words", target="tags")


def test_columns_that_are_there_twice_are_refused_where_they_are_guessed(tmp_path: Path) -> None:
    rows = [f"a film {i},{i % 2},1,2" for i in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label,label,note", *rows]))
    with pytest.raises(TransferlabError, match="has 2 columns 'label'; rename all but one"):
        tl.dataset(tmp_path / "t.csv")
    (tmp_path / "u.csv").write_text("\n".join(["text,label,note,note", *rows]))
    assert len(tl.dataset(tmp_path / "u.csv", text="text", target="label").ids) == 10
    (tmp_path / "v.csv").write_text("\n".join(["text,label,,", *rows]))
    assert len(tl.dataset(tmp_path / "v.csv").ids) == 10
    (tmp_path / "w.jsonl").write_text('{"text": "a", "label": 1, "label": 2}\n')
    with pytest.raises(TransferlabError, match="line 1: 'label' is given more than once"):
        tl.dataset(tmp_path / "w.jsonl")


def test_sources_that_are_none_and_groups_that_are_labels_are_errors() -> None:
    with pytest.raises(TransferlabError, match="Two of val, dev are the same split"):
        tl.dataset({"val": rows(), "dev": rows()})
    with pytest.raises(TransferlabError, match="expected a name, a path, or data in memory"):
        tl.dataset("")
    table = {"text": [f"t {i}" for i in range(12)], "label": ["a", "b"] * 6, "user": ["x", "y"] * 6}
    with pytest.raises(TransferlabError, match="Groups and labels coincide"):
        tl.dataset(table, groups="user")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 6, 3)), r"type float64; .*\(image \* 255\)\.round\(\)\.astype\(numpy\.uint8\)"),
        (np.zeros((3, 8, 6), np.uint8), r"shape \(3, 8, 6\) .*image\.transpose\(1, 2, 0\)"),
        (np.zeros((8, 6, 4), np.uint8), r"shape \(8, 6, 4\) .*image\[\.\.\., :3\]"),
        (np.full((8, 6, 3), 200), r"type int64; .*image\.astype\(numpy\.uint8\)"),
    ],
)  # fmt: skip
def test_an_array_that_is_no_image_is_an_error_with_the_line_that_makes_it_one(image: np.ndarray, said: str) -> None:
    fine = np.arange(144, dtype=np.uint8).reshape(8, 6, 3)
    with pytest.raises(TransferlabError, match=rf"list, row 2: the image has .*{said}"):
        tl.dataset([{"image": fine, "label": "a"}, {"image": image, "label": "b"}])


_WAVE = np.linspace(-1, 1, 12, dtype=np.float32)


@pytest.mark.parametrize(
    ("sound", "said"),
    [
        ({"array": (_WAVE * 32767).astype(np.int16), "sampling_rate": 8000}, r"samples of int16; .*, samples / 32768\."),
        ({"array": np.zeros(9, np.uint8), "sampling_rate": 8000}, r"samples of uint8; .*, \(samples - 128\.0\) / 128\."),
        ({"array": [1, 2, 3000], "sampling_rate": 8000}, r"samples of int64; .* of 16 bits: samples / 32768\."),
        ({"array": _WAVE * 32767, "sampling_rate": 8000}, r"samples up to 32,767; .*samples / 32768\."),
        ({"array": _WAVE > 0, "sampling_rate": 8000}, "the samples have type bool"),
        ({"array": _WAVE + 1j, "sampling_rate": 8000}, "the samples have type complex64"),
        ({"array": "a.wav", "sampling_rate": 8000}, "the samples have type <U5"),
        ({"array": [[1.0], [1.0, 0.5]], "sampling_rate": 8000}, "the samples have type object"),
        ({"array": np.where(_WAVE > 0.9, np.nan, _WAVE), "sampling_rate": 8000}, "1 of 12 samples .* 11 is nan.*nan_to_num"),
        ({"array": np.where(_WAVE < 0, -np.inf, _WAVE), "sampling_rate": 8000}, "6 of 12 samples .* 0 is -inf"),
        ({"array": _WAVE[:0], "sampling_rate": 8000}, "the sound has no samples. Leave it out"),
        ({"array": np.stack([_WAVE, _WAVE]), "sampling_rate": 8000}, r"shape \(2, 12\); .*samples\.T has it"),
        ({"array": _WAVE[:, None, None], "sampling_rate": 8000}, r"shape \(12, 1, 1\)"),
        ({"array": _WAVE}, r"the sound's rate is None; .*as in \(samples, 16000\)"),
        ({"array": _WAVE, "rate": 8000}, "It is under 'rate': call it 'sampling_rate'"),
        ({"array": _WAVE, "sampling_rate": 8000.0}, r"the sound's rate is 8000\.0; .*Pass 8000"),
        ({"array": _WAVE, "sampling_rate": True}, "the sound's rate is True"),
        ({"array": _WAVE, "sampling_rate": 0}, "the sound's rate is 0"),
        (_WAVE, r"12 samples without their rate; .*a pair \(samples, 16000\)"),
        ((8000, _WAVE), "the rate comes first, as scipy.io.wavfile.read returns it"),
    ],
)  # fmt: skip
def test_a_sound_in_memory_that_is_none_is_an_error_that_says_what_mends_it(sound: Any, said: str) -> None:
    from transferlab.data.examples import as_records

    fine = {"array": _WAVE / 2, "sampling_rate": 8000}
    with pytest.raises(TransferlabError, match=rf"list, row 2: .*{said}"):
        tl.dataset([{"audio": fine, "label": "a"}, {"audio": sound, "label": "b"}])
    with pytest.raises(TransferlabError, match=rf"examples\[1\]: .*{said}"):
        as_records([fine, sound], "audio")


def test_a_sound_in_memory_is_read_alike_in_a_data_set_and_in_a_prediction() -> None:
    from transferlab.data.examples import as_records

    stereo = np.stack([_WAVE, np.zeros_like(_WAVE)], axis=1).astype(np.float64)
    for sound in ((stereo, 8000), {"array": stereo, "sampling_rate": np.int64(8000)}, (_WAVE / 2, np.int32(8000))):
        rows = [{"audio": one, "label": label} for one, label in zip((sound, (_WAVE, 8000)), "ab", strict=True)]
        record = tl.dataset(rows).records[0]
        _, (other,) = as_records([sound], "audio")
        assert record["audio"].tolist() == other["audio"].tolist() == pytest.approx((_WAVE / 2).tolist())
        assert record["rate"] == other["rate"] == 8000 and other["audio"].dtype == np.float32


TEXTS = [f"some text {i}" for i in range(24)]


def test_columns_of_0_and_1_are_tags_if_the_caller_says_so() -> None:
    table = {"text": TEXTS, "rude": [1, 0, 1.0, 0] * 6, "toxic": ["0", "true", "False", "1"] * 6}
    data = tl.dataset(table, target=("rude", "toxic"), label_kind="tags")
    assert isinstance(data.target, TagSets) and data.target.names == ("rude", "toxic")
    assert data.target.values[:4].tolist() == [[True, False], [False, True], [True, False], [False, True]]
    with pytest.raises(TransferlabError, match="row 2: rude is '2', where 0 or 1 says whether it has the tag"):
        tl.dataset(table | {"rude": [1, 2, 1, 0] * 6}, target=("rude", "toxic"), label_kind="tags")
    numbers = tl.dataset(table | {"toxic": [0, 1] * 12}, target=("rude", "toxic"))
    assert isinstance(numbers.target, Numbers)
    assert "rude, toxic are 0 or 1, taken as numbers; if each is a tag, pass label_kind='tags'" in numbers.summary


def test_a_separator_that_no_cell_has_is_said() -> None:
    table = {"text": TEXTS, "tags": ["a,b", "b", "c", "a,c"] * 6}
    assert "no cell of tags has the separator ';'" in tl.dataset(table, separator=";").summary
    assert "separator" not in tl.dataset(table, separator=",").summary


def test_a_column_of_splits_that_is_not_used_is_said() -> None:
    table = {"text": TEXTS, "label": ["a", "b"] * 12, "Part": ["train"] * 18 + ["Test"] * 6}
    assert "the splits in 'Part' are not used; splits='Part' keeps them" in tl.dataset(table).summary
    assert "not used" not in tl.dataset(table, splits="Part").summary
    assert "not used" not in tl.dataset(table, target="Part").summary


def test_a_table_without_column_names_does_not_lose_its_first_row(tmp_path: Path) -> None:
    rows = [f"{text},{'ab'[i % 2]}" for i, text in enumerate(TEXTS)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    with pytest.raises(TransferlabError, match="no line of column names: the first line has 'some text 0' and 'a'"):
        tl.dataset(tmp_path / "t.csv")
    assert len(tl.dataset(tmp_path / "t.csv", text="some text 0", target="a").ids) == 23
    (tmp_path / "n.csv").write_text("\n".join(["0,1", *(f"{text},{i % 2}" for i, text in enumerate(TEXTS))]))
    assert len(tl.dataset(tmp_path / "n.csv").ids) == 24


def test_a_misspelled_split_is_not_read_as_a_column() -> None:
    part = {"text": TEXTS, "label": ["a", "b"] * 12}
    for parts in ({"train": part, "tset": part}, {"train": "a.csv", "tset": "b.csv"}):
        with pytest.raises(TransferlabError, match=r"'tset' is not a split; .* Did you mean 'test'\?"):
            tl.dataset(parts)


def test_rows_without_words_or_a_target_are_left_out_if_the_caller_says_so() -> None:
    words: list[Any] = [["some", f"word{i}"] for i in range(12)]
    table = {"words": [[], "", *words], "tags": [[], "", *([["O", "X"]] * 12)]}
    data = tl.dataset(table, words="words", target="tags", missing="drop")
    assert len(data.ids) == 12 and "14 rows: 2 without words left out" in data.summary
    for gap in ({"text": [None, *TEXTS[1:]]}, {"label": ["", *["a", "b", "a"] * 7, "b", "b"]}):
        with pytest.raises(TransferlabError, match=r"row 1: the .* Fill it in, or leave such rows out: missing='drop'"):
            tl.dataset({"text": TEXTS, "label": ["a", "b"] * 12} | gap)


def test_an_error_about_columns_does_not_suggest_the_one_that_joining_splits_added() -> None:
    part = {"a": ["x"] * 6, "b": ["y"] * 6}
    with pytest.raises(TransferlabError, match=r"its columns are a, b\. Name the content:\n.*text='a', target='b'"):
        tl.dataset({"train": part, "test": part})
