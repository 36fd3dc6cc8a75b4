"""MPNet's names in Hugging Face checkpoints (``MPNetModel``, ``MPNetForSequenceClassification``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transferlab.fields import given_fields, given_number
from transferlab.models.heads import ClassifierConfig, HiddenLayer
from transferlab.models.mpnet import PAD, MPNetConfig
from transferlab.pretrained.families.bert import LEGACY, refuse_decoders
from transferlab.pretrained.families.family import Family, unread
from transferlab.pretrained.names import BUFFER, OTHER_TASK, NameTable, with_prefix
from transferlab.pretrained.rules import leaves_of, named

RULES = """
table   embed/{word,position}                   embeddings.{word,position}_embeddings
table   embed/relative                          encoder.relative_attention_bias
norm    embed/norm                              embeddings.LayerNorm
linear  layers/{i}/attention/{query,key,value,output}   encoder.layer.{i}.attention.attn.{q,k,v,o}
norm    layers/{i}/attention/norm               encoder.layer.{i}.attention.LayerNorm
linear  layers/{i}/mlp/{up,down}                encoder.layer.{i}.{intermediate,output}.dense
norm    layers/{i}/mlp/norm                     encoder.layer.{i}.output.LayerNorm
linear? pooler                                  pooler.dense
linear? head/dense                              classifier.dense
linear? head                                    classifier.out_proj
"""


def mpnet_names(config: MPNetConfig) -> NameTable:
    """Return the table for this config."""
    return NameTable(
        named(RULES, leaves_of(config)),
        prefixes=("mpnet.",),
        renames=LEGACY,
        ignored=(
            (r"(mpnet\.)?embeddings\.position_ids", BUFFER),
            (r"lm_head\..*", "the pre-training head, not part of the encoder"),
            (r"(qa_outputs|classifier)\.(weight|bias)", OTHER_TASK),
        ),
    )


def mpnet_from_hf(raw: Mapping[str, Any]) -> MPNetConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field.

    What the file does not say is the origin's default, as for BERT: 512 positions, eps 1e-12.
    """
    refuse_decoders(raw)
    absent = {"max_position_embeddings": 512, "layer_norm_eps": 1e-12}
    return MPNetConfig(**{**absent, **given_fields(MPNetConfig, raw, without=("pooler",))})


def _adjust(config: MPNetConfig, found: set[str]) -> MPNetConfig:
    return config if "pooler/kernel" in found else config.without_pooler()


def _to_hf(config: MPNetConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], NameTable]:
    fields = {name: value for name, value in asdict(config).items() if name != "pooler"}
    kind = "MPNetModel" if head is None else "MPNetForSequenceClassification"
    raw = {
        "architectures": [kind],
        "model_type": "mpnet",
        "bos_token_id": 0,
        "pad_token_id": PAD,
        "eos_token_id": 2,
        **fields,
    }
    return raw, mpnet_names(config) if head is None else with_prefix(mpnet_names(config), "mpnet.", but=("head/",))


MPNET = Family(
    name="mpnet",
    config=MPNetConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=("mpnet",),
    architectures="",
    names=lambda config: (mpnet_names(config),),
    from_hf=mpnet_from_hf,
    from_timm=unread,
    adjust=_adjust,
    transform=lambda config: None,
    head_pooling=lambda config: "first",
    head_dropout=lambda raw: given_number(raw, "hidden_dropout_prob", 0.1),
    head_hidden=lambda config: HiddenLayer("tanh", dropout_before=True, stddevs=(config.initializer_range,) * 2),
    to_hf=_to_hf,
)
