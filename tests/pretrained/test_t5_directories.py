"""T5 directories: names in both directions, what ties and what does not, the encoder alone, another vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.checkpoints import write_bert
from support.typed import found

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models.heads import ClassifierConfig
from transferlab.pretrained.families.t5 import t5_from_hf, t5_names
from transferlab.pretrained.names import to_file
from transferlab.train.setup import plan_for

RAW = {
    "model_type": "t5", "vocab_size": 18, "d_model": 12, "d_kv": 5, "d_ff": 16, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
}  # fmt: skip
V1_1 = {**RAW, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
LORA = tl.methods.LoRA(rank=2)
WORD = "encoder/embed/word/embedding"


def write_t5(folder: Path, raw: dict) -> dict[str, np.ndarray]:
    """Write config, random weights under transformers' keys, and a tokenizer of 18 tokens; return the tensors."""
    write_bert(folder)
    (folder / "1_Pooling" / "config.json").unlink()
    config = t5_from_hf(raw)
    tied = config.scale_decoder_outputs
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build(config.language_model(tied))).params)
    leaves = {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    tensors = to_file(t5_names(config, tied), leaves)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(folder / "model.safetensors"))
    return tensors


@pytest.mark.parametrize("raw", [RAW, V1_1, {**RAW, "model_type": "mt5"}])
def test_loaded_leaves_write_the_files_own_tensors(raw: dict, tmp_path: Path) -> None:
    tensors = write_t5(tmp_path, raw)
    source = tl.load(tmp_path)
    assert source.head == source.config.language_model(tied=raw is RAW)
    again = to_file(found(source.names), {path: leaf.read() for path, leaf in source.leaves.items()})
    assert again.keys() == tensors.keys() and not source.unused
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key], tensor, err_msg=key)


def test_copies_of_the_tied_table_are_known_keys(tmp_path: Path) -> None:
    """Old torch files hold every name of a shared tensor, and a bias that nothing reads."""
    tensors = write_t5(tmp_path, RAW)
    table, bias = tensors["shared.weight"], "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    more = {"encoder.embed_tokens.weight": table, "decoder.embed_tokens.weight": table, "lm_head.weight": table}
    save_file(tensors | more | {bias: np.zeros((8, 2), np.float32)}, str(tmp_path / "model.safetensors"))
    assert {key for key, _ in tl.load(tmp_path).unused} == {*more, bias}
    del tensors["shared.weight"]
    save_file(tensors | {"encoder.embed_tokens.weight": table}, str(tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(tl.load(tmp_path).leaves[WORD].read(), table)


@pytest.mark.parametrize(
    ("prefix", "heads"),
    [
        ("transformer.", ("classification_head.dense.weight", "classification_head.out_proj.bias")),
        ("transformer.", ("classifier.weight", "classifier.bias")),
        ("", ("qa_outputs.weight", "qa_outputs.bias")),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_t5_with_the_head_of_another_task_is_read(
    prefix: str, heads: tuple[str, ...], alone: bool, tmp_path: Path
) -> None:
    tensors = write_t5(tmp_path, RAW)
    body = {prefix + key: x for key, x in tensors.items() if not (alone and key.startswith("decoder."))}
    copy = {f"{prefix}encoder.embed_tokens.weight": tensors["shared.weight"]}
    others = {key: np.ones((2, 12), np.float32) for key in heads}
    save_file(body | copy | others, str(tmp_path / "model.safetensors"))
    source = tl.load(tmp_path)
    assert (source.head is None) == (source.config.num_decoder_layers == 0) == alone
    assert {key for key, _ in source.unused} == {*heads, *copy}
    for leaf in source.leaves.values():
        np.testing.assert_array_equal(leaf.tensor.read(), body[leaf.key])


@pytest.mark.parametrize("raw", [RAW, V1_1])
def test_a_head_that_equals_the_table_is_a_leaf_of_its_own(raw: dict, tmp_path: Path) -> None:
    tensors = write_t5(tmp_path, raw)
    again = {"lm_head.weight": tensors["shared.weight"]}
    save_file(tensors | again, str(tmp_path / "model.safetensors"))
    source = tl.load(tmp_path)
    assert source.head == source.config.language_model(tied=True) and "head/kernel" not in source.leaves
    assert source.unused == (("lm_head.weight", "equal to the embedding table, to which it is tied"),)
    del tensors["shared.weight"]
    save_file(tensors | {f"{k}.weight": again["lm_head.weight"] for k in ("lm_head", "encoder.embed_tokens")},
              str(tmp_path / "model.safetensors"))  # fmt: skip
    keys = {name.key for name in found(tl.load(tmp_path).names).names}
    assert "encoder.embed_tokens.weight" in keys and not keys & {"shared.weight", "lm_head.weight"}


@pytest.mark.parametrize("key", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_another_table_of_tokens_is_not_thrown_away_as_a_copy(key: str, tmp_path: Path) -> None:
    tensors = write_t5(tmp_path, RAW)
    other = tensors["shared.weight"].copy()
    other[-1, -1] += 1.0
    for table in (other, other[:-1]):
        save_file(tensors | {key: table}, str(tmp_path / "model.safetensors"))
        with pytest.raises(TransferlabError, match=rf"'{key}' differs from 'shared\.weight'"):
            tl.load(tmp_path)


def test_a_decoder_with_a_missing_layer_is_refused(tmp_path: Path) -> None:
    tensors = write_t5(tmp_path, RAW)
    gone = {key for key in tensors if key.startswith("decoder.") and "block.1.layer.2" not in key}
    save_file({k: v for k, v in tensors.items() if k not in gone}, str(tmp_path / "model.safetensors"))
    with pytest.raises(TransferlabError, match=r"'decoder/layers/0/attention/query/kernel' .* is not in the file"):
        tl.load(tmp_path)
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("decoder.")}
    save_file(kept, str(tmp_path / "model.safetensors"))
    alone = tl.load(tmp_path)
    assert alone.config == alone.config.encoder_only()
    assert alone.pooling == "mean" and alone({"input_ids": np.arange(8)[None]})["pooled"].shape == (1, 12)


def test_a_classifier_on_the_encoder_names_the_decoder_that_it_drops(films, tmp_path: Path) -> None:
    write_t5(tmp_path, V1_1)
    source = tl.load(tmp_path)
    with pytest.raises(TransferlabError, match=r"source\.encoder"):
        plan_for(source, ("down", "up"), tl.methods.Full())
    alone = source.encoder()
    made = plan_for(alone, ("down", "up"), LORA)
    assert ("lm_head.weight", "of the decoder") in made.unused
    assert {leaf.path for leaf in made.leaves if leaf.action == "copied"} == set(alone.leaves)
    settings = tl.train.Settings(learning_rate=1e-3, epochs=1)
    run = tl.adapt(alone, films, method=LORA, settings=settings, directory=tmp_path / "run")
    result = run.fit()
    texts = [films.records[int(i)]["text"] for i in films.test]
    np.testing.assert_allclose(tl.open_run(tmp_path / "run")(texts), result.probabilities, atol=1e-5)
    with pytest.raises(TransferlabError, match="no decoder to drop"):
        alone.encoder()


@pytest.mark.parametrize("raw", [RAW, V1_1])
def test_new_tokens_have_logits_and_keep_the_old_ones(raw: dict, tmp_path: Path) -> None:
    """Tied, one table gives both: its new row is a new logit too. Untied, both tables grow alike."""
    write_t5(tmp_path, raw)
    source = tl.load(tmp_path)
    larger = source.with_tokenizer(add=("<x>", "<y>"))
    given = {"input_ids": np.arange(8)[None], "decoder_input_ids": np.arange(5)[None]}
    before, after = np.asarray(source(given)["logits"]), np.asarray(larger(given)["logits"])
    assert after.shape == (1, 5, 20)
    np.testing.assert_allclose(after[..., :18], before, atol=1e-6)
    # The logit of a mean row is the mean of the logits.
    np.testing.assert_allclose(after[..., 18:], np.repeat(before.mean(-1, keepdims=True), 2, -1), atol=1e-5)
    resized = {path for path, leaf in larger.leaves.items() if leaf.resize}
    assert resized == ({WORD} if raw is RAW else {WORD, "head/kernel"})
    assert found(larger.leaves[WORD].resize).how == "18 to 20 tokens: 18 kept by name, 2 new by mean, 0 dropped"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_decoder": True}, "is_decoder is true"),
        ({"feed_forward_proj": "gated-tanhh"}, "unknown feed_forward_proj"),
        ({"dense_act_fn": "silu"}, "dense_act_fn 'silu' is not 'relu'"),
    ],
)
def test_a_config_that_cannot_be_honored_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        t5_from_hf({**RAW, **changes})


def test_a_classifier_that_the_reference_lacks_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    save_file(write_t5(tmp_path / "a", RAW), str(tmp_path / "a" / "model.safetensors"))
    source = tl.load(tmp_path / "a").encoder()
    head = {"kernel": np.ones((source.config.d_model, 2), np.float32), "bias": np.zeros(2, np.float32)}
    trained = source.with_params({"head": head}, head=ClassifierConfig(("x", "y"), pooling="mean"))
    with pytest.raises(TransferlabError, match=r"no key in t5's files.* format='orbax'"):
        tl.save(trained, tmp_path / "b", format="hf")
    assert not (tmp_path / "b").exists()
    assert tl.load(tl.save(trained, tmp_path / "c", format="orbax")).labels == ("x", "y")
