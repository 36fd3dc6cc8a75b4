"""Names of Llama, Mistral, Qwen 2 and 3, and Gemma 2 and 3 in Hugging Face checkpoints."""

from __future__ import annotations

from dataclasses import replace

from transferlab.models.llama import MODEL_TYPES, LlamaConfig
from transferlab.pretrained.family import Family, unread
from transferlab.pretrained.llama_gguf import ARCHITECTURES, llama_from_gguf, llama_gguf_names
from transferlab.pretrained.names import LINEAR, Name, Names


def llama_names(config: LlamaConfig, head: str = "lm_head") -> Names:
    """Return the table for this config.

    Args:
        config: of the model.
        head: ``lm_head`` for the files of language models and bare decoders, ``score`` for those of classifiers, empty
            where the embedding table is the head.
    """
    names = [Name("embed/word/embedding", "embed_tokens.weight"), Name("norm/scale", "norm.weight")]
    for i in range(config.num_hidden_layers):
        here, there = f"layers/{i}", f"layers.{i}"
        for path, key in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "o_proj")):
            bias = config.output_bias if path == "output" else config.qkv_bias
            names += _linear(f"{here}/attention/{path}", f"{there}.self_attn.{key}", bias)
        for part in ("gate", "up", "down"):
            names += _linear(f"{here}/mlp/{part}", f"{there}.mlp.{part}_proj", config.mlp_bias)
        if config.query_norm:
            names.append(Name(f"{here}/attention/query_norm/scale", f"{there}.self_attn.q_norm.weight"))
            names.append(Name(f"{here}/attention/key_norm/scale", f"{there}.self_attn.k_norm.weight"))
        names.append(Name(f"{here}/attention/norm/scale", f"{there}.input_layernorm.weight"))
        if config.norm_after:
            # What Llama calls post_attention_layernorm comes before its MLP; in Gemma it does what its name says.
            names.append(Name(f"{here}/attention/norm_after/scale", f"{there}.post_attention_layernorm.weight"))
            names.append(Name(f"{here}/mlp/norm/scale", f"{there}.pre_feedforward_layernorm.weight"))
            names.append(Name(f"{here}/mlp/norm_after/scale", f"{there}.post_feedforward_layernorm.weight"))
        else:
            names.append(Name(f"{here}/mlp/norm/scale", f"{there}.post_attention_layernorm.weight"))
    if head:
        names.append(Name("head/kernel", f"{head}.weight", LINEAR))
    return Names(
        tuple(names),
        prefixes=("model.",),
        ignored=((r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "a constant buffer, no parameter"),),
        language_model=None if head == "score" else replace(config.language_model(), tied=not head),
    )


def language_model_heads(tied: bool) -> tuple[str, ...]:
    """Which heads the files of a decoder may hold, the likeliest first."""
    # A file may hold the head's kernel although its config ties it: then it is read, and seen to be the table or not.
    return ("", "lm_head", "score") if tied else ("lm_head", "score")


def _linear(path: str, key: str, bias: bool) -> list[Name]:
    kernel = Name(f"{path}/kernel", f"{key}.weight", LINEAR)
    return [kernel, Name(f"{path}/bias", f"{key}.bias")] if bias else [kernel]


def _tables(config: LlamaConfig) -> tuple[Names, ...]:
    heads = language_model_heads(config.tie_word_embeddings)
    return (*(llama_names(config, head) for head in heads), llama_gguf_names(config))


LLAMA = Family(
    name="llama",
    config=LlamaConfig,
    modality="text",
    inputs=("input_ids", "attention_mask", "position_ids"),
    model_types=MODEL_TYPES,
    architectures="",
    names=_tables,
    from_hf=LlamaConfig.from_hf,
    from_timm=unread,
    adjust=lambda config, found: config,
    transform=lambda config: None,
    head_pooling=lambda config: "last",
    gguf_architectures=ARCHITECTURES,
    from_gguf=llama_from_gguf,
)
