"""A tiny checkpoint of each family, with random weights and preprocessing: what tasks are tried on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from support.checkpoints import CLIP_TEXT, DECODERS, TINY, VIT_DIALECTS, WORDS

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = len(SPECIAL) + len(WORDS) + 5

_ENCODER = {name: value for name, value in TINY.items() if name not in ("model_type", "type_vocab_size")} | {
    "vocab_size": VOCABULARY
}
FAMILY_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_ENCODER, "model_type": "bert", "type_vocab_size": 2},
    "roberta": {**_ENCODER, "model_type": "roberta", "type_vocab_size": 1, "pad_token_id": 0},
    "distilbert": {"model_type": "distilbert", "vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24,
                   "max_position_embeddings": 64},
    "mpnet": {**_ENCODER, "model_type": "mpnet", "relative_attention_num_buckets": 32},
    "modernbert": {"model_type": "modernbert", "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
                   "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, "global_attn_every_n_layers": 2,
                   "local_attention": 8, "pad_token_id": 0},
    "gpt2": {**DECODERS["gpt2"], "vocab_size": VOCABULARY},
    "llama": {**DECODERS["llama"], "vocab_size": VOCABULARY},
    "gemma2": {**DECODERS["gemma"], "vocab_size": VOCABULARY},
    "t5": {"model_type": "t5", "vocab_size": VOCABULARY, "d_model": 12, "d_kv": 5, "d_ff": 16, "num_layers": 2,
           "num_decoder_layers": 2, "num_heads": 2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16},
    "clip text": {**CLIP_TEXT, "model_type": "clip_text_model", "vocab_size": VOCABULARY, "projection_dim": 6},
    "vit": VIT_DIALECTS["vit"],
    "resnet": {"model_type": "resnet", "embedding_size": 6, "hidden_sizes": [6, 8], "depths": [1, 1], "layer_type": "basic"},
    "whisper": {"model_type": "whisper", "d_model": 12, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 20,
                "num_mel_bins": 80, "max_source_positions": 1500},
}  # fmt: skip


def write_family(folder: Path, kind: str, **changes: Any) -> Path:
    """Write config (with these changes), weights under transformers' keys and preprocessing of one of ``FAMILY_CONFIGS``; return the
    folder.
    """
    from safetensors.numpy import save_file

    from transferlab import trees
    from transferlab.pretrained.families import FAMILIES
    from transferlab.pretrained.names import to_file

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**FAMILY_CONFIGS[kind], **changes}
    family = next(family for family in FAMILIES.values() if raw["model_type"] in family.model_types)
    config = family.from_hf(raw)
    tables = family.names(config)
    writes = next((names for names in tables if names.language_model is not None), None)
    names = tables[0] if writes is None else writes
    head = None if writes is None else writes.language_model
    rng = np.random.default_rng(0)
    shapes = {**trees.flatten((module := trees.define(config.build(head))).params), **trees.flatten(module.state)}
    leaves = {
        path: np.ones(leaf.shape, np.float32)
        if path.endswith(("var", "scale"))
        else rng.normal(0, 0.3, leaf.shape).astype(np.float32)
        for path, leaf in shapes.items()
    }
    prefix = names.prefixes[-1] if writes is not None and names.prefixes else ""
    tensors = {
        key if key.startswith("lm_head") else prefix + key: value for key, value in to_file(names, leaves).items()
    }
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(folder / "model.safetensors"))
    if family.modality == "text":
        _write_tokenizer(folder, kind)
    elif family.modality == "image":
        size = raw.get("image_size", 16)
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"size": {"height": size, "width": size}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
        )
    return folder


def _write_tokenizer(folder: Path, kind: str) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    special = [("[CLS]", 2), ("[SEP]", 3)]
    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"
    if kind == "bert":
        pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    elif kind == "t5":
        single, pair = "$A [SEP]", "$A [SEP] $B [SEP]"
    if kind not in ("gpt2", "llama", "gemma2"):
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {
        "pad_token": "[PAD]",
        "eos_token": "[SEP]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    }
    if kind not in ("gpt2", "llama", "gemma2", "t5", "clip text"):
        tokens["mask_token"] = "[MASK]"
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**tokens, "model_max_length": 20 if kind == "clip text" else 48})
    )
