"""Classifiers of texts as sentence-transformers' modules: what is written, and that it is read back as it was."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_bert
from support.families import write_family
from support.typed import as_text, found

import transferlab as tl
from transferlab import trees
from transferlab.cli.main import cli
from transferlab.errors import TransferlabError
from transferlab.models import ClassifierConfig
from transferlab.models.heads import HiddenLayer

TEXTS = ["the film was very good", "bad", "a fine day and " * 40]
ABC = ("a thing", "b", "ü")


def with_head(source: tl.Source, head: ClassifierConfig) -> tl.Source:
    """The source with this head, and random values in it."""
    rng = np.random.default_rng(1)
    shapes = trees.flatten(trees.define(source.config.build(head)).params)
    head_leaves = {path: rng.normal(size=leaf.shape).astype(np.float32)
                   for path, leaf in shapes.items() if path.startswith("head/")}  # fmt: skip
    return source.with_params(trees.unflatten(head_leaves), head=head)


def logits(source: tl.Source, texts: list[str] = TEXTS) -> np.ndarray:
    transform = as_text(source.transform)
    encoded = transform.encode(texts)
    return np.asarray(source(transform.pad(encoded, max(len(one.ids) for one in encoded), len(texts)))["logits"])


def same(one: tl.Source, other: tl.Source) -> None:
    """Both compute the same, bit for bit, of the same texts."""
    assert one.head == other.head and one.config == other.config
    assert as_text(one.transform).describe() == as_text(other.transform).describe()
    assert one.leaves.keys() == other.leaves.keys()
    for path, leaf in one.leaves.items():
        np.testing.assert_array_equal(leaf.read(), other.leaves[path].read(), err_msg=path)


def kinds(folder: Path) -> list[str]:
    return [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]


@pytest.mark.parametrize(
    ("head", "modules"),
    [
        (ClassifierConfig(ABC), ["Dense"]),
        (ClassifierConfig(ABC, pooling="first", bias=False, normalise=True), ["Normalize", "Dense"]),
        (ClassifierConfig(("stars",), problem="regression"), ["Dense"]),
        (ClassifierConfig(ABC[:2], problem="multi_label_classification"), ["Dense"]),
        (ClassifierConfig(ABC, hidden=HiddenLayer("relu", bias=False, size=5)), ["Dense", "Dense"]),
        (ClassifierConfig(ABC, pooling="first", hidden=HiddenLayer("tanh")), ["Dense", "Dense"]),
    ],
)
def test_a_head_is_read_back_with_its_labels_and_the_same_logits(
    head: ClassifierConfig, modules: list[str], source, tmp_path: Path
) -> None:
    trained = with_head(source, head)
    out = tl.save(trained, tmp_path / "out")
    assert kinds(out) == ["Transformer", "Pooling", *modules]
    again = tl.load(out)
    assert again.labels == head.labels
    same(again, trained)
    # Once more, from what was read: the same files.
    twice = tl.save(again, tmp_path / "twice")
    last = f"{1 + len(modules)}_Dense/model.safetensors"
    assert (twice / last).read_bytes() == (out / last).read_bytes()
    assert tl.load(twice).sha256 == again.sha256


def test_the_files_are_those_of_the_library(source, tmp_path: Path) -> None:
    trained = with_head(source, ClassifierConfig(ABC))
    out = tl.save(trained, tmp_path / "out", dtype="float16")
    assert json.loads((out / "2_Dense" / "config.json").read_text()) == {
        "in_features": 16, "out_features": 3, "bias": True, "activation_function": "torch.nn.modules.linear.Identity",
    }  # fmt: skip
    tensors = load_file(str(out / "2_Dense" / "model.safetensors"))
    kernel = np.asarray(trained.leaves["head/kernel"]).astype(np.float16)
    np.testing.assert_array_equal(tensors["linear.weight"], kernel.T)
    assert tensors["linear.bias"].shape == (3,)
    raw = json.loads((out / "config.json").read_text())
    assert raw["id2label"] == {"0": "a thing", "1": "b", "2": "ü"}
    assert json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"] == 48
    # Nothing of the head is among the model's own weights, which transformers' AutoModel loads without complaint.
    assert not any(key.startswith("classifier") for key in load_file(str(out / "model.safetensors")))
    assert "softmax(-1)" in (out / "README.md").read_text()


def test_a_run_as_it_is_by_default_is_exported(source, films, tmp_path: Path) -> None:
    method = tl.methods.LoRA(rank=2)
    settings = tl.train.Settings(steps=3, batch_size=8, learning_rate=3e-2)
    run = tl.adapt(source, films.subset(16, 0), method=method, settings=settings, directory=tmp_path / "run")
    result = run.fit()
    done = CliRunner().invoke(cli, ["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert done.exit_code == 0 and "for sentence-transformers" in done.output, done.output
    again = tl.load(tmp_path / "out")
    assert again.labels == result.labels == ("down", "up")
    got = np.exp(logits(again).astype(np.float64))
    np.testing.assert_allclose(got / got.sum(1, keepdims=True), result.predict(TEXTS), atol=1e-6)


def test_the_page_on_exports_does_what_it_shows(
    bert_folder, table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text("utf-8")
    code = found(re.search(r"^films = .*?(?=^```$)", page, re.DOTALL | re.MULTILINE))[0]
    monkeypatch.chdir(tmp_path)
    shutil.copy(table, "films.csv")
    few = "films, method=tl.methods.Probe(), settings=tl.train.Settings(steps=2))"
    lines = code.replace("minilm-l6", str(bert_folder)).replace("films)", few).splitlines()
    names: dict[str, Any] = {"tl": tl}
    exec("\n".join(lines[:-3]), names)
    assert capsys.readouterr().out.startswith(
        "can be exported for sentence-transformers and Orbax; not for transformers"
    )
    assert eval(lines[-3].partition("  #")[0], names) == ["sentence-transformers", "orbax"]
    exec(lines[-2], names)
    assert eval(lines[-1], names) == ("down", "up")


def test_numbers_are_written_in_the_units_of_the_data(source, tmp_path: Path) -> None:
    rows = [{"text": f"the film {i}", "stars": 1000.0 + 7 * i} for i in range(20)]
    data = tl.dataset(rows, text="text", target="stars", label_kind="numbers", test_examples=4)
    result = tl.adapt(source, data, method=tl.methods.Probe(), settings=tl.train.Settings(steps=4)).fit()
    again = tl.load(tl.save(found(result.source), tmp_path / "out"))
    assert again.labels == ("stars",) and "values = " in (tmp_path / "out" / "README.md").read_text()
    np.testing.assert_allclose(logits(again), result.predict(TEXTS), rtol=1e-5)


def test_a_decoders_tokenizer_names_its_padding(tmp_path: Path) -> None:
    folder = write_family(tmp_path / "gpt2", "gpt2")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    trained = with_head(tl.load(folder), ClassifierConfig(ABC, pooling="mean"))
    same(tl.load(tl.save(trained, tmp_path / "out")), trained)
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["pad_token"] == "[PAD]"


def test_a_dense_does_not_outlive_its_head(source, tmp_path: Path) -> None:
    out = tl.save(with_head(source, ClassifierConfig(ABC)), tmp_path / "out")
    other = with_head(tl.load(out), ClassifierConfig(("x", "y"), pooling="pooler"))
    for format in ("hf", "orbax"):
        folder = tl.save(other, tmp_path / format, format=format)
        assert tl.load(folder).labels == ("x", "y")
        assert kinds(folder) == ["Transformer", "Pooling"] and not (folder / "2_Dense").exists()
    # The same, where the next head is a Dense too: it is the next one's.
    third = with_head(tl.load(out), ClassifierConfig(("x", "y")))
    same(tl.load(tl.save(third, tmp_path / "third")), third)


def test_a_head_of_one_sort_takes_the_place_of_the_one_in_the_file(source, tmp_path: Path) -> None:
    classifier = tl.save(with_head(source, ClassifierConfig(("x", "y"), pooling="pooler")), tmp_path / "hf")
    trained = with_head(tl.load(classifier), ClassifierConfig(ABC, pooling="mean"))
    again = tl.load(tl.save(trained, tmp_path / "out"))
    same(again, trained)


DENSE = {"in_features": 16, "out_features": 3, "bias": True, "activation_function": "torch.nn.modules.linear.Identity"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({**DENSE, "use_residual": True}, "use_residual True is not supported"),
        ({**DENSE, "module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings' is not supported"),
        ({**DENSE, "activation_function": "torch.nn.modules.activation.Mish"}, "activation.Mish' is not supported; expected"),
        ({**DENSE, "activation_function": "mine.Identity"}, "activation_function 'mine.Identity' is not supported"),
        ({**DENSE, "activation_function": "torch.nn.modules.activation.Tanh"}, "without an activation.*activation 'tanh'"),
        ({**DENSE, "out_features": 4}, r"\(3, 16\).*config.json says .*\(4, 16\)"),
        ({**DENSE, "bias": False}, r"'linear.bias': \(3,\).*its config.json says {'linear.weight'"),
        ({**DENSE, "bias": "false"}, "bias is 'false'; it must be true or false"),
        ({"out_features": 3}, "lacks in_features"),
        ({**DENSE, "of_tomorrow": 1}, "of_tomorrow 1 is not supported"),
    ],
)  # fmt: skip
def test_a_dense_that_is_no_classifier_of_ours_is_refused(
    said: dict[str, Any], message: str, source, tmp_path: Path
) -> None:
    out = tl.save(with_head(source, ClassifierConfig(ABC)), tmp_path / "out")
    # What newer versions write in full is what is left out here.
    full = {**DENSE, "module_input_name": "sentence_embedding", "module_output_name": None, "use_residual": False}
    (out / "2_Dense" / "config.json").write_text(json.dumps(full))
    assert tl.load(out).labels == ABC
    (out / "2_Dense" / "config.json").write_text(json.dumps(said))
    with pytest.raises(TransferlabError, match=rf"2_Dense.*{message}"):
        tl.load(out)


def test_modules_that_do_not_fit_each_other_are_refused(source, tmp_path: Path) -> None:
    out = tl.save(with_head(source, ClassifierConfig(ABC)), tmp_path / "out")
    raw, listed = (json.loads((out / name).read_text()) for name in ("config.json", "modules.json"))

    def refused(message: str, **files: Any) -> None:
        for name, value in {"config": raw, "modules": listed, **files}.items():
            (out / f"{name}.json").write_text(json.dumps(value))
        with pytest.raises(TransferlabError, match=message):
            tl.load(out)

    refused("2_Dense.*3 outputs.*config.json names no labels", config={**raw, "id2label": None, "label2id": None})
    refused("2_Dense.*names 2 labels", config={**raw, "id2label": {0: "a", 1: "b"}, "label2id": None})
    refused("modules .* are not supported; expected", modules=[*listed, listed[-1], listed[-1]])
    refused("modules .* are not supported; expected", modules=[listed[0], listed[2], listed[1]])
    refused(
        "modules .* are not supported; expected",
        modules=[*listed, {**listed[1], "type": "sentence_transformers.models.Normalize"}],
    )
    refused("needs a folder of its own", modules=[*listed, listed[-1]])
    refused("needs a folder of its own", modules=[*listed[:2], {**listed[2], "path": ""}])
    save_file({"linear.weight": np.zeros((3, 8), np.float32), "linear.bias": np.zeros(3, np.float32)},
              str(out / "2_Dense" / "model.safetensors"))  # fmt: skip
    (out / "2_Dense" / "config.json").write_text(json.dumps({**DENSE, "in_features": 8}))
    refused("in_features is 8, and 16 numbers come before it")


def test_what_the_modules_cannot_compute_is_refused(source, tmp_path: Path) -> None:
    norm = HiddenLayer("gelu", norm=1e-5)
    for head, message in [
        (ClassifierConfig(ABC, pooling="stages"), "no pooling 'stages', only mean, first, last"),
        (ClassifierConfig(ABC, hidden=norm), "Dense has no LayerNorm"),
        (
            ClassifierConfig(ABC, hidden=replace(norm, norm=None, activation="gelu_new")),
            "Dense has no activation 'gelu_new'",
        ),
    ]:
        with pytest.raises(TransferlabError, match=rf"{message}.*format='orbax'"):
            tl.save(with_head(source, head), tmp_path / "out", format="sentence-transformers")
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_written_with_a_prompt_and_a_length_keeps_them(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": True}))
    prompts = {"default_prompt_name": "query", "prompts": {"query": "the great "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    trained = with_head(tl.load(folder), ClassifierConfig(ABC))
    again = tl.load(tl.save(trained, tmp_path / "out"))
    same(again, trained)
    assert as_text(again.transform).prompt == "the great " and as_text(again.transform).max_length == 20
