"""Directories and GGUF files of decoders: the same bytes in and out, and no field that changes the results is ignored."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import DECODERS, write_decoder
from support.typed import as_text, found, language_model_of

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.methods import LoRA, Probe
from transferlab.models.causal import Rope
from transferlab.models.heads import TokenClassifierConfig
from transferlab.models.llama import LlamaConfig
from transferlab.pretrained.families.llama import LLAMA
from transferlab.pretrained.families.llama_config import llama_from_hf
from transferlab.pretrained.families.llama_gguf import llama_gguf_names
from transferlab.pretrained.names import to_file
from transferlab.pretrained.writing import save
from transferlab.train.setup import plan_for

GIVEN = {"input_ids": np.random.default_rng(1).integers(4, 40, (2, 7))}


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_directory_comes_back_with_its_bytes_and_its_head(kind: str, tied: bool, tmp_path: Path) -> None:
    tensors = write_decoder(tmp_path, kind, tie_word_embeddings=tied)
    source = tl.load(tmp_path)
    assert {leaf.key for leaf in source.leaves.values()} == set(tensors)
    back = to_file(found(source.names), {path: leaf.read() for path, leaf in source.leaves.items()})
    for key, tensor in back.items():
        full = key if key in tensors else found(source.names).prefixes[-1] + key
        np.testing.assert_array_equal(tensor, tensors[full], err_msg=key)
    if tied:
        out = source(GIVEN)
        assert out["logits"].shape == (2, 7, 40) and out["pooled"].shape == (2, 16)
    assert language_model_of(source).tied == tied and ("lm_head.weight" in tensors) != tied and source.labels == ()


def test_a_bare_decoder_gets_no_head(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    tensors = write_decoder(tmp_path, "llama")
    bare = {k.removeprefix("model."): v for k, v in tensors.items() if k != "lm_head.weight"}
    save_file(bare, str(tmp_path / "model.safetensors"))
    source = tl.load(tmp_path)
    assert source.head is None and "logits" not in source(GIVEN)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_classifier_on_a_language_model_drops_the_old_head_and_keeps_every_leaf(kind: str, tmp_path: Path) -> None:
    write_decoder(tmp_path, kind, tie_word_embeddings=False)
    source = tl.load(tmp_path)
    plan = plan_for(source, ("bad", "good"), LoRA(rank=2))
    actions = {leaf.path: leaf.action for leaf in plan.leaves}
    assert actions["head/kernel"] == "initialised" and plan.head.pooling == "last"
    assert "head/bias" not in actions  # transformers' classifier has none
    assert ("lm_head.weight", "replaced by the new head") in plan.unused
    assert {p for p, a in actions.items() if a == "copied"} == {p for p in source.leaves if not p.startswith("head/")}
    shapes = {path: leaf.shape for path, leaf in trees.walk(plan.place(0)[0])}
    assert shapes["head/kernel"] == (16, 2)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is true"),
        (
            "llama",
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_scaling.rope_type 'dynamic' is not supported",
        ),
        (
            "llama",
            {"quantization_config": {"quant_method": "bitnet"}},
            r"config\.json: quantization_config has the quant_method 'bitnet'",
        ),
        ("gpt2", {"quantization_config": {"load_in_8bit": True}}, "quantization_config has the quant_method 'None'"),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type 'longrope'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope_type 'linear' lacks 'factor'"),
        ("llama", {"rope_parameters": {"rope_theta": 1.0, "factr": 2.0}}, "unknown 'factr'.*factor"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp is 2"),
        ("llama", {"head_dim": None, "hidden_size": 18}, "hidden_size 18 is no multiple of num_attention_heads 4"),
        ("llama", {"model_type": "mistral", "layer_types": ["full_attention"] * 2}, "layer_types is not supported"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
        ("gemma", {"layer_types": ["full_attention"]}, "layer_types names 1 layers; num_hidden_layers is 3"),
        ("gemma", {"layer_types": ["chunked_attention"] * 3}, "layer_types holds 'chunked_attention'"),
        ("gemma", {"model_type": "gemma3_text"}, "attn_logit_softcapping is not supported"),
        ("llama", {"model_type": "llamma"}, "model_type 'llamma' .*llama"),
    ],
)
def test_a_field_that_changes_the_numbers_is_refused(kind: str, changes: dict, message: str, tmp_path: Path) -> None:
    raw = {key: value for key, value in {**DECODERS[kind], **changes}.items() if value is not None}
    write_decoder(tmp_path, kind)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(TransferlabError, match=message):
        tl.load(tmp_path)


@pytest.mark.parametrize("empty", [None, {}])
def test_a_model_that_says_it_has_no_quantization_is_read(empty, tmp_path: Path) -> None:
    write_decoder(tmp_path, "llama", quantization_config=empty)
    assert tl.load(tmp_path).family == "llama"


def test_what_a_config_leaves_out_is_the_models_own_default() -> None:
    read = llama_from_hf
    assert read({"model_type": "mistral"}).windowed == tuple(range(32))
    assert read({"model_type": "mistral", "sliding_window": None}).windowed == ()
    assert read({"model_type": "qwen2", "sliding_window": 9}).windowed == ()
    assert read({"model_type": "qwen2", "sliding_window": 9, "use_sliding_window": True}).windowed == (28, 29, 30, 31)
    assert read({"model_type": "qwen3"}).head_dim == 128
    assert read({"model_type": "llama"}).eos_token_id == (2,)
    assert read({"model_type": "llama", "eos_token_id": None}).eos_token_id == ()
    assert read({"model_type": "gemma2"}) == replace(LlamaConfig.gemma2_2b(), eos_token_id=(1,))
    assert read({"model_type": "gemma2", "final_logit_softcapping": None}).final_logit_softcapping is None
    third = read({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert third.rope == Rope(1e6, "linear", 8.0)
    assert third.local_rope == Rope(1e4) and third.windowed == tuple(i for i in range(26) if i % 6 != 5)


# ---------------------------------------------------------------------------------------------------------------
# GGUF


TINY = LlamaConfig(
    vocab_size=262, hidden_size=16, intermediate_size=24, num_hidden_layers=12, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, max_position_embeddings=64, rms_norm_eps=2.0**-17, tie_word_embeddings=True,
    rope=Rope(5000.0), eos_token_id=(256,),
)  # fmt: skip
BYTES = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
BYTES = [*BYTES, *(chr(256 + n) for n in range(68))]
TOKENS = [*BYTES, "<end>", "<tool>", "Ġt", "he", "Ġthe", "12"]


def string(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, value) -> bytes:
    kinds = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
    if isinstance(value, str):
        return string(key) + struct.pack("<I", 8) + string(value)
    if isinstance(value, list):
        number, form = (8, "") if isinstance(value[0], str) else kinds[type(value[0])]
        raw = b"".join(string(v) if form == "" else struct.pack(form, v) for v in value)
        return string(key) + struct.pack("<IIQ", 9, number, len(value)) + raw
    number, form = kinds[type(value)]
    return string(key) + struct.pack("<I", number) + struct.pack(form, value)


def write_gguf(
    path: Path, config: LlamaConfig, kind: str = "llama", more: dict[str, np.ndarray] | None = None, **changes
) -> dict[str, np.ndarray]:
    """Write a float32 GGUF by hand, with more tensors than the model's; return the leaves."""
    metadata = {
        "general.architecture": kind, f"{kind}.context_length": 64, f"{kind}.embedding_length": 16,
        f"{kind}.block_count": config.num_hidden_layers, f"{kind}.feed_forward_length": 24,
        f"{kind}.attention.head_count": 4, f"{kind}.attention.head_count_kv": 2,
        f"{kind}.attention.layer_norm_rms_epsilon": config.rms_norm_eps, f"{kind}.rope.freq_base": 5000.0,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [1] * 256 + [3, 4] + [1] * 4,
        "tokenizer.ggml.merges": ["Ġ t", "h e", "Ġt he", "1 2"], "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.bos_token_id": 256, **changes,
    }  # fmt: skip
    metadata = {key: value for key, value in metadata.items() if value is not None}
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build(config.language_model())).params)
    leaves = {p: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for p, leaf in shapes.items()}
    out, data = b"".join(pair(key, value) for key, value in metadata.items()), b""
    tensors = to_file(llama_gguf_names(config), leaves) | (more or {})
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        out += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += tensor.tobytes() + bytes(-tensor.nbytes % 32)
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + out
    path.write_bytes(out + bytes(-len(out) % 32) + data)
    return leaves


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", TINY),
        ("llama", replace(TINY, num_hidden_layers=2, tie_word_embeddings=False)),
        ("qwen2", replace(TINY, num_hidden_layers=2, qkv_bias=True)),
        ("qwen3", replace(TINY, num_hidden_layers=2, query_norm=True)),
    ],
)
def test_a_gguf_file_is_the_model_that_was_written(kind: str, config: LlamaConfig, tmp_path: Path) -> None:
    leaves = write_gguf(tmp_path / "x.gguf", config, kind)
    source = tl.load(tmp_path / "x.gguf")
    assert source.config == config and source.head == config.language_model()
    assert source.leaves.keys() == leaves.keys()
    for path, want in leaves.items():
        np.testing.assert_array_equal(source.leaves[path].read(), want, err_msg=path)


def test_query_and_key_of_a_gguf_file_turn_in_the_same_pairs(tmp_path: Path) -> None:
    from transferlab.pretrained.formats.gguf import read_gguf

    leaves = write_gguf(tmp_path / "x.gguf", TINY)
    file = read_gguf(tmp_path / "x.gguf").tensors["blk.3.attn_k.weight"].read()  # (2 heads of 4, 16)
    ours = leaves["layers/3/attention/key/kernel"].T
    np.testing.assert_array_equal(file, ours[[0, 2, 1, 3, 4, 6, 5, 7]])


def test_a_gguf_files_tokenizer_splits_and_joins_alike(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", replace(TINY, num_hidden_layers=1))
    source = tl.load(tmp_path / "x.gguf")
    texts = ["the the123<end>é", "", "<tool>12 12"]
    got = [[TOKENS[i] for i in one.ids] for one in as_text(source.transform).encode(texts)]
    assert got[0] == ["t", "he", "Ġthe", "1", "2", "3", "<end>", "Ã", "©"]  # digits stand alone, before any merge
    assert got[1] == [] and got[2] == ["<tool>", "1", "2", "Ġ", "1", "2"]
    assert (
        source.tokenizer.decode([i for one in as_text(source.transform).encode(texts) for i in one.ids])
        == "the the123é<tool>12 12"
    )
    assert as_text(source.transform).max_length == 64 and as_text(source.transform).pad_id == 256
    write_gguf(
        tmp_path / "y.gguf",
        replace(TINY, num_hidden_layers=1),
        **{"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.pre": "llama-bpe"},
    )
    other = tl.load(tmp_path / "y.gguf").transform
    assert [TOKENS[i] for i in as_text(other)("the 12").ids] == ["<end>", "t", "he", "Ġ", "12"]
    assert as_text(other).sha256 != as_text(source.transform).sha256
    assert tl.generate(source, "the", max_new_tokens=2, stop=()).texts[0] != ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "bloom"}, "general.architecture 'bloom' is not supported"),
        ({"llama.block_count": None}, "metadata has no 'llama.block_count'"),
        ({"llama.expert_count": 4}, "llama.expert_count is not 0"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type 'yarn' is not supported"),
        ({"llama.attention.value_length": 8}, "llama.attention.value_length is 8; only 4"),
        ({"llama.attention.head_count_kv": 4}, "does not fit llama"),
        ({"tokenizer.ggml.merges": ["q zz"]}, "merges does not match"),
    ],
)
def test_a_gguf_file_that_cannot_be_honored_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", replace(TINY, num_hidden_layers=1), **changes)
    with pytest.raises(TransferlabError, match=message):
        tl.load(tmp_path / "x.gguf")


def factors(base: float, stretch: float, low: float, high: float, length: int, width: int = 64) -> np.ndarray:
    """What llama.cpp's converter writes for a rope_type llama3, from its lengths of waves."""
    made = []
    for i in range(width // 2):
        wave = 2 * math.pi * base ** (2 * i / width)
        share = (length / wave - low) / (high - low)
        between = 1 / ((1 - share) / stretch + share)
        made.append(1.0 if wave < length / high else stretch if wave > length / low else between)
    return np.array(made, np.float32)


def with_factors(path: Path, given: np.ndarray, **changes) -> tl.Source:
    widths = {
        f"llama.{name}": 64 for name in ("attention.key_length", "attention.value_length", "rope.dimension_count")
    }
    config = replace(TINY, num_hidden_layers=1, head_dim=64)
    write_gguf(
        path, config, more={"rope_freqs.weight": given}, **{"llama.rope.freq_base": 500000.0, **widths, **changes}
    )
    return tl.load(path)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (factors(5e5, 8.0, 1.0, 4.0, 8192), Rope(5e5, "llama3", 8.0, 1.0, 4.0, 8192)),
        (factors(5e5, 32.0, 1.0, 4.0, 8192), Rope(5e5, "llama3", 32.0, 1.0, 4.0, 8192)),
        (np.ones(32, np.float32), Rope(5e5)),
    ],
)
def test_factors_on_the_frequencies_of_a_gguf_file_are_applied(given: np.ndarray, want: Rope, tmp_path: Path) -> None:
    source = with_factors(tmp_path / "x.gguf", given)
    assert source.config.rope == want
    assert dict(source.unused)["rope_freqs.weight"] == "factors of the rotary positions, which the config holds"


@pytest.mark.parametrize(("low", "high", "length"), [(1.0, 8.0, 4096), (0.5, 4.0, 16384), (2.0, 8.0, 8192)])
def test_another_stretch_than_the_published_is_read_as_itself(
    low: float, high: float, length: int, tmp_path: Path
) -> None:
    given = factors(5e5, 16.0, low, high, length)
    rope = with_factors(tmp_path / "x.gguf", given).config.rope
    assert rope.original_max_position_embeddings == pytest.approx(length / low, rel=1e-3)
    assert rope.high_freq_factor == pytest.approx(high / low, rel=1e-3)
    np.testing.assert_allclose(Rope(5e5).frequencies(64)[0] / rope.frequencies(64)[0], given, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        (np.linspace(1, 8, 32, dtype=np.float32), {}, "'rope_freqs.weight' is not the stretch of Llama 3.1"),
        (np.full(32, 0.5, np.float32), {}, "'rope_freqs.weight' is not the stretch"),
        (np.full(16, 1.0, np.float32), {}, r"'rope_freqs.weight' has shape \(16,\); expected \(32,\)"),
        (factors(5e5, 8.0, 1.0, 4.0, 8192), {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
         "'rope_freqs.weight' is not the stretch"),
    ],
)  # fmt: skip
def test_factors_that_no_config_holds_are_refused(
    given: np.ndarray, changes: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TransferlabError, match=message):
        with_factors(tmp_path / "x.gguf", given, **changes)


def test_a_tokenizer_that_cannot_be_made_is_named_and_the_weights_are_read(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"tokenizer.ggml.pre": "poro-chat"}
    write_gguf(tmp_path / "x.gguf", replace(TINY, num_hidden_layers=1), **changes)
    source = tl.load(tmp_path / "x.gguf")
    assert source.transform is None and "tokenizer.ggml.pre is 'poro-chat'" in dict(source.unused)["tokenizer.ggml"]
    assert source({"input_ids": [[4, 5]]})["logits"].shape == (1, 2, 262)


# ---------------------------------------------------------------------------------------------------------------
# Writing


@pytest.mark.parametrize("kind", DECODERS)
def test_a_language_model_is_written_with_its_bytes_and_its_head(kind: str, tmp_path: Path) -> None:
    write_decoder(tmp_path / "in", kind, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    source = tl.load(tmp_path / "in")
    save(source, tmp_path / "same")
    want, got = (tmp_path / place for place in ("in", "same"))
    assert json.loads((got / "config.json").read_text()) == json.loads((want / "config.json").read_text())
    assert (got / "model.safetensors").read_bytes() == (want / "model.safetensors").read_bytes()
    moved = "layers/1/attention/query/kernel"
    doubled = trees.unflatten({moved: 2 * source.leaves[moved].read()})
    save(source, tmp_path / "changed", params=doubled, shard_bytes=2000)
    again = tl.load(tmp_path / "changed")
    for path, leaf in source.leaves.items():
        factor = 2 if path == moved else 1
        np.testing.assert_array_equal(again.leaves[path].read(), factor * leaf.read(), err_msg=path)
    save(source, tmp_path / "orbax", format="orbax")
    again = tl.load(tmp_path / "orbax")
    assert again.config == source.config and again.head == source.head
    for path, leaf in source.leaves.items():
        np.testing.assert_array_equal(again.leaves[path].read(), leaf.read(), err_msg=path)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_classifier_is_written_and_the_old_head_is_not(kind: str, tied: bool, tmp_path: Path) -> None:
    write_decoder(tmp_path / "in", kind, tie_word_embeddings=tied)
    source = tl.load(tmp_path / "in")
    plan = plan_for(source, ("bad", "good"), Probe())
    params, _ = plan.place(0)
    save(source.with_params({"head": params["head"]}, head=plan.head), tmp_path / "out")
    again = tl.load(tmp_path / "out")
    assert again.labels == ("bad", "good") and found(again.head).pooling == "last"
    np.testing.assert_array_equal(again.leaves["head/kernel"].read(), params["head"]["kernel"])
    assert {"score.weight"} == {key for key in again.tensors if not key.startswith(found(source.names).prefixes)}


@pytest.mark.parametrize(
    ("kind", "task", "prefix", "heads"),
    [
        ("llama", "LlamaForTokenClassification", "model.", ("score.weight", "score.bias")),
        ("llama", "LlamaForQuestionAnswering", "transformer.", ("qa_outputs.weight", "qa_outputs.bias")),
        ("gemma", "Gemma2ForTokenClassification", "model.", ("score.weight", "score.bias")),
        ("gpt2", "GPT2ForTokenClassification", "transformer.", ("classifier.weight", "classifier.bias")),
        ("gpt2", "GPT2ForQuestionAnswering", "transformer.", ("qa_outputs.weight", "qa_outputs.bias")),
        ("gpt2", "GPT2DoubleHeadsModel", "transformer.", ("multiple_choice_head.summary.weight",)),
    ],
)
def test_the_head_of_another_task_keeps_no_decoder_unread_and_goes_with_no_new_head(
    kind: str, task: str, prefix: str, heads: tuple[str, ...], tmp_path: Path
) -> None:
    from safetensors.numpy import save_file

    tensors = write_decoder(tmp_path / "in", kind, tie_word_embeddings=False, architectures=[task])
    body = {key: tensor for key, tensor in tensors.items() if key != "lm_head.weight"}
    moved = {prefix + key.partition(".")[2]: tensor for key, tensor in body.items()}
    others = {key: np.ones((2, 16)[: 1 + key.endswith("weight")], np.float32) for key in heads}
    save_file(moved | others, str(tmp_path / "in" / "model.safetensors"))
    source = tl.load(tmp_path / "in")
    tokens = isinstance(source.head, TokenClassifierConfig)
    assert tokens == task.endswith("TokenClassification") and (tokens or source.head is None)
    assert {key for key, _ in source.unused} == (set() if tokens else set(heads))
    for leaf in source.leaves.values():
        np.testing.assert_array_equal(leaf.tensor.read(), (moved | others)[leaf.key])
    params, _ = (plan := plan_for(source, ("bad", "good"), Probe())).place(0)
    assert {leaf.action for leaf in plan.leaves if leaf.path.startswith("head/")} == {"initialised"}
    assert {key for key, _ in plan.unused} == set(heads)
    save(source.with_params({"head": params["head"]}, head=plan.head), tmp_path / "out")
    again = tl.load(tmp_path / "out")
    assert again.tensors.keys() == {*body, "score.weight"} and again.labels == ("bad", "good")
    np.testing.assert_array_equal(again.leaves["head/kernel"].read(), params["head"]["kernel"])


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_gguf_file_becomes_the_same_model_as_a_directory(kind: str, tmp_path: Path) -> None:
    changes = {"llama": {}, "qwen2": {"qkv_bias": True}, "qwen3": {"query_norm": True, "tie_word_embeddings": False}}[
        kind
    ]
    write_gguf(tmp_path / "x.gguf", replace(TINY, **changes), kind)
    source = tl.load(tmp_path / "x.gguf")
    save(source, tmp_path / "out", format="hf")
    again = tl.load(tmp_path / "out")
    assert again.config == source.config and again.head == source.head
    for path, leaf in source.leaves.items():
        np.testing.assert_array_equal(again.leaves[path].read(), leaf.read(), err_msg=path)
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["model_type"] == kind and raw["architectures"] == [f"{kind.capitalize()}ForCausalLM"]


@pytest.mark.parametrize("size", ["llama32_1b", "mistral_7b", "qwen25_05b", "qwen3_06b", "gemma2_2b", "gemma3_270m"])
def test_a_config_of_ours_means_the_same_model_to_hugging_face(size: str) -> None:
    config = getattr(LlamaConfig, size)()
    for head in (config.language_model(), None):
        raw, names = found(LLAMA.to_hf)(config, head)
        assert llama_from_hf(json.loads(json.dumps(raw))) == config
        wanted = trees.flatten(trees.define(config.build(head)).params)
        assert wanted.keys() <= {name.path for name in names.names}
    with pytest.raises(TransferlabError, match="no model_type of Hugging Face's has all of these fields"):
        found(LLAMA.to_hf)(replace(config, embedding_scale=not config.embedding_scale), None)
