"""Tiny checkpoints with random weights, in the reference implementations' formats: BERT, ViT, CLIP and language models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np

TINY = {
    "model_type": "bert", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64, "type_vocab_size": 2, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-12, "initializer_range": 0.02,
}  # fmt: skip
WORDS = ("good", "great", "fine", "bad", "poor", "sad", "the", "film", "was", "a", "very", "day", "and", "it")


def write_bert(folder: Path, *, seed: int = 0, drop: tuple[str, ...] = (), **changes) -> Path:
    """Write config, random weights under the reference implementation's keys, and a tokenizer."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    from transferlab import trees
    from transferlab.pretrained.families.bert import bert_from_hf, bert_names

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**TINY, **changes}
    (folder / "config.json").write_text(json.dumps(raw))
    config = bert_from_hf(raw)
    shapes = trees.flatten(trees.define(config.build()).params)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name in bert_names(config).names:
        if name.path in shapes and name.key not in drop:
            values = rng.normal(0, 0.3, shapes[name.path].shape).astype(np.float32)
            tensors[name.key] = np.ascontiguousarray(name.layout.to_file(values))
    save_file(tensors, str(folder / "model.safetensors"))
    vocabulary = {w: i for i, w in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "model_max_length": 48}))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


VIT_SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
VIT_DIALECTS = {
    "vit": {"model_type": "vit", "intermediate_size": 10, "id2label": {"0": "cat", "1": "dog"}, **VIT_SIZES},
    "dinov2": {"model_type": "dinov2_with_registers", "num_register_tokens": 2, "use_swiglu_ffn": True, **VIT_SIZES},
    "timm": {
        "architecture": "vit_tiny_patch16_224", "num_classes": 2, "global_pool": "token",
        "model_args": {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
                       "init_values": 0.1, "reg_tokens": 1},
        "pretrained_cfg": {"input_size": [3, 16, 16], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9,
                           "interpolation": "bicubic", "label_names": ["cat", "dog"]},
    },
}  # fmt: skip


def vit_config(raw: dict):
    """The config of either dialect's config.json."""
    from transferlab.pretrained.families.vit import vit_from_hf
    from transferlab.pretrained.families.vit_timm import vit_from_timm
    from transferlab.pretrained.timm import TimmConfig

    return vit_from_timm(TimmConfig.read(raw)) if "architecture" in raw else vit_from_hf(raw)


def write_vit(folder: Path, dialect: str, prefix: str = "", **changes) -> dict[str, np.ndarray]:
    """Write config and random weights under the reference implementation's keys; return the tensors."""
    from safetensors.numpy import save_file

    from transferlab import trees
    from transferlab.models import ClassifierConfig
    from transferlab.pretrained.families.vit import Dialect, vit_names
    from transferlab.pretrained.names import to_file

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**VIT_DIALECTS[dialect], **changes}
    config = vit_config(raw)
    head = ClassifierConfig(("cat", "dog"), pooling=config.pooling)
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build(head)).params)
    leaves = {p: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for p, leaf in shapes.items()}
    tensors = {
        prefix + key: tensor for key, tensor in to_file(vit_names(config, cast("Dialect", dialect)), leaves).items()
    }
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(folder / "model.safetensors"))
    return tensors


CLIP_VISION = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 10,
               "image_size": 16, "patch_size": 4}  # fmt: skip
CLIP_TEXT = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 10, "vocab_size": 64,
             "max_position_embeddings": 20, "eos_token_id": 3}  # fmt: skip
CLIPS = {
    "clip": {"model_type": "clip", "vision_config": CLIP_VISION, "text_config": CLIP_TEXT, "projection_dim": 6},
    "siglip": {
        "model_type": "siglip",
        "vision_config": CLIP_VISION,
        "text_config": {**CLIP_TEXT, "projection_size": 12},
    },
}


def write_clip(folder: Path, kind: str, **changes) -> dict[str, np.ndarray]:
    """Write config, random weights of both towers under Hugging Face's keys, and a tokenizer; return the tensors."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from transferlab import trees
    from transferlab.pretrained.families.clip import clip_from_hf, clip_names
    from transferlab.pretrained.names import to_file

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**CLIPS[kind], **changes}
    config = clip_from_hf(raw)
    shapes = trees.flatten(trees.define(config.build()).params)
    rng = np.random.default_rng(0)
    leaves = {p: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for p, leaf in shapes.items()}
    tensors = to_file(clip_names(config)[0], leaves)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(folder / "model.safetensors"))
    vocabulary = {w: i for i, w in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "photo", "of"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return tensors


DECODERS = {
    "gpt2": {"model_type": "gpt2", "vocab_size": 40, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 4,
             "eos_token_id": 3},
    "llama": {"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 6,
              "eos_token_id": 3},
    "gemma": {"model_type": "gemma2", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 6,
              "sliding_window": 4, "query_pre_attn_scalar": 9, "eos_token_id": 3, "attn_logit_softcapping": 2.0},
}  # fmt: skip


def write_decoder(folder: Path, kind: str, *, scale: float = 0.4, **changes) -> dict[str, np.ndarray]:
    """Write config and random weights of a language model under the reference implementation's keys; return the tensors."""
    from safetensors.numpy import save_file

    from transferlab import trees
    from transferlab.pretrained.families import FAMILIES
    from transferlab.pretrained.names import to_file

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**DECODERS[kind], **changes}
    family = FAMILIES["gpt2" if kind == "gpt2" else "llama"]
    config = family.from_hf(raw)
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build(config.language_model())).params)
    leaves = {p: rng.normal(0, scale, leaf.shape).astype(np.float32) for p, leaf in shapes.items()}
    names = family.names(config)[0]
    tensors = {
        key if key.startswith("lm_head") else names.prefixes[-1] + key: tensor
        for key, tensor in to_file(names, leaves).items()
    }
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(folder / "model.safetensors"))
    return tensors


T5_SIZES = {
    "model_type": "t5", "vocab_size": 24, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "dropout_rate": 0.0,
    "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def write_t5(folder: Path, **changes) -> Path:
    """Write config, random weights under transformers' keys, and a tokenizer whose texts end with ``</s>``."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from transferlab import trees
    from transferlab.pretrained.families.t5 import t5_from_hf, t5_names
    from transferlab.pretrained.names import to_file

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**T5_SIZES, **changes}
    config = t5_from_hf(raw)
    tied = config.scale_decoder_outputs
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build(config.language_model(tied))).params)
    leaves = {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(to_file(t5_names(config, tied), leaves), str(folder / "model.safetensors"))
    vocabulary = {w: i for i, w in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "model_max_length": 64,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_averaging(folder: Path, tokens_of: Path) -> Path:
    """Write a checkpoint of the family of ``examples/own_family.py``, with another one's tokenizer."""
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "averaging", "vocab_size": TINY["vocab_size"], "hidden_size": 8})
    )
    values = np.random.default_rng(0).normal(0, 0.3, (cast(int, TINY["vocab_size"]), 8)).astype(np.float32)
    save_file({"vectors.weight": values}, str(folder / "model.safetensors"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((tokens_of / name).read_text())
    return folder
