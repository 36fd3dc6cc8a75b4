"""DistilBERT's names in Hugging Face checkpoints (``DistilBertModel``, ``DistilBertForSequenceClassification``)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from transferlab.models.distilbert import DistilBertConfig
from transferlab.models.fields import given_number
from transferlab.models.heads import ClassifierConfig, Hidden
from transferlab.pretrained.bert import LEGACY
from transferlab.pretrained.family import Family, unread
from transferlab.pretrained.names import BUFFER, OTHER_TASK, Name, Names, linear, norm, with_prefix


def distilbert_names(config: DistilBertConfig) -> Names:
    """Return the table for this config."""
    names = [
        Name("embed/word/embedding", "embeddings.word_embeddings.weight"),
        Name("embed/position/embedding", "embeddings.position_embeddings.weight"),
        *norm("embed/norm", "embeddings.LayerNorm"),
    ]
    for i in range(config.n_layers):
        here, there = f"layers/{i}", f"transformer.layer.{i}"
        for part, key in (("query", "q_lin"), ("key", "k_lin"), ("value", "v_lin"), ("output", "out_lin")):
            names += linear(f"{here}/attention/{part}", f"{there}.attention.{key}")
        names += norm(f"{here}/attention/norm", f"{there}.sa_layer_norm")
        names += linear(f"{here}/mlp/up", f"{there}.ffn.lin1")
        names += linear(f"{here}/mlp/down", f"{there}.ffn.lin2")
        names += norm(f"{here}/mlp/norm", f"{there}.output_layer_norm")
    names += linear("head/dense", "pre_classifier")
    names += linear("head", "classifier")
    return Names(
        tuple(names),
        prefixes=("distilbert.",),
        renames=LEGACY,
        ignored=(
            (r"(distilbert\.)?embeddings\.position_ids", BUFFER),
            (
                r"vocab_(transform|layer_norm|projector)\.(weight|bias)",
                "the pre-training head, not part of the encoder",
            ),
            (r"qa_outputs\..*", OTHER_TASK),
        ),
    )


def _to_hf(config: DistilBertConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], Names]:
    kind = "DistilBertModel" if head is None else "DistilBertForSequenceClassification"
    raw = {"architectures": [kind], "model_type": "distilbert", "pad_token_id": 0, **asdict(config)}
    names = distilbert_names(config)
    if head is None:
        return raw, names
    return {**raw, "seq_classif_dropout": head.dropout}, with_prefix(names, "distilbert.", but=("head/",))


DISTILBERT = Family(
    name="distilbert",
    config=DistilBertConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=("distilbert",),
    architectures="",
    names=lambda config: (distilbert_names(config),),
    from_hf=DistilBertConfig.from_hf,
    from_timm=unread,
    adjust=lambda config, found: config,
    transform=lambda config: None,
    head_pooling=lambda config: "first",
    head_dropout=lambda raw: given_number(raw, "seq_classif_dropout", 0.2),
    head_hidden=lambda config: Hidden("relu", stddevs=(config.initializer_range,) * 2),
    to_hf=_to_hf,
)
