"""LoRA adapters against PEFT: those that it wrote have the same outputs here, and those written here the same there."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from test_bert_parity import SIZES, inputs, randomised, reference

import transferlab as tl
from transferlab.methods.adapted import Adapted
from transferlab.models import ClassifierConfig
from transferlab.pretrained.peft import Pair

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")
peft = pytest.importorskip("peft", reason="parity tests need peft")

BERT = SIZES["twelve layers, narrow"]
VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 30, "image_size": 16,
       "patch_size": 4}  # fmt: skip
SETTINGS = {
    "plain": {"r": 4, "lora_alpha": 10, "target_modules": ["query", "value"]},
    "every linear map, rsLoRA, a rank for each": {
        "r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": "all-linear",
        "rank_pattern": {"query": 2, r"layer\.1\d?\.output\.dense": 7, "^bert.encoder.layer.0.intermediate.dense": 5},
        "alpha_pattern": {"value": 9, "layer.0.attention.self.query": 1.5},
    },
    "DoRA": {"r": 4, "lora_alpha": 6, "target_modules": ["query", "value", "dense"], "use_dora": True},
    "two layers, all biases": {"r": 3, "target_modules": ["key"], "layers_to_transform": [1, 11], "bias": "all"},
    "biases of what is adapted": {"r": 3, "target_modules": ["dense"], "bias": "lora_only"},
}  # fmt: skip


near = partial(compare, form="PEFT")


def adapters_of(model, **settings):
    """PEFT's model with random adapters, so that both halves matter."""
    made = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "lora_" in name or "modules_to_save" in name or (p.requires_grad and "bias" in name):
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return made


@pytest.mark.parametrize("name", SETTINGS)
def test_an_adapter_of_peft_on_a_bert_classifier_has_the_same_logits(name: str, tmp_path: Path) -> None:
    config = transformers.BertConfig(**BERT, num_labels=3)
    model = randomised(transformers.BertForSequenceClassification(config))
    model.save_pretrained(tmp_path / "base")
    adapted = adapters_of(model, task_type="SEQ_CLS", **SETTINGS[name])
    adapted.save_pretrained(tmp_path / "adapter")
    given = inputs(config)
    want = reference(adapted, given).logits
    ours = tl.load_adapter(tmp_path / "adapter", tl.load(tmp_path / "base"))
    got = np.asarray(ours(given)["logits"])
    near(got, want, family="BERT")
    assert np.abs(got - np.asarray(tl.load(tmp_path / "base")(given)["logits"])).max() > 1e-2
    near(ours.merged()(given)["logits"], want, family="BERT")


def test_an_adapter_that_is_written_here_has_the_same_outputs_in_peft(tmp_path: Path) -> None:
    config = transformers.BertConfig(**BERT)
    randomised(transformers.BertModel(config)).save_pretrained(tmp_path / "base")
    source, given, rng = tl.load(tmp_path / "base"), inputs(config), np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return 0.3 * rng.normal(size=shape).astype(np.float32)

    head = ClassifierConfig(("a", "b", "c"), pooling="pooler")
    trained = source.with_params({"head": {"kernel": draw(36, 3), "bias": draw(3)}}, head=head)
    pairs = {f"layers/{i}/attention/{part}/kernel": Pair(draw(36, 4), draw(4, 36), 2.0)
             for i in range(12) for part in ("query", "value")}  # fmt: skip
    pairs["layers/3/mlp/up/kernel"] = Pair(draw(36, 2), draw(2, 50), 1.25)
    adapted = Adapted(trained, pairs)
    adapted.save_adapter(tmp_path / "adapter")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    want = reference(theirs, given).logits
    near(want, adapted(given)["logits"], family="BERT", way="written", tolerance=1e-5)
    again = tl.load_adapter(tmp_path / "adapter", source)
    near(again(given)["logits"], want, family="BERT", tolerance=1e-5)
    # Without the head it goes on the bare encoder.
    adapted.save_adapter(tmp_path / "bare", head=False)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "bare"
    )
    want = reference(theirs.eval(), given).last_hidden_state
    seen = given["attention_mask"].astype(bool)
    near(want[seen], np.asarray(adapted(given)["hidden"])[seen], family="BERT", way="written", what="hidden")
    assert tl.load_adapter(tmp_path / "bare").source.head is None


@pytest.mark.parametrize("kind", ["ViT", "Dinov2"])
def test_adapters_of_a_vit_have_the_same_outputs_in_both_directions(kind: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{kind}Config")(**VIT, num_labels=2)
    model = randomised(getattr(transformers, f"{kind}ForImageClassification")(config))
    model.save_pretrained(tmp_path / "base")
    adapted = adapters_of(model, r=3, target_modules="all-linear", modules_to_save=["classifier"])
    adapted.save_pretrained(tmp_path / "adapter")
    pixels = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    seen = torch.tensor(pixels.transpose(0, 3, 1, 2))
    with torch.no_grad():
        want = adapted(pixel_values=seen).logits
    ours = tl.load_adapter(tmp_path / "adapter", tl.load(tmp_path / "base"))
    family = kind.replace("Dino", "DINO")
    near(ours({"pixel_values": pixels})["logits"], want, family=family)
    ours.save_adapter(tmp_path / "back")
    base = type(model).from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "back").eval()
    with torch.no_grad():
        near(theirs(pixel_values=seen).logits, want, family=family, way="written", tolerance=1e-6)


def test_an_adapter_of_timms_fused_qkv_has_the_same_outputs(tmp_path: Path) -> None:
    from support.optional_imports import import_timm

    timm = import_timm()
    model = randomised(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4))
    timm.models.save_for_hf(model, tmp_path / "base", safe_serialization=True)
    raw = json.loads((tmp_path / "base" / "config.json").read_text())
    raw["pretrained_cfg"]["input_size"] = [3, 32, 32]
    (tmp_path / "base" / "config.json").write_text(json.dumps({**raw, "model_args": {"img_size": 32, "depth": 2}}))
    adapted = adapters_of(
        model, r=3, lora_alpha=1, target_modules=["qkv", "proj", "fc2"], exclude_modules=["patch_embed.proj"]
    )
    adapted.save_pretrained(tmp_path / "adapter")
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        want = adapted(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    ours = tl.load_adapter(tmp_path / "adapter", tl.load(tmp_path / "base"))
    near(ours({"pixel_values": pixels})["logits"], want, family="ViT")
    with pytest.raises(tl.TransferlabError, match=r"part of 'blocks\.0\.attn\.qkv\.weight'.*Merge"):
        ours.save_adapter(tmp_path / "back")


def test_dora_that_is_written_here_has_the_same_outputs_in_peft(tmp_path: Path) -> None:
    """On GPT-2, whose kernels lie transposed in its files."""
    config = transformers.GPT2Config(n_embd=24, n_layer=2, n_head=3, vocab_size=50, n_positions=32, pad_token_id=0)
    model = randomised(transformers.GPT2LMHeadModel(config))
    model.save_pretrained(tmp_path / "base")
    theirs = adapters_of(
        model, r=3, target_modules=["c_proj"], fan_in_fan_out=True, use_dora=True, task_type="CAUSAL_LM"
    )
    theirs.save_pretrained(tmp_path / "adapter")
    ids = np.random.default_rng(0).integers(1, 50, (2, 9))
    with torch.no_grad():
        want = theirs(input_ids=torch.tensor(ids)).logits.numpy()
    ours = tl.load_adapter(tmp_path / "adapter", tl.load(tmp_path / "base"))
    assert all(pair.magnitude is not None for pair in ours.pairs.values())
    np.testing.assert_allclose(
        np.asarray(ours({"input_ids": ids})["logits"]), want, atol=1e-5 * np.abs(want).max(), rtol=0
    )
    np.testing.assert_allclose(
        ours.merged()({"input_ids": ids})["logits"], want, atol=1e-4 * np.abs(want).max(), rtol=0
    )
    ours.save_adapter(tmp_path / "back")
    assert json.loads((tmp_path / "back" / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    base = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, tmp_path / "back").eval()
    with torch.no_grad():
        got = again(input_ids=torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max(), rtol=0)
    mixed = dict(ours.pairs)
    path = next(iter(mixed))
    mixed[path] = Pair(mixed[path].a, mixed[path].b, mixed[path].scale)
    with pytest.raises(tl.TransferlabError, match="has LoRA and other kernels have DoRA"):
        Adapted(ours.source, mixed).save_adapter(tmp_path / "mixed")
