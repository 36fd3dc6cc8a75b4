"""BERT's names in Hugging Face checkpoints (``BertModel``, ``BertForSequenceClassification``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transferlab.models.bert import BertConfig
from transferlab.models.heads import ClassifierConfig, HeadConfig, MaskedLanguageModelConfig, TokenClassifierConfig
from transferlab.pretrained.families.encoders import (
    BERT_BODY,
    MASKED_HEAD,
    adjust_pooler,
    classifier_dropout,
    encoder_from_hf,
    encoder_names,
    masked_head,
    masked_tables,
    without_pooler,
)
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, masked_description
from transferlab.pretrained.names import OTHER_TASK, PRETRAINING_HEAD, NameTable


def bert_names(config: BertConfig) -> NameTable:
    """Return the table for this config."""
    return encoder_names(
        f"{BERT_BODY}\nlinear? head classifier",
        config,
        "bert",
        (r"cls\.(predictions|seq_relationship)\..*", PRETRAINING_HEAD),
        (r"qa_outputs\..*", OTHER_TASK),
    )


def bert_masked_names(config: BertConfig) -> tuple[NameTable, NameTable]:
    """Return the tables of ``BertForMaskedLM`` and ``BertForPreTraining``, tied and untied."""
    place = "cls.predictions"
    text = MASKED_HEAD.format(prefix=f"{place}.transform", norm="LayerNorm", bias=f"{place}.bias")
    return masked_tables(bert_names(config), _masked_head(config), text, f"{place}.decoder", config)


def _masked_head(config: BertConfig) -> MaskedLanguageModelConfig:
    return masked_head(config, config.hidden_act)


def bert_from_hf(raw: Mapping[str, Any]) -> BertConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    return encoder_from_hf(BertConfig, raw)


def _to_hf(config: BertConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    raw = {"model_type": "bert", "pad_token_id": 0, **without_pooler(config)}
    if isinstance(head, MaskedLanguageModelConfig):
        return masked_description("Bert", raw, bert_masked_names(config), head)
    if isinstance(head, (ClassifierConfig, TokenClassifierConfig)):
        raw["classifier_dropout"] = head.dropout
    return description("Bert", "SequenceClassification", raw, bert_names(config), head)


BERT = Family(
    name="bert",
    config=BertConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "token_type_ids", "position_ids"),
    model_types=("bert",),
    names=lambda config: (bert_names(config), *bert_masked_names(config)),
    from_hf=bert_from_hf,
    adjust=adjust_pooler,
    head_pooling=lambda config: "pooler" if config.pooler else "mean",
    head_dropout=lambda raw: classifier_dropout(raw, 0.0),
    masked_head=_masked_head,
    token_classifier="classifier",
    token_dropout=lambda raw: classifier_dropout(raw, 0.1),
    to_hf=_to_hf,
)
