"""ModernBERT's names in Hugging Face checkpoints (``ModernBertModel``, ``ModernBertForSequenceClassification``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.fields import given_fields, given_number
from transferlab.models.heads import (
    ClassifierConfig,
    HeadConfig,
    HiddenLayer,
    MaskedLanguageModelConfig,
)
from transferlab.models.modernbert import LAYER_TYPES, ModernBertConfig, alternating
from transferlab.pretrained.families.encoders import masked_tables
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, masked_description
from transferlab.pretrained.names import PRETRAINING_HEAD, NameTable
from transferlab.pretrained.rules import leaves_of, named

RULES = """
table   embed/word                              embeddings.tok_embeddings
norm    embed/norm                              embeddings.norm
norm    layers/{i}/{attention,mlp}/norm         layers.{i}.{attn,mlp}_norm
linear  layers/{i}/attention/{query,key,value}  layers.{i}.attn.Wqkv
linear  layers/{i}/attention/output             layers.{i}.attn.Wo
linear  layers/{i}/mlp/{gate,up}                layers.{i}.mlp.Wi
linear  layers/{i}/mlp/down                     layers.{i}.mlp.Wo
norm    norm                                    final_norm
linear? head                                    classifier
"""


def modernbert_names(config: ModernBertConfig) -> NameTable:
    """Return the table for this config. The file fuses query, key and value, and gate and up."""
    text = f"{RULES}{_before_logits(config)}"
    ignored = ((r"decoder\.(weight|bias)", PRETRAINING_HEAD),)
    return NameTable(named(text, leaves_of(config)), prefixes=("model.",), ignored=ignored)


def _before_logits(config: ModernBertConfig) -> str:
    """The rules of the layer and the norm that its heads have before their logits."""
    biases = [name for name, there in (("dense", config.classifier_bias), ("norm", config.norm_bias)) if there]
    kernels = ("matrix? head/dense/kernel head.dense.weight", "same? head/norm/scale head.norm.weight")
    return "\n".join([*kernels, *(f"same? head/{name}/bias head.{name}.bias" for name in biases)])


def modernbert_masked_names(config: ModernBertConfig) -> tuple[NameTable, NameTable]:
    """Return the tables of ``ModernBertForMaskedLM``, tied and untied; its classifier has the same layers before its logits."""
    text = f"{_before_logits(config)}\nsame? head/bias decoder.bias"
    return masked_tables(modernbert_names(config), _masked_head(config), text, "decoder", config)


def _masked_head(config: ModernBertConfig) -> MaskedLanguageModelConfig:
    return MaskedLanguageModelConfig(
        config.classifier_activation, config.norm_eps, dense_bias=config.classifier_bias, norm_bias=config.norm_bias,
        stddev=config.initializer_range / math.sqrt(2 * config.num_hidden_layers),
    )  # fmt: skip


def modernbert_from_hf(raw: Mapping[str, Any]) -> ModernBertConfig:
    """Read Hugging Face's ``config.json``, of old and of today; what cannot be represented is an error."""
    values = given_fields(ModernBertConfig, raw)
    kinds = raw.get("layer_types")
    if kinds is None:
        every = given_number(raw, "global_attn_every_n_layers", 3.0)
        if every < 1 or not every.is_integer():
            raise TransferlabError(f"config.json: global_attn_every_n_layers is {every}; it must be at least 1.")
        kinds = list(alternating(int(every), values.get("num_hidden_layers", ModernBertConfig.num_hidden_layers)))
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise TransferlabError(f"config.json: layer_types is {kinds!r}; it must be a list of strings.")
    for name, kind in zip(_THETAS, LAYER_TYPES, strict=True):
        if theta := _theta(raw, kind):
            values[name] = theta
    if "local_rope_theta" in raw and "local_rope_theta" not in values:
        # Where a config of old has null, the local layers turn as the global ones.
        values["local_rope_theta"] = values.get("global_rope_theta", ModernBertConfig.global_rope_theta)
    return ModernBertConfig(**values, layer_types=tuple(kinds))


_THETAS = ("global_rope_theta", "local_rope_theta")


def _theta(config: Mapping[str, Any], kind: str) -> float | None:
    """The base that ``rope_parameters`` gives for this kind of layer; None where it gives none."""
    if config.get("rope_scaling"):
        raise TransferlabError(f"config.json: rope_scaling {config['rope_scaling']!r} is not supported.")
    tables = config.get("rope_parameters") or {}
    table = (tables.get(kind) or {}) if isinstance(tables, Mapping) else None
    if not isinstance(table, Mapping):
        raise TransferlabError(f"config.json: rope_parameters is {tables!r}; it must be a table for each layer type.")
    if table.get("rope_type", "default") != "default":
        raise TransferlabError(
            f"config.json: rope_parameters.{kind}.rope_type '{table['rope_type']}' is not supported; only 'default'."
        )
    theta = given_number(table, "rope_theta", 0.0, where=f"config.json: rope_parameters.{kind}")
    return theta or None


def _head_hidden(config: ModernBertConfig) -> HiddenLayer:
    # As transformers initializes its prediction head and its classifier.
    stddevs = config.initializer_range / math.sqrt(2 * config.num_hidden_layers), config.hidden_size**-0.5
    return HiddenLayer(
        config.classifier_activation, bias=config.classifier_bias, norm=config.norm_eps, norm_bias=config.norm_bias,
        stddevs=stddevs,
    )  # fmt: skip


def _to_hf(config: ModernBertConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    fields = {**asdict(config), "layer_types": list(config.kinds)}
    thetas = fields.pop("global_rope_theta"), fields.pop("local_rope_theta")
    tables = {
        name: {"rope_type": "default", "rope_theta": theta} for name, theta in zip(LAYER_TYPES, thetas, strict=True)
    }
    raw = {"model_type": "modernbert", **fields, "rope_parameters": tables}
    if isinstance(head, MaskedLanguageModelConfig):
        return masked_description("ModernBert", raw, modernbert_masked_names(config), head, prefix="model.")
    if isinstance(head, ClassifierConfig):
        raw["classifier_dropout"] = head.dropout
    return description("ModernBert", "SequenceClassification", raw, modernbert_names(config), head, prefix="model.")


MODERNBERT = Family(
    name="modernbert",
    config=ModernBertConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=("modernbert",),
    names=lambda config: (modernbert_names(config), *modernbert_masked_names(config)),
    from_hf=modernbert_from_hf,
    head_pooling=lambda config: config.pooling,
    head_dropout=lambda raw: given_number(raw, "classifier_dropout", 0.0),
    head_hidden=_head_hidden,
    masked_head=_masked_head,
    token_classifier="classifier",
    token_dropout=lambda raw: given_number(raw, "classifier_dropout", 0.0),
    token_hidden=_head_hidden,
    to_hf=_to_hf,
)
