"""Every task on every family, as the table in docs/tasks.md says: it fits, resumes to the same bits, predicts and is exported, or is
refused with the reason. ``EVERY=1 pytest tests/tasks/test_families.py`` tries all cells; by default each task is tried on one family,
and each family with one task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.families import FAMILY_CONFIGS, write_family
from support.typed import found

import transferlab as tl
from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError
from transferlab.tasks import Task
from transferlab.train import Settings
from transferlab.trees import walk

WORDS = ("good", "great", "fine", "bad", "poor", "sad", "film", "day")
ROWS = 24
SETTINGS = Settings(learning_rate=1e-2, steps=4, batch_size=4, checkpoint_steps=2)


def text(i: int, words: int = 4) -> str:
    return " ".join(WORDS[(i * 3 + k * (1 + i % 2)) % len(WORDS)] for k in range(words)) + (" very" * (i % 3))


def columns(task: str) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """A table for a task, and what its columns are."""
    rows = range(ROWS)
    if task == "token_labels":
        tags = ("O", "B-X", "I-X")
        return {"words": [text(i).split() for i in rows],
                "tags": [[tags[(i + k) % 3] for k in range(len(text(i).split()))] for i in rows]}, {"words": "words", "target": "tags"}  # fmt: skip
    table: dict[str, list[Any]] = {"text": [text(i) for i in rows]}
    if task in ("masked_language_model", "causal_language_model"):
        return table, {"text": "text", "target": None}
    table["other"] = [text(i + 7, 3) for i in rows]
    if task == "contrastive":
        return table, {"text": ("text", "other"), "target": None}
    if task == "sequence_to_sequence":
        return table, {"text": "text", "target": "other", "label_kind": "text"}
    table["target"] = targets(task)
    return table, {"text": ("text", "other") if task == "pairs" else "text", "target": "target"}


def open_table(table: dict[str, list[Any]], **roles: Any) -> tl.data.Dataset:
    return tl.dataset(table, **roles)


def targets(task: str) -> list[Any]:
    if task == "regression":
        return [100.0 + 7.3 * i for i in range(ROWS)]
    if task == "multi_label":
        return [["a"] * (i % 2) + ["b"] * (i // 2 % 2) for i in range(ROWS)]
    return [("no", "yes")[i % 2] for i in range(ROWS)]


def dataset(task: str, modality: str, folder: Path):
    if modality == "text":
        table, roles = columns(task)
        table = {
            name: values
            for name, values in table.items()
            if task in ("pairs", "contrastive", "sequence_to_sequence") or name != "other"
        }
        return open_table(table, test_examples=6, **roles)
    rng = np.random.default_rng(0)
    if modality == "image":
        from PIL import Image

        files = [folder / f"{i}.png" for i in range(ROWS)]
        for file in files:
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(file)
    else:
        from scipy.io import wavfile

        files = [folder / f"{i}.wav" for i in range(ROWS)]
        for file in files:
            wavfile.write(file, 16000, rng.integers(-9000, 9000, 800).astype(np.int16))
    table = {modality: [str(file) for file in files], "target": targets(task)}
    return open_table(table, target="target", test_examples=6, **{modality: modality})


TASKS: dict[str, Callable[[], Task | None]] = {
    "classification": lambda: None,
    "regression": lambda: None,
    "multi_label": lambda: None,
    "pairs": lambda: None,
    "token_labels": lambda: None,
    "masked_language_model": tl.tasks.MaskedLanguageModel,
    "causal_language_model": tl.tasks.CausalLanguageModel,
    "sequence_to_sequence": lambda: None,
    "contrastive": lambda: None,
}
TEXTS = (
    "pairs",
    "token_labels",
    "masked_language_model",
    "causal_language_model",
    "sequence_to_sequence",
    "contrastive",
)
FIRST = {"causal_language_model": "gpt2", "sequence_to_sequence": "t5"}


FORMATS = {"✓": "hf", "s": "sentence-transformers", "o": "orbax"}


def documented() -> dict[tuple[str, str], str]:
    """(task, family) → the sign in the table of docs/tasks.md."""
    lines = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| family |"))
    names = [re.sub(r"\W+", "_", name.strip()) for name in lines[start].strip("|").split("|")[1:]]
    cells = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        family, *signs = (cell.strip() for cell in line.strip("|").split("|"))
        cells |= {(name, family): sign for name, sign in zip(names, signs, strict=True)}
    return cells


def chosen() -> list[tuple[str, str]]:
    cells = documented()
    if os.environ.get("EVERY"):
        return list(cells)
    diagonal = [(task, FIRST.get(task, "bert")) for task in TASKS]
    families = [("regression" if i % 2 else "classification", family) for i, family in enumerate(FAMILY_CONFIGS)]
    refused = [
        ("token_labels", "vit"),
        ("causal_language_model", "bert"),
        ("masked_language_model", "gpt2"),
        ("contrastive", "whisper"),
    ]
    return list(dict.fromkeys([*diagonal, *families, *refused]))


def test_the_table_has_every_task_and_family() -> None:
    assert set(documented()) == {(task, family) for task in TASKS for family in FAMILY_CONFIGS}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    kept: dict[str, Any] = {}

    def source(kind: str) -> Any:
        if kind not in kept:
            kept[kind] = tl.load(write_family(tmp_path_factory.mktemp("families") / kind.replace(" ", "-"), kind))
        return kept[kind]

    return source


class Stopped(Exception):
    """Raised in the middle of a run."""


def equal(one: Any, other: Any) -> None:
    if isinstance(one, Ragged):
        one, other = one.values, other.values
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("task", "family"), chosen())
def test_a_cell_of_the_table(task: str, family: str, sources, tmp_path: Path) -> None:
    source, sign = sources(family), documented()[task, family]
    if task not in ("causal_language_model", "sequence_to_sequence") and family == "t5":
        source = source.encoder()
    data = dataset(task, source.modality, tmp_path)
    method = tl.methods.Full()
    if source.modality != "text" and task in TEXTS:
        assert sign == "–"  # it is of texts
        return
    if sign == "–":
        with pytest.raises(TransferlabError) as refused:
            tl.adapt(source, data, method=method, task=TASKS[task](), settings=SETTINGS)
        assert len(str(refused.value)) > 40
        return
    whole = tl.adapt(source, data, method=method, task=TASKS[task](), settings=SETTINGS).fit()
    run = tl.adapt(source, data, method=method, task=TASKS[task](), settings=SETTINGS, directory=tmp_path / "run")

    def stop(done: int, total: int, metrics: Any) -> None:
        if done >= 3:
            raise Stopped

    with pytest.raises(Stopped):
        run.fit(report=stop)
    result = run.fit()
    assert all(
        np.isfinite(value) for name, value in result.test.items() if name in ("cross_entropy", "rmse", "accuracy")
    )
    for name, values in whole.predictions.items():
        equal(values, result.predictions[name])
    again = tl.open_run(tmp_path / "run")
    examples = [example_of(data.records[int(i)]) for i in data.test]
    predicted = again(examples)
    if run.task.predicted in result.predictions and not isinstance(predicted, list):
        got = predicted.values if isinstance(predicted, Ragged) else predicted
        want = result.predictions[run.task.predicted]
        np.testing.assert_allclose(got, want.values if isinstance(want, Ragged) else want, atol=2e-5)
    adapted = found(result.source)
    saved = tl.load(tl.save(adapted, tmp_path / "saved", format=FORMATS[sign]))
    trained = {path: leaf for path, leaf in adapted.leaves.items() if not path.startswith("pooler/")}
    assert saved.leaves.keys() - adapted.leaves.keys() <= {path for path in saved.leaves if path.startswith("pooler/")}
    assert task == "contrastive" or type(saved.head) is type(adapted.head)
    for path, leaf in trained.items():
        np.testing.assert_array_equal(saved.leaves[path].read(), leaf.read(), err_msg=path)


NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "t5": {"dropout_rate": 0.0},
}


@pytest.mark.parametrize("task", [name for name in TASKS if name != "contrastive"])
def test_a_batch_in_parts_and_with_padding_trains_as_the_whole(task: str, tmp_path: Path) -> None:
    kind = FIRST.get(task, "bert")
    source = tl.load(write_family(tmp_path / kind, kind, **NO_DROPOUT[kind]))
    data = dataset(task, "text", tmp_path)
    settings = replace(SETTINGS, batch_size=12, optimizer=tl.train.Optimizer("sgd"), learning_rate=0.1)
    assert len(data.train) % 12
    trees = []
    for accumulate in (1, 3):
        chosen = replace(settings, accumulate=accumulate)
        trees.append(tl.adapt(source, data, task=TASKS[task](), settings=chosen).fit().params)
    whole, parts = (dict(walk(tree)) for tree in trees)
    for path, leaf in whole.items():
        np.testing.assert_allclose(parts[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)


def example_of(record: dict[str, Any]) -> Any:
    """A record as one passes it to a predictor."""
    if "words" in record:
        return record["words"]
    if "text_pair" in record:
        return record["text"], record["text_pair"]
    return (record["audio"], record["rate"]) if "audio" in record else record.get("image", record.get("text"))
