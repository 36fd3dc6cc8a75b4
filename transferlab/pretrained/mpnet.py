"""MPNet's names in Hugging Face checkpoints (``MPNetModel``, ``MPNetForSequenceClassification``)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from transferlab.models.fields import given_number
from transferlab.models.heads import ClassifierConfig, Hidden
from transferlab.models.mpnet import PAD, MPNetConfig
from transferlab.pretrained.bert import LEGACY
from transferlab.pretrained.family import Family, unread
from transferlab.pretrained.names import BUFFER, OTHER_TASK, Name, Names, linear, norm, with_prefix


def mpnet_names(config: MPNetConfig) -> Names:
    """Return the table for this config."""
    names = [
        Name("embed/word/embedding", "embeddings.word_embeddings.weight"),
        Name("embed/position/embedding", "embeddings.position_embeddings.weight"),
        Name("embed/relative/embedding", "encoder.relative_attention_bias.weight"),
        *norm("embed/norm", "embeddings.LayerNorm"),
    ]
    for i in range(config.num_hidden_layers):
        here, there = f"layers/{i}", f"encoder.layer.{i}"
        for part in ("query", "key", "value", "output"):
            names += linear(f"{here}/attention/{part}", f"{there}.attention.attn.{part[0]}")
        names += norm(f"{here}/attention/norm", f"{there}.attention.LayerNorm")
        names += linear(f"{here}/mlp/up", f"{there}.intermediate.dense")
        names += linear(f"{here}/mlp/down", f"{there}.output.dense")
        names += norm(f"{here}/mlp/norm", f"{there}.output.LayerNorm")
    names += linear("pooler", "pooler.dense")
    names += linear("head/dense", "classifier.dense")
    names += linear("head", "classifier.out_proj")
    return Names(
        tuple(names),
        prefixes=("mpnet.",),
        renames=LEGACY,
        ignored=(
            (r"(mpnet\.)?embeddings\.position_ids", BUFFER),
            (r"lm_head\..*", "the pre-training head, not part of the encoder"),
            (r"(qa_outputs|classifier)\.(weight|bias)", OTHER_TASK),
        ),
    )


def _adjust(config: MPNetConfig, found: set[str]) -> MPNetConfig:
    return config if "pooler/kernel" in found else config.without_pooler()


def _to_hf(config: MPNetConfig, head: ClassifierConfig | None) -> tuple[dict[str, Any], Names]:
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
    from_hf=MPNetConfig.from_hf,
    from_timm=unread,
    adjust=_adjust,
    transform=lambda config: None,
    head_pooling=lambda config: "first",
    head_dropout=lambda raw: given_number(raw, "hidden_dropout_prob", 0.1),
    head_hidden=lambda config: Hidden("tanh", dropout_before=True, stddevs=(config.initializer_range,) * 2),
    to_hf=_to_hf,
)
