"""GPT-2's names in Hugging Face checkpoints (``GPT2Model``, ``GPT2LMHeadModel``, ``GPT2ForSequenceClassification``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.models.gpt2 import GPT2Config
from transferlab.models.heads import HeadConfig
from transferlab.pretrained.families.decoders import decoder_to_hf, language_model_heads, token_ids
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import present_fields
from transferlab.pretrained.names import BUFFER, LINEAR, OTHER_TASK, SAME, Entry, NameTable, fused


def gpt2_names(config: GPT2Config, head: str = "lm_head") -> NameTable:
    """Return the table for this config; ``head`` is ``lm_head``, ``score``, or empty where the table is the head.

    The origin's ``Conv1D`` holds kernels as (in, out), and query, key and value side by side along out.
    """
    names = [
        Entry("embed/word/embedding", "wte.weight"),
        Entry("embed/position/embedding", "wpe.weight"),
        *_both("norm/scale", "ln_f"),
    ]
    for i in range(config.n_layer):
        here, there = f"layers/{i}", f"h.{i}"
        names += _both(f"{here}/attention/norm/scale", f"{there}.ln_1")
        for n, part in enumerate(("query", "key", "value")):
            path, key = f"{here}/attention/{part}", f"{there}.attn.c_attn"
            names.append(Entry(f"{path}/kernel", f"{key}.weight", fused(SAME, n, 3, axis=1)))
            names.append(Entry(f"{path}/bias", f"{key}.bias", fused(SAME, n, 3)))
        names += _both(f"{here}/attention/output/kernel", f"{there}.attn.c_proj")
        names += _both(f"{here}/mlp/norm/scale", f"{there}.ln_2")
        names += _both(f"{here}/mlp/up/kernel", f"{there}.mlp.c_fc")
        names += _both(f"{here}/mlp/down/kernel", f"{there}.mlp.c_proj")
    if head:
        names.append(Entry("head/kernel", f"{head}.weight", LINEAR))
    return NameTable(
        tuple(names),
        prefixes=("transformer.",),
        ignored=(
            (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias", BUFFER),
            (r"(qa_outputs|classifier|multiple_choice_head\.summary)\.(weight|bias)", OTHER_TASK),
        ),
        language_model=None if head == "score" else replace(config.language_model(), tied=not head),
    )


def _both(path: str, key: str) -> list[Entry]:
    """A kernel or scale, and the bias beside it."""
    return [Entry(path, f"{key}.weight"), Entry(f"{path.rpartition('/')[0]}/bias", f"{key}.bias")]


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
    to_hf=_to_hf,
)
