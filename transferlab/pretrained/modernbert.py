"""ModernBERT's names in Hugging Face checkpoints (``ModernBertModel``, ``ModernBertForSequenceClassification``)."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from transferlab.fields import given_number
from transferlab.models.heads import ClassifierConfig, HiddenLayer
from transferlab.models.modernbert import LAYER_TYPES, ModernBertConfig
from transferlab.pretrained.family import Family, unread
from transferlab.pretrained.names import Names, with_prefix
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
matrix? head/dense/kernel                       head.dense.weight
same?   head/norm/scale                         head.norm.weight
linear? head                                    classifier
"""


def modernbert_names(config: ModernBertConfig) -> Names:
    """Return the table for this config. The file fuses query, key and value, and gate and up."""
    biases = [name for name, there in (("dense", config.classifier_bias), ("norm", config.norm_bias)) if there]
    text = "\n".join([RULES, *(f"same? head/{name}/bias head.{name}.bias" for name in biases)])
    ignored = ((r"decoder\.(weight|bias)", "the pre-training head, not part of the encoder"),)
    return Names(named(text, leaves_of(config)), prefixes=("model.",), ignored=ignored)


def _head_hidden(config: ModernBertConfig) -> HiddenLayer:
    # As the origin draws its prediction head and its classifier.
    stddevs = config.initializer_range / math.sqrt(2 * config.num_hidden_layers), config.hidden_size**-0.5
    return HiddenLayer(
        config.classifier_activation, bias=config.classifier_bias, norm=config.norm_eps, norm_bias=config.norm_bias,
        stddevs=stddevs,
    )  # fmt: skip


def _to_hf(config: ModernBertConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], Names]:
    kind = "ModernBertModel" if head is None else "ModernBertForSequenceClassification"
    fields = {**asdict(config), "layer_types": list(config.kinds)}
    thetas = fields.pop("global_rope_theta"), fields.pop("local_rope_theta")
    tables = {
        name: {"rope_type": "default", "rope_theta": theta} for name, theta in zip(LAYER_TYPES, thetas, strict=True)
    }
    raw = {"architectures": [kind], "model_type": "modernbert", **fields, "rope_parameters": tables}
    names = modernbert_names(config)
    if head is None:
        return raw, names
    return {**raw, "classifier_dropout": head.dropout}, with_prefix(names, "model.", but=("head/",))


MODERNBERT = Family(
    name="modernbert",
    config=ModernBertConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=("modernbert",),
    architectures="",
    names=lambda config: (modernbert_names(config),),
    from_hf=ModernBertConfig.from_hf,
    from_timm=unread,
    adjust=lambda config, found: config,
    transform=lambda config: None,
    head_pooling=lambda config: config.pooling,
    head_dropout=lambda raw: given_number(raw, "classifier_dropout", 0.0),
    head_hidden=_head_hidden,
    to_hf=_to_hf,
)
