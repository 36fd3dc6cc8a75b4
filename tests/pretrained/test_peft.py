"""PEFT's adapters without PEFT: what is written is read again, and what does not fit the base is one error."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_vit

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.methods.adapted import Adapted
from transferlab.models import ClassifierConfig
from transferlab.pretrained.peft import Pair
from transferlab.pretrained.peft_config import AdapterConfig

QUERY, UP = "layers/1/attention/query/kernel", "layers/0/mlp/up/kernel"
PAIRS = {
    QUERY: Pair(np.full((16, 2), 0.1, np.float32), np.full((2, 16), 0.2, np.float32), 1.5, 0.1),
    UP: Pair(np.full((16, 3), 0.3, np.float32), np.full((3, 24), 0.1, np.float32), 4.0, 0.1),
}
IDS = {"input_ids": np.array([[2, 5, 3, 7]])}


@pytest.fixture
def adapter(source, tmp_path: Path) -> Path:
    given = {"head": {"kernel": np.ones((16, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    trained = source.with_params(given, head=ClassifierConfig(("a", "b"), pooling="pooler"))
    return Adapted(trained, PAIRS).save_adapter(tmp_path / "adapter")


def test_an_adapter_comes_back_the_same(adapter: Path, source) -> None:
    again = tl.load_adapter(adapter)
    assert again.source.provenance["path"] == source.provenance["path"]
    assert again.pairs.keys() == PAIRS.keys()
    for path, want in PAIRS.items():
        got = again.pairs[path]
        np.testing.assert_array_equal(got.a, want.a)
        np.testing.assert_array_equal(got.b, want.b)
        assert (got.scale, got.dropout) == (want.scale, want.dropout)
    np.testing.assert_array_equal(np.asarray(again.source.leaves["head/kernel"]), np.ones((16, 2)))
    raw = json.loads((adapter / "adapter_config.json").read_text())
    assert "bert.encoder.layer.1.attention.self.query" in raw["target_modules"]
    logits = again(IDS)["logits"]
    np.testing.assert_allclose(again.merged()(IDS)["logits"], logits, atol=1e-5)
    ids = {"input_ids": jnp.asarray(IDS["input_ids"])}
    np.testing.assert_allclose(again.module()(ids)["logits"], logits, atol=1e-5)
    plain = Adapted(again.source)
    assert np.abs(np.asarray(plain(IDS)["hidden"]) - np.asarray(again(IDS)["hidden"])).max() > 1e-2


def edit(adapter: Path, change) -> None:
    tensors = load_file(str(adapter / "adapter_model.safetensors"))
    change(tensors)
    save_file(tensors, str(adapter / "adapter_model.safetensors"))


KEY = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_{}.weight"
HEAD = "base_model.model.classifier.weight"
WRONG_TENSORS = {
    "half an adapter": (lambda t: t.pop(KEY.format("B")), "query.lora_B.weight' is missing"),
    "a module that is not there": (
        lambda t: t.update({k.replace("layer.1", "layer.7"): v for k, v in t.items()}), "'bert.*layer.7.* is not a tensor"),
    "another rank": (lambda t: t.update({KEY.format("A"): np.ones((5, 16), np.float32)}), r"has A \(5, 16\)"),
    "NaN": (lambda t: t[KEY.format("A")].fill(np.nan), "adapter_model.safetensors: '.*lora_A.weight' holds NaN"),
    "an infinity": (lambda t: t[KEY.format("B")].fill(np.inf), "adapter_model.safetensors: '.*lora_B.weight' holds an inf"),
    "integers": (
        lambda t: t.update({KEY.format("A"): np.ones((2, 16), np.int8)}), "lora_A.weight' is of dtype int8, and must be of"),
    "integers for a head": (
        lambda t: t.update({HEAD: np.ones((2, 16), np.int64)}), "classifier.weight' is of dtype int64, and must be of"),
    "NaN in a head": (lambda t: t[HEAD].fill(np.nan), "classifier.weight' holds NaN"),
    "DoRA's magnitudes": (
        lambda t: t.update({KEY.format("magnitude_vector"): np.ones(16, np.float32)}), "is not LoRA of a linear layer"),
    "an adapter of a norm": (
        lambda t: t.update({KEY.format(h).replace("attention.self.query", "output.LayerNorm"): np.ones((2, 2), np.float32)
                            for h in "AB"}), "not belong to the kernel of a linear layer"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_tensors_that_do_not_fit_are_refused(what: str, adapter: Path, source) -> None:
    change, message = WRONG_TENSORS[what]
    edit(adapter, change)
    with pytest.raises(TransferlabError, match=message):
        tl.load_adapter(adapter, source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "lora_magnitude_vector' is missing"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base's own weights"),
        ({"r": 0}, "not a readable adapter config.*a rank is 0"),
        ({"r": "four"}, "not a readable adapter config"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": "16"}, "adapter_config.json: lora_alpha is '16'; it must be a number"),
        ({"lora_alpha": None}, "lora_alpha is None; it must be a number"),
        (
            {"lora_alpha": 1e308, "alpha_pattern": {}},
            "has the scale .*, from its alpha; that is beyond the range of float32",
        ),
        ({"use_rslora": "false"}, "use_rslora is 'false'; it must be true or false"),
        ({"use_dora": "no"}, "use_dora is 'no'; it must be true or false"),
        ({"modules_to_save": "classifier"}, "modules_to_save is 'classifier'; it must be a list of names"),
        ({"rank_pattern": {"(": 3}}, "not a readable adapter config"),
        ({"rank_pattern": {"query": 7}}, "rank 7 on a kernel"),
    ],
)
def test_a_config_that_cannot_be_honored_is_refused(changes: dict, message: str, adapter: Path, source) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(TransferlabError, match=message):
        tl.load_adapter(adapter, source)


def test_patterns_fit_the_modules_that_they_fit_in_peft() -> None:
    config = AdapterConfig(4, 8.0, {"query": 2, "^bert.layer.0": 3}, {r"layer\.1.*key": 1.0}, False, False, 0.0, (), "")
    ranks = {"bert.layer.5.query": 2, "query": 2, "bert.my_query": 4, "bert.layer.0.key": 3, "x.bert.layer.0.key": 4}
    assert {module: config.rank(module) for module in ranks} == ranks
    assert config.scale("bert.layer.1.key") == 0.25 and config.scale("bert.layer.2.key") == 2.0


def test_anything_but_an_adapter_is_one_error(tmp_path: Path, source, adapter: Path) -> None:
    with pytest.raises(TransferlabError, match=r"no adapter_config\.json"):
        tl.load_adapter(tmp_path / "nothing")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(TransferlabError, match=r"has no weights: expected adapter_model\.safetensors"):
        tl.load_adapter(adapter, source)
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(TransferlabError, match="names no base_model_name_or_path"):
        tl.load_adapter(adapter)
    with pytest.raises(TransferlabError, match="no adapter to write"):
        Adapted(source).save_adapter(tmp_path / "x")


def test_numbers_beyond_the_dtype_in_memory_are_refused(source) -> None:
    # 1e5 is more than float16 has; in float32 both are computed with.
    large = Pair(np.full((16, 2), 1e5, np.float32), np.full((2, 16), 1e-5, np.float32), 1.0)
    assert np.isfinite(Adapted(source, {QUERY: large})(IDS)["hidden"]).all()
    half = tl.load(source.name, dtype="float16")
    with pytest.raises(TransferlabError, match=r"query/lora/a.*beyond the range of float16"):
        Adapted(half, {QUERY: large})(IDS)


def test_a_head_that_the_reference_would_pool_differently_is_not_written(source, tmp_path: Path) -> None:
    given = {"head": {"kernel": np.ones((16, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    trained = source.with_params(given, head=ClassifierConfig(("a", "b"), pooling="mean"))
    with pytest.raises(TransferlabError, match="pools by 'pooler', this head by 'mean'"):
        Adapted(trained, PAIRS).save_adapter(tmp_path / "x")
    Adapted(trained, PAIRS).save_adapter(tmp_path / "x", head=False)
    keys = load_file(str(tmp_path / "x" / "adapter_model.safetensors"))
    assert all(key.startswith("base_model.model.encoder.layer") for key in keys)


def test_a_directory_of_adapters_is_replaced_when_asked(adapter: Path, source) -> None:
    with pytest.raises(TransferlabError, match="is not empty"):
        Adapted(source, PAIRS).save_adapter(adapter)
    Adapted(source, {QUERY: PAIRS[QUERY]}).save_adapter(adapter, overwrite=True)
    assert tl.load_adapter(adapter).pairs.keys() == {QUERY}


def test_an_adapter_under_the_modules_of_transformers_4_or_5_is_found(tmp_path: Path) -> None:
    write_vit(tmp_path / "base", "vit")
    source = tl.load(tmp_path / "base")
    pair = Pair(np.ones((12, 2), np.float32), np.ones((2, 12), np.float32), 1.0)
    folder = Adapted(source, {"layers/1/attention/query/kernel": pair}).save_adapter(tmp_path / "adapter", head=False)
    tensors = load_file(str(folder / "adapter_model.safetensors"))
    assert tensors.keys() == {f"base_model.model.layers.1.attention.q_proj.lora_{half}.weight" for half in "AB"}
    assert tl.load_adapter(folder, source).pairs.keys() == {"layers/1/attention/query/kernel"}
    edit(folder, lambda t: [t.update({k.replace("layers.1.attention.q_proj", "vit.encoder.layer.1.attention.attention.query"):
                                      t.pop(k)}) for k in list(t)])  # fmt: skip
    assert tl.load_adapter(folder, source).pairs.keys() == {"layers/1/attention/query/kernel"}
