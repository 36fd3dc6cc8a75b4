"""Every family there and back: a checkpoint of the reference, changed and saved here, gives the same outputs in the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from support.comparison import What, compare
from support.optional_imports import import_timm
from test_bert_parity import randomised
from test_clip_parity import ids
from test_resnet_parity import channels_first, moved, pixels

import transferlab as tl
from transferlab import trees

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

ENCODER = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 30,
           "max_position_embeddings": 40, "type_vocab_size": 1, "pad_token_id": 1}  # fmt: skip
DECODER = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 2, "num_attention_heads": 6,
           "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 40, "pad_token_id": 0}  # fmt: skip
T5 = {"vocab_size": 50, "d_model": 20, "d_kv": 8, "d_ff": 30, "num_layers": 2, "num_heads": 4}
VISION = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 24, "patch_size": 8}
TOWERS = {"vision_config": {**VISION, "intermediate_size": 30},
          "text_config": {**ENCODER, "max_position_embeddings": 11, "eos_token_id": 49, "bos_token_id": 48}}  # fmt: skip
STAGES = {"hidden_sizes": [8, 12], "depths": [2, 1]}
REFERENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("BertForSequenceClassification", {**ENCODER, "pad_token_id": 0}),
    "RoBERTa": ("RobertaForSequenceClassification", ENCODER),
    "XLM-R": ("XLMRobertaForSequenceClassification", ENCODER),
    "CamemBERT": ("CamembertForSequenceClassification", ENCODER),
    "DistilBERT": ("DistilBertForSequenceClassification", {"vocab_size": 50, "dim": 24, "n_layers": 2, "n_heads": 3,
                                                           "hidden_dim": 30, "max_position_embeddings": 40}),
    "MPNet": ("MPNetForSequenceClassification", ENCODER),
    "ModernBERT": ("ModernBertForSequenceClassification", {**ENCODER, "local_attention": 6, "cls_token_id": 2,
                                                           "sep_token_id": 3}),
    "GPT-2": ("GPT2LMHeadModel", {"vocab_size": 50, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 3}),
    "Llama": ("LlamaForCausalLM", DECODER),
    "Mistral": ("MistralForCausalLM", {**DECODER, "sliding_window": 5}),
    "Qwen2": ("Qwen2ForCausalLM", {**DECODER, "head_dim": 4, "tie_word_embeddings": True}),
    "Qwen3": ("Qwen3ForCausalLM", DECODER),
    "Gemma 2": ("Gemma2ForCausalLM", {**DECODER, "sliding_window": 5}),
    "Gemma 3": ("Gemma3ForCausalLM", {**DECODER, "num_hidden_layers": 7, "sliding_window": 5}),
    "T5": ("T5ForConditionalGeneration", T5),
    "T5 v1.1": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mT5": ("MT5ForConditionalGeneration", T5),
    "ViT": ("ViTForImageClassification", {**VISION, "intermediate_size": 30}),
    "DeiT": ("DeiTForImageClassification", {**VISION, "intermediate_size": 30}),
    "DINOv2": ("Dinov2ForImageClassification", VISION),
    "DINOv2 with registers": ("Dinov2WithRegistersForImageClassification", {**VISION, "num_register_tokens": 3}),
    "CLIP": ("CLIPModel", {**TOWERS, "projection_dim": 10}),
    "SigLIP": ("SiglipModel", TOWERS),
    "ResNet": ("ResNetForImageClassification", {**STAGES, "embedding_size": 8}),
    "BiT": ("BitForImageClassification", {**STAGES, "hidden_sizes": [16, 32], "embedding_size": 8, "num_groups": 4}),
    "ConvNeXt": ("ConvNextForImageClassification", {**STAGES, "num_stages": 2}),
    "ConvNeXt V2": ("ConvNextV2ForImageClassification", {**STAGES, "num_stages": 2}),
    "MobileNetV2": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.35}),
    "Swin": ("SwinForImageClassification", {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 3,
                                            "image_size": 24, "patch_size": 2}),
    "Whisper encoder": ("WhisperForConditionalGeneration", {
        "d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 40, "max_source_positions": 25,
        "decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 8, "vocab_size": 30, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}),
}  # fmt: skip
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("vit_tiny_patch16_224", {"img_size": 48, "depth": 2}),
    "DeiT": ("deit3_small_patch16_224", {"img_size": 48, "depth": 2}),
    "DINOv2": ("vit_small_patch14_dinov2", {"img_size": 42, "depth": 2}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 42, "depth": 2}),
    "CLIP": ("vit_base_patch32_clip_224", {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "SigLIP": ("vit_base_patch16_siglip_224", {"img_size": 48, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "ResNet": ("resnet18", {}),
    "Wide ResNet/ResNeXt": ("resnext50_32x4d", {}),
    "BiT": ("resnetv2_50x1_bit", {}),
    "ConvNeXt": ("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20)}),
    "ConvNeXt V2": ("convnextv2_tiny", {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20)}),
    "EfficientNet": ("efficientnet_b0", {}),
    "EfficientNet-Lite": ("tf_efficientnet_lite0", {}),
    "MobileNetV2": ("mobilenetv2_035", {}),
    "Swin": ("swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2)}),
}  # fmt: skip
WHAT: dict[str, What] = {"encoded": "hidden", "image_embedding": "embedding", "text_embedding": "embedding"}


def what_of(name: str) -> What:
    """What an output is in the parity table."""
    return WHAT.get(name) or cast("What", name)


def with_weights(model):
    """Random weights, and batch statistics that fit them where there are any."""
    normalised = any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    return (moved if normalised else randomised)(model)


def reference(family: str):
    name, sizes = REFERENCES[family]
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return with_weights(kind(kind.config_class(**sizes)))


def inputs(family: str) -> dict[str, np.ndarray]:
    name, sizes = REFERENCES[family]
    rng = np.random.default_rng(0)
    if family == "Whisper encoder":
        return {"input_features": rng.normal(size=(2, 50, 80)).astype(np.float32)}
    if family in ("CLIP", "SigLIP"):
        return {"pixel_values": pixels(24, 24), "input_ids": ids()}
    if "Image" in name:
        side = sizes.get("image_size", 48)
        return {"pixel_values": pixels(side, side)}
    given = {"input_ids": rng.integers(4, 50, (3, 17))}
    return given | ({"decoder_input_ids": rng.integers(4, 50, (3, 9))} if "Conditional" in name else {})


def answers(model, given: dict[str, np.ndarray]) -> dict[str, Any]:
    """The reference's outputs under our names, channels last."""
    with torch.no_grad():
        if "input_features" in given:
            features = torch.tensor(given["input_features"]).transpose(1, 2)
            return {"hidden": model.get_encoder()(features).last_hidden_state}
        tensors = {k: channels_first(v) if k == "pixel_values" else torch.tensor(v) for k, v in given.items()}
        out = model(**tensors)
        if "image_embeds" in out:
            both = {"image_embedding": out.image_embeds, "text_embedding": out.text_embeds}
            return {**both, "logits": out.logits_per_image}
        if "encoder_last_hidden_state" in out:
            return {"encoded": out.encoder_last_hidden_state, "logits": out.logits}
        hidden = model.base_model(**tensors).last_hidden_state
    return {"hidden": hidden.permute(0, 2, 3, 1) if hidden.ndim == 4 else hidden, "logits": out.logits}


def changed(source):
    """Other weights, as after training."""
    return source.with_params(
        trees.unflatten({path: leaf.read() * np.float32(1.02) for path, leaf in trees.flatten(source.params).items()})
    )


def same(there: dict[str, Any], here: dict[str, Any], before: dict[str, Any], **given) -> None:
    """The reference's outputs from the saved file equal ours, and differ from those before the change."""
    for name, want in there.items():
        assert (want - before[name]).abs().max() > 1e-4, f"{name} is of the weights that were read"
        compare(want, np.asarray(here[name]).reshape(want.shape), way="written", what=what_of(name), **given)


@pytest.mark.parametrize("family", REFERENCES)
def test_a_changed_and_saved_model_has_the_same_outputs_in_transformers(family: str, tmp_path: Path) -> None:
    model, given = reference(family), inputs(family)
    model.save_pretrained(tmp_path / "theirs")
    source = changed(tl.load(tmp_path / "theirs"))
    tl.save(source, tmp_path / "ours")
    again, said = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    there = answers(again.eval(), given)
    same(there, source(given), answers(model, given), family=family, form="transformers", tolerance=5e-5, floor=0.0)


@pytest.mark.parametrize("family", TIMM)
def test_a_changed_and_saved_model_has_the_same_outputs_in_timm(family: str, tmp_path: Path) -> None:
    timm = import_timm()
    architecture, sizes = TIMM[family]
    torch.manual_seed(0)
    model = with_weights(timm.create_model(architecture, num_classes=5, **sizes))
    timm.models.save_for_hf(model, tmp_path / "theirs", safe_serialization=True, model_args=sizes)
    source = changed(tl.load(tmp_path / "theirs"))
    out = tl.save(source, tmp_path / "ours")
    again = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    side = sizes.get("img_size", 64)
    given = pixels(side, side)

    def of(model) -> dict[str, Any]:
        with torch.no_grad():
            hidden = model.forward_features(channels_first(given))
            last = hidden.permute(0, 2, 3, 1) if hidden.ndim == 4 and "swin" not in architecture else hidden
            return {"hidden": last, "logits": model(channels_first(given))}

    here = source({"pixel_values": given})
    same(of(again), here, of(model), family=family, form="timm", tolerance=1e-4, floor=0.0)


@pytest.mark.parametrize("family", ["ModernBERT", "Gemma 3", "T5", "DINOv2", "ResNet", "SigLIP"])
def test_outputs_do_not_change_on_the_way_through_orbax(family: str, tmp_path: Path) -> None:
    model, given = reference(family), inputs(family)
    model.save_pretrained(tmp_path / "theirs")
    source = tl.load(tmp_path / "theirs")
    kept = tl.load(tl.save(source, tmp_path / "kept", format="orbax"))
    want, got = source(given), kept(given)
    assert want.keys() == got.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    again = type(model).from_pretrained(tl.save(kept, tmp_path / "back", format="hf")).eval()
    for name, value in answers(model, given).items():
        assert torch.equal(value, answers(again, given)[name]), name


@pytest.mark.parametrize("family", ["BERT", "Llama", "T5", "ViT", "ConvNeXt"])
def test_bfloat16_is_as_close_to_transformers_as_its_eight_bits_allow(family: str, tmp_path: Path) -> None:
    model, given = reference(family), inputs(family)
    model.save_pretrained(tmp_path)
    got = tl.load(tmp_path, dtype="bfloat16")(given)
    names: dict[str, Any] = {"family": family, "form": "transformers, bfloat16 here"}
    for name, want in answers(model, given).items():
        compare(got[name].reshape(want.shape), want, what=what_of(name), tolerance=0.03, **names)


@pytest.mark.parametrize("family", ["BERT", "Gemma 3", "ResNet"])
def test_a_source_has_the_same_outputs_inside_jit(family: str, tmp_path: Path) -> None:
    model, given = reference(family), inputs(family)
    model.save_pretrained(tmp_path)
    source = tl.load(tmp_path)
    want, got = source(given), jax.jit(lambda inputs: source(inputs))(given)
    assert want.keys() == got.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5 * float(np.abs(value).max()), rtol=0, err_msg=name)
