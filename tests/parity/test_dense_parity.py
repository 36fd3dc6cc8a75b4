"""Classifiers of texts in sentence-transformers: the same logits and probabilities from the directory that is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_bert
from support.families import write_family
from support.tables import write_table
from support.typed import as_text, found

import transferlab as tl
from transferlab import trees
from transferlab.models import ClassifierConfig
from transferlab.models.heads import HiddenLayer, Problem

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="pip install --no-deps sentence-transformers"
)

# Three lengths, so that two are padded; the last is longer than the model reads.
TEXTS = ["good film was very bad", "sad", "a fine day and it was a great great film " * 8]
LABELS = ("no", "perhaps", "yes")


def trained(source: tl.Source, head: ClassifierConfig) -> tl.Source:
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(source.config.build(head)).params)
    flat = {path: rng.normal(size=leaf.shape).astype(np.float32) * 0.3
            for path, leaf in shapes.items() if path.startswith("head/")}  # fmt: skip
    return source.with_params(trees.unflatten(flat), head=head)


def logits(source: tl.Source) -> np.ndarray:
    transform = as_text(source.transform)
    encoded = transform.encode(TEXTS)
    return np.asarray(source(transform.pad(encoded, max(len(one.ids) for one in encoded), len(TEXTS)))["logits"])


def words(folder: Path) -> Path:
    """Let transformers read the tokenizer as it is in the file, whatever its class for the model expects in one."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", ClassifierConfig(LABELS)),
        ("bert", ClassifierConfig(LABELS, pooling="first", normalise=True, bias=False)),
        ("bert", ClassifierConfig(LABELS, problem="multi_label_classification")),
        *[("bert", ClassifierConfig(LABELS, hidden=HiddenLayer(name, size=5))) for name in ("tanh", "gelu", "silu", "relu")],
        ("roberta", ClassifierConfig(LABELS, pooling="first", hidden=HiddenLayer("tanh"))),
        ("distilbert", ClassifierConfig(LABELS)),
        ("mpnet", ClassifierConfig(LABELS)),
        ("modernbert", ClassifierConfig(LABELS)),
        ("gpt2", ClassifierConfig(("a number",), pooling="last", problem="regression")),
        ("llama", ClassifierConfig(LABELS)),
        ("gemma2", ClassifierConfig(LABELS, pooling="last")),
        ("t5", ClassifierConfig(LABELS)),
        ("clip text", ClassifierConfig(LABELS)),
    ],
)  # fmt: skip
def test_the_logits_are_those_of_the_written_modules(family: str, head: ClassifierConfig, tmp_path: Path) -> None:
    source = tl.load(words(write_family(tmp_path / "base", family)))
    source = trained(source.encoder() if family == "t5" else source, head)
    out = tl.save(source, tmp_path / "out", format="sentence-transformers")
    model = sentence_transformers.SentenceTransformer(str(out), device="cpu")
    assert model.max_seq_length == as_text(source.transform).max_length
    assert model[0].auto_model.config.id2label == dict(enumerate(head.labels))
    np.testing.assert_allclose(model.encode(TEXTS), logits(source), atol=1e-5)
    # What it saves is read again.
    model.save(str(tmp_path / "theirs"))
    again = tl.load(tmp_path / "theirs")
    assert again.head == head
    np.testing.assert_allclose(logits(again), logits(source), atol=1e-6)


def test_a_tokenizer_without_padding_is_given_one(tmp_path: Path) -> None:
    folder = words(write_family(tmp_path / "base", "gpt2", eos_token_id=3))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    source = trained(tl.load(folder), ClassifierConfig(LABELS))
    model = sentence_transformers.SentenceTransformer(str(tl.save(source, tmp_path / "out")), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), logits(source), atol=1e-5)


def shown(place: Path, start: str) -> str:
    """The lines of code that a page shows from this one on."""
    return found(re.search(rf"^{re.escape(start)}.*?(?=^```$)", place.read_text("utf-8"), re.DOTALL | re.MULTILINE))[0]


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (tl.methods.Probe(), "single_label_classification"),
        (tl.methods.LoRA(rank=2), "single_label_classification"),
        (tl.methods.Full(), "single_label_classification"),
        (tl.methods.Probe(), "multi_label_classification"),
        (tl.methods.Probe(), "regression"),
    ],
)
def test_a_run_has_the_same_probabilities_by_the_lines_of_its_card(
    method: tl.methods.Method, problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tl.load(write_bert(tmp_path / "bert"))
    kinds = {"multi_label_classification": (["a"], ["a", "b"]), "regression": (10.5, 400.0)}
    if problem == "single_label_classification":
        data = tl.dataset(write_table(tmp_path / "films.csv"), test_examples=60).subset(16, 0)
    else:
        rows = [
            {"text": f"the film was {word}", "y": kinds[problem][i % 2]} for i, word in enumerate(["good", "bad"] * 10)
        ]
        data = tl.dataset(rows, text="text", target="y", test_examples=4)
    settings = tl.train.Settings(steps=3, batch_size=8, learning_rate=3e-2)
    result = tl.adapt(source, data, method=method, settings=settings).fit()
    tl.save(found(result.source), "DIRECTORY")
    names: dict[str, object] = {"texts": TEXTS}
    exec(shown(tmp_path / "DIRECTORY" / "README.md", "from sentence_transformers"), names)
    got = names.get("probabilities", names.get("values"))
    np.testing.assert_allclose(np.asarray(got), result.predict(TEXTS), rtol=1e-5, atol=1e-5)
    if isinstance(method, tl.methods.LoRA):
        tl.save(found(result.source), "exported")
        exec(shown(Path(__file__).parents[2] / "README.md", "from sentence_transformers"), names)
        wanted = result.predict(["What a wonderful day"])
        np.testing.assert_allclose(np.asarray(names["probabilities"]), wanted, rtol=1e-5, atol=1e-5)
        assert names["labels"] == dict(enumerate(result.labels))
