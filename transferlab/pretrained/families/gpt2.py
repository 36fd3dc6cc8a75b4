"""GPT-2's names in Hugging Face checkpoints (``GPT2Model``, ``GPT2LMHeadModel``, ``GPT2ForSequenceClassification``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.models.gpt2 import GPT2Config
from transferlab.models.heads import HeadConfig
from transferlab.pretrained.families.decoders import (
    decoder_to_hf,
    decoder_token_dropout,
    language_model_heads,
    token_ids,
)
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import present_fields
from transferlab.pretrained.names import BUFFER, OTHER_TASK, NameTable
from transferlab.pretrained.rules import leaves_of, named

RULES = """
table  embed/{word,position}                    {wte,wpe}
norm   layers/{i}/{attention,mlp}/norm          h.{i}.{ln_1,ln_2}
dense  layers/{i}/attention/{query,key,value}   h.{i}.attn.c_attn
dense  layers/{i}/attention/output              h.{i}.attn.c_proj
dense  layers/{i}/mlp/{up,down}                 h.{i}.mlp.{c_fc,c_proj}
norm   norm                                     ln_f
"""
"""Its kernels are (in, out), as transformers' ``Conv1D`` holds them, with query, key and value next to each other along out."""


def gpt2_names(config: GPT2Config, head: str = "lm_head") -> NameTable:
    """Return the table for this config; ``head`` is ``lm_head``, ``score``, or empty where the table is the head."""
    text = RULES + (f"matrix? head/kernel {head}.weight" if head else "")
    return NameTable(
        named(text, leaves_of(config)),
        prefixes=("transformer.",),
        ignored=(
            (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias", BUFFER),
            (r"(qa_outputs|classifier|multiple_choice_head\.summary)\.(weight|bias)", OTHER_TASK),
        ),
        language_model=None if head == "score" else replace(config.language_model(), tied=not head),
    )


def gpt2_from_hf(raw: Mapping[str, Any]) -> GPT2Config:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    if raw.get("add_cross_attention"):
        raise TransferlabError("config.json: add_cross_attention is true; this GPT-2 has no encoder to attend to.")
    values = present_fields(GPT2Config, raw, without=("eos_token_id",))
    return GPT2Config(**values, eos_token_id=token_ids(raw.get("eos_token_id", 50256)))


def _to_hf(config: GPT2Config, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    ends = config.eos_token_id
    raw = {"model_type": "gpt2", **asdict(config), "eos_token_id": ends[0] if len(ends) == 1 else list(ends)}
    return decoder_to_hf(
        raw, partial(gpt2_names, config), head, "transformer.",
        bare="GPT2Model", generates="GPT2LMHeadModel", classifies="GPT2ForSequenceClassification",
        tokens="classifier",
    )  # fmt: skip


GPT2 = Family(
    name="gpt2",
    config=GPT2Config,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=("gpt2",),
    names=lambda config: tuple(gpt2_names(config, head) for head in language_model_heads(config.tie_word_embeddings)),
    from_hf=gpt2_from_hf,
    head_pooling=lambda config: "last",
    head_bias=False,
    token_classifier="classifier",
    token_dropout=decoder_token_dropout,
    to_hf=_to_hf,
)
