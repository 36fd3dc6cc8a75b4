"""Readers: each kind of file, folder and object that people keep data in, and what is said of one that is awkward."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import types
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import transferlab as tl
from transferlab.data.columns import Classes, NoTarget, Numbers, TagSets, WordTags
from transferlab.data.readers import readers
from transferlab.errors import TransferlabError

TABLE = {"text": [f"a film, number {i}" for i in range(20)], "label": ["good", "bad"] * 10}


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8))


def sound(path: Path, seed: int, rate: int = 8000, channels: int = 1, seconds: float = 0.05) -> Path:
    samples = np.random.default_rng(seed).integers(-3000, 3000, (int(rate * seconds), channels), np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


# -- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["records", "columns", "lines"])
def test_json_as_a_list_of_objects_as_columns_or_as_lines(tmp_path: Path, form: str) -> None:
    rows = [{"text": text, "label": label} for text, label in zip(TABLE["text"], TABLE["label"], strict=True)]
    path = tmp_path / "t.json"
    path.write_text(
        {"records": json.dumps(rows), "columns": json.dumps(TABLE), "lines": "\n".join(map(json.dumps, rows))}[form]
    )
    data = tl.dataset(path)
    assert len(data.ids) == 20 and data.label_names == ("bad", "good") and data.ids[19] == "row 20"


def test_json_that_is_no_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for content, said in (
        ("[1, 2]", "row 1: expected a JSON object"),
        ('{"text": ["a"], "label": []}', "different numbers of values"),
        ("[]", "no examples"),
    ):
        path.write_text(content)
        with pytest.raises(TransferlabError, match=said):
            tl.dataset(path)


_ROWS = [{"text": f"a text {i}", "label": "ab"[i % 2]} for i in range(4)]


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ({"version": 1, "data": _ROWS}, r"holds its rows under data\. .*\n  >>> tl\.dataset\(json\.load\(open\('.*'\)\)\['data'\]\)$"),
        ({"data": {"rows": _ROWS}}, r"under data\.rows\. .*\)\['data'\]\['rows'\]\)$"),
        ({"train": _ROWS, "test": _ROWS[:2]}, r"under train and test\. .*'\]\), or, .*splits, together:\n  >>> tl.dataset\(json"),
        ({"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}, r"tl\.dataset\(pandas\.read_json\('.*t\.json'\)\)"),
        ({"columns": ["text", "label"], "data": [["a", 1]]}, r"pandas\.read_json\('.*t\.json', orient='split'\)"),
        ([{"meta": {"body": "a b"}, "label": 1}], r"'meta' holds objects\. .*'meta\.body':\n.*pandas\.json_normalize\(rows\)"),
        (["a text", "another"], r"row 1: .*tl\.dataset\(\{'text': json\.load"),
    ],
)  # fmt: skip
def test_json_of_another_layout_is_an_error_with_the_line_that_opens_it(tmp_path: Path, whole: Any, said: str) -> None:
    (tmp_path / "t.json").write_text(json.dumps(whole))
    with pytest.raises(TransferlabError, match=rf"(?s){said}"):
        tl.dataset(tmp_path / "t.json")


def test_json_that_ends_early_is_named_with_its_line(tmp_path: Path) -> None:
    for text, line in (('[\n{"text": "a",\n', 3), ('{"text": ["a"],\n "label": ', 2)):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(TransferlabError, match=rf"t\.json, line {line}: not JSON \(Expecting"):
            tl.dataset(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("t.xlsx", r"tl\.dataset\(pandas\.read_excel\('.*t\.xlsx'\)\)"),
        ("t.ODS", r"tl\.dataset\(pandas\.read_excel\('.*t\.ODS'\)\)"),
        ("t.pkl", r"if you trust who wrote it.*\n  >>> tl\.dataset\(pandas\.read_pickle\("),
        ("t.db", r"tl\.dataset\(pandas\.read_sql\('SELECT \* FROM reviews', sqlite3\.connect\('.*t\.db'\)\)\)"),
        ("t.npz", r"numpy\.load\("),
        ("t.tar", "Unpack it"),
        ("t.md", r"ends in \.txt"),
        ("t.odd", r"table \(\.csv, \.tsv"),
    ],
)
def test_a_file_of_no_kind_that_is_read_is_an_error_with_the_line_that_opens_it(
    tmp_path: Path, name: str, line: str
) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(TransferlabError, match=rf"(?s){name}' is data of no kind that is read[.:] .*{line}"):
        tl.dataset(tmp_path / name)
    if name == "t.xlsx":
        (tmp_path / "t.xlsx.gz").write_bytes(gzip.compress(b"anything"))
        with pytest.raises(TransferlabError, match=r"(?s)holds 't\.xlsx', .*pandas\.read_excel"):
            tl.dataset(tmp_path / "t.xlsx.gz")


def test_texts_in_memory_without_columns_are_an_error_with_the_line_that_names_them() -> None:
    for texts in (np.array(["a b", "c d"]), (text for text in ("a b", "c d"))):
        with pytest.raises(
            TransferlabError, match=r"no kind that is read\. .*\n  >>> tl\.dataset\(\{'text': list\(texts\), "
        ):
            tl.dataset(texts)
    with pytest.raises(TransferlabError, match=r"row 1 is 'a b'; .*\n  >>> tl\.dataset\(\{'text': texts"):
        tl.dataset(["a b", "c d"])


def test_columns_may_have_numbers_for_names() -> None:
    rows = [{0: f"a text {i}", np.int64(1): "ab"[i % 2], 2: i // 2} for i in range(8)]
    named = tl.dataset(rows, text=0, target=1, groups=2)
    assert named.columns == {"content": ("0",), "target": ("1",)} and named.groups is not None
    for same in (
        tl.dataset({0: [row[0] for row in rows], 1: [row[1] for row in rows]}),
        tl.dataset(rows, text="0", target="1"),
    ):
        assert same.target.summary == named.target.summary == "2 labels (a: 4, b: 4)"
    for twice in ([{0: "a b", "0": "x"}], {0: ["a b"], "0": ["x"]}):
        with pytest.raises(TransferlabError, match="has 2 columns '0'; rename all but one"):
            tl.dataset(twice)
    with pytest.raises(TransferlabError, match="text is True; it must be a column's name"):
        tl.dataset(rows, text=True)


def test_a_table_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    lines = ['"Text";"Note"', *(f'"line one {i}\nline two; {i}";"{"good" if i % 2 else "bad"}"' for i in range(8))]
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    data = tl.dataset(tmp_path / "t.csv", text="Text", target="Note")
    assert data.records[3]["text"].splitlines() == ["line one 3", "line two; 3"] and data.label_names == ("bad", "good")


def test_repeated_columns_and_lists_of_different_lengths_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label,label\na b,1,2\n")
    with pytest.raises(TransferlabError, match="2 columns 'label'"):
        tl.dataset(tmp_path / "t.csv", target="label")
    with pytest.raises(TransferlabError, match="text has 2, label has 1"):
        tl.dataset({"text": ["a", "b"], "label": [1]})
    with pytest.raises(TransferlabError, match="column 'text' is 'abc', not a list of values"):
        tl.dataset({"text": "abc", "label": [1]})
    with pytest.raises(TransferlabError, match=r"row 2 is 'b'; expected a dict"):
        tl.dataset([{"text": "a"}, "b"])
    with pytest.raises(TransferlabError, match="'3' is data of no kind that is read: "):
        tl.dataset(3)


def test_values_of_other_libraries_are_values() -> None:
    import datetime
    import decimal

    from transferlab.data.values import plain

    assert plain(np.float32(1.5)) == 1.5 and plain(np.int64(3)) == 3 and type(plain(np.bool_(True))) is bool
    assert plain(float("nan")) is None and plain(np.datetime64("NaT")) is None and plain(decimal.Decimal("NaN")) is None
    assert plain(decimal.Decimal("2.50")) == 2.5 and plain(decimal.Decimal(10**30)) == 10**30
    assert plain(datetime.date(2024, 2, 1)) == "2024-02-01" and plain(datetime.timedelta(minutes=2)) == 120.0
    assert plain(np.datetime64("2024-02-01T10:00")) == "2024-02-01T10:00:00"
    assert plain(np.array(["a", "b"])) == ["a", "b"] and plain((np.int8(1),)) == [1]
    data = tl.dataset({"text": TABLE["text"], "label": [10**30, 10**30 + 1] * 10})
    assert isinstance(data.target, Classes) and data.label_names == (str(10**30), str(10**30 + 1))


def test_rows_with_gaps_are_errors_or_are_counted() -> None:
    table = {"text": [*TABLE["text"], None, "more"], "label": [*TABLE["label"], "good", float("nan")]}
    with pytest.raises(TransferlabError, match="row 21: the text is missing"):
        tl.dataset(table)
    data = tl.dataset(table, missing="drop")
    assert len(data.ids) == 20
    assert "22 rows: 1 without text left out; 22 rows: 1 without label left out" in data.summary
    with pytest.raises(TransferlabError, match="every row lacks one of text, label"):
        tl.dataset({"text": ["a", "b"], "label": [None, "NA"]}, missing="drop")
    with pytest.raises(TransferlabError, match=r"missing is 'dorp'\. Did you mean 'drop'"):
        tl.dataset(table, missing="dorp")


def test_a_data_frame_is_a_table() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({**TABLE, "score": np.linspace(0, 1, 20)}).astype({"label": "category"})
    frame.index = range(100, 120)
    data = tl.dataset(frame, text="text", target="label")
    assert data.name == "DataFrame" and data.records[2] == {"id": "row 3", "text": "a film, number 2", "label": 1}
    assert isinstance(tl.dataset(frame, text="text", target="score").target, Numbers)
    frame["n"] = pandas.array([1, None, 2, 3] * 5, dtype="Int64")
    with pytest.raises(TransferlabError, match="DataFrame, row 2: the label is empty"):
        tl.dataset(frame, text="text", target="n")
    assert len(tl.dataset(frame, text="text", target="n", missing="drop").ids) == 15
    frame["when"] = pandas.date_range("2024-01-01", periods=20)
    with pytest.raises(TransferlabError, match="20 distinct dates in 20 rows"):
        tl.dataset(frame, text="text", target="when")
    with pytest.raises(TransferlabError, match="2 columns 'text'"):
        tl.dataset(pandas.concat([frame, frame], axis=1))


# -- Arrow -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow", "stream", "memory"])
def test_arrow_in_every_file_and_in_memory(tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    table = pa.table({"text": TABLE["text"], "label": pa.array(TABLE["label"]).dictionary_encode()})
    source: Any = tmp_path / f"t.{'arrow' if kind == 'stream' else kind}"
    if kind == "parquet":
        parquet.write_table(table, source)
    elif kind == "feather":
        feather.write_feather(table, str(source))
    elif kind == "memory":
        source = table
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(str(source), table.schema) as file:
            file.write_table(table)
    data = tl.dataset(source)
    assert len(data.ids) == 20 and data.label_names == ("bad", "good") and data.records[1]["text"] == "a film, number 1"


def test_nested_columns_of_arrow_are_lists_and_fields(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"en": f"e {i}", "de": f"d {i}"} for i in range(10)]
    table = pa.table({"translation": rows, "topics": [["a"], ["b"], ["a", "b"], [], ["a"]] * 2})
    parquet.write_table(table, tmp_path / "t.parquet")
    data = tl.dataset(tmp_path / "t.parquet", text="translation.en", target="topics")
    assert isinstance(data.target, TagSets) and data.records[2]["tags"] == ["a", "b"]
    data = tl.dataset(tmp_path / "t.parquet", text="translation.en", target="translation.de", label_kind="text")
    assert data.records[0]["target_text"] == "d 0"


def saved(folder: Path, table: Any, features: dict[str, Any]) -> None:
    """As ``Dataset.save_to_disk`` of ``datasets`` 5 writes a set."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    with pa.ipc.new_stream(str(folder / name), table.schema) as file:
        file.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}], "_split": None}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_a_saved_hugging_face_set_keeps_names_of_classes_and_splits(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    names = {"names": ["O", "B-PER", "I-PER"], "_type": "ClassLabel"}
    features = {
        "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
        "ner_tags": {"feature": names, "_type": "List"},
    }
    table = pa.table({"tokens": [["Ada", f"x{i}"] for i in range(10)], "ner_tags": [[1, 2], [0, 0]] * 5})
    saved(tmp_path / "ner", table, features)
    data = tl.dataset(tmp_path / "ner")
    assert isinstance(data.target, WordTags) and data.target.names == ("O", "B-PER", "I-PER")
    assert data.records[0]["word_tags"] == ["B-PER", "I-PER"]
    label = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    for split, n, labels in (("train", 20, [0, 1]), ("validation", 6, [1, 0]), ("test", 4, [-1, -1])):
        part = pa.table({"text": [f"{split} text {i}" for i in range(n)], "label": labels * (n // 2)})
        saved(tmp_path / "dict" / split, part, label)
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    data = tl.dataset(tmp_path / "dict")
    assert data.label_names == ("neg", "pos") and len(data.validation) == 6 and len(data.test) == 4
    assert "no row of 'test' has a target: 4 rows left out" in data.summary


def test_parquet_files_of_a_folder_are_splits_and_others_are_left_out(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "data").mkdir()
    for name, n in (
        ("train-00000-of-00002", 10),
        ("train-00001-of-00002", 8),
        ("test-00000-of-00001", 6),
        ("unsupervised-00000-of-00001", 3),
    ):
        rows = {"text": [f"{name} {i}" for i in range(n)], "label": [i % 2 for i in range(n)]}
        parquet.write_table(pa.table(rows), tmp_path / "data" / f"{name}.parquet")
    data = tl.dataset(tmp_path)
    assert (len(data.train), len(data.test)) == (18, 6)
    assert "the splits 'unsupervised' (3 rows) are left out" in data.summary


def test_a_damaged_parquet_file_and_a_missing_pyarrow_are_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(TransferlabError, match=r"t\.parquet cannot be read as parquet"):
        tl.dataset(tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TransferlabError, match=r"pip install 'transferlab\[tables\]'"):
        tl.dataset(tmp_path / "t.parquet")


def test_a_set_of_the_hub_is_read_with_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TransferlabError, match=r"pip install 'transferlab\[hf\]'"):
        tl.dataset("hf:owner/name")
    asked = []

    def load_dataset(name: str, configuration: str | None, revision: str | None) -> dict[str, Any]:
        asked.append((name, configuration, revision))
        if name == "owner/none":
            raise ConnectionError("no such set")
        return {
            split: pa.table({"text": [f"{split} {i}" for i in range(8)], "label": [0, 1] * 4})
            for split in ("train", "test")
        }

    stand_in: Any = types.ModuleType("datasets")
    stand_in.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    data = tl.dataset("hf:owner/name/small@main")
    assert asked == [("owner/name", "small", "main")] and (len(data.train), len(data.test)) == (8, 8)
    with pytest.raises(
        TransferlabError, match=r"'hf:owner/none' cannot be read from the hub \(ConnectionError: no such set"
    ):
        tl.dataset("hf:owner/none")
    with pytest.raises(TransferlabError, match="expected hf:owner/name"):
        tl.dataset("hf:a/b/c/d")


# -- CoNLL and plain text ----------------------------------------------------------------------------------------

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC

# id 7 domain=en
Peter NNP B-NP B-PER
# NN B-NP O

"""
CONLLU = """# sent_id = 1
# text = We don't
1\tWe\twe\tPRON\tPRP\tCase=Nom\t2\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_
3.1\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_

1\tNew York\tNew York\tPROPN\t_\t_\t0\troot\t_\t_
2\t_\t_\t_\t_\t_\t1\tpunct\t_\t_
"""


def test_conll_sentences_have_words_and_the_last_column_s_tags(tmp_path: Path) -> None:
    (tmp_path / "t.conll").write_text(CONLL)
    data = tl.dataset(tmp_path / "t.conll", test_examples=1)
    assert data.content == "words" and isinstance(data.target, WordTags)
    assert data.records[0] == {
        "id": "sentence 1",
        "words": ["EU", "rejects", "German"],
        "word_tags": ["B-ORG", "O", "B-MISC"],
    }
    assert data.records[1]["words"] == ["Peter", "#"]
    data = tl.dataset(tmp_path / "t.conll", target="2", test_examples=1)
    assert data.records[0]["word_tags"] == ["NNP", "VBZ", "JJ"]
    (tmp_path / "u.bio").write_text("EU B-ORG\nrejects\n")
    with pytest.raises(TransferlabError, match=r"u\.bio, line 2: 1 fields, where other lines have 2: 'rejects'"):
        tl.dataset(tmp_path / "u.bio")
    (tmp_path / "v.iob").write_text("\n\n")
    with pytest.raises(TransferlabError, match="no line holds a word"):
        tl.dataset(tmp_path / "v.iob")


def test_conllu_has_its_columns_by_name_and_only_its_words(tmp_path: Path) -> None:
    (tmp_path / "t.conllu").write_text(CONLLU)
    data = tl.dataset(tmp_path / "t.conllu", test_examples=1)
    assert [data.records[i]["words"] for i in range(2)] == [["We", "do", "n't"], ["New York", "_"]]
    assert data.records[0]["word_tags"] == ["PRON", "AUX", "PART"] and data.records[1]["word_tags"] == ["PROPN", None]
    assert tl.dataset(tmp_path / "t.conllu", target="deprel", test_examples=1).records[0]["word_tags"][1] == "root"
    with pytest.raises(TransferlabError, match=r"has no column 'pos'.*Did you mean '[ux]pos'"):
        tl.dataset(tmp_path / "t.conllu", target="pos")
    parts = {"train": tmp_path / "t.conllu", "test": tmp_path / "u.conllu"}
    parts["test"].write_text("1\tGo\tgo\tAUX\t_\t_\t0\troot\t_\t_\n")
    assert tl.dataset(parts).ids == ("sentence 1 of train", "sentence 2 of train", "sentence 1 of test")


@pytest.mark.parametrize(
    ("documents", "texts"),
    [(None, ["one\n two", "three", "four"]), ("line", ["one", " two", "three", "four"]), ("file", ["one\n two\n\nthree\n \nfour"])],
)  # fmt: skip
def test_a_text_is_cut_into_documents(tmp_path: Path, documents: Any, texts: list[str]) -> None:
    (tmp_path / "t.txt").write_bytes(b"one\r\n two\r\n\r\nthree\r\n \r\nfour\r\n")
    data = tl.dataset(tmp_path / "t.txt", documents=documents)
    assert [data.records[i]["text"] for i in range(len(data.ids))] == texts and isinstance(data.target, NoTarget)
    assert data.ids[-1] == {None: "line 6", "line": "line 6", "file": "line 1"}[documents]


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("Jane B-PER\nDoe I-PER\nsleeps O\n\nRome B-LOC\nis O\n", ".conll"),
        ("-DOCSTART- -X- O\n\nJane NNP B-PER\nsleeps VBZ O\n\nRome NNP B-LOC\n", ".conll"),
        ("Jane\tname\nsleeps\tverb\n\nRome\tname\nis\tverb\n", ".conll"),
        ("a DT\nfilm NN\n\nthe DT\nday NN\n", ".conll"),
        ("# text = Jane sleeps\n" + "1\tJane\tJane\tPROPN\t_\t_\t2\tnsubj\t_\t_\n" * 3, ".conllu"),
        ("a fine film\tgood\na dull one\tbad\na long day\tbad\n", ".tsv"),
    ],
)
def test_words_with_tags_in_a_text_file_are_not_read_as_texts(tmp_path: Path, text: str, suffix: str) -> None:
    for path in (tmp_path / "t.txt", tmp_path / "folder" / "t.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        with pytest.raises(TransferlabError, match=rf"t\.txt: each line is .* ends in \{suffix};.* documents='line'"):
            tl.dataset(path if path.parent == tmp_path else path.parent)
    assert tl.dataset(tmp_path / "t.txt", documents="line").target.kind == "none"


@pytest.mark.parametrize(
    "text", ["John Smith\nMary Jones\n\nJane Doe\nMax Doe\n", "Oh no\nOh yes\nOh no\nOh\n", "A B\nC B\nD B\nE B\n"]
)
def test_lines_with_as_many_words_each_are_texts(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.txt").write_text(text)
    assert len(tl.dataset(tmp_path / "t.txt", documents=None if "\n\n" in text else "line").ids) > 1
    from transferlab.data.readers.text import check_prose

    check_prose(tmp_path / "t.txt")


def test_documents_is_for_texts_and_an_empty_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n \n")
    with pytest.raises(TransferlabError, match=r"t\.txt' has no examples: it is empty"):
        tl.dataset(tmp_path / "t.txt")
    with pytest.raises(TransferlabError, match=r"documents is 'line', but .* does not take it"):
        tl.dataset(TABLE, documents="line")
    with pytest.raises(TransferlabError, match=r"documents is 'lines'\. Did you mean 'line'"):
        tl.dataset(tmp_path / "t.txt", documents="lines")


# -- folders -----------------------------------------------------------------------------------------------------


def test_folders_of_texts_with_and_without_labels(tmp_path: Path) -> None:
    for label in ("ham", "spam"):
        (tmp_path / "mail" / label).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "mail" / label / f"{i}.txt").write_text(f"{label} {i}\n\nmore {label} {i}\n")
    data = tl.dataset(tmp_path / "mail")
    assert (
        data.label_names == ("ham", "spam")
        and data.ids[0] == "ham/0.txt"
        and data.records[0]["text"] == "ham 0\n\nmore ham 0"
    )
    assert len(tl.dataset(tmp_path / "mail", documents="paragraph").ids) == 20
    data = tl.dataset(tmp_path / "mail" / "ham")
    assert len(data.ids) == 5 and isinstance(data.target, NoTarget)


def test_images_named_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for i in range(10):
        image(i).save(tmp_path / "img" / f"{i}.png")
    (tmp_path / "t.csv").write_text("file,kind\n" + "\n".join(f"img/{i}.png,{'ab'[i % 2]}" for i in range(10)))
    data = tl.dataset(tmp_path / "t.csv", image="file", target="kind")
    assert data.content == "image" and data.records[4]["image"].shape == (6, 5, 3) and data.label_names == ("a", "b")
    (tmp_path / "u.csv").write_text("file,kind\nimg/0.png,a\nimg/x.png,b\n")
    with pytest.raises(TransferlabError, match=r"u\.csv, row 2: there is no file '.*img/x\.png'"):
        tl.dataset(tmp_path / "u.csv", image="file", target="kind")


def test_images_as_bytes_arrays_and_pillow_objects() -> None:
    out = io.BytesIO()
    image(0).save(out, "PNG")
    cells = [
        out.getvalue(),
        {"bytes": out.getvalue(), "path": None},
        np.asarray(image(1)),
        image(2),
        np.zeros((4, 4), np.uint8),
        image(3),
    ]
    data = tl.dataset({"image": cells, "label": [0, 1] * 3}, test_examples=1)
    assert data.duplicates_removed == 1 and data.records[3]["image"].shape == (4, 4, 3)
    with pytest.raises(TransferlabError, match=r"row 1: the image has shape \(4, 4\) and type float64"):
        tl.dataset({"image": [np.zeros((4, 4)), image(1)], "label": [0, 1]})


def test_sounds_in_folders_keep_their_rate_and_become_one_channel(tmp_path: Path) -> None:
    for label in ("bark", "meow"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "test" / label).mkdir(parents=True)
        for i in range(4):
            sound(
                tmp_path / "train" / label / f"{i}.wav", i + len(label) * ord(label[0]), 16000 if i else 8000, 1 + i % 2
            )
        sound(tmp_path / "test" / label / "9.WAV", 99 + ord(label[0]))
    data = tl.dataset(tmp_path)
    assert data.content == data.modality == "audio" and (len(data.train), len(data.test)) == (8, 2)
    first = data.records[data.ids.index("train/bark/1.wav")]
    assert first["audio"].dtype == np.float32 and first["audio"].shape == (800,) and first["rate"] == 16000
    assert np.abs(first["audio"]).max() <= 3000 / 32768
    assert "8,000 Hz and 16,000 Hz; 4 with several channels, which are averaged" in data.summary
    (tmp_path / "train" / "bark" / "0.wav").write_bytes(b"RIFF not a sound")
    with pytest.raises(TransferlabError, match=r"train/bark/0\.wav"):
        tl.dataset(tmp_path)


def test_sounds_named_in_a_table_or_as_samples(tmp_path: Path) -> None:
    for i in range(6):
        sound(tmp_path / f"{i}.wav", i)
    (tmp_path / "t.csv").write_text("clip,kind\n" + "\n".join(f"{i}.wav,{'ab'[i % 2]}" for i in range(6)))
    data = tl.dataset(tmp_path / "t.csv", audio="clip", target="kind")
    assert data.content == "audio" and data.records[0]["rate"] == 8000
    cells = [{"array": np.full(10, i / 10, np.float32), "sampling_rate": 16000} for i in range(6)]
    data = tl.dataset({"audio": cells, "label": [0, 1] * 3})
    assert data.records[2]["audio"].tolist() == pytest.approx([0.2] * 10)
    with pytest.raises(TransferlabError, match=r"row 1: the sound is .*'sampling_rate': 16000"):
        tl.dataset({"audio": [np.zeros(10), np.ones(10)], "label": [0, 1]})


def test_wav_of_every_width_has_samples_from_minus_one_to_one(tmp_path: Path) -> None:
    from scipy.io import wavfile

    from transferlab.data.sounds import read_sound

    values = np.array([-1.0, -0.5, 0.0, 0.5])
    for dtype, scale, offset in (("uint8", 128, 128), ("int16", 2**15, 0), ("int32", 2**31, 0), ("float32", 1, 0)):
        wavfile.write(tmp_path / "t.wav", 8000, (values * scale + offset).astype(dtype))
        samples, rate = read_sound(tmp_path / "t.wav", "t")
        assert rate == 8000 and samples[:, 0].tolist() == values.tolist()


def test_a_folder_of_images_and_sounds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    image(0).save(tmp_path / "a" / "0.png")
    sound(tmp_path / "a" / "0.wav", 0)
    with pytest.raises(TransferlabError, match="holds images and sounds"):
        tl.dataset(tmp_path)


# -- TFDS and the registry ---------------------------------------------------------------------------------------


def test_a_set_of_tfds_is_read_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transferlab.data.arrayrecord import tfds
    from transferlab.data.images import png

    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))

    class TransferlabSquares(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {
                "img": tfds.features.Image(shape=(None, None, 3)),
                "kind": tfds.features.ClassLabel(names=["a", "b"]),
                "n": np.int64,
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("img", "kind")
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples(10, 0), "test": self._generate_examples(4, 100)}

        def _generate_examples(self, n: int, start: int) -> Any:
            for i in range(n):
                pixels = np.full((4, 5, 3), start + i, np.uint8)
                yield str(i), {"img": io.BytesIO(png(pixels)), "kind": i % 2, "n": i}

    data = tl.dataset("tfds:transferlab_squares")
    assert (len(data.train), len(data.test)) == (10, 4) and data.label_names == ("a", "b")
    assert data.records[0]["image"].shape == (4, 5, 3) and "tensorflow" not in sys.modules
    assert isinstance(tl.dataset("tfds:transferlab_squares", target="n", label_kind="numbers").target, Numbers)
    with pytest.raises(
        TransferlabError, match=r"TFDS has no data set 'transferlab_squars'\. Did you mean 'transferlab_squares'"
    ):
        tl.dataset("tfds:transferlab_squars")


def test_each_reader_says_what_it_reads_and_a_new_file_is_a_new_reader() -> None:
    found = readers()
    assert len({reader.name for reader in found}) == len(found) >= 9
    assert [reader.last for reader in found] == sorted(reader.last for reader in found)


def test_opening_a_table_imports_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"a film {i},{i % 2}\n" for i in range(9)))
    code = (
        "import sys, transferlab as tl; tl.dataset(sys.argv[1]); heavy = {'pandas', 'pyarrow', 'datasets', 'soundfile', "
        "'tensorflow_datasets', 'sklearn', 'scipy', 'matplotlib', 'jax'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t.csv")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_a_folder_s_run_records_no_column_of_text(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(3):
            image(i + 10 * ord(label)).save(tmp_path / label / f"{i}.png")
    assert tl.dataset(tmp_path).text_column is None
    assert tl.dataset({"body": TABLE["text"], "label": TABLE["label"]}).text_column == "body"
