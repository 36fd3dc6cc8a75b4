"""GPT-2 (Radford et al. 2019): a pre-norm decoder with learned positions and tanh GELU. All sizes come from the config."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from flax import nnx
from jaxtyping import Array, Float

from transferlab.bounds import Count, NonNegative, Positive, Rate
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields
from transferlab.models.attention import attend
from transferlab.models.backbone import Carry, Token
from transferlab.models.causal import Decoder, remember, token_inputs, visible
from transferlab.models.heads import HeadConfig, LanguageModelConfig, build_head
from transferlab.models.layers import ACTIVATIONS, Embedding, Key, Linear, Normal, check_activation, dropout
from transferlab.models.norms import LayerNorm
from transferlab.models.sizes import Size


@dataclass(frozen=True)
class GPT2Config:
    """Sizes and constants, under the names that Hugging Face's ``config.json`` uses.

    Attributes:
        n_inner: width of the MLP; None is four times ``n_embd``.
        scale_attn_weights: scale the attention scores by ``1 / sqrt(width)``.
        scale_attn_by_inverse_layer_idx: also by ``1 / (layer + 1)``.
        eos_token_id: tokens that end a text.

    Example:
        >>> config = tl.models.GPT2Config.small()
        >>> model = config.build(config.language_model())
    """

    vocab_size: Count = 50257
    n_positions: Count = 1024
    n_embd: Count = 768
    n_layer: Count = 12
    n_head: Count = 12
    n_inner: Count | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1
    layer_norm_epsilon: Positive = 1e-5
    initializer_range: NonNegative = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    eos_token_id: tuple[int, ...] = (50256,)

    def __post_init__(self) -> None:
        check_fields(self, "GPT2Config")
        check_activation(self.activation_function, "GPT2Config", "activation_function")
        if self.n_embd % self.n_head:
            raise TransferlabError(f"GPT2Config: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}.")

    small = Size("GPT-2: 12 layers, 768 wide, 124 M parameters.")
    medium = Size("GPT-2 medium: 24 layers, 1024 wide, 355 M parameters.", n_embd=1024, n_layer=24, n_head=16)
    large = Size("GPT-2 large: 36 layers, 1280 wide, 774 M parameters.", n_embd=1280, n_layer=36, n_head=20)
    xl = Size("GPT-2 XL: 48 layers, 1600 wide, 1.56 G parameters.", n_embd=1600, n_layer=48, n_head=25)
    distilgpt2 = Size("DistilGPT-2: 6 layers, 768 wide, 82 M parameters.", n_layer=6)

    @property
    def max_position_embeddings(self) -> int:
        """Number of positions, under the name that other families use."""
        return self.n_positions

    def language_model(self) -> LanguageModelConfig:
        """Return the head over the vocabulary, as transformers has it."""
        return LanguageModelConfig(tied=self.tie_word_embeddings)

    def build(self, head: HeadConfig | None = None) -> GPT2:
        """Return the module; nothing is allocated."""
        return GPT2(self, head)


class Embed(nnx.Module):
    """Word + position embeddings."""

    def __init__(self, config: GPT2Config):
        normal = Normal(config.initializer_range)
        self.word = Embedding(config.vocab_size, config.n_embd, initialiser=normal)
        self.position = Embedding(config.n_positions, config.n_embd, initialiser=normal)
        self.dropout, self.longest = config.embd_pdrop, config.n_positions
        self.random = config.embd_pdrop > 0

    def __call__(self, inputs: Carry, key: Key | None) -> Carry:
        length = inputs["input_ids"].shape[1]
        # With explicit positions (as with a cache) texts may be padded further than there are positions.
        if "position_ids" not in inputs and length > self.longest:
            raise TransferlabError(f"Texts of {length} tokens are too long: this model has {self.longest} positions.")
        carry = token_inputs(inputs)
        x = self.word(inputs["input_ids"]) + self.position(carry["positions"])
        return {**carry, "hidden": dropout(x, self.dropout, key)}


class SelfAttention(nnx.Module):
    """Causal attention with its pre-norm."""

    def __init__(self, config: GPT2Config, number: int):
        features, normal = config.n_embd, Normal(config.initializer_range)
        self.norm = LayerNorm(features, config.layer_norm_epsilon)
        self.query = Linear(features, features, initialiser=normal)
        self.key = Linear(features, features, initialiser=normal)
        self.value = Linear(features, features, initialiser=normal)
        self.output = Linear(features, features, initialiser=_residual(config))
        self.groups, self.width = config.n_head, features // config.n_head
        self.scale = self.width**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= number + 1
        self.dropout, self.number = config.attn_pdrop, number

    def __call__(
        self, carry: Carry, key: Key | None, query_token: Token | None = None
    ) -> tuple[Carry, Float[Array, "batch queries features"]]:
        x = queries = self.norm(carry["hidden"])
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        mask = visible(carry)
        if query_token is not None:
            queries, mask = query_token.of(carry, x), query_token.of(carry, mask)
        query, key_, value = (
            project(tokens, k).reshape(*tokens.shape[:2], self.groups, self.width)
            for project, tokens, k in zip((self.query, self.key, self.value), (queries, x, x), keys, strict=False)
        )
        carry, key_, value = remember(carry, self.number, key_, value)
        mixed = attend(query, key_, value, scale=self.scale, mask=mask, rate=self.dropout, random=keys[3])
        return carry, self.output(mixed, keys[4])


class Mlp(nnx.Module):
    """Two linear maps with an activation between them, after a LayerNorm."""

    def __init__(self, config: GPT2Config):
        inner = config.n_inner or 4 * config.n_embd
        self.norm = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.up = Linear(config.n_embd, inner, initialiser=Normal(config.initializer_range))
        self.down = Linear(inner, config.n_embd, initialiser=_residual(config))
        self.activation = config.activation_function

    def __call__(
        self, x: Float[Array, "batch length features"], key: Key | None
    ) -> Float[Array, "batch length features"]:
        first, second = (None, None) if key is None else jax.random.split(key)
        return self.down(ACTIVATIONS[self.activation](self.up(self.norm(x), first)), second)


def _residual(config: GPT2Config) -> Normal:
    """Maps that write to the residual stream start smaller, by the square root of their number (section 2.3)."""
    return Normal(config.initializer_range / (2 * config.n_layer) ** 0.5)


class Layer(nnx.Module):
    """One decoder layer: attention, then the MLP, each added to its input."""

    def __init__(self, config: GPT2Config, number: int):
        self.attention = SelfAttention(config, number)
        self.mlp = Mlp(config)
        self.dropout = config.resid_pdrop
        self.random = config.resid_pdrop > 0 or config.attn_pdrop > 0

    def __call__(self, carry: Carry, key: Key | None, query_token: Token | None = None) -> Carry:
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        carry, y = self.attention(carry, keys[0], query_token)
        x = carry["hidden"] if query_token is None else query_token.of(carry, carry["hidden"])
        x = x + dropout(y, self.dropout, keys[1])
        return {**carry, "hidden": x + dropout(self.mlp(x, keys[2]), self.dropout, keys[3])}


class GPT2(Decoder):
    """The decoder and an optional head.

    Inputs: ``input_ids`` (batch, length) and, optionally, ``attention_mask``, ``position_ids``, ``cache``.
    """

    def __init__(self, config: GPT2Config, head: HeadConfig | None = None):
        self.config = config
        self.embed = Embed(config)
        self.layers = nnx.List([Layer(config, i) for i in range(config.n_layer)])
        self.norm = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.head = build_head(head, config.n_embd, vocabulary=config.vocab_size, feature_stages=self.feature_stages())
