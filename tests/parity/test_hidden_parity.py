"""``hidden`` and ``pooled`` of every kind of file that is read, against the outputs of the reference's base model.

A row for each ``model_type`` and for each family of timm's: a family that is added needs its rows here. ``pooled`` is the
reference's own where it has one, else what its classifier pools, computed from the reference's hidden states, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_open_clip, import_timm
from test_bert_parity import randomised
from test_resnet_parity import channels_first, moved

import transferlab as tl
from transferlab.models import ClassifierConfig
from transferlab.models.heads import Pooling
from transferlab.pretrained.families import FAMILIES

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")


def own(out: Any, mask: np.ndarray) -> Any:
    """The reference's ``pooler_output``."""
    return out.pooler_output


def last(out: Any, mask: np.ndarray) -> Any:
    """The last token that is not padding."""
    places = torch.tensor(np.where(mask, np.arange(mask.shape[1]), -1).argmax(1))
    return out.last_hidden_state[torch.arange(len(mask)), places]


def mean(out: Any, mask: np.ndarray) -> Any:
    """The mean over tokens that are not padding."""
    weights = torch.tensor(mask[..., None], dtype=torch.float32)
    return (out.last_hidden_state * weights).sum(1) / weights.sum(1)


@dataclass(frozen=True)
class Row:
    """A model of transformers' ``AutoModel``: its sizes, and where ``pooled`` is found."""

    sizes: dict[str, Any]
    pooled: Callable[[Any, np.ndarray], Any] | None
    name: str = "pooled"
    """This library's name for the reference's pooled vector."""


TOKENS = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BERT = {**TOKENS, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 30,
        "max_position_embeddings": 40}  # fmt: skip
ROBERTA = {**BERT, "pad_token_id": 1, "bos_token_id": 0}
LLAMA = {**BERT, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6}
GEMMA = {**LLAMA, "sliding_window": 5, "query_pre_attn_scalar": 7}
T5 = {**TOKENS, "d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 2, "num_heads": 3}
VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 30, "image_size": 24,
       "patch_size": 8}  # fmt: skip
CLIP_TEXT = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
             "intermediate_size": 30, "max_position_embeddings": 12, "eos_token_id": 59, "bos_token_id": 58}  # fmt: skip
STAGES = {"hidden_sizes": [8, 12], "depths": [2, 1]}

ROWS = {
    "bert": Row(BERT, own),
    "roberta": Row(ROBERTA, own),
    "xlm-roberta": Row(ROBERTA, own),
    "camembert": Row(ROBERTA, own),
    "mpnet": Row(ROBERTA, own),
    "distilbert": Row({**TOKENS, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 30}, None),
    "modernbert": Row({**BERT, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 6}, None),
    "gpt2": Row({**TOKENS, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 3}, last),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), Row(LLAMA, last)),
    **dict.fromkeys(("gemma2", "gemma3_text"), Row(GEMMA, last)),
    **dict.fromkeys(("t5", "mt5"), Row(T5, mean)),
    **dict.fromkeys(("vit", "deit"), Row(VIT, own)),
    "dinov2": Row(VIT, own),
    "dinov2_with_registers": Row({**VIT, "num_register_tokens": 3}, own),
    "clip_vision_model": Row(VIT, own),
    "siglip_vision_model": Row(VIT, own),
    "clip_text_model": Row(CLIP_TEXT, own),
    # SigLIP's text model calls that its pooled vector which has passed its projection.
    "siglip_text_model": Row(CLIP_TEXT, own, "embedding"),
    "swin": Row({"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32,
                 "patch_size": 2}, own),
    "resnet": Row({"embedding_size": 8, **STAGES}, own),
    "bit": Row({"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 1], "num_groups": 4}, own),
    **dict.fromkeys(("convnext", "convnextv2"), Row({**STAGES, "num_stages": 2}, own)),
    "mobilenet_v2": Row({"depth_multiplier": 0.35}, own),
    "whisper": Row({"d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 30,
                    "max_source_positions": 20, "decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 8,
                    **TOKENS, "decoder_start_token_id": 1}, mean),
}  # fmt: skip
"""``model_type`` → its row; models of two towers have a test of their own."""

PAIRS = {
    "clip": {"vision_config": VIT, "text_config": CLIP_TEXT, "projection_dim": 10},
    "siglip": {"vision_config": VIT, "text_config": CLIP_TEXT},
}


@dataclass(frozen=True)
class Timm:
    """One of timm's: the function that makes it, and its arguments."""

    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 5e-5


SMALL = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}
TIMM = {
    "ViT": Timm("vit_tiny_patch16_224", SMALL),
    "ViT, mean and fc_norm": Timm("vit_tiny_patch16_224", {**SMALL, "global_pool": "avg"}),
    "ViT, mean without fc_norm": Timm("vit_tiny_patch16_224", {**SMALL, "global_pool": "avg", "fc_norm": False}),
    "DeiT 3": Timm("deit3_small_patch16_224", SMALL),
    "DINOv2": Timm("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 28}),
    "CLIP": Timm("vit_base_patch32_clip_224", {**SMALL, "img_size": 64}),
    "SigLIP": Timm("vit_base_patch16_siglip_224", SMALL),
    "SigLIP, mean": Timm("vit_base_patch16_siglip_gap_224", SMALL),
    "Swin": Timm("swin_tiny_patch4_window7_224", {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)}),
    "ResNet": Timm("resnet18", tolerance=2e-4),
    "BiT": Timm("resnetv2_50x1_bit", tolerance=2e-4),
    "ConvNeXt": Timm("convnext_atto"),
    "ConvNeXt V2": Timm("convnextv2_atto"),
    "MobileNetV2": Timm("mobilenetv2_035"),
    "EfficientNet": Timm("efficientnet_b0", tolerance=1e-4),
    "EfficientNet-Lite": Timm("tf_efficientnet_lite0", tolerance=2e-4),
}


def test_every_family_has_a_row_here() -> None:
    kinds = {kind for family in FAMILIES.values() for kind in family.model_types}
    assert kinds == ROWS.keys() | PAIRS.keys()
    for family in FAMILIES.values():
        if family.architectures:
            assert any(re.fullmatch(family.architectures, row.architecture) for row in TIMM.values()), family.name


def given(source: tl.Source, sizes: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three examples of what the model reads, and the mask of their tokens: padding behind, and before, or none."""
    rng, kind = np.random.default_rng(0), source.modality
    if kind == "text":
        length = min(12, sizes.get("max_position_embeddings", 12))
        mask = np.ones((3, length), np.int64)
        mask[1, 8:] = 0
        # Where the first token is read, it is not padding.
        ids = rng.integers(5, 58, (3, length))
        if source.family == "clip_text":
            ids[[0, 1, 2], [length - 1, 7, 4]] = 59
        elif source.pooling == "last":
            mask[2, :3] = 0
        return {"input_ids": np.where(mask, ids, source.raw["pad_token_id"] or 0), "attention_mask": mask}, mask
    if kind == "audio":
        return {"input_features": rng.normal(size=(3, 40, 80)).astype(np.float32)}, np.ones((3, 20), np.int64)
    pixels = rng.normal(size=(3, side(sizes), side(sizes), 3)).astype(np.float32)
    return {"pixel_values": pixels}, np.ones((3, 1), np.int64)


def side(sizes: dict[str, Any]) -> int:
    return sizes.get("image_size", sizes.get("img_size", 64))


def channels_of(hidden: Any, want: Any) -> Any:
    """Feature maps have channels last here; transformers and most of timm have them first, Swin of transformers rows of pixels."""
    hidden = np.asarray(hidden)
    if hidden.ndim == 4 and want.ndim == 3:
        return hidden.reshape(len(hidden), -1, hidden.shape[-1])
    return hidden.transpose(0, 3, 1, 2) if hidden.ndim == 4 and hidden.shape != tuple(want.shape) else hidden


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def made(config: Any) -> Any:
    """The base model of a config."""
    kind = {"siglip_text_model": transformers.SiglipTextModel}.get(config.model_type)
    return transformers.AutoModel.from_config(config) if kind is None else kind(config)


@pytest.mark.parametrize("kind", ROWS)
def test_hidden_and_pooled_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    row = ROWS[kind]
    config = transformers.AutoConfig.for_model(kind, **row.sizes)
    config._attn_implementation = "eager"
    convolves = kind in ("resnet", "mobilenet_v2")
    model = (moved if convolves else randomised)(made(config))
    model.save_pretrained(tmp_path)
    source = tl.load(tmp_path)
    source = source.encoder() if kind in ("t5", "mt5") else source
    inputs, mask = given(source, row.sizes)
    asked = {name: channels_first(x) if name == "pixel_values" else torch.tensor(x) for name, x in inputs.items()}
    if kind == "whisper":
        asked = {"input_features": asked["input_features"].transpose(1, 2)}
    with torch.no_grad():
        want = (model.get_encoder() if kind in ("t5", "mt5", "whisper") else model)(**asked)
    got = source(inputs)
    hidden, theirs = channels_of(got["hidden"], want.last_hidden_state), want.last_hidden_state.numpy()
    if source.modality == "text":
        hidden, theirs = hidden[mask.astype(bool)], theirs[mask.astype(bool)]
    compare(hidden, theirs, family=_FAMILY[kind], form="transformers", what="hidden", tolerance=5e-5)
    if row.pooled is None:
        assert "pooled" not in got and "pooler_output" not in want
        return
    pooled = row.pooled(want, mask)
    compare(
        got[row.name], pooled.reshape(3, -1), family=_FAMILY[kind], form="transformers", what="pooled", tolerance=5e-5
    )


_FAMILY = {
    "bert": "BERT", "roberta": "RoBERTa", "xlm-roberta": "XLM-R", "camembert": "CamemBERT", "mpnet": "MPNet",
    "distilbert": "DistilBERT", "modernbert": "ModernBERT", "gpt2": "GPT-2", "llama": "Llama", "mistral": "Mistral",
    "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma 2", "gemma3_text": "Gemma 3", "t5": "T5", "mt5": "mT5",
    "vit": "ViT", "deit": "DeiT", "dinov2": "DINOv2", "dinov2_with_registers": "DINOv2 with registers",
    "clip_vision_model": "CLIP", "clip_text_model": "CLIP", "siglip_vision_model": "SigLIP", "siglip_text_model": "SigLIP",
    "swin": "Swin", "resnet": "ResNet", "bit": "BiT", "convnext": "ConvNeXt", "convnextv2": "ConvNeXt V2",
    "mobilenet_v2": "MobileNetV2", "whisper": "Whisper encoder",
}  # fmt: skip
"""A row of the parity table."""


@pytest.mark.parametrize("kind", PAIRS)
def test_hidden_of_a_tower_next_to_another_equals_that_of_transformers(kind: str, tmp_path: Path) -> None:
    model = randomised(transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **PAIRS[kind])))
    model.save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    pixels, ids = rng.normal(size=(3, 24, 24, 3)).astype(np.float32), rng.integers(5, 58, (3, 12))
    ids[[0, 1, 2], [11, 7, 4]] = 59
    with torch.no_grad():
        want = model(pixel_values=channels_first(pixels), input_ids=torch.tensor(ids))
    got = tl.load(tmp_path)({"pixel_values": pixels, "input_ids": ids})
    family = "CLIP" if kind == "clip" else "SigLIP"
    for ours, theirs in (
        ("vision/hidden", want.vision_model_output.last_hidden_state),
        ("text/hidden", want.text_model_output.last_hidden_state),
        ("image_embedding", want.image_embeds),
        ("text_embedding", want.text_embeds),
    ):
        what = "hidden" if ours.endswith("hidden") else "embedding"
        compare(got[ours], theirs, family=family, form="transformers", what=what, where=ours)


@pytest.mark.parametrize("kind", ["clip", "clip_vision_model"])
def test_a_head_on_clips_tower_pools_what_has_passed_the_norm(kind: str, tmp_path: Path) -> None:
    sizes = PAIRS[kind] if kind in PAIRS else ROWS[kind].sizes
    model = randomised(transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes)))
    model.save_pretrained(tmp_path)
    source = tl.load(tmp_path, tower="vision") if kind == "clip" else tl.load(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(3, 24, 24, 3)).astype(np.float32)
    tower = model.vision_model if kind == "clip" else model
    with torch.no_grad():
        out = tower(channels_first(pixels))
        normal = tower.post_layernorm(out.last_hidden_state).numpy()
    kernel = np.random.default_rng(1).normal(size=(48, 2)).astype(np.float32)
    poolings: tuple[tuple[Pooling, np.ndarray], ...] = (
        ("first", normal[:, 0]),
        ("mean", normal[:, 1:].mean(1)),
        ("first and mean", np.concatenate([normal[:, 0], normal[:, 1:].mean(1)], 1)),
    )
    for pooling, want in poolings:
        head = ClassifierConfig(labels=("a", "b"), pooling=pooling)
        given = {"head": {"kernel": kernel[: want.shape[1]], "bias": np.zeros(2, np.float32)}}
        logits = source.with_params(given, head=head)({"pixel_values": pixels})["logits"]
        compare(logits, want @ kernel[: want.shape[1]], family="CLIP", form="transformers", where=pooling)


@pytest.fixture(scope="session")
def timm():
    return import_timm()


@pytest.mark.parametrize("name", TIMM)
def test_hidden_and_pooled_equal_those_of_timm(name: str, timm, tmp_path: Path) -> None:
    row = TIMM[name]
    model = timm.create_model(row.architecture, num_classes=3, **row.arguments)
    normalises = any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    model = (moved if normalises else randomised)(model)
    timm.models.save_for_hf(model, tmp_path, model_args=row.arguments, safe_serialization=True)
    source = tl.load(tmp_path)
    inputs, _ = given(source, {"img_size": 224} if "swin" in row.architecture else row.arguments)
    with torch.no_grad():
        features = model.forward_features(channels_first(inputs["pixel_values"]))
        pooled = model.forward_head(features, pre_logits=True)
    got = source(inputs)
    compare(channels_of(got["hidden"], features), features, family=name.split(",")[0], form="timm", what="hidden",
            tolerance=row.tolerance)  # fmt: skip
    compare(got["pooled"], pooled, family=name.split(",")[0], form="timm", what="pooled", tolerance=row.tolerance)


def test_hidden_of_open_clips_tower_equals_its_own(tmp_path: Path) -> None:
    import sys

    from safetensors.numpy import save_file

    import_timm()
    open_clip = import_open_clip()
    sizes = {"image_size": 24, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8}
    text = {"context_length": 12, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2}
    raw = {"embed_dim": 10, "vision_cfg": sizes, "text_cfg": text}
    model = randomised(open_clip.CLIP(**raw))
    model.visual.image_mean, model.visual.image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    sys.modules["open_clip.push_to_hf_hub"].save_config_for_hf(model, tmp_path / "open_clip_config.json", raw)
    tensors = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    save_file(tensors, str(tmp_path / "open_clip_model.safetensors"))
    pixels = np.random.default_rng(0).normal(size=(3, 24, 24, 3)).astype(np.float32)
    model.visual.output_tokens = True
    with torch.no_grad():
        embedding, tokens = model.visual(channels_first(pixels))
    got = tl.load(tmp_path, tower="vision")({"pixel_values": pixels})
    compare(got["hidden"][:, 1:], tokens, family="CLIP", form="open_clip", what="hidden")
    compare(got["embedding"], embedding, family="CLIP", form="open_clip", what="embedding")
