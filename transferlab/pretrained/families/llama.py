"""Names of Llama, Mistral, Qwen 2 and 3, and Gemma 2 and 3 in Hugging Face checkpoints."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.models.heads import HeadConfig
from transferlab.models.llama import LlamaConfig
from transferlab.pretrained.families.decoders import decoder_to_hf, decoder_token_dropout, language_model_heads
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.llama_config import MODEL_TYPES, llama_from_hf
from transferlab.pretrained.families.llama_gguf import ARCHITECTURES, llama_from_gguf, llama_gguf_names
from transferlab.pretrained.names import BUFFER, OTHER_TASK, NameTable
from transferlab.pretrained.rules import leaves_of, named

_LAYERS = """
table   embed/word                                      embed_tokens
norm    layers/{i}/attention/norm                       layers.{i}.input_layernorm
linear  layers/{i}/attention/{query,key,value,output}   layers.{i}.self_attn.{q,k,v,o}_proj
norm    layers/{i}/attention/{query,key}_norm           layers.{i}.self_attn.{q,k}_norm
linear  layers/{i}/mlp/{gate,up,down}                   layers.{i}.mlp.{gate,up,down}_proj
norm    norm                                            norm
"""

_LLAMA = f"""
{_LAYERS}
norm    layers/{{i}}/mlp/norm                           layers.{{i}}.post_attention_layernorm
"""

# What Llama calls post_attention_layernorm comes before its MLP; in Gemma it does what its name says.
_GEMMA = f"""
{_LAYERS}
norm    layers/{{i}}/attention/norm_after               layers.{{i}}.post_attention_layernorm
norm    layers/{{i}}/mlp/{{norm,norm_after}}            layers.{{i}}.{{pre,post}}_feedforward_layernorm
"""


def llama_names(config: LlamaConfig, head: str = "lm_head") -> NameTable:
    """Return the table for this config.

    Args:
        config: of the model.
        head: ``lm_head`` for the files of language models and bare decoders, ``score`` for those of classifiers, empty
            where the embedding table is the head.
    """
    text = (_GEMMA if config.norm_after else _LLAMA) + (f"matrix? head/kernel {head}.weight" if head else "")
    return NameTable(
        named(text, leaves_of(config)),
        # transformers' models for question answering say transformer where all others say model.
        prefixes=("transformer.", "model."),
        ignored=(
            (r"((model|transformer)\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq", BUFFER),
            # A score of texts has no bias; one of tokens has.
            (r"score\.bias|qa_outputs\.(weight|bias)", OTHER_TASK),
        ),
        language_model=None if head == "score" else replace(config.language_model(), tied=not head),
    )


def _to_hf(config: LlamaConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    kind, name = _kind(config)
    shared = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "head_dim", "max_position_embeddings", "initializer_range", "rms_norm_eps",
              "attention_dropout", "tie_word_embeddings", "sliding_window")  # fmt: skip
    raw = {"model_type": kind, **{field: getattr(config, field) for field in shared}}
    raw["hidden_activation" if config.norm_after else "hidden_act"] = config.hidden_act
    ends = config.eos_token_id
    raw["eos_token_id"] = ends[0] if len(ends) == 1 else list(ends) or None
    # As transformers 4 spells it, which 5 reads too.
    raw["rope_theta"] = config.rope.rope_theta
    if config.rope.rope_type != "default":
        raw["rope_scaling"] = {key: value for key, value in asdict(config.rope).items()
                               if key != "rope_theta" and key in config.rope.used() and value is not None}  # fmt: skip
    if kind in ("llama", "qwen3") or config.norm_after:
        raw["attention_bias"] = config.qkv_bias
    if kind == "llama":
        raw["mlp_bias"] = config.mlp_bias
    if kind.startswith("qwen") or config.norm_after:
        every = range(config.num_hidden_layers)
        raw["layer_types"] = ["sliding_attention" if i in config.windowed else "full_attention" for i in every]
    if kind.startswith("qwen"):
        raw["use_sliding_window"] = config.sliding_window is not None
    if config.norm_after:
        raw["query_pre_attn_scalar"] = config.query_pre_attn_scalar
        raw["attn_logit_softcapping"] = config.attn_logit_softcapping
        raw["final_logit_softcapping"] = config.final_logit_softcapping
    if kind == "gemma3_text":
        raw["rope_local_base_freq"] = (config.local_rope or config.rope).rope_theta
    if llama_from_hf(raw) != config:
        raise TransferlabError(
            f"LlamaConfig: no model_type of Hugging Face's has all of these fields; the nearest is '{kind}'. Write the format 'orbax'."
        )
    return decoder_to_hf(
        raw, partial(llama_names, config), head, "model.", bare=f"{name}Model",
        generates=f"{name.removesuffix('Text')}ForCausalLM", classifies=f"{name}ForSequenceClassification",
        tokens="" if kind == "gemma3_text" else "score",
    )  # fmt: skip


def _kind(config: LlamaConfig) -> tuple[str, str]:
    """``model_type`` and the name of transformers' classes."""
    if config.norm_after:
        return ("gemma3_text", "Gemma3Text") if config.query_norm else ("gemma2", "Gemma2")
    if config.query_norm:
        return "qwen3", "Qwen3"
    if config.qkv_bias and not config.output_bias:
        return "qwen2", "Qwen2"
    return ("mistral", "Mistral") if config.windowed else ("llama", "Llama")


def _tables(config: LlamaConfig) -> tuple[NameTable, ...]:
    heads = language_model_heads(config.tie_word_embeddings)
    return (*(llama_names(config, head) for head in heads), llama_gguf_names(config))


LLAMA = Family(
    name="llama",
    config=LlamaConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=MODEL_TYPES,
    names=_tables,
    from_hf=llama_from_hf,
    head_pooling=lambda config: "last",
    head_bias=False,
    token_classifier="score",
    token_dropout=decoder_token_dropout,
    to_hf=_to_hf,
    gguf_architectures=ARCHITECTURES,
    from_gguf=llama_from_gguf,
)
