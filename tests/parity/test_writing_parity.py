"""Checkpoints written here are loaded by transformers, timm and, in its layout, sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_timm
from support.typed import as_image
from test_bert_parity import SIZES, inputs, randomised, reference

import transferlab as tl
from transferlab.models import ClassifierConfig

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")


def test_a_trained_classifier_on_a_bare_encoder_has_the_same_logits_in_transformers(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES["twelve layers, narrow"])
    model = randomised(transformers.BertModel(config))
    model.save_pretrained(tmp_path / "a")
    source, given = tl.load(tmp_path / "a"), inputs(config)
    rng = np.random.default_rng(0)
    head = {"kernel": rng.normal(size=(36, 3)).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}
    trained = source.with_params({"head": head}, head=ClassifierConfig(("a", "b", "c"), pooling="pooler"))
    for shard_bytes in (1 << 30, 20000):
        out = tl.save(trained, tmp_path / "b", shard_bytes=shard_bytes, overwrite=True)
        theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(out, output_loading_info=True)
        assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
        want = reference(theirs.eval(), given).logits
        compare(want, trained(given)["logits"], family="BERT", form="transformers", way="written", tolerance=2e-6)


def test_bfloat16_and_legacy_names_load_in_transformers(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES["one head, three types"])
    model = randomised(transformers.BertForMaskedLM(config)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "a")
    out = tl.save(tl.load(tmp_path / "a"), tmp_path / "b")
    theirs, report = transformers.BertForMaskedLM.from_pretrained(out, output_loading_info=True, dtype="auto")
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for key, want in model.state_dict().items():
        assert theirs.state_dict()[key].dtype == torch.bfloat16 and torch.equal(theirs.state_dict()[key], want), key


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters"])
def test_a_config_that_is_made_here_gives_the_same_numbers_in_transformers(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16, "patch_size": 4}
    if kind == "ViT":
        sizes["intermediate_size"] = 30
    elif kind == "Dinov2":
        sizes |= {"mlp_ratio": 2, "use_swiglu_ffn": True}
    model = randomised(getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes)))
    model.save_pretrained(tmp_path / "a")
    bare = tl.load(tmp_path / "a" / "model.safetensors", config=tl.load(tmp_path / "a").config)
    out = tl.save(bare, tmp_path / "b")
    theirs, report = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert type(theirs) is type(model)
    # DINOv2's mask token is no part of the encoder, but the file's own.
    assert set(report["missing_keys"]) <= {"embeddings.mask_token"} and not report["unexpected_keys"]
    pixels = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        want = theirs.eval()(torch.tensor(pixels.transpose(0, 3, 1, 2))).last_hidden_state
    family = {"ViT": "ViT", "Dinov2": "DINOv2"}.get(kind, "DINOv2 with registers")
    got = bare({"pixel_values": pixels})["hidden"]
    compare(want, got, family=family, form="transformers", way="written", what="hidden", tolerance=2e-6)


def test_a_bert_config_that_is_made_here_gives_the_same_numbers_in_transformers(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES["tanh gelu, wide"], num_labels=3)
    model = randomised(transformers.BertForSequenceClassification(config))
    model.save_pretrained(tmp_path / "a")
    bare = tl.load(tmp_path / "a" / "model.safetensors", config=tl.load(tmp_path / "a").config)
    out = tl.save(bare, tmp_path / "b")
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    given = inputs(config)
    want = reference(model, given).logits.numpy()
    got = reference(theirs.eval(), given).logits
    compare(got, want, family="BERT", form="transformers", way="written", tolerance=0.0)


def test_a_timm_vit_that_is_saved_loads_in_timm_and_transformers(tmp_path: Path) -> None:
    timm = import_timm()
    model = randomised(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4))
    timm.models.save_for_hf(model, tmp_path / "a", model_config={"img_size": 32, "depth": 2}, safe_serialization=True)
    raw = json.loads((tmp_path / "a" / "config.json").read_text())
    # 36 pixels, of which the centre is 32: where half a pixel is left over, the two cut it at other places.
    raw["pretrained_cfg"] |= {"input_size": [3, 32, 32], "crop_pct": 0.875}
    (tmp_path / "a" / "config.json").write_text(json.dumps({**raw, "model_args": {"img_size": 32, "depth": 2}}))
    source = tl.load(tmp_path / "a")
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    seen = torch.tensor(pixels.transpose(0, 3, 1, 2))
    kernel = np.random.default_rng(1).normal(size=(192, 2)).astype(np.float32)
    given = {"head": {"kernel": kernel, "bias": np.ones(2, np.float32)}}
    trained = source.with_params(given, head=ClassifierConfig(("x", "y"), pooling="first"))
    got = np.asarray(trained({"pixel_values": pixels})["logits"])
    out = tl.save(trained, tmp_path / "b")
    theirs = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert theirs.pretrained_cfg["num_classes"] == theirs.num_classes == 2
    with torch.no_grad():
        # Of values up to 30, from a head with large weights.
        compare(theirs(seen), got, family="ViT", form="timm", way="written", tolerance=3e-6)
    out = tl.save(trained, tmp_path / "c", format="hf")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    with torch.no_grad():
        compare(theirs(seen).logits, got, family="ViT", form="timm", way="written", tolerance=3e-6)
    processor = transformers.AutoImageProcessor.from_pretrained(out, backend="pil")
    image = np.random.default_rng(2).integers(0, 256, (50, 42, 3), np.uint8)
    want = np.asarray(processor(image, return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
    # Of 255 steps one at most: the two round resized pixels at other places.
    compare(
        as_image(trained.transform)(image), want, family="ViT", form="timm", what="input", tolerance=2.5 / 255 / 0.5
    )
