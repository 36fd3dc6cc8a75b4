"""MPNet's names in Hugging Face checkpoints (``MPNetModel``, ``MPNetForSequenceClassification``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transferlab.fields import given_number
from transferlab.models.heads import HeadConfig, MaskedLanguageModelConfig
from transferlab.models.mpnet import PAD, MPNetConfig
from transferlab.pretrained.families.encoders import (
    MASKED_HEAD,
    TANH_HEAD,
    adjust_pooler,
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

RULES = f"""
table   embed/{{word,position}}                 embeddings.{{word,position}}_embeddings
table   embed/relative                          encoder.relative_attention_bias
norm    embed/norm                              embeddings.LayerNorm
linear  layers/{{i}}/attention/{{query,key,value,output}}   encoder.layer.{{i}}.attention.attn.{{q,k,v,o}}
norm    layers/{{i}}/attention/norm             encoder.layer.{{i}}.attention.LayerNorm
linear  layers/{{i}}/mlp/{{up,down}}            encoder.layer.{{i}}.{{intermediate,output}}.dense
norm    layers/{{i}}/mlp/norm                   encoder.layer.{{i}}.output.LayerNorm
linear? pooler                                  pooler.dense
{TANH_HEAD}
"""


def mpnet_names(config: MPNetConfig) -> NameTable:
    """Return the table for this config."""
    return encoder_names(
        RULES,
        config,
        "mpnet",
        (r"lm_head\..*", PRETRAINING_HEAD),
        (r"(qa_outputs|classifier)\.(weight|bias)", OTHER_TASK),
    )


def mpnet_masked_names(config: MPNetConfig) -> tuple[NameTable, NameTable]:
    """Return the tables of ``MPNetForMaskedLM``, tied and untied."""
    text = MASKED_HEAD.format(prefix="lm_head", norm="layer_norm", bias="lm_head.bias")
    return masked_tables(mpnet_names(config), masked_head(config), text, "lm_head.decoder", config)


def mpnet_from_hf(raw: Mapping[str, Any]) -> MPNetConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field.

    What the file does not say is transformers' default, as for BERT: 512 positions, eps 1e-12.
    """
    return encoder_from_hf(MPNetConfig, raw, max_position_embeddings=512, layer_norm_eps=1e-12)


def _to_hf(config: MPNetConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    tokens = {"bos_token_id": 0, "pad_token_id": PAD, "eos_token_id": 2}
    raw = {"model_type": "mpnet", **tokens, **without_pooler(config)}
    if isinstance(head, MaskedLanguageModelConfig):
        return masked_description("MPNet", raw, mpnet_masked_names(config), head)
    return description("MPNet", "SequenceClassification", raw, mpnet_names(config), head)


MPNET = Family(
    name="mpnet",
    config=MPNetConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=("mpnet",),
    names=lambda config: (mpnet_names(config), *mpnet_masked_names(config)),
    from_hf=mpnet_from_hf,
    adjust=adjust_pooler,
    head_pooling=lambda config: "first",
    head_dropout=lambda raw: given_number(raw, "hidden_dropout_prob", 0.1),
    head_hidden=tanh_layer,
    masked_head=masked_head,
    token_classifier="classifier",
    token_dropout=lambda raw: given_number(raw, "hidden_dropout_prob", 0.1),
    to_hf=_to_hf,
)
