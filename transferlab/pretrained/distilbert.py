"""DistilBERT's names in Hugging Face checkpoints (``DistilBertModel``, ``DistilBertForSequenceClassification``)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from transferlab.fields import given_number
from transferlab.models.distilbert import DistilBertConfig
from transferlab.models.heads import ClassifierConfig, HiddenLayer
from transferlab.pretrained.bert import LEGACY
from transferlab.pretrained.family import Family, unread
from transferlab.pretrained.names import BUFFER, OTHER_TASK, Names, with_prefix
from transferlab.pretrained.rules import leaves_of, named

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


def distilbert_names(config: DistilBertConfig) -> Names:
    """Return the table for this config."""
    return Names(
        named(RULES, leaves_of(config)),
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
    head_hidden=lambda config: HiddenLayer("relu", stddevs=(config.initializer_range,) * 2),
    to_hf=_to_hf,
)
