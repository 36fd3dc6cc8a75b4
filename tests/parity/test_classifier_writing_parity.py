"""Text classifiers trained here, in transformers' ...ForSequenceClassification: a batch of three, with padding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from test_bert_parity import randomised
from test_changed_writing_parity import OLD, tokenizer_of, words
from test_round_trip_parity import REFERENCES

import transferlab as tl
from transferlab import trees
from transferlab.models.heads import Pooling
from transferlab.train.setup import plan_for

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

LABELS = ("no", "perhaps", "yes")
TEXTS = ["w5 w6 w7", "w7", "w8 w9 w10 w5 w11"]
DECODERS = ("GPT-2", "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma 2", "Gemma 3")
TWO_LAYERS = ("RoBERTa", "XLM-R", "CamemBERT", "DistilBERT", "MPNet", "ModernBERT")


def trained(source: tl.Source, method: tl.methods.Method) -> tl.Source:
    """The source with the head that a run of this method has, with random values."""
    made, rng = plan_for(source, LABELS, method), np.random.default_rng(0)
    flat = {path: rng.normal(size=leaf.shape).astype(np.float32) * 0.3
            for path, leaf in trees.flatten(made.network.params).items() if path.startswith("head/")}  # fmt: skip
    return source.with_params(trees.unflatten(flat), head=made.head)


def reference_logits(out: Path, architecture: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The logits of transformers' class for texts read by its own tokenizer."""
    model, said = transformers.AutoModelForSequenceClassification.from_pretrained(out, output_loading_info=True)
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    assert type(model).__name__ == architecture and model.config.id2label == dict(enumerate(LABELS))
    batch = tokenizer_of(out)(TEXTS, padding=True, return_tensors="pt")
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model.eval()(**given).logits.numpy(), {name: value.numpy() for name, value in given.items()}


@pytest.mark.parametrize("pooling", [None, "first", "pooler"])
@pytest.mark.parametrize("family", ["BERT", *TWO_LAYERS])
def test_an_encoders_classifier_has_the_same_logits_in_transformers(
    family: str, pooling: Pooling | None, tmp_path: Path
) -> None:
    name, sizes = REFERENCES[family]
    bare = getattr(transformers, name.replace("ForSequenceClassification", "Model"))
    torch.manual_seed(0)
    randomised(bare(bare.config_class(**sizes))).save_pretrained(tmp_path / "base")
    words(tmp_path / "base", OLD)
    source = tl.load(tmp_path / "base")
    if (pooling == "pooler" and not getattr(source.config, "pooler", False)) or (family, pooling) == ("BERT", "first"):
        pytest.skip("transformers has no such classifier")
    source = trained(source, tl.methods.LoRA(pooling=pooling))
    want, given = reference_logits(tl.save(source, tmp_path / "out"), name)
    compare(want, source(given)["logits"], family=family, form="transformers", way="written")
    again = tl.load(tmp_path / "out")
    assert again.labels == LABELS
    compare(again(given)["logits"], want, family=family, form="transformers")


@pytest.mark.parametrize("padding", ["named by the tokenizer", "not named"])
@pytest.mark.parametrize("family", DECODERS)
def test_a_decoders_classifier_has_the_same_logits_in_transformers(family: str, padding: str, tmp_path: Path) -> None:
    name, sizes = REFERENCES[family]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    config = kind.config_class(**{**sizes, "pad_token_id": None, "eos_token_id": 2, "bos_token_id": 0})
    randomised(kind(config)).save_pretrained(tmp_path / "base")
    named = padding != "not named"
    words(tmp_path / "base", OLD if named else ["w46", "w47", *OLD[2:], "<s>"])
    path = tmp_path / "base" / "tokenizer.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "post_processor": None}))
    if not named:
        settings = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
        del settings["pad_token"]
        (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(settings))
    source = trained(tl.load(tmp_path / "base"), tl.methods.LoRA())
    out = tl.save(source, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["pad_token_id"] == (1 if named else 2)
    architecture = name.replace("LMHeadModel", "").replace("ForCausalLM", "") + "ForSequenceClassification"
    want, given = reference_logits(out, "Gemma3TextForSequenceClassification" if family == "Gemma 3" else architecture)
    compare(want, source(given)["logits"], family=family, form="transformers", way="written")
