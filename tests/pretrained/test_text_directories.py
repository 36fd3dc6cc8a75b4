"""Directories of RoBERTa, DistilBERT, MPNet and ModernBERT: names in both directions, configs, heads that stay, inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_bert
from support.typed import classifier_of, found

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.fields import check_scalars
from transferlab.manifest import MANIFEST
from transferlab.methods import Full, LoRA, Probe
from transferlab.models import ClassifierConfig, EfficientNetConfig, TokenClassifierConfig, ViTConfig
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.names import to_file
from transferlab.pretrained.timm import TimmConfig
from transferlab.pretrained.writing import save
from transferlab.train import Settings
from transferlab.train.setup import plan_for

SIZES = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 16,
}  # fmt: skip
CONFIGS = {
    "roberta": {**SIZES, "type_vocab_size": 1},
    "distilbert": {
        "vocab_size": 20, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12, "max_position_embeddings": 16
    },
    "mpnet": SIZES,
    "modernbert": {**SIZES, "local_attention": 4, "num_hidden_layers": 3},
}  # fmt: skip
PREFIXES = {"roberta": "roberta.", "distilbert": "distilbert.", "mpnet": "mpnet.", "modernbert": "model."}
LABELS = {"id2label": {"0": "bad", "1": "fair", "2": "good"}}


def write(folder: Path, kind: str, *, prefix: bool = True, **changes) -> dict[str, np.ndarray]:
    """Write config and random weights under transformers' keys, head included; return the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {"model_type": kind, **CONFIGS[kind], **LABELS, **changes}
    family = next(f for f in FAMILIES.values() if kind in f.model_types)
    config = family.from_hf(raw)
    head = ClassifierConfig(("bad", "fair", "good"), hidden=family.head_hidden(config))
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build(head)).params)
    leaves = {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    own = ("classifier", "pre_classifier", "head.")
    tensors = {
        key if key.startswith(own) or not prefix else PREFIXES[kind] + key: value
        for key, value in to_file(family.names(config)[0], leaves).items()
    }
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(folder / "model.safetensors"))
    return tensors


@pytest.mark.parametrize("kind", CONFIGS)
def test_loaded_leaves_write_the_files_own_tensors(kind: str, tmp_path: Path) -> None:
    tensors = write(tmp_path, kind, prefix=False)
    source = tl.load(tmp_path)
    names = FAMILIES[source.family].names(source.config)[0]
    again = to_file(names, {path: leaf.read() for path, leaf in source.leaves.items()})
    assert again.keys() == tensors.keys() and not source.unused
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key], tensor, err_msg=key)


def test_a_key_that_the_network_has_no_leaf_for_is_named(tmp_path: Path) -> None:
    tensors = write(tmp_path / "hidden", "distilbert")
    save_file(
        {k: x for k, x in tensors.items() if not k.startswith("classifier")},
        str(tmp_path / "hidden" / "model.safetensors"),
    )
    source = tl.load(tmp_path / "hidden")
    assert source.head is None
    assert sorted(key for key, _ in source.unused) == ["pre_classifier.bias", "pre_classifier.weight"]
    write_bert(tmp_path / "bias", drop=("pooler.dense.weight",))
    source = tl.load(tmp_path / "bias")
    assert source.config.pooler is False
    assert source.unused == (("pooler.dense.bias", "the network that its config says has no 'pooler/bias'"),)
    tensors = write(tmp_path / "norm", "modernbert")
    save_file({**tensors, "head.norm.bias": np.zeros(8, np.float32)}, str(tmp_path / "norm" / "model.safetensors"))
    with pytest.raises(
        TransferlabError, match=r"the file's key 'head\.norm\.bias' \(8,\) matches no leaf of modernbert"
    ):
        tl.load(tmp_path / "norm")


def test_an_export_with_old_names_of_config_fields_is_read(tmp_path: Path, caplog) -> None:
    write(tmp_path / "distil", "distilbert")
    source = tl.load(tmp_path / "distil")
    out = save(source, tmp_path / "out", format="orbax")
    described = json.loads((out / "transferlab.json").read_text())
    described["config"] = {
        "dim" if name == "hidden_size" else name: value for name, value in described["config"].items()
    }
    (out / "transferlab.json").write_text(json.dumps(described))
    (out / MANIFEST).unlink()
    again = tl.load(out)
    assert again.config == source.config and "old names ['dim'] of the fields ['hidden_size']" in caplog.text


def test_a_leaf_of_our_own_tree_that_its_description_lacks_is_refused(tmp_path: Path) -> None:
    out = save(tl.load(write_bert(tmp_path / "bert")), tmp_path / "out", format="orbax")
    described = json.loads((out / "transferlab.json").read_text())
    described["config"]["pooler"] = False
    (out / "transferlab.json").write_text(json.dumps(described))
    (out / MANIFEST).unlink()
    with pytest.raises(
        TransferlabError, match=r"transferlab\.json.*'pooler/.*' is in its tree, but not in the network"
    ):
        tl.load(out)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_missing_key_of_the_hidden_layer_is_not_drawn(kind: str, tmp_path: Path) -> None:
    tensors = write(tmp_path, kind)
    key = next(
        key for key in tensors if key in ("classifier.dense.weight", "pre_classifier.weight", "head.dense.weight")
    )
    del tensors[key]
    save_file(tensors, str(tmp_path / "model.safetensors"))
    with pytest.raises(TransferlabError, match=rf"'head/dense/kernel' \(key '{key}'\) is not in the file"):
        tl.load(tmp_path)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_checkpoints_head_is_kept_where_its_labels_stay(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind)
    source = tl.load(tmp_path)
    same, fewer, others = (
        {leaf.path: leaf for leaf in plan_for(source, labels, Probe()).leaves if leaf.path.startswith("head/")}
        for labels in (("bad", "fair", "good"), ("good", "new"), ("a", "b"))
    )
    assert {leaf.action for leaf in same.values()} == {"copied"} and "head/dense/kernel" in same
    assert fewer["head/dense/kernel"].action == "copied" and fewer["head/kernel"].action == "derived"
    assert {path: leaf.action for path, leaf in others.items()} == {
        "head/kernel": "initialised", "head/bias": "initialised",
    }  # fmt: skip
    assert all(leaf.trains for leaf in others.values())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_backbone_without_a_head_or_a_pooler_can_be_adapted(kind: str, tmp_path: Path) -> None:
    tensors = write(tmp_path, kind)
    body = {key: value for key, value in tensors.items() if key.startswith(PREFIXES[kind]) and "pooler" not in key}
    save_file(body, str(tmp_path / "model.safetensors"))
    source = tl.load(tmp_path)
    assert source.head is None and "pooled" not in source({"input_ids": np.array([[0, 5, 2]])})
    # A probe is linear, over the mean; what trains more has the reference classifier, which can be written for transformers.
    probe = plan_for(source, ("a", "b"), Probe())
    assert probe.head.pooling == "mean" and classifier_of(probe).hidden is None
    made = plan_for(source, ("a", "b"), LoRA(rank=2))
    family = FAMILIES[kind]
    assert made.head.pooling == family.head_pooling(source.config) == "first"
    assert classifier_of(made).hidden == family.head_hidden(source.config) is not None
    actions = {leaf.path: leaf.action for leaf in made.leaves if leaf.path.startswith("head/")}
    assert {"head/dense/kernel", "head/kernel"} <= actions.keys() and set(actions.values()) == {"initialised"}
    # Sentence encoders say how they pool, and keep that.
    means = plan_for(replace(source, pooling="mean"), ("a", "b"), LoRA(rank=2))
    assert means.head.pooling == "mean" and classifier_of(means).hidden is None
    assert sum("/lora/a" in leaf.path for leaf in made.leaves) == 2 * source.config.num_hidden_layers


def test_a_head_over_tokens_is_not_taken_for_one_over_texts(tmp_path: Path) -> None:
    write(tmp_path, "modernbert", architectures=["ModernBertForTokenClassification"])
    source = tl.load(tmp_path)
    assert (
        isinstance(source.head, TokenClassifierConfig)
        and source.labels == ("bad", "fair", "good")
        and not source.unused
    )
    # A new classifier of texts takes none of it.
    plan = plan_for(source, ("bad", "fair", "good"), Probe())
    assert {leaf.action for leaf in plan.leaves if leaf.path.startswith("head/")} == {"initialised"}
    assert {key for key, _ in plan.unused} == {
        "classifier.weight", "classifier.bias", "head.dense.weight", "head.norm.weight"
    }  # fmt: skip


def test_a_classifier_of_texts_with_the_labels_of_one_of_tokens_is_written_as_one(tmp_path: Path) -> None:
    write(tmp_path / "in", "modernbert", architectures=["ModernBertForTokenClassification"])
    source = tl.load(tmp_path / "in")
    plan = plan_for(source, ("bad", "fair", "good"), Full())
    adapted = source.with_params({"head": plan.place(0)[0]["head"]}, head=plan.head)
    again = tl.load(save(adapted, tmp_path / "out"))
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["architectures"] == ["ModernBertForSequenceClassification"] and again.head == plan.head


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ("roberta", {"is_decoder": True}, "is_decoder is true"),
        ("distilbert", {"n_heads": 3}, r"config\.json: dim 8 is no multiple of n_heads 3"),
        ("distilbert", {"n_layers": "two"}, r"config\.json: n_layers is 'two'"),
        ("roberta", {"pad_token_id": None}, "pad_token_id is null"),
        ("mpnet", {"relative_attention_num_buckets": 8}, "relative_attention_num_buckets is 8"),
        ("modernbert", {"rope_scaling": {"type": "linear"}}, "rope_scaling .* is not supported"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type 'yarn'"),
        ("modernbert", {"layer_types": "full_attention"}, "layer_types is 'full_attention'; it must be a list"),
        ("modernbert", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_honored_is_refused(kind: str, changes: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        FAMILIES[kind].from_hf({"model_type": kind, **CONFIGS[kind], **changes})


@pytest.mark.parametrize(
    ("given", "thetas"),
    [
        ({"local_rope_theta": None}, (160_000.0, 160_000.0)),
        ({"local_rope_theta": None, "global_rope_theta": 500.0}, (500.0, 500.0)),
        ({"local_rope_theta": 30.0, "global_rope_theta": 500.0}, (500.0, 30.0)),
        ({"global_rope_theta": 500.0}, (500.0, 10_000.0)),
        ({"local_rope_theta": None, "rope_parameters": {"sliding_attention": {"rope_theta": 77.0}}}, (160_000.0, 77.0)),
    ],
)
def test_local_layers_without_a_rotary_base_of_their_own_take_the_global_one(given: dict, thetas: tuple) -> None:
    config = FAMILIES["modernbert"].from_hf({"model_type": "modernbert", **given})
    assert (config.global_rope_theta, config.local_rope_theta) == thetas


@pytest.mark.parametrize(
    ("kind", "field", "value", "wanted"),
    [
        ("bert", "hidden_size", "x", "an integer"),
        ("bert", "hidden_size", 10**400, "an integer of 64 bits"),
        ("bert", "layer_norm_eps", "1e-12", "a number"),
        ("bert", "classifier_dropout", "x", "a number"),
        ("roberta", "num_hidden_layers", 2.5, "an integer"),
        ("roberta", "layer_norm_eps", 10**400, "a number"),
        ("roberta", "vocab_size", True, "an integer"),
        ("distilbert", "dim", [8], "an integer"),
        ("distilbert", "activation", 3, "a string"),
        ("mpnet", "hidden_dropout_prob", {}, "a number"),
        ("modernbert", "norm_bias", "yes", "true or false"),
        ("vit", "hidden_size", "x", "an integer"),
        ("vit", "patch_size", "16", "an integer"),
        ("vit", "qkv_bias", "no", "true or false"),
    ],
)
def test_a_field_of_the_wrong_type_is_one_error(kind: str, field: str, value, wanted: str, tmp_path: Path) -> None:
    raw = {"model_type": kind, **CONFIGS.get(kind, SIZES), **LABELS, field: value}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file({"classifier.weight": np.zeros((3, 8), np.float32)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(TransferlabError, match=rf"config\.json: {field} is .*; it must be {wanted}"):
        tl.load(tmp_path)


def test_an_argument_of_timm_of_the_wrong_type_is_one_error() -> None:
    for name, value, wanted in (("embed_dim", "x", "an integer"), ("qkv_bias", "no", "true or false")):
        timm = TimmConfig.read({"architecture": "vit_tiny_patch16_224", "model_args": {name: value}})
        with pytest.raises(TransferlabError, match=f"model_args: {name} is '{value}'; it must be {wanted}"):
            FAMILIES["vit"].from_timm(timm)
    with pytest.raises(TransferlabError, match=r"patch_size is \['a', 'a'\]; it must be an integer"):
        FAMILIES["vit"].from_hf({"model_type": "vit", "patch_size": ["a", "a"]})


def test_a_value_that_means_the_same_is_accepted() -> None:
    read = FAMILIES["bert"].from_hf({"model_type": "bert", "hidden_size": 768.0, "hidden_dropout_prob": 0})
    assert read.hidden_size == 768 and type(read.hidden_size) is int and read.hidden_dropout_prob == 0.0
    check_scalars(ViTConfig, {"image_size": [224, 224], "layer_scale": None, "unknown": object()})
    check_scalars(EfficientNetConfig, {})


@pytest.mark.parametrize("kind", CONFIGS)
def test_ids_beyond_the_tables_are_refused(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind)
    source = tl.load(tmp_path)
    ids = np.array([[0, 5, 6, 2]])
    for wrong in (20, -1):
        with pytest.raises(TransferlabError, match=rf"'input_ids' holds {wrong}, but .* has 20 tokens .*\(0 to 19\)"):
            source({"input_ids": np.where(ids == 6, wrong, ids)})
    if kind != "modernbert":
        with pytest.raises(TransferlabError, match=r"'position_ids' holds 16, but .* has 16 positions"):
            source({"input_ids": ids, "position_ids": ids * 0 + 16})
    if kind == "roberta":
        with pytest.raises(TransferlabError, match=r"'token_type_ids' holds 1, but .* has 1 token types"):
            source({"input_ids": ids, "token_type_ids": ids * 0 + 1})
    elif kind == "mpnet":
        with pytest.raises(TransferlabError, match="'token_type_ids' is not an input of"):
            source({"input_ids": ids, "token_type_ids": ids * 0})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": [0.0, 1.0]}, "'input_ids' is of dtype float64; it must be integers"),
        ({"input_ids": [[0.0, 5.0]]}, "'input_ids' is of dtype float64; it must be integers"),
        ({"input_ids": [0, 5, 2]}, r"'input_ids' has shape \(3,\); it must be \(batch, length\)"),
        ({"input_ids": [[0, 5], [2]]}, "'input_ids' has rows of different lengths"),
        ({"input_ids": [["a", "b"]]}, "must be integers"),
        ({"input_ids": [[0, 5]], "attention_mask": [1, 1]}, r"'attention_mask' has shape \(2,\)"),
        (
            {"input_ids": [[0, 5]], "attention_mask": [[1, 1, 1]]},
            r"'attention_mask' has shape \(1, 3\), but 'input_ids' has \(1, 2\)",
        ),
    ],
)
def test_inputs_that_are_not_ids_are_one_error(given: dict, message: str, source) -> None:
    with pytest.raises(TransferlabError, match=message):
        source(given)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_written_model_is_read_as_the_same(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "source", kind)
    source, ids = tl.load(tmp_path / "source"), np.array([[0, 5, 6, 2]])
    want = source({"input_ids": ids})["logits"]
    save(source, tmp_path / "native")
    save(source, tmp_path / "tree", format="orbax")
    # Without the source's config.json, one is made from what is known of the model.
    save(replace(source, raw=None, names=None, tensors={}), tmp_path / "new", format="hf")
    for place in ("native", "tree", "new"):
        again = tl.load(tmp_path / place)
        # The reference class with the two-layer head has no pooler, and its files have none.
        two_layers = place == "new" and kind in ("roberta", "mpnet")
        config = source.config.without_pooler() if two_layers else source.config
        assert again.head == source.head and again.config == config
        np.testing.assert_array_equal(again({"input_ids": ids})["logits"], want)


def test_a_linear_head_is_not_written_as_a_head_with_a_hidden_layer(tmp_path: Path) -> None:
    write(tmp_path / "source", "roberta")
    source = tl.load(tmp_path / "source")
    head = ClassifierConfig(("a", "b"), pooling="first")
    params = {"head": {"kernel": np.zeros((8, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    trained = source.with_params(params, head=head)
    with pytest.raises(TransferlabError, match=r"hidden layer that this head lacks; train with Full or LoRA .*'orbax'"):
        save(trained, tmp_path / "there", format="hf")
    # Each of the two ways that the error names.
    save(trained, tmp_path / "tree", format="orbax")
    assert tl.load(tmp_path / "tree").head == head
    for method in (Full(pooling="first"), LoRA(pooling="first")):
        made = plan_for(source, ("a", "b"), method)
        drawn = {path: leaf for path, leaf in trees.flatten(made.place(0)[0]).items() if path.startswith("head/")}
        again = source.with_params(trees.unflatten(drawn), head=made.head)
        out = tl.load(save(again, tmp_path / method.name, format="hf"))
        ids = {"input_ids": np.array([[0, 5, 6, 2]])}
        np.testing.assert_allclose(out(ids)["logits"], again(ids)["logits"], atol=1e-6)


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_a_classifier_over_the_pooler_is_written_as_the_reference_two_layers(kind: str, tmp_path: Path) -> None:
    tensors = write(tmp_path / "source", kind)
    bare = {key: value for key, value in tensors.items() if not key.startswith("classifier")}
    save_file(bare, str(tmp_path / "source" / "model.safetensors"))
    source, rng = tl.load(tmp_path / "source"), np.random.default_rng(1)
    given = {"kernel": rng.normal(size=(8, 2)).astype(np.float32), "bias": rng.normal(size=2).astype(np.float32)}
    trained = source.with_params({"head": given}, head=ClassifierConfig(("a", "b"), pooling="pooler"))
    out = save(trained, tmp_path / "out")
    written = load_file(str(out / "model.safetensors"))
    np.testing.assert_array_equal(written["classifier.dense.weight"], tensors[f"{PREFIXES[kind]}pooler.dense.weight"])
    np.testing.assert_array_equal(written["classifier.out_proj.weight"], given["kernel"].T)
    assert not any("pooler" in key for key in written)
    ids = {
        "input_ids": np.array([[0, 5, 6, 2], [0, 7, 2, 1]]),
        "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    np.testing.assert_allclose(tl.load(out)(ids)["logits"], trained(ids)["logits"], atol=1e-6)


@pytest.mark.parametrize("kind", ["mpnet", "modernbert"])
@pytest.mark.parametrize("method", [Probe(), LoRA(rank=2)])
def test_a_run_reads_its_texts_and_does_not_train_what_is_frozen(kind: str, method, films, tmp_path: Path) -> None:
    write(tmp_path, kind, max_position_embeddings=64)
    write_bert(tmp_path / "words")  # its tokenizer has 18 tokens
    (tmp_path / "tokenizer.json").write_text((tmp_path / "words" / "tokenizer.json").read_text())
    run = tl.adapt(tl.load(tmp_path), films.subset(16, 0), method=method, settings=Settings(epochs=2, batch_size=8))
    before, after = (trees.flatten(tree) for tree in (run.plan.place(0)[0], found(run.fit().params)))
    trained = {path for path in before if not np.array_equal(before[path], after[path])}
    assert trained <= set(run.plan.trainable) and {"head/kernel", "head/bias"} <= trained
    assert any("/lora/b" in path for path in trained) == (method.name == "lora")
