"""``docs/compared.md``: our programs are run, all of them are counted, and ours is never longer."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from support.checkpoints import WORDS
from support.families import write_family

ROOT = Path(__file__).parents[1]
PATHS = runpy.run_path(str(ROOT / "experiments" / "benchmarks" / "paths.py"))
PAGE = (ROOT / "docs" / "compared.md").read_text("utf-8")
PROGRAMS: dict[str, dict[str, str]] = PATHS["programs"](PAGE)


def table(path: Path, header: str, rows: list[tuple[Any, ...]]) -> None:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def texts(count: int = 40) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 6)) + f" {i}" for i in range(count)]


def files(folder: Path) -> None:
    """What the programs of the page find on disk."""
    some = texts()
    labels = ["good" if i % 2 else "bad" for i in range(40)]
    table(folder / "reviews.csv", "text,label", list(zip(some, labels, strict=True)))
    table(folder / "train.csv", "text,label", list(zip(some, labels, strict=True))[:30])
    table(folder / "test.csv", "text,label", list(zip(some, labels, strict=True))[30:])
    table(folder / "ratings.csv", "text,stars", [(text, round(0.5 + i * 0.11, 2)) for i, text in enumerate(some)])
    table(folder / "pairs.csv", "premise,hypothesis,label", list(zip(some, some[::-1], labels, strict=True)))
    tags = ["funny|short", "funny", "short"]
    table(folder / "tagged.csv", "text,tags", [(text, tags[i % 3]) for i, text in enumerate(some)])
    table(folder / "titles.csv", "text,title", [(text, " ".join(text.split()[:2])) for text in some])
    table(folder / "answers.csv", "question,answer", list(zip(some, some[::-1], strict=True)))
    sentences = [f"Ada B-PER\nwas O\nin O\n{'London' if i % 2 else 'Paris'} B-LOC\n" + ". O\n" * i for i in range(40)]
    (folder / "names.conll").write_text("\n".join(sentences))
    (folder / "corpus.txt").write_text("\n\n".join(some))
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (18, 17, 3), np.uint8)).save(folder / "photos" / label / f"{i}.png")
    paths = [(f"photos/{label}/{i}.png", label) for label in ("cat", "dog") for i in range(10)]
    table(folder / "photos.csv", "image,label", paths)
    Image.fromarray(rng.integers(0, 256, (18, 17, 3), np.uint8)).save(folder / "new.png")
    for label in ("bark", "meow"):
        (folder / "sounds" / label).mkdir(parents=True)
        for i in range(6):
            samples = rng.integers(-999, 999, 8000, np.int16)
            wavfile.write(folder / "sounds" / label / f"{i}.wav", 16000, samples)
    wavfile.write(folder / "new.wav", 16000, rng.integers(-999, 999, 8000, np.int16))


def saved(folder: Path) -> None:
    """A Parquet file, and a set as ``datasets`` saves it, whose classes have names."""
    import pyarrow
    from pyarrow import parquet

    labels = [i % 2 for i in range(40)]
    parquet.write_table(
        pyarrow.table({"text": texts(), "label": [("bad", "good")[i] for i in labels]}), folder / "reviews.parquet"
    )
    (folder / "saved").mkdir()
    rows = pyarrow.table({"text": texts(), "label": labels})
    with pyarrow.ipc.new_stream(str(folder / "saved" / "data-00000-of-00001.arrow"), rows.schema) as stream:
        stream.write_table(rows)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": None, "_fingerprint": "0",
             "_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}  # fmt: skip
    (folder / "saved" / "state.json").write_text(json.dumps(state))
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
    }
    (folder / "saved" / "dataset_info.json").write_text(json.dumps({"features": features}))


def checkpoints(folder: Path) -> None:
    """Tiny models by the names that the page gives them."""
    for name in ("bert", "t5", "vit"):
        write_family(folder / name, name)
    write_family(folder / "gpt2", "gpt2", n_positions=128)
    write_family(folder / "whisper", "whisper", max_source_positions=100)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    for write in (files, saved, checkpoints):
        write(folder)
    return folder


@pytest.mark.parametrize("kind", PROGRAMS)
def test_our_program_trains_scores_and_predicts(kind: str, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(disk)
    names: dict[str, Any] = {}
    if kind == "A pandas DataFrame":
        names["df"] = pytest.importorskip("pandas").read_csv("reviews.csv")
    *lines, scores, prediction = PROGRAMS[kind]["ours"].strip().splitlines()
    exec("\n".join(lines), names)
    test, predicted = eval(scores, names), eval(prediction, names)
    assert test and all(np.isfinite(list(test.values())))
    assert len(getattr(predicted, "texts", predicted)) == 1


def test_the_table_is_what_is_counted_and_ours_is_never_longer() -> None:
    assert len(PROGRAMS) >= 15 and all("ours" in of and len(of) > 1 for of in PROGRAMS.values())
    assert not PATHS["longer"](PAGE) and not PATHS["stale"](PAGE)


def test_a_long_line_counts_as_much_as_short_ones_and_imports_are_no_statements() -> None:
    length_of = PATHS["length_of"]
    assert str(length_of("import a\nb = a.c(1)  # why\n")) == "1 / 10"
    assert str(length_of("for i in (\n    1,\n    2,\n):\n    i; i\n")) == "3 / 12"
    page = PAGE.replace('result.predict([("a man sleeps"', 'a = b = c = 1\nresult.predict([("a man sleeps"') + "\n" * 3
    assert not PATHS["longer"](page) and PATHS["stale"](page)
    longest = PAGE.replace('result = tl.adapt("bert", df).fit()', "a = 1\n" * 60)
    assert any(line.startswith("A pandas DataFrame: ours 62 / ") for line in PATHS["longer"](longest))
