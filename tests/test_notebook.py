"""What results and data sets look like where people meet them first: at a prompt, and in a notebook."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.runs import QUICK, fit

import transferlab as tl
from transferlab import notebook


def test_a_result_says_its_scores_and_what_was_trained(source, films, tmp_path: Path) -> None:
    _, result = fit(source, films.subset(24, 0), tl.methods.Probe(), tmp_path / "run")
    about = r"probe: 34 parameters trained, 9 steps in \S+ s, 60 test examples"
    assert re.fullmatch(rf"Result\(accuracy \S+, balanced accuracy \S+, cross entropy \S+; {about}\)", repr(result)), (
        repr(result)
    )
    html = result._repr_html_()
    assert re.match(rf"<div>finished; {about}</div><table>", html)
    assert f"balanced accuracy</td><td style='text-align:left'>{result.test['balanced_accuracy']:.4g}</td>" in html
    again = tl.adapt(
        source, films.subset(24, 0), method=tl.methods.Probe(), settings=QUICK, directory=tmp_path / "run"
    ).fit()
    assert repr(again) == repr(result)


def test_a_result_of_a_run_that_diverged_says_where(source, films, tmp_path: Path) -> None:
    from transferlab.train.result import read_result

    sgd = replace(QUICK, learning_rate=1e30, optimizer=tl.train.Optimizer("sgd", {"momentum": 0.9}))
    with pytest.raises(tl.train.Diverged) as raised:
        fit(source, films.subset(24, 0), tl.methods.Full(), tmp_path / "run", settings=sgd)
    for result in (raised.value.results[0], read_result(tmp_path / "run")):
        assert repr(result).startswith("Result(diverged at step ") and "accuracy" not in repr(result)
        assert result._repr_html_().startswith("<div>diverged at step ")


def test_a_data_set_shows_its_summary_and_first_examples(films) -> None:
    html = films._repr_html_()
    assert html.startswith(f"<div>{films.name}: {films.summary}</div>") and html.count("<tr>") == 6
    first = films.records[int(films.train[0])]
    assert (
        f"<td style='text-align:left'>{films.label_names[first['label']]}</td>" in html and first["text"][:40] in html
    )


def test_images_are_shown_small(tmp_path: Path) -> None:
    for number, label in enumerate(("emu", "yak")):
        (tmp_path / label).mkdir()
        for i in range(4):
            Image.fromarray(np.full((200, 400, 3), 40 * i + number, np.uint8)).save(tmp_path / label / f"{i}.png")
    html = tl.dataset(tmp_path, test_examples=2)._repr_html_()
    images = re.findall(r"<img src='data:image/png;base64,([^']+)'>", html)
    assert len(images) == 5 and Image.open(io.BytesIO(base64.b64decode(images[0]))).size == (96, 48)
    assert "emu" in html


def test_what_data_holds_is_escaped_and_cut() -> None:
    html = notebook.table("<b>", [{"a": "<script>", "b": "x" * 1000}, {"a": np.zeros((2, 3)), "c": "\x1b[31m"}])
    assert "<b>" not in html and "&lt;script&gt;" in html and "x" * 301 not in html and "x" * 300 + "…" in html
    assert "float64 (2, 3)" in html and "\x1b" not in html
    assert notebook.table("nothing", []) == "<div>nothing</div>"
