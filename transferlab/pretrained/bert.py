"""BERT's names in Hugging Face checkpoints (``BertModel``, ``BertForSequenceClassification``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transferlab.models.bert import BertConfig
from transferlab.models.fields import given_number
from transferlab.models.heads import ClassifierConfig, HeadConfig
from transferlab.pretrained.family import Family, unread
from transferlab.pretrained.names import BUFFER, OTHER_TASK, Name, Names, linear, norm, with_prefix


def bert_names(config: BertConfig) -> Names:
    """Return the table for this config."""
    names = [
        Name("embed/word/embedding", "embeddings.word_embeddings.weight"),
        Name("embed/position/embedding", "embeddings.position_embeddings.weight"),
        Name("embed/token_type/embedding", "embeddings.token_type_embeddings.weight"),
        *norm("embed/norm", "embeddings.LayerNorm"),
        *layer_names(config.num_hidden_layers),
        *linear("pooler", "pooler.dense"),
        *linear("head", "classifier"),
    ]
    return Names(
        tuple(names),
        prefixes=("bert.",),
        renames=LEGACY,
        ignored=(
            (r"(bert\.)?embeddings\.position_ids", BUFFER),
            (r"cls\.(predictions|seq_relationship)\..*", "the pre-training head, not part of the encoder"),
            (r"qa_outputs\..*", OTHER_TASK),
        ),
    )


LEGACY = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""Suffixes of old files."""


def layer_names(layers: int) -> list[Name]:
    """BERT's layers, as RoBERTa has them too."""
    names = []
    for i in range(layers):
        here, there = f"layers/{i}", f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            names += linear(f"{here}/attention/{part}", f"{there}.attention.self.{part}")
        names += linear(f"{here}/attention/output", f"{there}.attention.output.dense")
        names += norm(f"{here}/attention/norm", f"{there}.attention.output.LayerNorm")
        names += linear(f"{here}/mlp/up", f"{there}.intermediate.dense")
        names += linear(f"{here}/mlp/down", f"{there}.output.dense")
        names += norm(f"{here}/mlp/norm", f"{there}.output.LayerNorm")
    return names


def _adjust(config: BertConfig, found: set[str]) -> BertConfig:
    return config if "pooler/kernel" in found else config.without_pooler()


def _to_hf(config: BertConfig, head: HeadConfig | None) -> tuple[dict[str, Any], Names]:
    fields = {name: value for name, value in asdict(config).items() if name != "pooler"}
    kind = "BertModel" if head is None else "BertForSequenceClassification"
    raw = {"architectures": [kind], "model_type": "bert", "pad_token_id": 0, **fields}
    if isinstance(head, ClassifierConfig):
        raw["classifier_dropout"] = head.dropout
    return raw, bert_names(config) if head is None else with_prefix(bert_names(config), "bert.", but=("head/",))


def _head_dropout(raw: Mapping[str, Any]) -> float:
    return given_number(raw, "classifier_dropout", given_number(raw, "hidden_dropout_prob", 0.0))


BERT = Family(
    name="bert",
    config=BertConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "token_type_ids", "position_ids"),
    model_types=("bert",),
    architectures="",
    names=lambda config: (bert_names(config),),
    from_hf=BertConfig.from_hf,
    from_timm=unread,
    adjust=_adjust,
    transform=lambda config: None,
    head_pooling=lambda config: "pooler" if config.pooler else "mean",
    head_dropout=_head_dropout,
    to_hf=_to_hf,
)
