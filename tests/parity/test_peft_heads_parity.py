"""Classifiers, heads and tables of PEFT's adapters, in either direction, with a batch of three and its padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.comparison import compare
from test_bert_parity import randomised
from test_peft_parity import adapters_of
from test_round_trip_parity import DECODER, REFERENCES

import transferlab as tl
from transferlab import trees
from transferlab.methods.adapted import Adapted
from transferlab.models import ClassifierConfig
from transferlab.pretrained.peft import Pair
from transferlab.train.setup import plan_for

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")
peft = pytest.importorskip("peft", reason="parity tests need peft")

LABELS = ("no", "perhaps", "yes")
SEQUENCE = {
    "BERT": ["query"], "RoBERTa": ["query", "value"], "DistilBERT": ["q_lin"], "MPNet": ["attn.q"], "ModernBERT": ["Wo"],
    "GPT-2": ["c_proj"], "Llama": ["q_proj", "up_proj"], "Qwen2": ["v_proj"], "Gemma 3": ["q_proj"],
}  # fmt: skip
DECODERS = ("GPT-2", "Llama", "Qwen2", "Gemma 3")


def batch(family: str) -> dict[str, np.ndarray]:
    """Three texts of unequal length, padded on the right."""
    pad = REFERENCES[family][1].get("pad_token_id", 0)
    ids = np.random.default_rng(0).integers(4, 50, (3, 11))
    mask = np.ones_like(ids)
    for row, length in enumerate((11, 4, 7)):
        ids[row, length:], mask[row, length:] = pad, 0
    return {"input_ids": ids, "attention_mask": mask}


def base(family: str, directory: Path, kind: str = "") -> Any:
    """Save transformers' model of this family with another head and random weights."""
    name, sizes = REFERENCES[family]
    config = getattr(transformers, name).config_class(**{"pad_token_id": 0, **sizes})
    torch.manual_seed(0)
    model = randomised(getattr(transformers, name.replace("ForSequenceClassification", kind) if kind else name)(config))
    model.save_pretrained(directory)
    return model


def classifier(family: str, directory: Path, labels: int = 3) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(directory, num_labels=labels)


def logits(model: Any, given: dict[str, np.ndarray]) -> Any:
    with torch.no_grad():
        return model.eval()(**{name: torch.tensor(value) for name, value in given.items()}).logits


@pytest.mark.parametrize("family", SEQUENCE)
def test_a_label_adapter_of_peft_is_read(family: str, tmp_path: Path) -> None:
    base(family, tmp_path / "base", "" if family in DECODERS else "Model")
    # All layers that transformers' class initializes are saved: by PEFT's own modules_to_save, or by name where it misses one.
    saved = ["head"] if family == "ModernBERT" else None
    torch.manual_seed(1)
    model = classifier(family, tmp_path / "base")
    adapted = adapters_of(
        model, r=3, lora_alpha=5, target_modules=SEQUENCE[family], task_type="SEQ_CLS", modules_to_save=saved
    )
    adapted.save_pretrained(tmp_path / "adapter")
    given = batch(family)
    want = logits(adapted, given)
    source = tl.load(tmp_path / "base")
    ours = tl.load_adapter(tmp_path / "adapter", source)
    assert isinstance(ours.source.head, ClassifierConfig) and len(ours.source.labels) == 3
    compare(ours(given)["logits"], want, family=family, form="PEFT")
    compare(ours.merged()(given)["logits"], want, family=family, form="PEFT", tolerance=1e-4)
    # And back.
    ours.save_adapter(tmp_path / "back")
    torch.manual_seed(2)
    again = peft.PeftModel.from_pretrained(classifier(family, tmp_path / "base"), tmp_path / "back")
    compare(logits(again, given), want, family=family, form="PEFT", way="written")


@pytest.mark.parametrize("family", SEQUENCE)
def test_a_label_adapter_of_ours_has_the_same_logits_in_peft_and_here(family: str, tmp_path: Path) -> None:
    kind = "Model" if family not in DECODERS else ""
    base(family, tmp_path / "base", kind)
    source, rng, given = tl.load(tmp_path / "base"), np.random.default_rng(0), batch(family)
    made = plan_for(source, LABELS, tl.methods.LoRA(rank=2, pooling="pooler" if family == "BERT" else None))
    flat = {path: rng.normal(size=leaf.shape).astype(np.float32) * 0.3
            for path, leaf in trees.flatten(made.network.params).items() if path.startswith("head/")}  # fmt: skip
    trained = source.with_params(trees.unflatten(flat), head=made.head)
    pairs = {}
    for path in (p for p in trees.flatten(made.network.params) if p.endswith("/query/kernel") and "layers/1" in p):
        if source.names is not None and next(n for n in source.names.names if n.path == path).layout.part[1] > 1:
            path = path.replace("query", "output")
        shape = source.leaves[path].shape
        pairs[path] = Pair(
            rng.normal(size=(shape[0], 2)).astype(np.float32), rng.normal(size=(2, shape[1])).astype(np.float32), 0.5
        )
    adapted = Adapted(trained, pairs)
    adapted.save_adapter(tmp_path / "adapter")
    raw = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert raw["base_model_name_or_path"] == str(tmp_path / "base") and raw["task_type"] == "SEQ_CLS"
    want = np.asarray(adapted(given)["logits"])
    torch.manual_seed(2)
    theirs = peft.PeftModel.from_pretrained(classifier(family, tmp_path / "base"), tmp_path / "adapter")
    compare(logits(theirs, given), want, family=family, form="PEFT", way="written")
    again = tl.load_adapter(tmp_path / "adapter")
    assert again.source.labels == LABELS
    compare(again(given)["logits"], want, family=family, form="PEFT")


TYING = [(tied, saved, kept) for tied in (True, False) for saved in (["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"])
         for kept in (True, False)]  # fmt: skip


@pytest.mark.parametrize(("tied", "saved", "kept"), TYING)
def test_a_trained_table_or_head_of_a_language_model_is_the_same_in_peft(
    tied: bool, saved: list[str], kept: bool, tmp_path: Path
) -> None:
    config = transformers.LlamaConfig(**DECODER, tie_word_embeddings=tied)
    model = randomised(transformers.LlamaForCausalLM(config))
    model.save_pretrained(tmp_path / "base")
    adapted = adapters_of(model, r=2, target_modules=["q_proj"], modules_to_save=list(saved), ensure_weight_tying=kept,
                          task_type="CAUSAL_LM")  # fmt: skip
    adapted.save_pretrained(tmp_path / "adapter")
    given = batch("Llama")
    want = logits(adapted, given)
    source = tl.load(tmp_path / "base")
    ours = tl.load_adapter(tmp_path / "adapter", source)
    compare(ours(given)["logits"], want, family="Llama", form="PEFT")
    # What comes out of it, merged, is one model with its head and its table: tied or not is said by its config.
    out = tl.save(ours.merged(), tmp_path / "out")
    again, said = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    compare(logits(again, given), want, family="Llama", form="transformers", way="written", tolerance=1e-4)
    compare(tl.load(out)(given)["logits"], want, family="Llama", form="transformers", tolerance=1e-4)
    # And as an adapter.
    ours.save_adapter(tmp_path / "back")
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "back"
    )
    compare(logits(theirs, given), want, family="Llama", form="PEFT", way="written")


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_the_head_itself_is_in_the_head(tied: bool, tmp_path: Path) -> None:
    model = randomised(transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER, tie_word_embeddings=tied)))
    model.save_pretrained(tmp_path / "base")
    adapted = adapters_of(model, r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    given = batch("Llama")
    ours = tl.load_adapter(tmp_path / "adapter", tl.load(tmp_path / "base"))
    compare(ours(given)["logits"], logits(adapted, given), family="Llama", form="PEFT")
    assert not ours.source.tied


def test_trained_biases_go_back_to_peft(tmp_path: Path) -> None:
    base("BERT", tmp_path / "base")
    model = classifier("BERT", tmp_path / "base", 2)
    adapted = adapters_of(model, r=2, target_modules=["key"], bias="all", task_type="SEQ_CLS")
    adapted.save_pretrained(tmp_path / "adapter")
    given = batch("BERT")
    want = logits(adapted, given)
    ours = tl.load_adapter(tmp_path / "adapter", tl.load(tmp_path / "base"))
    compare(ours(given)["logits"], want, family="BERT", form="PEFT")
    ours.save_adapter(tmp_path / "back")
    again = peft.PeftModel.from_pretrained(classifier("BERT", tmp_path / "base", 2), tmp_path / "back")
    compare(logits(again, given), want, family="BERT", form="PEFT", way="written")
