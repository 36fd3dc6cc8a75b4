"""RoBERTa's names in Hugging Face checkpoints (``RobertaModel``, ``XLMRobertaModel``, ``CamembertModel``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.fields import given_fields, given_number
from transferlab.models.heads import ClassifierConfig, HiddenLayer
from transferlab.models.roberta import RobertaConfig
from transferlab.pretrained.families.bert import LAYERS, LEGACY, refuse_decoders
from transferlab.pretrained.families.family import Family, unread
from transferlab.pretrained.names import BUFFER, OTHER_TASK, NameTable, with_prefix
from transferlab.pretrained.rules import leaves_of, named

RULES = f"""
table   embed/{{word,position,token_type}}      embeddings.{{word,position,token_type}}_embeddings
norm    embed/norm                              embeddings.LayerNorm
{LAYERS}
linear? pooler                                  pooler.dense
linear? head/dense                              classifier.dense
linear? head                                    classifier.out_proj
"""


def roberta_names(config: RobertaConfig) -> NameTable:
    """Return the table for this config."""
    return NameTable(
        named(RULES, leaves_of(config)),
        prefixes=("roberta.",),
        renames=LEGACY,
        ignored=(
            (r"(roberta\.)?embeddings\.position_ids", BUFFER),
            (r"lm_head\..*", "the pre-training head, not part of the encoder"),
            (r"(qa_outputs|classifier)\.(weight|bias)", OTHER_TASK),
        ),
    )


def roberta_from_hf(raw: Mapping[str, Any]) -> RobertaConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field.

    What the file does not say is the origin's default, as for BERT: 512 positions, two token types, eps 1e-12.
    """
    refuse_decoders(raw)
    if "pad_token_id" in raw and raw["pad_token_id"] is None:
        raise TransferlabError("config.json: pad_token_id is null; positions are counted from it.")
    vocabulary = 50265 if raw.get("model_type", "roberta") == "roberta" else 30522
    absent = {
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }
    return RobertaConfig(**{**absent, **given_fields(RobertaConfig, raw, without=("pooler",))})


def _adjust(config: RobertaConfig, found: set[str]) -> RobertaConfig:
    return config if "pooler/kernel" in found else config.without_pooler()


def _to_hf(config: RobertaConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], NameTable]:
    fields = {name: value for name, value in asdict(config).items() if name != "pooler"}
    kind = "RobertaModel" if head is None else "RobertaForSequenceClassification"
    raw = {"architectures": [kind], "model_type": "roberta", "bos_token_id": 0, "eos_token_id": 2, **fields}
    if head is not None:
        raw["classifier_dropout"] = head.dropout
    return raw, roberta_names(config) if head is None else with_prefix(
        roberta_names(config), "roberta.", but=("head/",)
    )


def _head_dropout(raw: Mapping[str, Any]) -> float:
    return given_number(raw, "classifier_dropout", given_number(raw, "hidden_dropout_prob", 0.1))


ROBERTA = Family(
    name="roberta",
    config=RobertaConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "token_type_ids", "position_ids"),
    model_types=("roberta", "xlm-roberta", "camembert"),
    architectures="",
    names=lambda config: (roberta_names(config),),
    from_hf=roberta_from_hf,
    from_timm=unread,
    adjust=_adjust,
    transform=lambda config: None,
    head_pooling=lambda config: "first",
    head_dropout=_head_dropout,
    head_hidden=lambda config: HiddenLayer("tanh", dropout_before=True, stddevs=(config.initializer_range,) * 2),
    to_hf=_to_hf,
)
