"""Llama, Mistral, SmolLM, and Qwen 2 and 3 in GGUF files: names, and the config from metadata.

What llama.cpp writes: ``convert_hf_to_gguf.py`` and ``gguf-py/gguf/constants.py`` of ggml-org/llama.cpp.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from transferlab.errors import TransferlabError, nearest
from transferlab.models.causal import Rope
from transferlab.models.llama import LlamaConfig
from transferlab.pretrained.formats.gguf import Gguf
from transferlab.pretrained.names import Entry, Layout, NameTable
from transferlab.pretrained.rules import leaves_of, named

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Values of ``general.architecture`` that can be read."""


def llama_from_gguf(file: Gguf) -> LlamaConfig:
    """Read the config from the metadata; what cannot be honoured is an error that names its key."""
    kind = file.value("general.architecture", str)

    def value(name: str, default: Any = None, kinds: Any = (int, float)) -> Any:
        if default is not None and f"{kind}.{name}" not in file.metadata:
            return default
        return file.value(f"{kind}.{name}", kinds)

    if value("expert_count", 0):
        raise TransferlabError(f"{file.path}: {kind}.expert_count is not 0; experts are not supported.")
    if kind == "llama" and "blk.0.attn_q.bias" in file.tensors:
        raise TransferlabError(f"{file.path}: 'blk.0.attn_q.bias' is not supported in a file of architecture 'llama'.")
    heads, features = value("attention.head_count", kinds=int), value("embedding_length", kinds=int)
    width = value("attention.key_length", value("rope.dimension_count", features // heads))
    for name in ("attention.value_length", "rope.dimension_count"):
        if value(name, width) != width:
            raise TransferlabError(
                f"{file.path}: {kind}.{name} is {value(name)}; only {width}, a head's width, can be."
            )
    ends = [file.metadata[key] for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
            if key in file.metadata]  # fmt: skip
    config = LlamaConfig(
        vocab_size=_shape(file, "token_embd.weight")[0],
        hidden_size=features,
        intermediate_size=value("feed_forward_length", kinds=int),
        num_hidden_layers=value("block_count", kinds=int),
        num_attention_heads=heads,
        num_key_value_heads=value("attention.head_count_kv", heads),
        head_dim=width,
        max_position_embeddings=value("context_length", kinds=int),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
        query_norm=kind == "qwen3",
        rope=_rope(file, kind, width),
        eos_token_id=tuple(dict.fromkeys(ends)),
    )
    window = value("attention.sliding_window", 0)
    every = tuple(range(config.num_hidden_layers))
    return replace(config, sliding_window=window, windowed=every) if window else config


def _shape(file: Gguf, name: str) -> tuple[int, ...]:
    if name not in file.tensors:
        raise TransferlabError(f"{file.path}: the tensor '{name}' is missing.{nearest(name, file.tensors)}")
    return file.tensors[name].shape


_FACTORS = "rope_freqs.weight"
"""What llama.cpp divides the frequencies of the rotary positions by, (width / 2,): Llama 3.1's stretch, which no metadata hold."""


def _rope(file: Gguf, kind: str, width: int) -> Rope:
    """``<architecture>.rope.*``, and what the factors on its frequencies mean."""
    base = float(file.metadata.get(f"{kind}.rope.freq_base", 10000.0))
    scaling = file.metadata.get(f"{kind}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise TransferlabError(f"{file.path}: {kind}.rope.scaling.type '{scaling}' is not supported; none, linear are.")
    rope = Rope(base)
    if scaling == "linear":
        rope = Rope(base, "linear", float(file.value(f"{kind}.rope.scaling.factor", (int, float))))
    if _FACTORS not in file.tensors:
        return rope
    factors = np.asarray(file.tensors[_FACTORS].read(), np.float64)
    if factors.shape != (width // 2,):
        raise TransferlabError(f"{file.path}: '{_FACTORS}' has shape {factors.shape}; expected {(width // 2,)}.")
    if np.allclose(factors, 1.0, rtol=1e-5):
        return rope
    found = None if scaling == "linear" else _stretch(base, width, factors)
    if found is None:
        raise TransferlabError(
            f"{file.path}: '{_FACTORS}' is not the stretch of Llama 3.1 (rope_type llama3, without "
            f"{kind}.rope.scaling), and no other is supported. Load the model's weights as they were before."
        )
    return found


def _stretch(base: float, width: int, factors: np.ndarray) -> Rope | None:
    """Return Llama 3.1's stretch with these factors, None if it has none such.

    A pair that turns ``t`` times within a length L is stretched by 1 / ((1 - s) / f + s), where s = (t - low) / (high - low)
    within 0 to 1 (section 3.2 of its report). Only the ratios of L, ``low`` and ``high`` show: ``low`` is taken as 1, and where
    the published ones do not fit, the line through what lies between gives the others.
    """
    stretch = float(factors.max())
    plain = Rope(base).frequencies(width)[0].astype(np.float64)
    choices = [Rope(base, "llama3", stretch)]
    if stretch > 1 and (between := (factors > 1.0001) & (factors < 0.9999 * stretch)).sum() > 1:
        fraction = (1 / factors[between] - 1 / stretch) / (1 - 1 / stretch)
        slope, start = np.polyfit(plain[between] / (2 * np.pi), fraction, 1)
        if slope > 0 > start:
            length = slope / -start
            choices.append(Rope(base, "llama3", stretch, 1.0, 1 - 1 / start, round(length)))
    for rope in choices:
        if np.allclose(plain / rope.frequencies(width)[0], factors, rtol=1e-3):
            return rope
    return None


# ---------------------------------------------------------------------------------------------------------------


@cache
def interleaved(heads: int, layout: Layout) -> Layout:
    """Return the layout of a query or key that llama.cpp holds in the order of Meta's files.

    Its rotary positions turn neighbouring features (2 i, 2 i + 1) of a head, ours the pairs (i, i + width / 2).
    """

    def halves(x: np.ndarray) -> np.ndarray:
        return x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    def pairs(x: np.ndarray) -> np.ndarray:
        return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    return Layout(
        f"rotary pairs to halves, {layout.name}",
        lambda x: layout.to_tree(halves(x)),
        lambda x: pairs(layout.to_file(x)),
        layout.shape,
    )


_RULES = """
table   embed/word                                      token_embd
norm    layers/{i}/attention/norm                       blk.{i}.attn_norm
linear  layers/{i}/attention/{query,key,value,output}   blk.{i}.attn_{q,k,v,output}
norm    layers/{i}/attention/{query,key}_norm           blk.{i}.attn_{q,k}_norm
norm    layers/{i}/mlp/norm                             blk.{i}.ffn_norm
linear  layers/{i}/mlp/{gate,up,down}                   blk.{i}.ffn_{gate,up,down}
norm    norm                                            output_norm
"""


def llama_gguf_names(config: LlamaConfig) -> NameTable:
    """Return the table of GGUF's names for this config. Only ``llama`` files hold queries and keys in pairs."""
    text = _RULES + ("" if config.tie_word_embeddings else "matrix? head/kernel output.weight")
    names = named(text, leaves_of(config))
    if not config.query_norm and not config.qkv_bias:
        heads = {"query": config.num_attention_heads, "key": config.num_key_value_heads}
        names = tuple(_paired(name, heads.get(name.path.split("/")[-2])) for name in names)
    ignored = ((re.escape(_FACTORS), "factors of the rotary positions, which the config holds"),)
    return NameTable(names, ignored=ignored, language_model=config.language_model())


def _paired(name: Entry, heads: int | None) -> Entry:
    return name if heads is None else replace(name, layout=interleaved(heads, name.layout))
