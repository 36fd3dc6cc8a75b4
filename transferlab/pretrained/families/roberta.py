"""RoBERTa's names in Hugging Face checkpoints (``RobertaModel``, ``XLMRobertaModel``, ``CamembertModel``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.models.heads import ClassifierConfig, HeadConfig, MaskedLanguageModelConfig
from transferlab.models.roberta import RobertaConfig
from transferlab.pretrained.families.encoders import (
    BERT_BODY,
    MASKED_HEAD,
    TANH_HEAD,
    adjust_pooler,
    classifier_dropout,
    encoder_from_hf,
    encoder_names,
    masked_head,
    masked_tables,
    tanh_layer,
    without_pooler,
)
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, masked_description
from transferlab.pretrained.names import OTHER_TASK, PRETRAINING_HEAD, NameTable


def roberta_names(config: RobertaConfig) -> NameTable:
    """Return the table for this config."""
    return encoder_names(
        BERT_BODY + TANH_HEAD,
        config,
        "roberta",
        (r"lm_head\..*", PRETRAINING_HEAD),
        (r"(qa_outputs|classifier)\.(weight|bias)", OTHER_TASK),
    )


def roberta_masked_names(config: RobertaConfig) -> tuple[NameTable, NameTable]:
    """Return the tables of ``RobertaForMaskedLM``, tied and untied."""
    text = MASKED_HEAD.format(prefix="lm_head", norm="layer_norm", bias="lm_head.bias")
    return masked_tables(roberta_names(config), masked_head(config), text, "lm_head.decoder", config)


def roberta_from_hf(raw: Mapping[str, Any]) -> RobertaConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field.

    What the file does not say is transformers' default, as for BERT: 512 positions, two token types, eps 1e-12.
    """
    if "pad_token_id" in raw and raw["pad_token_id"] is None:
        raise TransferlabError("config.json: pad_token_id is null; positions are counted from it.")
    vocabulary = 50265 if raw.get("model_type", "roberta") == "roberta" else 30522
    return encoder_from_hf(
        RobertaConfig, raw, vocab_size=vocabulary, max_position_embeddings=512, type_vocab_size=2, layer_norm_eps=1e-12
    )


def _to_hf(config: RobertaConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    raw = {"model_type": "roberta", "bos_token_id": 0, "eos_token_id": 2, **without_pooler(config)}
    if isinstance(head, MaskedLanguageModelConfig):
        return masked_description("Roberta", raw, roberta_masked_names(config), head)
    if isinstance(head, ClassifierConfig):
        raw["classifier_dropout"] = head.dropout
    return description("Roberta", "SequenceClassification", raw, roberta_names(config), head)


ROBERTA = Family(
    name="roberta",
    config=RobertaConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "token_type_ids", "position_ids"),
    model_types=("roberta", "xlm-roberta", "camembert"),
    names=lambda config: (roberta_names(config), *roberta_masked_names(config)),
    from_hf=roberta_from_hf,
    adjust=adjust_pooler,
    head_pooling=lambda config: "first",
    head_dropout=lambda raw: classifier_dropout(raw, 0.1),
    head_hidden=tanh_layer,
    masked_head=masked_head,
    token_classifier="classifier",
    token_dropout=lambda raw: classifier_dropout(raw, 0.1),
    to_hf=_to_hf,
)
