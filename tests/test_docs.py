"""Documentation: what a page shows is what happens."""

from __future__ import annotations

import doctest
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

DOCS = Path(__file__).parent.parent / "docs"


def table(path: Path, header: str, rows: list[tuple[Any, ...]]) -> None:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def files(folder: Path) -> None:
    """The files that ``docs/data.md`` opens."""
    reviews = [(f"a film number {i}", "good" if i % 2 else "bad") for i in range(40)]
    table(folder / "reviews.csv", "text,label", reviews)
    for name, part in (("train", reviews[:24]), ("dev", reviews[24:30]), ("test", reviews[30:38])):
        table(folder / f"{name}.csv", "text,label", part)
    table(
        folder / "folds.csv",
        "text,label,fold,user",
        [(*row, "test" if i < 10 else "train", f"u{i // 4}") for i, row in enumerate(reviews)],
    )
    table(
        folder / "gaps.csv",
        "text,label",
        [(text, "" if i in (2, 6) else label) for i, (text, label) in enumerate(reviews)],
    )
    table(
        folder / "ratings.csv",
        "sentence,stars",
        [(text, round(0.5 + i * 0.1136, 2)) for i, (text, _) in enumerate(reviews)],
    )
    table(folder / "several.csv", "text,stars,likes", [(text, i / 7, i * 3) for i, (text, _) in enumerate(reviews)])
    pairs = [
        {"premise": f"a man number {i}", "hypothesis": f"someone is {i}", "label": "yes" if i % 2 else "no"}
        for i in range(40)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    words = [
        {
            "tokens": ["Ada", "wrote", "in", "London" if i % 2 == 0 else "Paris", *["."] * i],
            "ner_tags": ["B-PER", "O", "O", "B-LOC", *["O"] * i],
        }
        for i in range(10)
    ]
    (folder / "tokens.jsonl").write_text("\n".join(map(json.dumps, words)))
    (folder / "corpus.txt").write_text("\n\n".join(f"the first line of {i}\nthe second of {i}" for i in range(10)))
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).save(folder / "photos" / f"{i}.png")
    table(folder / "photos.csv", "file,kind", [(f"photos/{i}.png", "dog" if i % 2 else "cat") for i in range(12)])
    for kind, label in (("mail", "ham"), ("mail", "spam"), ("sounds", "bark"), ("sounds", "meow")):
        (folder / kind / label).mkdir(parents=True)
        for i in range(6):
            if kind == "mail":
                (folder / kind / label / f"{i}.txt").write_text(f"{label} number {i}")
            else:
                shape = (400, 2) if label == "meow" and i < 3 else (400,)
                wavfile.write(folder / kind / label / f"{i}.wav", 8000, rng.integers(-999, 999, shape, np.int16))


@pytest.mark.parametrize("page", ["data.md", "methods.md", "own_model.md", "own_loop.md", "extending.md"])
def test_every_line_of_a_page_does_what_it_shows(
    page: str, tmp_path: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch, registries: None
) -> None:
    files(tmp_path)
    (tmp_path / "model").symlink_to(bert_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as of a script in this folder
    text = (DOCS / page).read_text("utf-8")
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for block in blocks:
        if name := re.match(r"# (\w+\.py)\n", block[1]):
            (tmp_path / name[1]).write_text(block[1])
            continue
        line = text[: block.start()].count("\n") + 1
        test = parser.get_doctest(block[1], names, f"{page}, line {line}", str(DOCS / page), line)
        test.globs = names
        runner.run(test, out=said.append, clear_globs=False)
    sys.modules.pop("my_method", None)
    assert not runner.failures, "".join(said)
    assert runner.tries >= 15
