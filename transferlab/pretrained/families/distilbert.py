"""DistilBERT's names in Hugging Face checkpoints (``DistilBertModel``, ``DistilBertForSequenceClassification``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.fields import given_fields, given_number
from transferlab.models.distilbert import DistilBertConfig
from transferlab.models.heads import ClassifierConfig, HeadConfig, HiddenLayer, MaskedLanguageModelConfig
from transferlab.pretrained.families.encoders import encoder_names, masked_head, masked_tables
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, masked_description
from transferlab.pretrained.names import OTHER_TASK, PRETRAINING_HEAD, NameTable

RULES = """
table   embed/{word,position}                   embeddings.{word,position}_embeddings
norm    embed/norm                              embeddings.LayerNorm
linear  layers/{i}/attention/{query,key,value,output}   transformer.layer.{i}.attention.{q,k,v,out}_lin
norm    layers/{i}/attention/norm               transformer.layer.{i}.sa_layer_norm
linear  layers/{i}/mlp/{up,down}                transformer.layer.{i}.ffn.{lin1,lin2}
norm    layers/{i}/mlp/norm                     transformer.layer.{i}.output_layer_norm
linear? head/dense                              pre_classifier
linear? head                                    classifier
"""


def distilbert_names(config: DistilBertConfig) -> NameTable:
    """Return the table for this config."""
    return encoder_names(
        RULES,
        config,
        "distilbert",
        (r"vocab_(transform|layer_norm|projector)\.(weight|bias)", PRETRAINING_HEAD),
        (r"qa_outputs\..*", OTHER_TASK),
    )


MASKED_RULES = """
linear? head/dense                              vocab_transform
norm?   head/norm                               vocab_layer_norm
same?   head/bias                               vocab_projector.bias
"""


def distilbert_masked_names(config: DistilBertConfig) -> tuple[NameTable, NameTable]:
    """Return the tables of ``DistilBertForMaskedLM``, tied and untied."""
    return masked_tables(distilbert_names(config), _masked_head(config), MASKED_RULES, "vocab_projector", config)


def _masked_head(config: DistilBertConfig) -> MaskedLanguageModelConfig:
    return masked_head(config, config.hidden_act)


_FIELDS: dict[str, tuple[str, type]] = {
    "dim": ("hidden_size", int),
    "n_layers": ("num_hidden_layers", int),
    "n_heads": ("num_attention_heads", int),
    "hidden_dim": ("intermediate_size", int),
    "activation": ("hidden_act", str),
    "dropout": ("hidden_dropout_prob", float),
    "attention_dropout": ("attention_probs_dropout_prob", float),
}
"""What Hugging Face's ``config.json`` calls fields that other encoders have too, with their types."""


def distilbert_from_hf(raw: Mapping[str, Any]) -> DistilBertConfig:
    """Read Hugging Face's ``config.json``. Sinusoidal positions are in the file as a table, like learned ones."""
    own = given_fields({name: kind for name, (_, kind) in _FIELDS.items()}, raw)
    dim, heads = own.get("dim", DistilBertConfig.hidden_size), own.get("n_heads", DistilBertConfig.num_attention_heads)
    if heads > 0 and dim % heads:
        raise TransferlabError(f"config.json: dim {dim} is no multiple of n_heads {heads}.")
    shared = given_fields(DistilBertConfig, raw, without=[ours for ours, _ in _FIELDS.values()])
    return DistilBertConfig(**{_FIELDS[name][0]: value for name, value in own.items()}, **shared)


def _to_hf(config: DistilBertConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    theirs = {ours: name for name, (ours, _) in _FIELDS.items()}
    fields = {theirs.get(name, name): value for name, value in asdict(config).items()}
    raw = {"model_type": "distilbert", "pad_token_id": 0, **fields}
    if isinstance(head, MaskedLanguageModelConfig):
        return masked_description("DistilBert", raw, distilbert_masked_names(config), head)
    if isinstance(head, ClassifierConfig):
        raw["seq_classif_dropout"] = head.dropout
    return description("DistilBert", "SequenceClassification", raw, distilbert_names(config), head)


DISTILBERT = Family(
    name="distilbert",
    config=DistilBertConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=("distilbert",),
    names=lambda config: (distilbert_names(config), *distilbert_masked_names(config)),
    from_hf=distilbert_from_hf,
    head_pooling=lambda config: "first",
    head_dropout=lambda raw: given_number(raw, "seq_classif_dropout", 0.2),
    head_hidden=lambda config: HiddenLayer("relu", stddevs=(config.initializer_range,) * 2),
    masked_head=_masked_head,
    token_classifier="classifier",
    token_dropout=lambda raw: given_number(raw, "dropout", 0.1),
    to_hf=_to_hf,
    old_fields={name: ours for name, (ours, _) in _FIELDS.items()},
)
