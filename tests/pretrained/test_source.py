"""Loading: every leaf filled and every key accounted for, or one error with the names; nothing is read before it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_bert

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.pretrained.config_checks import label_names
from transferlab.pretrained.families.bert import bert_from_hf
from transferlab.pretrained.formats import safetensors as formats


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "bert")


def edit_weights(folder: Path, change) -> None:
    tensors = load_file(str(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, str(folder / "model.safetensors"))


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_loading_does_not_read_weights_before_they_are_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    plain = formats._reader

    def counted(handle, key, path):
        read = plain(handle, key, path)
        return lambda: (reads.append(key), read())[1]

    monkeypatch.setattr(formats, "_reader", counted)
    source = tl.load(folder)
    assert reads == []
    leaf = source.params["layers"]["1"]["attention"]["query"]["kernel"]
    assert leaf.shape == (16, 16)
    assert reads == []
    np.asarray(leaf)
    assert reads == ["encoder.layer.1.attention.self.query.weight"]


def test_a_linear_kernel_is_transposed(folder: Path) -> None:
    raw = load_file(str(folder / "model.safetensors"))["encoder.layer.0.intermediate.dense.weight"]
    np.testing.assert_array_equal(np.asarray(tl.load(folder).params["layers"]["0"]["mlp"]["up"]["kernel"]), raw.T)


def test_a_missing_key_is_not_initialized_silently(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert", drop=("encoder.layer.1.output.dense.bias",))
    with pytest.raises(
        TransferlabError, match=r"'layers/1/mlp/down/bias' \(key 'encoder\.layer\.1\.output\.dense\.bias'\)"
    ):
        tl.load(folder)


def test_a_key_that_is_not_used_is_not_dropped_silently(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({"encoder.layer.9.secret": np.zeros(3, np.float32)}))
    with pytest.raises(TransferlabError, match=r"key 'encoder\.layer\.9\.secret' \(3,\) matches no leaf"):
        tl.load(folder)


def test_a_shape_that_contradicts_the_config_is_refused(folder: Path) -> None:
    edit_config(folder, intermediate_size=32)
    with pytest.raises(
        TransferlabError, match=r"'layers/0/mlp/up/kernel'.*gives \(16, 24\); the config asks for \(16, 32\)"
    ):
        tl.load(folder)


def test_old_names_and_prefixes_are_understood(folder: Path) -> None:
    want = trees.sha256({"x": np.asarray(tl.load(folder).params["embed"]["norm"]["scale"])})

    def old(tensors: dict) -> None:
        for key in list(tensors):
            new = "bert." + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[new] = tensors.pop(key)
        tensors["cls.predictions.bias"] = np.zeros(64, np.float32)

    edit_weights(folder, old)
    source = tl.load(folder)
    assert trees.sha256({"x": np.asarray(source.params["embed"]["norm"]["scale"])}) == want
    assert ("cls.predictions.bias", "the pre-training head, not part of the encoder") in source.unused


def test_two_keys_for_one_leaf_are_refused(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({"bert.pooler.dense.bias": t["pooler.dense.bias"]}))
    with pytest.raises(TransferlabError, match=r"Two keys of the file fill 'pooler/bias'"):
        tl.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "brt"}, r"model_type 'brt' is not supported.*bert"),
        ({"model_type": None}, r"model_type 'None' is not supported"),
        ({"hidden_act": "geluu"}, r"unknown hidden_act.*gelu"),
        ({"num_attention_heads": 3}, r"hidden_size 16 is not a multiple of num_attention_heads 3"),
        ({"position_embedding_type": "relative_key"}, r"position_embedding_type 'relative_key' is not supported"),
        ({"is_decoder": True}, r"is_decoder is true"),
    ],
)
def test_a_config_that_cannot_be_honored_is_refused(folder: Path, changes: dict, message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(TransferlabError, match=message):
        tl.load(folder)


def test_broken_json_is_one_error(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(TransferlabError, match=r"config\.json is not readable JSON"):
        tl.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(TransferlabError, match=r"no config\.json"):
        tl.load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minilm-16", "Unknown model 'minilm-16'.*minilm-l6"),
        ("./nowhere/model", r"no file or directory.*hf:owner/name"),
        ("hf:just-a-name", "not of the form hf:owner/name"),
    ],
)
def test_a_name_that_means_nothing_gives_a_hint(name: str, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        tl.load(name)


def test_a_bare_weight_file_is_not_guessed_at(folder: Path) -> None:
    with pytest.raises(TransferlabError, match="does not say its architecture"):
        tl.load(folder / "model.safetensors")
    config = bert_from_hf(json.loads((folder / "config.json").read_text()))
    assert tl.load(folder / "model.safetensors", config=config).sha256 == tl.load(folder).sha256


def test_a_head_comes_back_with_its_label_names(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert", id2label={"0": "down", "1": "up"}, drop=())

    def head(tensors: dict) -> None:
        tensors["classifier.weight"], tensors["classifier.bias"] = (
            np.eye(2, 16, dtype=np.float32),
            np.zeros(2, np.float32),
        )

    edit_weights(folder, head)
    source = tl.load(folder)
    assert source.labels == ("down", "up")
    ids = np.array([[2, 5, 6, 3]])
    logits = np.asarray(source({"input_ids": ids})["logits"])
    model = source.module()
    np.testing.assert_allclose(logits, np.asarray(model({"input_ids": jnp.asarray(ids)})["logits"]), atol=1e-6)
    edit_config(folder, id2label={"0": "down", "1": "up", "2": "sideways"})
    with pytest.raises(TransferlabError, match="names 3 labels, but the head has 2 rows"):
        tl.load(folder)


def test_an_input_under_another_name_is_refused(source) -> None:
    ids = np.array([[2, 5, 3]])
    with pytest.raises(TransferlabError, match=r"'attention_maks' is not an input.*attention_mask"):
        source({"input_ids": ids, "attention_maks": np.ones_like(ids)})
    with pytest.raises(TransferlabError, match="needs 'input_ids'"):
        source({"attention_mask": np.ones_like(ids)})
    with pytest.raises(TransferlabError, match="65 tokens are too long: this model has 64 positions"):
        source({"input_ids": np.zeros((1, 65), np.int32)})


def test_padding_does_not_change_what_is_read(source) -> None:
    ids, mask = np.array([[2, 5, 6, 3]]), np.ones((1, 4), np.int32)
    longer = np.pad(ids, ((0, 0), (0, 5)), constant_values=9)
    plain = source({"input_ids": ids, "attention_mask": mask})
    padded = source({"input_ids": longer, "attention_mask": np.pad(mask, ((0, 0), (0, 5)))})
    np.testing.assert_allclose(padded["hidden"][:, :4], plain["hidden"], atol=1e-6)
    np.testing.assert_allclose(padded["pooled"], plain["pooled"], atol=1e-6)


def test_pooling_that_is_not_supported_is_not_replaced_silently(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(TransferlabError, match=r"pooling_mode_max_tokens.*is not supported"):
        tl.load(folder)


def test_an_unsupported_module_after_the_pooling_is_refused(folder: Path) -> None:
    kinds = ("models.Transformer", "models.Pooling", "models.Dense", "models.Normalize")
    modules = [{"type": f"sentence_transformers.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(TransferlabError, match=r"modules\.json: modules \[.*'Dense', 'Normalize'\] are not supported"):
        tl.load(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "modules.json", "1_Pooling/config.json"])
def test_a_damaged_file_next_to_the_weights_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    with pytest.raises(TransferlabError, match=f"{name} is not readable JSON"):
        tl.load(folder)


def test_an_image_size_is_refused_by_a_text_model(source) -> None:
    with pytest.raises(TransferlabError, match="reads text"):
        source.resized(96)


def test_a_source_can_be_jitted(folder: Path) -> None:
    source, ids = tl.load(folder), np.array([[2, 5, 6, 3]])
    got = jax.jit(lambda ids: source({"input_ids": ids})["hidden"])(ids)
    np.testing.assert_allclose(got, source({"input_ids": ids})["hidden"], atol=1e-6)
    assert jax.jit(source)({"input_ids": ids})["hidden"].shape == got.shape


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, r"id2label numbers its labels \['0', '2'\]; it must number them 0 to 1"),
        ({"id2label": {"a": "0", "b": "1"}}, r"id2label numbers its labels \['a', 'b'\]"),
        ({"id2label": {"0": None, "1": "b"}}, "id2label names the label 0 None; it must be a text"),
        ({"id2label": ["a", "b"]}, "id2label must be "),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}, "label2id has 'a' as 1, and id2label as 0"),
        ({"label2id": {"a": 1, "b": 2}}, r"label2id numbers its labels \['1', '2'\]"),
    ],
)
def test_label_names_that_do_not_say_which_logit_is_which_are_refused(said: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(TransferlabError, match=rf"config\.json: {message}"):
        tl.load(write_bert(tmp_path / "bert", **said))


def test_label_names_are_read_from_either_table() -> None:
    assert label_names({"label2id": {"b": 1, "a": 0}}) == ("a", "b")
    assert label_names({"id2label": {"1": "b", "0": "a"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}) == ("a", "b")
    # Of ImageNet two classes have one name.
    assert label_names({"id2label": {"0": "crane", "1": "crane"}, "label2id": {"crane": 1}}) == ("crane", "crane")
