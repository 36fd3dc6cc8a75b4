"""ModernBERT's names in Hugging Face checkpoints (``ModernBertModel``, ``ModernBertForSequenceClassification``)."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from transferlab.models.fields import given_number
from transferlab.models.heads import ClassifierConfig, Hidden
from transferlab.models.modernbert import LAYER_TYPES, ModernBertConfig
from transferlab.pretrained.family import Family, unread
from transferlab.pretrained.names import Name, Names, linear, norm, with_prefix


def modernbert_names(config: ModernBertConfig) -> Names:
    """Return the table for this config. The file fuses query, key and value, and gate and up."""
    names = [
        Name("embed/word/embedding", "embeddings.tok_embeddings.weight"),
        *norm("embed/norm", "embeddings.norm", bias=config.norm_bias),
    ]
    for i in range(config.num_hidden_layers):
        here, there = f"layers/{i}", f"layers.{i}"
        if i > 0:
            names += norm(f"{here}/attention/norm", f"{there}.attn_norm", bias=config.norm_bias)
        for n, part in enumerate(("query", "key", "value")):
            names += linear(f"{here}/attention/{part}", f"{there}.attn.Wqkv", n, 3, bias=config.attention_bias)
        names += linear(f"{here}/attention/output", f"{there}.attn.Wo", bias=config.attention_bias)
        names += norm(f"{here}/mlp/norm", f"{there}.mlp_norm", bias=config.norm_bias)
        for n, part in enumerate(("gate", "up")):
            names += linear(f"{here}/mlp/{part}", f"{there}.mlp.Wi", n, 2, bias=config.mlp_bias)
        names += linear(f"{here}/mlp/down", f"{there}.mlp.Wo", bias=config.mlp_bias)
    names += norm("norm", "final_norm", bias=config.norm_bias)
    names += linear("head/dense", "head.dense", bias=config.classifier_bias)
    names += norm("head/norm", "head.norm", bias=config.norm_bias)
    names += linear("head", "classifier")
    ignored = ((r"decoder\.(weight|bias)", "the pre-training head, not part of the encoder"),)
    return Names(tuple(names), prefixes=("model.",), ignored=ignored)


def _head_hidden(config: ModernBertConfig) -> Hidden:
    # As the origin draws its prediction head and its classifier.
    stddevs = config.initializer_range / math.sqrt(2 * config.num_hidden_layers), config.hidden_size**-0.5
    return Hidden(
        config.classifier_activation, bias=config.classifier_bias, norm=config.norm_eps, norm_bias=config.norm_bias,
        stddevs=stddevs,
    )  # fmt: skip


def _to_hf(config: ModernBertConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], Names]:
    kind = "ModernBertModel" if head is None else "ModernBertForSequenceClassification"
    fields = {**asdict(config), "layer_types": list(config.kinds)}
    thetas = fields.pop("global_rope_theta"), fields.pop("local_rope_theta")
    tables = {
        name: {"rope_type": "default", "rope_theta": theta} for name, theta in zip(LAYER_TYPES, thetas, strict=True)
    }
    raw = {"architectures": [kind], "model_type": "modernbert", **fields, "rope_parameters": tables}
    names = modernbert_names(config)
    if head is None:
        return raw, names
    return {**raw, "classifier_dropout": head.dropout}, with_prefix(names, "model.", but=("head/",))


MODERNBERT = Family(
    name="modernbert",
    config=ModernBertConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=("modernbert",),
    architectures="",
    names=lambda config: (modernbert_names(config),),
    from_hf=ModernBertConfig.from_hf,
    from_timm=unread,
    adjust=lambda config, found: config,
    transform=lambda config: None,
    head_pooling=lambda config: config.pooling,
    head_dropout=lambda raw: given_number(raw, "classifier_dropout", 0.0),
    head_hidden=_head_hidden,
    to_hf=_to_hf,
)
