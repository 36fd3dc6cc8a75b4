"""Saving: what is written is what was read, key by key and byte by byte, or what was trained from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import VIT_DIALECTS, write_bert, write_vit
from support.typed import as_image

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import ClassifierConfig
from transferlab.pretrained import writing
from transferlab.pretrained.families.bert import bert_from_hf
from transferlab.pretrained.formats.safetensors import read_safetensors, write_safetensors
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.formats.weights import read_directory


def contents(folder: Path) -> dict[str, np.ndarray]:
    return {key: np.array(tensor.read()) for key, tensor in read_directory(folder)[0].items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for key, want in one.items():
        assert (want.dtype, want.shape) == (other[key].dtype, other[key].shape), key
        np.testing.assert_array_equal(want.reshape(-1).view(np.uint8), other[key].reshape(-1).view(np.uint8), key)


def old_bert(folder: Path) -> Path:
    """Legacy names, a prefix, bfloat16, and keys that are not the model's."""
    write_bert(folder, extra={"kept": [1, {"deep": None}]}, id2label={"0": "down", "1": "up"})
    tensors = load_file(str(folder / "model.safetensors"))
    renamed = {}
    for key, tensor in tensors.items():
        new = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed["bert." + new] = tensor.astype(ml_dtypes.bfloat16)
    renamed["classifier.weight"] = np.ones((2, 16), ml_dtypes.bfloat16)
    renamed["classifier.bias"] = np.zeros(2, np.float32)
    renamed["bert.embeddings.position_ids"] = np.arange(64)[None]
    renamed["cls.predictions.bias"] = np.zeros(64, np.float16)
    save_file(renamed, str(folder / "model.safetensors"), {"format": "pt", "note": "ours"})
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "README.md").write_text("card")
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer"}]))
    (folder / "pytorch_model.bin.index.json").unlink(missing_ok=True)
    return folder


def test_an_old_directory_comes_out_with_its_keys_bytes_fields_and_files(tmp_path: Path) -> None:
    folder = old_bert(tmp_path / "a")
    out = tl.save(tl.load(folder), tmp_path / "deep" / "b")
    same(contents(folder), contents(out))
    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert json.loads((out / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    names = {str(p.relative_to(folder)) for p in folder.rglob("*")}
    assert {str(p.relative_to(out)) for p in out.rglob("*")} == names
    assert tl.load(out).sha256 == tl.load(folder).sha256
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["b"]


@pytest.mark.parametrize("dialect", VIT_DIALECTS)
def test_a_vit_with_fused_tensors_comes_out_the_same(dialect: str, tmp_path: Path) -> None:
    tensors = write_vit(tmp_path / "a", dialect)
    out = tl.save(tl.load(tmp_path / "a"), tmp_path / "b")
    same(tensors, contents(out))
    # Changing one part of a fused tensor changes nothing else.
    source = tl.load(tmp_path / "a")
    path = "layers/1/attention/key/kernel"
    changed = source.with_params(trees.unflatten({path: np.asarray(source.leaves[path]) + 1}))
    got = contents(tl.save(changed, tmp_path / "c"))
    key = source.leaves[path].key
    want = tensors[key].copy()
    want[12 : 24 if dialect == "timm" else None] if dialect == "timm" else want
    if dialect == "timm":
        want[12:24] += 1
    else:
        want += 1
    same({**tensors, key: want}, got)


def test_shards_equal_the_single_file_and_keep_their_size(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "a")
    out = tl.save(tl.load(folder), tmp_path / "b", shard_bytes=3000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in out.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors" and len(files) > 3
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in contents(folder).values())
    for file in files:
        tensors = read_safetensors(out / file)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 3000
    same(contents(folder), contents(out))
    same(contents(folder), contents(tl.save(tl.load(out), tmp_path / "c")))
    assert not (tmp_path / "c" / "model.safetensors.index.json").exists()


def test_a_file_is_byte_for_byte_what_the_reference_library_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "b": rng.normal(size=(3, 5)).astype(np.float32), "a": np.arange(7, dtype=np.int64),
        "Ω \"c\"": rng.normal(size=5).astype(np.float16), "d": np.array([True, False]), "e": np.zeros((0, 3), np.uint8),
        "f": np.array(2.0, np.float32), "g": np.ones(3, ml_dtypes.bfloat16), "h": np.zeros(3, np.int16),
        "i": np.zeros(3, np.uint32), "j": np.ones(2, np.float64), "k": np.ones(1, np.int8),
    }  # fmt: skip
    lazy = {key: LazyTensor(t.shape, t.dtype, lambda t=t: t) for key, t in tensors.items()}
    write_safetensors(tmp_path / "ours", lazy, {"format": "pt"})
    save_file(tensors, str(tmp_path / "theirs"), {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    same(tensors, {key: np.array(t.read()) for key, t in read_safetensors(tmp_path / "ours").items()})


def test_a_new_head_is_written_with_the_references_keys_and_its_labels(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "a", architectures=["BertModel"], num_labels=5)
    source = tl.load(folder)
    head = ClassifierConfig(("no", "yes", "maybe"), pooling="pooler")
    kernel = np.arange(48, dtype=np.float32).reshape(16, 3)
    trained = source.with_params({"head": {"kernel": kernel, "bias": np.ones(3, np.float32)}}, head=head)
    out = tl.save(trained, tmp_path / "b")
    got = contents(out)
    np.testing.assert_array_equal(got["classifier.weight"], kernel.T)
    want = {f"bert.{key}": tensor for key, tensor in contents(folder).items()}
    same(want, {key: tensor for key, tensor in got.items() if key in want})
    assert got.keys() - want.keys() == {"classifier.weight", "classifier.bias"}
    raw = json.loads((out / "config.json").read_text())
    assert raw["architectures"] == ["BertForSequenceClassification"] and "num_labels" not in raw
    assert raw["id2label"] == {"0": "no", "1": "yes", "2": "maybe"} and raw["label2id"]["maybe"] == 2
    again = tl.load(out)
    assert again.labels == head.labels
    ids = {"input_ids": np.array([[2, 5, 3]])}
    np.testing.assert_allclose(again(ids)["logits"], trained(ids)["logits"], atol=1e-6)
    # Another head on what is a classifier by now.
    other = again.with_params({"head": {"kernel": kernel[:, :1], "bias": np.ones(1, np.float32)}},
                              head=ClassifierConfig(("one",), pooling="pooler"))  # fmt: skip
    assert tl.load(tl.save(other, tmp_path / "c")).labels == ("one",)


def test_a_head_that_the_reference_would_pool_differently_is_not_written_for_it(tmp_path: Path) -> None:
    source = tl.load(write_bert(tmp_path / "a"))
    given = {"head": {"kernel": np.ones((16, 2), np.float32), "bias": np.ones(2, np.float32)}}
    trained = source.with_params(given, head=ClassifierConfig(("a", "b"), pooling="mean"))
    with pytest.raises(
        TransferlabError, match=r"pools by 'pooler', this head by 'mean'.*'sentence-transformers'.*'orbax'"
    ):
        tl.save(trained, tmp_path / "b", format="hf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    again = tl.load(tl.save(trained, tmp_path / "b", format="orbax"))
    assert again.head == trained.head
    ids = {"input_ids": np.array([[2, 5, 3]])}
    np.testing.assert_array_equal(again(ids)["logits"], trained(ids)["logits"])


def test_no_pooler_is_advised_where_there_is_none(tmp_path: Path) -> None:
    source = tl.load(write_bert(tmp_path / "a", drop=("pooler.dense.weight", "pooler.dense.bias")))
    given = {"head": {"kernel": np.ones((16, 2), np.float32), "bias": np.ones(2, np.float32)}}
    trained = source.with_params(given, head=ClassifierConfig(("a", "b"), pooling="mean"))
    with pytest.raises(TransferlabError, match=r"pools by 'pooler'.*differ\. Write it for sentence-tr.*format='orbax'"):
        tl.save(trained, tmp_path / "b", format="hf")
    assert tl.load(tl.save(trained, tmp_path / "b", format="orbax")).labels == ("a", "b")


def test_a_timm_head_keeps_its_labels(tmp_path: Path) -> None:
    write_vit(tmp_path / "a", "timm")
    source = tl.load(tmp_path / "a")
    given = {"head": {"kernel": np.ones((12, 3), np.float32), "bias": np.ones(3, np.float32)}}
    head = ClassifierConfig(("x", "y", "z"), pooling="first")
    out = tl.save(source.with_params(given, head=head), tmp_path / "b")
    raw = json.loads((out / "config.json").read_text())
    assert raw["num_classes"] == 3 and raw["pretrained_cfg"]["label_names"] == ["x", "y", "z"]
    assert tl.load(out).labels == ("x", "y", "z")


def test_trained_positions_of_another_size_are_written_with_the_new_size(tmp_path: Path) -> None:
    for dialect in ("vit", "timm"):
        write_vit(tmp_path / dialect, dialect)
        source = tl.load(tmp_path / dialect).resized(24)
        positions = np.asarray(source.leaves["embed/position"])
        trained = source.with_params({"embed": {"position": positions}})
        again = tl.load(tl.save(trained, tmp_path / f"{dialect} b"))
        assert (again.config.image_size, as_image(again.transform).size) == (24, 24)
        np.testing.assert_array_equal(np.asarray(again.leaves["embed/position"]), positions)


def test_a_dtype_that_is_asked_for_is_written(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "a", torch_dtype="float32")
    out = tl.save(tl.load(folder), tmp_path / "b", dtype="bfloat16")
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    want = {key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in contents(folder).items()}
    same(want, contents(out))
    with pytest.raises(TransferlabError, match="'int8' is not a floating-point type"):
        tl.save(tl.load(folder), tmp_path / "c", dtype="int8")


@pytest.mark.parametrize("layers", [12])
def test_orbax_keeps_the_order_of_layers_and_what_the_reference_needs(layers: int, tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "a", num_hidden_layers=layers, id2label={"0": "LABEL_0"})
    source = tl.load(folder)
    out = tl.save(source, tmp_path / "b", format="orbax")
    again = tl.load(out)
    assert again.sha256 == source.sha256
    assert (again.config, again.pooling, again.normalise) == (source.config, source.pooling, source.normalise)
    assert again.tokenizer is not None
    same(contents(folder), contents(tl.save(again, tmp_path / "c")))
    for path in (f"layers/{layers - 1}/mlp/up/bias", "layers/1/attention/key/kernel"):
        np.testing.assert_array_equal(np.asarray(again.leaves[path]), np.asarray(source.leaves[path]))


def test_orbax_keeps_bfloat16_and_refuses_a_wrong_description(tmp_path: Path) -> None:
    source = tl.load(old_bert(tmp_path / "a"))
    out = tl.save(source, tmp_path / "b", format="orbax")
    again = tl.load(out)
    assert again.leaves["pooler/kernel"].dtype == ml_dtypes.bfloat16
    assert again.sha256 == source.sha256 and again.labels == ("down", "up")
    for change, message in (
        ({"format": 2}, "later version"), ({"family": "brt"}, "'brt' is not known here. Did you mean 'bert'"),
        ({"config": {"hidden": 3}}, "not a readable description"), ({"names": "x"}, "not a readable description"),
    ):  # fmt: skip
        path = out / "transferlab.json"
        text = path.read_text()
        path.write_text(json.dumps({**json.loads(text), **change}))
        with pytest.raises(TransferlabError, match=rf"transferlab\.json.*{message}"):
            tl.load(out)
        path.write_text(text)


def test_an_orbax_tree_of_somebodys_own_is_read_with_every_key_named(tmp_path: Path) -> None:
    """As ``nnx.state`` writes it, below ``params`` and with ``value`` after each path, next to an optimizer's state."""
    import orbax.checkpoint as ocp

    folder = write_bert(tmp_path / "a", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    source = tl.load(folder)
    params = {f"{path}/value": np.asarray(leaf) for path, leaf in source.leaves.items()}
    params |= {"head/kernel/value": np.ones((16, 2), np.float32), "head/bias/value": np.zeros(2, np.float32)}
    tree = {"params": trees.unflatten(params), "opt_state": {"count": np.zeros((), np.int32)}, "step": np.int32(7)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((tmp_path / "own").resolve(), tree)
    again = tl.load(tmp_path / "own", config=source.config)
    assert again.labels == ("0", "1") and {key for key, _ in again.unused} == {"opt_state/count", "step"}
    given = {"input_ids": np.array([[2, 5, 6, 3]])}
    np.testing.assert_array_equal(again(given)["hidden"], source(given)["hidden"])
    out = tl.load(tl.save(again, tmp_path / "hf"))
    np.testing.assert_array_equal(out(given)["logits"], again(given)["logits"])
    with pytest.raises(
        TransferlabError, match=r"'embed/word/embedding': key 'params/embed/word/embedding/value' has shape"
    ):
        tl.load(tmp_path / "own", config=replace(source.config, vocab_size=65))
    with pytest.raises(TransferlabError, match="not a readable Orbax checkpoint"):
        tl.load(tmp_path, config=source.config)


def test_a_bare_file_gets_a_config_that_the_family_reads(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "a")
    config = bert_from_hf(json.loads((folder / "config.json").read_text()))
    out = tl.save(tl.load(folder / "model.safetensors", config=config), tmp_path / "b")
    same(contents(folder), contents(out))
    assert tl.load(out).config == config


def test_a_timm_vit_is_converted_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    plain = {**VIT_DIALECTS["timm"]["model_args"]}
    del plain["reg_tokens"], plain["init_values"]
    write_vit(tmp_path / "a", "timm", model_args=plain)
    source = tl.load(tmp_path / "a")
    again = tl.load(tl.save(source, tmp_path / "b", format="hf"))
    assert again.labels == source.labels
    # Not of every size: where half a pixel is left over, timm cuts the centre on the even side, transformers below.
    image = np.random.default_rng(1).integers(0, 256, (30, 39, 3)).astype(np.uint8)
    np.testing.assert_array_equal(as_image(again.transform)(image), as_image(source.transform)(image))
    pixels = {"pixel_values": np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)}
    np.testing.assert_allclose(again(pixels)["logits"], source(pixels)["logits"], atol=1e-6)
    averaged = {**VIT_DIALECTS["timm"], "global_pool": "avg", "model_args": plain}
    write_vit(tmp_path / "c", "timm", **averaged)
    with pytest.raises(TransferlabError, match="Hugging Face's vit cannot have norm_pooled True"):
        tl.save(tl.load(tmp_path / "c"), tmp_path / "d", format="hf")
    with pytest.raises(TransferlabError, match=r"format 'timmy' is unknown.*timm"):
        tl.save(source, tmp_path / "d", format="timmy")
    with pytest.raises(TransferlabError, match="format 'timm' cannot be written for"):
        tl.save(again, tmp_path / "d", format="timm")


def test_a_directory_that_holds_something_is_not_written_over(tmp_path: Path) -> None:
    source = tl.load(write_bert(tmp_path / "a"))
    tl.save(source, tmp_path / "b")
    (tmp_path / "b" / "merges.txt").touch()
    with pytest.raises(TransferlabError, match="b is not empty"):
        tl.save(source, tmp_path / "b")
    tl.save(source, tmp_path / "b", overwrite=True)
    assert not (tmp_path / "b" / "merges.txt").exists() and (tmp_path / "b" / "config.json").exists()
    with pytest.raises(TransferlabError, match="is a file"):
        tl.save(source, tmp_path / "b" / "config.json")
    # Onto itself: the source's files are still those that were opened.
    same(contents(tmp_path / "a"), contents(tl.save(source, tmp_path / "a", overwrite=True)))


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tl.load(write_bert(tmp_path / "a"))
    (tmp_path / "b").mkdir()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        tl.save(source, tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    assert not any((tmp_path / "b").iterdir())


def test_params_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = tl.load(write_bert(tmp_path / "a"))
    for given, message in (
        ({"poler": {"bias": np.ones(16)}}, "'poler/bias' is not a leaf.*pooler/bias"),
        ({"pooler": {"bias": np.ones(15)}}, r"'pooler/bias' has shape \(15,\)"),
        ({"layers": {"0": {"attention": {"query": {"lora": {"a": np.ones((16, 2))}}}}}}, "adapter"),
        ({"pooler": {"bias": np.full(16, np.nan, np.float32)}}, "'pooler.dense.bias' holds NaN"),
    ):
        with pytest.raises(TransferlabError, match=message):
            tl.save(source, tmp_path / "b", params=given)


@pytest.mark.parametrize("what", ["thesis.txt", "runs", "image.png", "model and notes"])
def test_overwriting_refuses_anything_but_a_model(bert_folder: Path, tmp_path: Path, what: str) -> None:
    target = tmp_path / "there"
    target.mkdir()
    if what == "model and notes":
        tl.save(tl.load(bert_folder), target)
        lost = target / "notes.odt"
        lost.write_text("x")
    elif what == "runs":
        (target / "config.json").write_text("{}")
        lost = target / "runs"
        lost.mkdir()
    else:
        lost = target / what
        lost.write_text("x")
    with pytest.raises(TransferlabError, match="not overwritten"):
        tl.save(tl.load(bert_folder), target, overwrite=True)
    assert lost.exists()


def test_a_model_is_overwritten_by_another_when_asked(bert_folder: Path, tmp_path: Path) -> None:
    for form in ("hf", "orbax", "hf"):
        tl.save(tl.load(bert_folder), tmp_path / "there", format=form, overwrite=True)
    assert (tmp_path / "there" / "model.safetensors").exists() and not (tmp_path / "there" / "tree").exists()
