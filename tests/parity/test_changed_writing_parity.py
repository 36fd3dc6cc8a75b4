"""A source that was resized or regrown, then saved: the reference's own reader finds those sizes and that tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_timm
from support.typed import as_image, as_text
from test_resnet_parity import channels_first, pixels
from test_round_trip_parity import REFERENCES, TIMM, answers, reference, what_of, with_weights
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import transferlab as tl

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

SIZED: dict[str, tuple[int, dict[str, Any]]] = {"ViT": (48, {}), "DeiT": (32, {}), "DINOv2": (48, {"patch_size": 12}), "DINOv2 with registers": (40, {}),
         "Swin": (48, {}), "ConvNeXt": (96, {"patch_size": 8}), "ConvNeXt V2": (64, {}), "ResNet": (96, {}), "BiT": (96, {}),
         "MobileNetV2": (96, {}), "CLIP": (48, {}), "SigLIP": (48, {})}  # fmt: skip
TIMM_SIZED = {"ViT": 64, "DINOv2 with registers": 56, "Swin": 112, "ResNet": 96, "BiT": 96, "ConvNeXt": 96, "EfficientNet": 96,
              "MobileNetV2": 96}  # fmt: skip
TEXTS = ["w5 w6 new", "w7", "w8 w9 w10 newer w11"]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("family", SIZED)
def test_a_resized_source_is_the_same_model_to_transformers(family: str, channels: int, tmp_path: Path) -> None:
    side, patches = SIZED[family]
    if channels != 3 and family in ("CLIP", "SigLIP"):
        pytest.skip("their towers read what their file was written for")
    model = reference(family)
    model.save_pretrained(tmp_path / "theirs")
    source = tl.load(tmp_path / "theirs").resized(side, **patches, channels=None if channels == 3 else channels)
    out = tl.save(source, tmp_path / "ours")
    again, said = type(model).from_pretrained(out, output_loading_info=True)
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    given = {"pixel_values": pixels(side, side)[..., :channels]}
    if family in ("CLIP", "SigLIP"):
        given["input_ids"] = np.random.default_rng(0).integers(4, 47, (3, 11))
        given["input_ids"][:, -1] = 49
    here = source(given)
    for name, want in answers(again.eval(), given).items():
        got = np.asarray(here[name]).reshape(want.shape)
        compare(want, got, family=family, form="transformers", way="written", what=what_of(name), tolerance=5e-5)
    raw = json.loads((out / "preprocessor_config.json").read_text())
    processor = (
        transformers.AutoImageProcessor.from_pretrained(out, backend="pil") if "image_processor_type" in raw else None
    )
    assert raw["crop_size"] == {"height": side, "width": side} and len(raw["image_mean"]) == channels
    assert processor is None or processor.crop_size["height"] == side
    read = tl.load(out)
    read = read.towers.get("vision") or read.transform
    assert (as_image(read).size, as_image(read).channels) == (side, channels)


@pytest.mark.parametrize("channels", [3, 1, 4])
@pytest.mark.parametrize("family", TIMM_SIZED)
def test_a_resized_source_is_the_same_model_to_timm(family: str, channels: int, tmp_path: Path) -> None:
    timm, side = import_timm(), TIMM_SIZED[family]
    architecture, sizes = TIMM[family]
    torch.manual_seed(0)
    model = with_weights(timm.create_model(architecture, num_classes=5, **sizes))
    timm.models.save_for_hf(model, tmp_path / "theirs", safe_serialization=True, model_args=sizes)
    source = tl.load(tmp_path / "theirs").resized(side, channels=None if channels == 3 else channels)
    out = tl.save(source, tmp_path / "ours")
    again = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert timm.data.resolve_model_data_config(again)["input_size"] == (channels, side, side)
    given = np.random.default_rng(0).normal(size=(3, side, side, channels)).astype(np.float32)
    with torch.no_grad():
        want = again(channels_first(given))
    got = source({"pixel_values": given})["logits"]
    compare(want, got, family=family, form="timm", way="written", tolerance=1e-4)
    assert as_image(tl.load(out).transform).channels == channels


def words(folder: Path, tokens: list[str], **settings) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(tokens)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = [token for token in tokens if token.startswith("<")]
    made.add_special_tokens(specials)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokens.index("<s>")), ("</s>", tokens.index("</s>"))]
    )
    made.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 30, **named, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(plain))
    return folder


def tokenizer_of(folder: Path):
    """As a user opens it; but Qwen's own class makes a byte-level BPE of any file, which these words are not."""
    qwen = json.loads((folder / "config.json").read_text())["model_type"].startswith("qwen")
    return (transformers.PreTrainedTokenizerFast if qwen else transformers.AutoTokenizer).from_pretrained(folder)


OLD = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(46))]
NEW = [
    "<unk>",
    "<s>",
    "new",
    "newer",
    *(f"w{i}" for i in range(45, 4, -1)),
    "</s>",
    "<pad>",
    *(f"x{i}" for i in range(9)),
]
GROWN = ["BERT", "RoBERTa", "DistilBERT", "MPNet", "ModernBERT", "GPT-2", "Llama", "Qwen2", "Gemma 3", "T5", "T5 v1.1"]


@pytest.mark.parametrize("how", ["added", "another"])
@pytest.mark.parametrize("family", GROWN)
def test_a_regrown_source_is_the_same_model_to_transformers(family: str, how: str, tmp_path: Path) -> None:
    if how == "another" and family in ("RoBERTa", "MPNet"):
        pytest.skip("positions are counted from the padding token's id, which moves")
    model = reference(family)
    model.save_pretrained(tmp_path / "theirs")
    words(tmp_path / "theirs", OLD)
    (tmp_path / "theirs" / "special_tokens_map.json").write_text("{}")
    source = tl.load(tmp_path / "theirs")
    if how == "added":
        source = source.with_tokenizer(add=["new", "newer"])
    else:
        source = source.with_tokenizer(words(tmp_path / "words", NEW))
    out = tl.save(source, tmp_path / "ours")
    again, said = type(model).from_pretrained(out, output_loading_info=True)
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    batch = tokenizer_of(out)(TEXTS, padding=True, return_tensors="np")
    encoded = as_text(source.transform).encode(TEXTS)
    ours = as_text(source.transform).pad(encoded, max(len(one.ids) for one in encoded), 3)
    np.testing.assert_array_equal(batch["input_ids"], ours["input_ids"])
    given = {name: np.asarray(batch[name], np.int64) for name in ("input_ids", "attention_mask")}
    assert again.config.vocab_size == len(source.leaves[source.table].read()) == (52 if how == "added" else len(NEW))
    seen = given["attention_mask"].astype(bool)
    decoder = {"decoder_input_ids": given["input_ids"][:, :3]} if "T5" in family else {}
    here, there = source(given | decoder), answers(again.eval(), given | decoder)
    for name, want in there.items():
        got, want = np.asarray(here[name]), want.numpy()
        if got.ndim == 3 and got.shape[:2] == seen.shape:
            got, want = got[seen], want[seen]
        compare(want, got, family=family, form="transformers", way="written", what=what_of(name), tolerance=5e-5)
    read = tl.load(out)
    assert (
        as_text(read.transform).encode(TEXTS) == encoded
        and as_text(read.transform).pad_id == as_text(source.transform).pad_id
    )
    assert REFERENCES[family][0] in again.config.architectures
