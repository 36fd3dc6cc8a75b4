"""BERT's names in Hugging Face checkpoints (``BertModel``, ``BertForSequenceClassification``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transferlab.models.bert import BertConfig
from transferlab.models.heads import ClassifierConfig
from transferlab.pretrained.family import Family, unread
from transferlab.pretrained.names import LINEAR, Name, Names, with_prefix


def bert_names(config: BertConfig) -> Names:
    """Return the table for this config."""
    names = [
        Name("embed/word/embedding", "embeddings.word_embeddings.weight"),
        Name("embed/position/embedding", "embeddings.position_embeddings.weight"),
        Name("embed/token_type/embedding", "embeddings.token_type_embeddings.weight"),
        *_norm("embed/norm", "embeddings.LayerNorm"),
    ]
    for i in range(config.num_hidden_layers):
        here, there = f"layers/{i}", f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            names += _linear(f"{here}/attention/{part}", f"{there}.attention.self.{part}")
        names += _linear(f"{here}/attention/output", f"{there}.attention.output.dense")
        names += _norm(f"{here}/attention/norm", f"{there}.attention.output.LayerNorm")
        names += _linear(f"{here}/mlp/up", f"{there}.intermediate.dense")
        names += _linear(f"{here}/mlp/down", f"{there}.output.dense")
        names += _norm(f"{here}/mlp/norm", f"{there}.output.LayerNorm")
    names += _linear("pooler", "pooler.dense")
    names += _linear("head", "classifier")
    return Names(
        tuple(names),
        prefixes=("bert.",),
        renames=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
        ignored=(
            (r"(bert\.)?embeddings\.position_ids", "a constant buffer, no parameter"),
            (r"cls\.(predictions|seq_relationship)\..*", "the pre-training head, not part of the encoder"),
        ),
    )


def _linear(path: str, key: str) -> list[Name]:
    return [Name(f"{path}/kernel", f"{key}.weight", LINEAR), Name(f"{path}/bias", f"{key}.bias")]


def _norm(path: str, key: str) -> list[Name]:
    return [Name(f"{path}/scale", f"{key}.weight"), Name(f"{path}/bias", f"{key}.bias")]


def _adjust(config: BertConfig, found: set[str]) -> BertConfig:
    return config if "pooler/kernel" in found else config.without_pooler()


def _to_hf(config: BertConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], Names]:
    fields = {name: value for name, value in asdict(config).items() if name != "pooler"}
    kind = "BertModel" if head is None else "BertForSequenceClassification"
    raw = {"architectures": [kind], "model_type": "bert", "pad_token_id": 0, **fields}
    if head is not None:
        raw["classifier_dropout"] = head.dropout
    return raw, bert_names(config) if head is None else with_prefix(bert_names(config), "bert.", but=("head/",))


def _head_dropout(raw: Mapping[str, Any]) -> float:
    rate = raw.get("classifier_dropout")
    return float(raw.get("hidden_dropout_prob", 0.0) if rate is None else rate)


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
