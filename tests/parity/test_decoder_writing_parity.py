"""Language models that are written here, from Hugging Face's files and from GGUF, in transformers and in PEFT."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.comparison import Way, compare
from test_bert_parity import randomised

import transferlab as tl
from transferlab.methods.adapted import Adapted
from transferlab.models import ClassifierConfig
from transferlab.pretrained.peft import Pair

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

SIZES = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
KINDS = {
    "Llama": {**SIZES, "head_dim": 8, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e4, "factor": 4.0,
              "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
    "Qwen2": {**SIZES, "tie_word_embeddings": True},
    "Qwen3": {**SIZES, "head_dim": 6},
    "Mistral": {**SIZES, "sliding_window": 5},
    "GPT2": {"vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64},
}  # fmt: skip
IDS = np.random.default_rng(0).integers(1, 61, (3, 17))


def near(kind: str, form: str = "transformers", way: Way = "written"):
    """``compare`` under the family's name in the parity table."""
    return partial(compare, family="GPT-2" if kind == "GPT2" else kind, form=form, way=way)


def logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(IDS)).logits.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_model_that_is_written_has_the_same_logits(kind: str, tmp_path: Path) -> None:
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = randomised(getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**KINDS[kind])))
    model.save_pretrained(tmp_path / "a")
    source, want = tl.load(tmp_path / "a"), logits(model)
    outs = [tl.save(source, tmp_path / "b", shard_bytes=9000)]
    outs.append(tl.save(tl.load(tl.save(source, tmp_path / "c", format="orbax")), tmp_path / "d"))
    if kind != "GPT2":
        bare = tl.load(tmp_path / "a" / "model.safetensors", config=source.config)
        outs.append(tl.save(bare, tmp_path / "e"))
    for out in outs:
        theirs, report = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert type(theirs) is type(model) and not report["missing_keys"] and not report["unexpected_keys"]
        near(kind)(logits(theirs), want, tolerance=0.0)


def test_a_classifier_on_a_language_model_has_the_same_logits(tmp_path: Path) -> None:
    model = randomised(transformers.LlamaForCausalLM(transformers.LlamaConfig(**KINDS["Llama"])))
    model.save_pretrained(tmp_path / "a")
    source = tl.load(tmp_path / "a")
    head = ClassifierConfig(("a", "b", "c"), pooling="last", bias=False)
    kernel = np.random.default_rng(1).normal(size=(24, 3)).astype(np.float32)
    trained = source.with_params({"head": {"kernel": kernel}}, head=head)
    out = tl.save(trained, tmp_path / "b")
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    near("Llama")(logits(theirs), trained({"input_ids": IDS})["logits"], tolerance=1e-5)


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_adapters_of_a_language_model_have_the_same_logits_in_peft(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="parity tests need peft")
    name = "GPT2LMHeadModel" if kind == "GPT2" else "LlamaForCausalLM"
    model = randomised(getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**KINDS[kind])))
    model.save_pretrained(tmp_path / "base")
    source, rng = tl.load(tmp_path / "base"), np.random.default_rng(0)
    path = "layers/1/mlp/up/kernel"
    inputs, outputs = source.leaves[path].shape
    pair = Pair(rng.normal(size=(inputs, 3)).astype(np.float32), rng.normal(size=(3, outputs)).astype(np.float32), 0.5)
    adapted = Adapted(source, {path: pair})
    adapted.save_adapter(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    want = logits(theirs)
    near(kind, "PEFT")(want, adapted({"input_ids": IDS})["logits"])
    # GPT-2's fused q, k, v.
    model = type(model).from_pretrained(tmp_path / "base")
    targets = ["c_attn", "c_proj"] if kind == "GPT2" else "all-linear"
    made = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")).eval()
    with torch.no_grad():
        for key, p in made.named_parameters():
            if "lora_" in key:
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(key))))
    made.save_pretrained(tmp_path / "theirs")
    got = tl.load_adapter(tmp_path / "theirs", source)({"input_ids": IDS})["logits"]
    near(kind, "PEFT", "read")(got, logits(made), floor=0.0)
