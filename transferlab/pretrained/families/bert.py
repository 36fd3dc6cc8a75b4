"""BERT's names in Hugging Face checkpoints (``BertModel``, ``BertForSequenceClassification``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.fields import given_fields, given_number
from transferlab.models.bert import BertConfig
from transferlab.models.heads import ClassifierConfig, HeadConfig
from transferlab.pretrained.families.family import Family, unread
from transferlab.pretrained.names import BUFFER, OTHER_TASK, NameTable, with_prefix
from transferlab.pretrained.rules import leaves_of, named

LAYERS = """
linear  layers/{i}/attention/{query,key,value}  encoder.layer.{i}.attention.self.{query,key,value}
linear  layers/{i}/attention/output             encoder.layer.{i}.attention.output.dense
norm    layers/{i}/attention/norm               encoder.layer.{i}.attention.output.LayerNorm
linear  layers/{i}/mlp/{up,down}                encoder.layer.{i}.{intermediate,output}.dense
norm    layers/{i}/mlp/norm                     encoder.layer.{i}.output.LayerNorm
"""
"""BERT's layers, as RoBERTa has them too."""

RULES = f"""
table   embed/{{word,position,token_type}}      embeddings.{{word,position,token_type}}_embeddings
norm    embed/norm                              embeddings.LayerNorm
{LAYERS}
linear? pooler                                  pooler.dense
linear? head                                    classifier
"""

LEGACY = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""Suffixes of old files."""


def bert_names(config: BertConfig) -> NameTable:
    """Return the table for this config."""
    return NameTable(
        named(RULES, leaves_of(config)),
        prefixes=("bert.",),
        renames=LEGACY,
        ignored=(
            (r"(bert\.)?embeddings\.position_ids", BUFFER),
            (r"cls\.(predictions|seq_relationship)\..*", "the pre-training head, not part of the encoder"),
            (r"qa_outputs\..*", OTHER_TASK),
        ),
    )


def bert_from_hf(raw: Mapping[str, Any]) -> BertConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    refuse_decoders(raw)
    return BertConfig(**given_fields(BertConfig, raw, without=("pooler",)))


def refuse_decoders(raw: Mapping[str, Any]) -> None:
    """Raise for fields of ``config.json`` that turn the origin's encoder into something else; each is named."""
    kind = raw.get("position_embedding_type") or "absolute"
    if kind != "absolute":
        raise TransferlabError(f"config.json: position_embedding_type '{kind}' is not supported; only 'absolute'.")
    for flag in ("is_decoder", "add_cross_attention"):
        if raw.get(flag):
            raise TransferlabError(f"config.json: {flag} is true; this model is an encoder.")


def _adjust(config: BertConfig, found: set[str]) -> BertConfig:
    return config if "pooler/kernel" in found else config.without_pooler()


def _to_hf(config: BertConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
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
    from_hf=bert_from_hf,
    from_timm=unread,
    adjust=_adjust,
    transform=lambda config: None,
    head_pooling=lambda config: "pooler" if config.pooler else "mean",
    head_dropout=_head_dropout,
    to_hf=_to_hf,
)
