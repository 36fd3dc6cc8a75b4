"""Llama (Touvron et al. 2023) and its descendants: SmolLM, Mistral, Qwen 2 and 3, Gemma 2 and 3.

Pre-norm decoders with RMSNorm, rotary positions, grouped queries and a gated MLP. They differ in biases, norms, windows,
soft caps and scales, which all come from the config.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.attention import attend
from transferlab.models.backbone import Carry, Token
from transferlab.models.causal import Decoder, Rope, remember, rotate, token_inputs, visible
from transferlab.models.heads import HeadConfig, LanguageModelConfig, build_head
from transferlab.models.layers import Embedding, Key, Linear, Normal, check_activation, gated
from transferlab.models.norms import RMSNorm
from transferlab.models.sizes import Size

PLAIN = Rope()


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes and constants, under the names that Hugging Face's ``config.json`` uses where it has one.

    Attributes:
        vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: of the decoder.
        num_key_value_heads: groups of heads that share keys and values.
        head_dim: width of a head; ``num_attention_heads`` times it need not be ``hidden_size``.
        qkv_bias, output_bias, mlp_bias: whether these linear maps have a bias.
        query_norm: RMSNorm on each head's query and key (Qwen 3, Gemma 3).
        rope: rotary positions; ``local_rope``: those of the layers with a window, where they differ (Gemma 3).
        sliding_window: number of positions that a token sees in the layers in ``windowed``, its own included.
        windowed: numbers of the layers with a window.
        query_pre_attn_scalar: scores are scaled by its inverse square root; None is ``head_dim``.
        attn_logit_softcapping, final_logit_softcapping: soft caps of the scores and of the logits (Gemma 2).
        norm_offset: the gain of a norm is ``1 + scale`` (Gemma).
        norm_after: attention and MLP are also followed by a norm (Gemma 2).
        embedding_scale: embeddings are scaled by the square root of ``hidden_size`` (Gemma).
        eos_token_id: tokens that end a text.

    Example:
        >>> config = tl.models.LlamaConfig.smollm2_135m()
        >>> model = config.build(config.language_model())
    """

    vocab_size: Count = 32000
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count = 32
    head_dim: Count = 128
    hidden_act: str = "silu"
    max_position_embeddings: Count = 2048
    initializer_range: NonNegative = 0.02
    rms_norm_eps: Positive = 1e-6
    attention_dropout: Rate = 0.0
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_norm: bool = False
    rope: Rope = PLAIN
    local_rope: Rope | None = None
    sliding_window: int | None = None
    windowed: tuple[int, ...] = ()
    query_pre_attn_scalar: Count | None = None
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None
    norm_offset: bool = False
    norm_after: bool = False
    embedding_scale: bool = False
    eos_token_id: tuple[int, ...] = (2,)

    def __post_init__(self) -> None:
        check_fields(self, "LlamaConfig")
        check_activation(self.hidden_act, "LlamaConfig", "hidden_act")
        if self.num_attention_heads % self.num_key_value_heads:
            raise TransferlabError(
                f"LlamaConfig: num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}."
            )
        if self.head_dim % 2:
            raise TransferlabError(f"LlamaConfig: head_dim is {self.head_dim}; rotary positions need an even one.")
        if self.windowed and (self.sliding_window is None or self.sliding_window < 1):
            raise TransferlabError(
                f"LlamaConfig: sliding_window is {self.sliding_window}; it must be at least 1, as 'windowed' names layers."
            )

    # fmt: off
    smollm2_135m = Size("SmolLM2-135M: 30 layers, 576 wide, 134.5 M parameters.",
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope=Rope(100000.0), eos_token_id=(0,))
    smollm2_360m = smollm2_135m.but("SmolLM2-360M: 32 layers, 960 wide, 362 M parameters.",
        hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5)
    llama2_7b = Size("Llama 2 7B: 32 layers, 4096 wide, 6.74 G parameters.",
        max_position_embeddings=4096, rms_norm_eps=1e-5)
    llama32_1b = Size("Llama 3.2 1B: 16 layers, 2048 wide, 1.24 G parameters.",
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_key_value_heads=8,
        head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope=Rope(500000.0, "llama3", 32.0), eos_token_id=(128001,))
    mistral_7b = Size("Mistral 7B v0.1: 32 layers, 4096 wide, window 4096, 7.24 G parameters.",
        intermediate_size=14336, num_key_value_heads=8, max_position_embeddings=32768, rms_norm_eps=1e-5,
        sliding_window=4096, windowed=tuple(range(32)))
    qwen25_05b = Size("Qwen2.5-0.5B: 24 layers, 896 wide, 494 M parameters.",
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=32768, tie_word_embeddings=True, qkv_bias=True,
        rope=Rope(1000000.0), eos_token_id=(151643,))
    qwen3_06b = Size("Qwen3-0.6B: 28 layers, 1024 wide, 596 M parameters.",
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, max_position_embeddings=40960, tie_word_embeddings=True, query_norm=True,
        rope=Rope(1000000.0), eos_token_id=(151645,))
    gemma2_2b = Size("Gemma 2 2B: 26 layers, 2304 wide, every other with a window of 4096, 2.61 G parameters.",
        vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, hidden_act="gelu_pytorch_tanh", max_position_embeddings=8192,
        tie_word_embeddings=True, sliding_window=4096, windowed=tuple(range(0, 26, 2)), query_pre_attn_scalar=256,
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0, norm_offset=True, norm_after=True,
        embedding_scale=True, eos_token_id=(1,))
    gemma3_270m = Size("Gemma 3 270M: 18 layers, 640 wide, windows of 512 except in every sixth layer, 268 M parameters.",
        vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, hidden_act="gelu_pytorch_tanh", max_position_embeddings=32768,
        tie_word_embeddings=True, query_norm=True, rope=Rope(1000000.0), local_rope=Rope(10000.0), sliding_window=512,
        windowed=tuple(i for i in range(18) if (i + 1) % 6), query_pre_attn_scalar=256, norm_offset=True,
        norm_after=True, embedding_scale=True, eos_token_id=(1,))
    # fmt: on

    def language_model(self) -> LanguageModelConfig:
        """Return the head over the vocabulary, as transformers has it."""
        return LanguageModelConfig(tied=self.tie_word_embeddings, soft_cap=self.final_logit_softcapping)

    def build(self, head: HeadConfig | None = None) -> Llama:
        """Return the module; nothing is allocated."""
        return Llama(self, head)


class Embed(nnx.Module):
    """Word embeddings, scaled where the config says so."""

    random = False

    def __init__(self, config: LlamaConfig):
        self.word = Embedding(config.vocab_size, config.hidden_size, initialiser=Normal(config.initializer_range))
        self.scale = config.hidden_size**0.5 if config.embedding_scale else None

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        x = self.word(inputs["input_ids"])
        if self.scale is not None:
            # The scale is rounded to the compute dtype, as in transformers.
            x = x * jnp.asarray(self.scale, x.dtype)
        return {**token_inputs(inputs), "hidden": x}


class SelfAttention(nnx.Module):
    """Causal attention with its norms."""

    def __init__(self, config: LlamaConfig, number: int):
        features, inner = config.hidden_size, config.num_attention_heads * config.head_dim
        shared = config.num_key_value_heads * config.head_dim
        normal, bias = Normal(config.initializer_range), config.qkv_bias
        self.norm = _norm(config)
        self.query = Linear(features, inner, bias=bias, initialiser=normal)
        self.key = Linear(features, shared, bias=bias, initialiser=normal)
        self.value = Linear(features, shared, bias=bias, initialiser=normal)
        self.output = Linear(inner, features, bias=config.output_bias, initialiser=normal)
        self.query_norm = _norm(config, config.head_dim) if config.query_norm else None
        self.key_norm = _norm(config, config.head_dim) if config.query_norm else None
        self.norm_after = _norm(config) if config.norm_after else None
        self.groups, self.width, self.number = config.num_key_value_heads, config.head_dim, number
        self.scale = (config.query_pre_attn_scalar or config.head_dim) ** -0.5
        self.soft_cap, self.dropout = config.attn_logit_softcapping, config.attention_dropout
        local = number in config.windowed
        self.window = config.sliding_window if local else None
        self.rope = config.local_rope if local and config.local_rope is not None else config.rope

    def __call__(
        self, carry: Carry, key: Key | None, query_token: Token | None = None
    ) -> tuple[Carry, Float[Array, "batch queries features"]]:
        x = queries = self.norm(carry["hidden"])
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        positions = query_positions = carry["positions"]
        mask = visible(carry, self.window)
        if query_token is not None:
            queries, query_positions, mask = (query_token.of(carry, entry) for entry in (x, positions, mask))
        query, key_, value = (
            project(tokens, k).reshape(*tokens.shape[:2], -1, self.width)
            for project, tokens, k in zip((self.query, self.key, self.value), (queries, x, x), keys, strict=False)
        )
        if self.query_norm is not None and self.key_norm is not None:
            query, key_ = self.query_norm(query), self.key_norm(key_)
        query, key_ = rotate(query, query_positions, self.rope), rotate(key_, positions, self.rope)
        carry, key_, value = remember(carry, self.number, key_, value)
        mixed = attend(
            query, key_, value, scale=self.scale, mask=mask, soft_cap=self.soft_cap, rate=self.dropout, random=keys[3]
        )  # fmt: skip
        y = self.output(mixed, keys[4])
        return carry, y if self.norm_after is None else self.norm_after(y)


class Mlp(nnx.Module):
    """``down(act(gate(x)) · up(x))`` (Shazeer 2020), with its norms."""

    def __init__(self, config: LlamaConfig):
        features, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        normal = Normal(config.initializer_range)
        self.norm = _norm(config)
        self.gate = Linear(features, inner, bias=bias, initialiser=normal)
        self.up = Linear(features, inner, bias=bias, initialiser=normal)
        self.down = Linear(inner, features, bias=bias, initialiser=normal)
        self.norm_after = _norm(config) if config.norm_after else None
        self.activation = config.hidden_act

    def __call__(
        self, x: Float[Array, "batch length features"], key: Key | None
    ) -> Float[Array, "batch length features"]:
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        x = self.norm(x)
        y = self.down(gated(self.activation, self.gate(x, keys[0]), self.up(x, keys[1])), keys[2])
        return y if self.norm_after is None else self.norm_after(y)


def _norm(config: LlamaConfig, features: int | None = None) -> RMSNorm:
    return RMSNorm(features or config.hidden_size, config.rms_norm_eps, offset=config.norm_offset)


class Layer(nnx.Module):
    """One decoder layer: attention, then the MLP, each added to its input."""

    def __init__(self, config: LlamaConfig, number: int):
        self.attention = SelfAttention(config, number)
        self.mlp = Mlp(config)
        self.random = config.attention_dropout > 0

    def __call__(self, carry: Carry, key: Key | None, query_token: Token | None = None) -> Carry:
        first, second = (None, None) if key is None else jax.random.split(key)
        carry, y = self.attention(carry, first, query_token)
        x = (carry["hidden"] if query_token is None else query_token.of(carry, carry["hidden"])) + y
        return {**carry, "hidden": x + self.mlp(x, second)}


class Llama(Decoder):
    """The decoder and an optional head.

    Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``position_ids``, ``cache``.
    """

    def __init__(self, config: LlamaConfig, head: HeadConfig | None = None):
        self.config = config
        self.embed = Embed(config)
        self.layers = nnx.List([Layer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = _norm(config)
        self.head = build_head(
            head, config.hidden_size, vocabulary=config.vocab_size, feature_stages=self.feature_stages()
        )
