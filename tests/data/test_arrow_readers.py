"""Readers of Arrow's files and of Hugging Face's sets: in every form, with their classes and splits."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import transferlab as tl
from transferlab.data.columns import TagSets, WordTags
from transferlab.errors import TransferlabError

TABLE = {"text": [f"a film, number {i}" for i in range(20)], "label": ["good", "bad"] * 10}


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
