"""``config.json`` of Llama, Mistral, Qwen 2 and 3, and Gemma 2 and 3: each has defaults of its own for what a file leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transferlab.errors import TransferlabError, nearest
from transferlab.models.causal import Rope
from transferlab.models.llama import LlamaConfig
from transferlab.pretrained.families.decoders import rope_from_hf, token_ids


def llama_from_hf(raw: Mapping[str, Any]) -> LlamaConfig:
    """Read the ``config.json`` of any of these models, as transformers 4 or 5 writes it.

    What this family cannot represent is an error that names the field.
    """
    kind = raw.get("model_type")
    reader = _READERS.get(str(kind))
    if reader is None:
        raise TransferlabError(f"config.json: model_type '{kind}' is not of this family.{nearest(str(kind), _READERS)}")
    fields = {key: value for key, value in raw.items() if value is not None or key in _NULLABLE}
    if fields.get("use_bidirectional_attention"):
        raise TransferlabError("config.json: use_bidirectional_attention is true; these decoders are causal.")
    if fields.get("pretraining_tp", 1) != 1:
        raise TransferlabError(f"config.json: pretraining_tp is {fields['pretraining_tp']}; only 1 is supported.")
    return reader(fields)


_NULLABLE = ("eos_token_id", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping")
"""Fields whose null says that there is none; where any other is null, it is as if it were not there."""

_LLAMA = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "initializer_range": 0.02, "rms_norm_eps": 1e-6,
    "attention_dropout": 0.0, "tie_word_embeddings": False, "hidden_act": "silu", "eos_token_id": 2,
}  # fmt: skip

_QWEN = {**_LLAMA, "vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768,
         "num_key_value_heads": 32, "eos_token_id": None}  # fmt: skip

_GEMMA = {
    **_LLAMA, "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "eos_token_id": 1, "query_pre_attn_scalar": 256, "sliding_window": 4096,
}  # fmt: skip


def _shared(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What all of them have."""
    full = {**defaults, **fields}
    sizes = {name: full[name] for name in _LLAMA if name not in ("eos_token_id", "hidden_act")}
    heads = full["num_attention_heads"]
    if "head_dim" not in full and full["hidden_size"] % heads:
        raise TransferlabError(
            f"config.json: hidden_size {full['hidden_size']} is no multiple of num_attention_heads {heads}."
        )
    return {
        **sizes,
        "hidden_act": full.get("hidden_activation", full["hidden_act"]),
        "num_key_value_heads": full.get("num_key_value_heads", heads),
        "head_dim": full.get("head_dim", full["hidden_size"] // heads),
        "eos_token_id": token_ids(full["eos_token_id"]),
    }


def _rope(fields: Mapping[str, Any], positions: int, theta: float = 10000.0) -> Rope:
    """``rope_scaling`` as transformers 4 writes it, else ``rope_parameters``; ``rope_theta`` where that holds no base."""
    # With both in the file, transformers drops all of rope_parameters, its base too.
    where = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    parameters = fields.get(where, {})
    if "partial_rotary_factor" in fields:
        parameters = {"partial_rotary_factor": fields["partial_rotary_factor"], **parameters}
    return rope_from_hf(parameters, float(fields.get("rope_theta", theta)), positions, where)


def _windowed(fields: Mapping[str, Any], layers: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of the layers with a window: ``layer_types``, or what the model does without it."""
    types = fields.get("layer_types")
    if types is None:
        return default
    if len(types) != layers:
        raise TransferlabError(f"config.json: layer_types names {len(types)} layers; num_hidden_layers is {layers}.")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise TransferlabError(
                f"config.json: layer_types holds '{kind}'; only full_attention and sliding_attention."
            )
    return tuple(i for i, kind in enumerate(types) if kind == "sliding_attention")


def _llama(fields: Mapping[str, Any]) -> LlamaConfig:
    shared = _shared(fields, _LLAMA)
    bias = bool(fields.get("attention_bias", False))
    return LlamaConfig(
        **shared, rope=_rope(fields, shared["max_position_embeddings"]), qkv_bias=bias, output_bias=bias,
        mlp_bias=bool(fields.get("mlp_bias", False)),
    )  # fmt: skip


def _mistral(fields: Mapping[str, Any]) -> LlamaConfig:
    if "layer_types" in fields:
        raise TransferlabError("config.json: layer_types is not supported for model_type 'mistral'.")
    shared = _shared(fields, {**_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8,
                             "max_position_embeddings": 131072})  # fmt: skip
    window = fields.get("sliding_window", 4096)
    return LlamaConfig(
        **shared, rope=_rope(fields, shared["max_position_embeddings"]), sliding_window=window,
        windowed=tuple(range(shared["num_hidden_layers"])) if window is not None else (),
    )  # fmt: skip


def _qwen(fields: Mapping[str, Any]) -> LlamaConfig:
    third = fields["model_type"] == "qwen3"
    shared = _shared(fields, {**_QWEN, "head_dim": 128} if third else _QWEN)
    layers, window = shared["num_hidden_layers"], None
    first = fields.get("max_window_layers", 28)
    if fields.get("use_sliding_window", False):
        window = fields.get("sliding_window", 4096)
    windowed = _windowed(fields, layers, tuple(range(first, layers)) if window is not None else ())
    bias = bool(fields.get("attention_bias", False)) if third else False
    return LlamaConfig(
        **shared, rope=_rope(fields, shared["max_position_embeddings"]), qkv_bias=bias if third else True,
        output_bias=bias, query_norm=third, sliding_window=window, windowed=windowed,
    )  # fmt: skip


def _gemma(fields: Mapping[str, Any]) -> LlamaConfig:
    third = fields["model_type"] == "gemma3_text"
    changes = {"vocab_size": 262208, "max_position_embeddings": 131072} if third else {}
    full = {**_GEMMA, **changes, "hidden_act": "gelu_pytorch_tanh", **fields}
    # The field hidden_act that old files hold next to hidden_activation was never read by transformers.
    full["hidden_act"] = full.get("hidden_activation", "gelu_pytorch_tanh")
    shared = _shared(full, full)
    layers, positions = shared["num_hidden_layers"], shared["max_position_embeddings"]
    pattern = full.get("sliding_window_pattern", 6) if third else 2
    windowed = _windowed(fields, layers, tuple(i for i in range(layers) if (i + 1) % pattern))
    bias = bool(fields.get("attention_bias", False))
    if third:
        rope, local = _gemma_ropes(fields, positions)
    else:
        rope, local = _rope(fields, positions), None
    if third and full.get("attn_logit_softcapping") is not None:
        raise TransferlabError(
            "config.json: attn_logit_softcapping is not supported: Gemma 3's attention has no soft cap."
        )
    return LlamaConfig(
        **shared, rope=rope, local_rope=local, qkv_bias=bias, output_bias=bias, query_norm=third,
        sliding_window=full["sliding_window"], windowed=windowed,
        query_pre_attn_scalar=int(full["query_pre_attn_scalar"]), norm_offset=True, norm_after=True,
        embedding_scale=True, attn_logit_softcapping=full.get("attn_logit_softcapping", None if third else 50.0),
        final_logit_softcapping=full.get("final_logit_softcapping", None if third else 30.0),
    )  # fmt: skip


def _gemma_ropes(fields: Mapping[str, Any], positions: int) -> tuple[Rope, Rope]:
    """Gemma 3's two: of the layers without and with a window. ``rope_scaling`` is of the first, over what it has."""
    parameters = fields.get("rope_parameters", {})
    whole, local = (parameters.get(name) or {} for name in ("full_attention", "sliding_attention"))
    whole = {**whole, **fields.get("rope_scaling", {})}
    return (
        rope_from_hf(whole, float(fields.get("rope_theta", 1e6)), positions, "rope_parameters.full_attention"),
        rope_from_hf(
            local, float(fields.get("rope_local_base_freq", 1e4)), positions, "rope_parameters.sliding_attention"
        ),
    )


_READERS = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen,
    "qwen3": _qwen,
    "gemma2": _gemma,
    "gemma3_text": _gemma,
}

MODEL_TYPES = tuple(_READERS)
"""Values of ``model_type`` that :func:`llama_from_hf` reads."""
