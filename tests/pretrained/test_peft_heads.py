"""Heads and tables in PEFT adapters: which they are is said by the base and by the adapter's keys, never by a shape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_bert, write_decoder

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.methods.adapted import Adapted
from transferlab.models import ClassifierConfig, LanguageModelConfig
from transferlab.pretrained.peft import Pair

IDS = {"input_ids": np.array([[4, 9, 7, 5, 6]])}
RNG = np.random.default_rng(3)
MODULE, PATH = "model.layers.1.self_attn.q_proj", "layers/1/attention/query/kernel"


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def write_adapter(
    folder: Path, source: tl.Source, tensors: dict[str, np.ndarray], module: str = MODULE, **fields
) -> Path:
    """As PEFT writes it: one adapter of rank 2 that changes nothing (its B is zero), and these tensors."""
    folder.mkdir()
    inputs, outputs = source.leaves[PATH].shape
    tensors = {f"{module}.lora_A.weight": normal(2, inputs), f"{module}.lora_B.weight": np.zeros((outputs, 2), np.float32),
               **tensors}  # fmt: skip
    save_file({f"base_model.model.{key}": np.array(value, order="C") for key, value in tensors.items()},
              str(folder / "adapter_model.safetensors"))  # fmt: skip
    given = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], **fields}
    (folder / "adapter_config.json").write_text(json.dumps(given))
    return folder


@pytest.fixture(params=[True, False], ids=["tied", "apart"])
def decoder(request: pytest.FixtureRequest, tmp_path: Path) -> tl.Source:
    write_decoder(tmp_path / "base", "llama", tie_word_embeddings=request.param)
    return tl.load(tmp_path / "base")


def states(source: tl.Source, table: np.ndarray | None = None) -> np.ndarray:
    """The last hidden states, with the base's table of tokens or another."""
    if table is None:
        return np.asarray(source(IDS)["hidden"])
    apart = source.with_params({"embed": {"word": {"embedding": table}}})
    return np.asarray(apart(IDS)["hidden"])


def test_a_trained_lm_head_is_a_language_models(decoder: tl.Source, tmp_path: Path) -> None:
    head = normal(40, 16)
    place = write_adapter(tmp_path / "adapter", decoder, {"lm_head.weight": head}, modules_to_save=["lm_head"])
    got = tl.load_adapter(place, decoder)
    assert isinstance(got.source.head, LanguageModelConfig) and not got.source.tied and got.source.labels == ()
    np.testing.assert_allclose(got(IDS)["logits"], states(decoder) @ head.T, atol=1e-4)
    assert tl.generate(got.merged(), {"input_ids": [[4, 5]]}, max_new_tokens=2).tokens
    # Merged and saved it is one: its config says that head and table are two.
    out = tl.save(got.merged(), tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_allclose(tl.load(out)(IDS)["logits"], got(IDS)["logits"], atol=1e-5)


def test_a_table_that_was_trained_alone_leaves_the_head_as_it_was(decoder: tl.Source, tmp_path: Path) -> None:
    old, new = np.asarray(decoder.leaves[decoder.table]), normal(40, 16)
    head = old if decoder.tied else np.asarray(decoder.leaves["head/kernel"]).T
    place = write_adapter(
        tmp_path / "adapter", decoder, {"model.embed_tokens.weight": new}, modules_to_save=["embed_tokens"]
    )
    got = tl.load_adapter(place, decoder)
    np.testing.assert_allclose(got(IDS)["logits"], states(decoder, new) @ head.T, atol=1e-4)
    back = got.save_adapter(tmp_path / "back")
    keys = {key for key in load_file(str(back / "adapter_model.safetensors")) if "lora" not in key}
    assert keys == {"base_model.model.model.embed_tokens.weight"}
    np.testing.assert_array_equal(tl.load_adapter(back, decoder)(IDS)["logits"], got(IDS)["logits"])


@pytest.mark.parametrize("kept", [True, False])
def test_table_and_head_that_are_equal_stay_one(kept: bool, decoder: tl.Source, tmp_path: Path) -> None:
    new = normal(40, 16)
    both = {"model.embed_tokens.weight": new, "lm_head.weight": new}
    place = write_adapter(tmp_path / "adapter", decoder, both, ensure_weight_tying=kept)
    got = tl.load_adapter(place, decoder)
    assert got.source.tied == decoder.tied
    np.testing.assert_allclose(got(IDS)["logits"], states(decoder, new) @ new.T, atol=1e-4)
    back = tl.load_adapter(got.save_adapter(tmp_path / "back"), decoder)
    np.testing.assert_array_equal(back(IDS)["logits"], got(IDS)["logits"])


def test_a_pair_that_is_tied_and_differs_is_refused(tmp_path: Path) -> None:
    write_decoder(tmp_path / "base", "llama", tie_word_embeddings=True)
    source = tl.load(tmp_path / "base")
    both = {"model.embed_tokens.weight": normal(40, 16), "lm_head.weight": normal(40, 16)}
    with pytest.raises(
        TransferlabError, match="ensure_weight_tying is set, but the table of tokens and the head differ"
    ):
        tl.load_adapter(write_adapter(tmp_path / "adapter", source, both, ensure_weight_tying=True), source)
    apart = tl.load_adapter(write_adapter(tmp_path / "two", source, both), source)
    assert not apart.source.tied
    back = tl.load_adapter(apart.save_adapter(tmp_path / "back"), source)
    np.testing.assert_array_equal(back(IDS)["logits"], apart(IDS)["logits"])


@pytest.mark.parametrize("shape", [(), (16,), (3, 4, 5)])
def test_a_head_of_other_axes_is_refused_by_its_key(shape: tuple[int, ...], decoder: tl.Source, tmp_path: Path) -> None:
    for key in ("score.weight", "lm_head.weight", "model.embed_tokens.weight"):
        place = write_adapter(tmp_path / key, decoder, {key: np.zeros(shape, np.float32)})
        with pytest.raises(TransferlabError, match=rf"'base_model.model.{key}' has shape .*; 2 axes fit"):
            tl.load_adapter(place, decoder)


def test_an_adapter_of_the_head_is_merged_into_it(decoder: tl.Source, tmp_path: Path) -> None:
    a, b = normal(2, 16), normal(40, 2)
    place = write_adapter(tmp_path / "adapter", decoder, {"lm_head.lora_A.weight": a, "lm_head.lora_B.weight": b})
    got = tl.load_adapter(place, decoder)
    want = np.asarray(decoder(IDS)["logits"]) + states(decoder) @ (b @ a).T
    np.testing.assert_allclose(got(IDS)["logits"], want, atol=1e-4)
    assert got.pairs.keys() == {PATH} and not got.source.tied


def test_a_label_adapter_of_a_decoder_comes_back_with_its_labels(decoder: tl.Source, tmp_path: Path) -> None:
    head = ClassifierConfig(("down", "up"), pooling="last", bias=False)
    trained = decoder.with_params({"head": {"kernel": normal(16, 2)}}, head=head)
    pair = Pair(normal(16, 2), normal(2, trained.leaves[PATH].shape[1]), 0.5)
    adapted = Adapted(trained, {PATH: pair})
    place = adapted.save_adapter(tmp_path / "adapter")
    raw = json.loads((place / "adapter_config.json").read_text())
    assert raw["modules_to_save"] == ["score"] and raw["task_type"] == "SEQ_CLS"
    again = tl.load_adapter(place)
    assert again.source.labels == ("down", "up") and again.source.head == head
    np.testing.assert_array_equal(again(IDS)["logits"], adapted(IDS)["logits"])
    # PEFT's own directories name no labels.
    (place / "labels.json").unlink()
    assert tl.load_adapter(place).source.labels == ("0", "1")


def test_a_layer_that_neither_base_nor_adapter_holds_is_named(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", drop=("pooler.dense.weight", "pooler.dense.bias"))
    source = tl.load(tmp_path / "bert")
    tensors = {"classifier.weight": normal(2, 16), "classifier.bias": normal(2)}
    module = "bert.encoder.layer.1.attention.self.query"
    place = write_adapter(tmp_path / "adapter", source, tensors, module, task_type="SEQ_CLS")
    with pytest.raises(TransferlabError, match=r"reads the pooler, which is in neither .* nor the adapter"):
        tl.load_adapter(place, source)
    path = place / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "QUESTION_ANS"}))
    with pytest.raises(TransferlabError, match="task_type is 'QUESTION_ANS', whose head cannot be read"):
        tl.load_adapter(place, source)


def test_an_adapter_names_its_base_as_it_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    write_decoder(tmp_path / "base", "llama")
    monkeypatch.chdir(tmp_path)
    source = tl.load("base")
    pair = Pair(normal(16, 2), normal(2, source.leaves[PATH].shape[1]), 0.5)
    names = {"base": str(tmp_path / "base"), "hf:owner/name@v2": "owner/name", "minilm-l6": "minilm-l6"}
    for name, said in names.items():
        place = Adapted(replace(source, name=name), {PATH: pair}).save_adapter(tmp_path / "adapter", overwrite=True)
        raw = json.loads((place / "adapter_config.json").read_text())
        assert raw["base_model_name_or_path"] == said and raw["revision"] == ("v2" if "@" in name else None)
    regrown = replace(source, provenance={**source.provenance, "changes": {"new_rows": "mean"}})
    with pytest.raises(TransferlabError, match=r"changed as it was loaded \(new_rows\)"):
        Adapted(regrown, {PATH: pair}).save_adapter(tmp_path / "other")
