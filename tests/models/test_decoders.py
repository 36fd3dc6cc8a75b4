"""Decoders: nothing sees what comes later, a cache changes nothing, and an evaluation written without JAX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.modules import drawn
from support.typed import found

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import ClassifierConfig, GPT2Config, LanguageModelConfig, LlamaConfig, frontier, run_stages
from transferlab.models.backbone import check_ownership
from transferlab.models.causal import Rope

KEY = jax.random.key(0)
GPT2 = GPT2Config(vocab_size=20, n_positions=32, n_embd=12, n_layer=2, n_head=3)
LLAMA = LlamaConfig(
    vocab_size=20, hidden_size=12, intermediate_size=10, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=6, max_position_embeddings=32,
)  # fmt: skip
GEMMA = replace(
    LLAMA, num_key_value_heads=1, hidden_act="gelu_new", tie_word_embeddings=True, query_norm=True, sliding_window=3,
    windowed=(1,), local_rope=Rope(50.0), query_pre_attn_scalar=5, attn_logit_softcapping=1.5,
    final_logit_softcapping=2.0, norm_offset=True, norm_after=True, embedding_scale=True,
)  # fmt: skip
VARIANTS = {
    "gpt2": GPT2,
    "gpt2, untied": replace(GPT2, tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True),
    "llama": LLAMA,
    "llama, biases": replace(LLAMA, qkv_bias=True, output_bias=True, mlp_bias=True, num_key_value_heads=4),
    "gemma": GEMMA,
}
QUIET = {"n_layer": 1, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
IDS = jnp.asarray(np.random.default_rng(2).integers(0, 20, (3, 9)))
MASK = jnp.array([[1] * 9, [1] * 5 + [0] * 4, [0] * 3 + [1] * 6])


def concrete(config, head: Any = "language model"):
    return drawn(config.build(config.language_model() if head == "language model" else head))


def run(
    definition, params, carry, start: int = 0, stop: int | None = None, training=frozenset(), compute=None, eager=False
):
    def stages(params, carry):
        model = definition.merge(params, compute=compute)
        return run_stages(model, carry, start, stop or len(model.all_stages()), KEY if training else None, training)

    # One by one where every choice of stages would be a compilation.
    return stages(params, carry) if eager else jax.jit(stages)(params, carry)


@pytest.mark.parametrize("variant", ["llama", "llama, biases", "gemma"])
def test_logits_are_those_of_an_evaluation_in_plain_numpy(variant: str) -> None:
    config = VARIANTS[variant]
    definition, params = concrete(config)
    got = run(definition, params, {"input_ids": IDS, "attention_mask": MASK})["logits"]
    leaves = {p: np.asarray(v, np.float64) for p, v in trees.flatten(params).items()}
    for row in range(3):
        want = in_numpy(config, leaves, np.asarray(IDS[row]), np.asarray(MASK[row], bool))
        seen = np.asarray(MASK[row], bool)
        np.testing.assert_allclose(np.asarray(got[row])[seen], want[seen], atol=3e-4)


def in_numpy(config: LlamaConfig, leaves: dict[str, np.ndarray], ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Logits of one text, with loops over heads and queries, in float64."""

    def norm(x, path):
        gain = leaves[f"{path}/scale"] + (1.0 if config.norm_offset else 0.0)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.rms_norm_eps) * gain

    def linear(x, path):
        return x @ leaves[f"{path}/kernel"] + leaves.get(f"{path}/bias", 0.0)

    def turned(x, theta):
        half = config.head_dim // 2
        z = (x[:, :half] + 1j * x[:, half:]) * np.exp(
            1j * np.outer(np.arange(len(x)), theta ** (-np.arange(half) / half))
        )
        return np.concatenate([z.real, z.imag], -1)

    def act(x):
        tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x / (1 + np.exp(-x)) if config.hidden_act == "silu" else tanh

    table, width = leaves["embed/word/embedding"], config.head_dim
    x = table[ids] * (np.sqrt(config.hidden_size) if config.embedding_scale else 1.0)
    for i in range(config.num_hidden_layers):
        here = f"layers/{i}/attention"
        local = i in config.windowed
        theta = config.local_rope.rope_theta if local and config.local_rope else config.rope.rope_theta
        y = norm(x, f"{here}/norm")
        q, k, v = (linear(y, f"{here}/{part}") for part in ("query", "key", "value"))
        mixed = np.zeros((len(ids), config.num_attention_heads * width))
        for head in range(config.num_attention_heads):
            group = head // (config.num_attention_heads // config.num_key_value_heads)
            mine, theirs = q[:, head * width :][:, :width], k[:, group * width :][:, :width]
            if config.query_norm:
                mine, theirs = norm(mine, f"{here}/query_norm"), norm(theirs, f"{here}/key_norm")
            mine, theirs = turned(mine, theta), turned(theirs, theta)
            for t in range(len(ids)):
                first = max(0, t - found(config.sliding_window) + 1) if local else 0
                keys = [s for s in range(first, t + 1) if mask[s]]
                if not keys:
                    continue
                scores = theirs[keys] @ mine[t] / np.sqrt(config.query_pre_attn_scalar or width)
                if cap := config.attn_logit_softcapping:
                    scores = cap * np.tanh(scores / cap)
                weights = np.exp(scores - scores.max())
                mixed[t, head * width :][:width] = weights @ v[keys, group * width :][:, :width] / weights.sum()
        y = linear(mixed, f"{here}/output")
        x = x + (norm(y, f"{here}/norm_after") if config.norm_after else y)
        y = norm(x, f"layers/{i}/mlp/norm")
        y = linear(act(linear(y, f"layers/{i}/mlp/gate")) * linear(y, f"layers/{i}/mlp/up"), f"layers/{i}/mlp/down")
        x = x + (norm(y, f"layers/{i}/mlp/norm_after") if config.norm_after else y)
    logits = norm(x, "norm") @ (table.T if config.tie_word_embeddings else leaves["head/kernel"])
    cap = config.final_logit_softcapping
    return cap * np.tanh(logits / cap) if cap else logits


@pytest.mark.parametrize("variant", ["gpt2", "llama", "gemma"])
def test_stages_run_in_pieces_or_with_a_cache_give_the_logits_of_the_model(variant: str) -> None:
    definition, params = concrete(VARIANTS[variant])
    positions = jnp.maximum(jnp.cumsum(MASK, axis=1) - 1, 0)
    given = {"input_ids": IDS, "attention_mask": MASK, "position_ids": positions}
    whole = np.asarray(run(definition, params, given)["logits"])
    carry = run(definition, params, {**given, "weight": jnp.ones(3)}, 0, 2)
    assert "weight" not in carry or carry["weight"].shape == (3,)
    seen = np.asarray(MASK, bool)
    np.testing.assert_allclose(np.asarray(run(definition, params, carry, 2)["logits"])[seen], whole[seen], atol=2e-5)

    @jax.jit
    def in_chunks(params):
        model = definition.merge(params)
        cache, out = model.cache(3, 11), []
        for first, last in ((0, 4), (4, 5), (5, 9)):
            carry = model({name: value[:, first:last] for name, value in given.items()} | {"cache": cache})
            cache = {**carry["cache"], "start": cache["start"] + last - first}
            out.append(carry["logits"])
        return jnp.concatenate(out, axis=1)

    np.testing.assert_allclose(np.asarray(in_chunks(params))[seen], whole[seen], atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_token_sees_neither_what_comes_later_nor_padding_nor_beyond_its_window(variant: str) -> None:
    config = VARIANTS[variant]
    if variant == "gemma":
        config = replace(config, windowed=(0, 1))
    definition, params = concrete(config)

    @jax.jit
    def slopes(params):
        model = definition.merge(params)
        stages = model.backbone_stages()
        start = run_stages(model, {"input_ids": IDS, "attention_mask": MASK}, 0, 1)

        def seen(hidden):
            return run_stages(model, {**start, "hidden": hidden}, 1, len(stages))["hidden"].sum(-1)

        return jnp.abs(jax.jacrev(seen)(start["hidden"])).sum(-1)

    slope = np.asarray(slopes(params))
    for row in range(3):
        for t in np.flatnonzero(np.asarray(MASK[row])):
            reach = 9 if variant != "gemma" else 4  # two layers, each two back
            want = [s <= t and (s == t or bool(MASK[row, s])) and t - s <= reach for s in range(9)]
            np.testing.assert_array_equal(slope[row, t, row] > 0, want)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_leaf_is_owned_by_exactly_one_stage_and_the_tie_is_borrowed(variant: str) -> None:
    config = VARIANTS[variant]
    for head in (config.language_model(), ClassifierConfig(("a", "b"), pooling="last", bias=False), None):
        module = config.build(head)
        check_ownership(module.all_stages(), trees.flatten(trees.define(module).params))
    stages = config.build(config.language_model()).all_stages()
    assert [s.name for s in stages] == ["embed", "layers/0", "layers/1", "norm", "head"]
    assert stages[-1].borrows == (("embed/word",) if config.tie_word_embeddings else ())
    paths = trees.flatten(trees.define(config.build(config.language_model())).params)
    assert ("head/kernel" in paths) != config.tie_word_embeddings
    assert frontier(stages, {"norm/scale"}) == 3 and frontier(stages, {"embed/word/embedding"}) == 0


def test_bfloat16_stays_close_to_float32_and_keeps_its_dtype() -> None:
    definition, params = concrete(GEMMA)
    given = {"input_ids": IDS, "attention_mask": MASK}
    want = np.asarray(run(definition, params, given)["logits"])
    got = run(definition, params, given, compute=jnp.bfloat16)
    assert got["logits"].dtype == got["hidden"].dtype == jnp.bfloat16
    seen = np.asarray(MASK, bool)
    assert np.abs(np.asarray(got["logits"], np.float32) - want)[seen].mean() < 0.03 * np.abs(want[seen]).max()


@pytest.mark.parametrize(
    ("config", "field", "noisy"),
    [
        (replace(GPT2, **QUIET), "embd_pdrop", {"embed"}),
        (replace(GPT2, **QUIET), "resid_pdrop", {"layers/0"}),
        (replace(GPT2, **QUIET), "attn_pdrop", {"layers/0"}),
        (replace(LLAMA, num_hidden_layers=1), "attention_dropout", {"layers/0"}),
    ],
)
def test_a_rate_acts_only_in_training_and_in_the_stages_declared_random(config, field: str, noisy: set) -> None:
    definition, params = concrete(replace(config, **{field: 0.5}))
    given = {"input_ids": IDS, "attention_mask": MASK}
    quiet = run(concrete(config)[0], params, given, eager=True)["logits"]
    np.testing.assert_array_equal(run(definition, params, given, eager=True)["logits"], quiet)
    for stage in definition.module.backbone_stages():
        moved = run(definition, params, given, training=frozenset({stage.name}), eager=True)["logits"]
        assert (stage.name in noisy) == stage.random == (not np.allclose(moved, quiet, atol=1e-6)), stage.name


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (GPT2Config.small(), 124_439_808),
        (GPT2Config.medium(), 354_823_168),
        (GPT2Config.large(), 774_030_080),
        (GPT2Config.xl(), 1_557_611_200),
        (GPT2Config.distilgpt2(), 81_912_576),
        (LlamaConfig.smollm2_135m(), 134_515_008),
        (LlamaConfig.smollm2_360m(), 361_821_120),
        (LlamaConfig.llama2_7b(), 6_738_415_616),
        (LlamaConfig.llama32_1b(), 1_235_814_400),
        (LlamaConfig.mistral_7b(), 7_241_732_096),
        (LlamaConfig.qwen25_05b(), 494_032_768),
        (LlamaConfig.qwen3_06b(), 596_049_920),
        (LlamaConfig.gemma2_2b(), 2_614_341_888),
        (LlamaConfig.gemma3_270m(), 268_098_176),
    ],
)
def test_a_size_has_the_published_number_of_parameters(config, parameters: int) -> None:
    assert trees.count(trees.define(config.build(config.language_model())).params) == parameters


def test_the_last_token_of_a_text_is_not_taken_from_its_padding() -> None:
    definition, params = concrete(LLAMA, ClassifierConfig(("a", "b"), pooling="last", bias=False))
    got = run(definition, params, {"input_ids": IDS, "attention_mask": MASK})["pooled"]
    bare, rest = concrete(LLAMA, None)
    hidden = run(bare, {k: v for k, v in params.items() if k != "head"}, {"input_ids": IDS, "attention_mask": MASK})
    np.testing.assert_allclose(got, np.stack([hidden["hidden"][i, t] for i, t in ((0, 8), (1, 4), (2, 8))]), atol=1e-6)
    assert "head" not in rest and set(params["head"]) == {"kernel"}


def test_a_head_applies_its_scale_its_bias_and_its_cap() -> None:
    head = LanguageModelConfig(tied=True, bias=True, scale=0.25, soft_cap=1.5)
    definition, params = concrete(LLAMA, head)
    out = run(definition, params, {"input_ids": IDS})
    want = 0.25 * np.asarray(out["hidden"]) @ np.asarray(params["embed"]["word"]["embedding"]).T
    want = 1.5 * np.tanh((want + np.asarray(params["head"]["bias"])) / 1.5)
    np.testing.assert_allclose(out["logits"], want, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: replace(LLAMA, num_key_value_heads=3),
            "num_attention_heads 4 is not a multiple of num_key_value_heads 3",
        ),
        (lambda: replace(LLAMA, head_dim=5), "head_dim is 5"),
        (lambda: replace(LLAMA, hidden_act="siluu"), "unknown hidden_act.*silu"),
        (lambda: replace(LLAMA, vocab_size=0), "vocab_size is 0"),
        (lambda: replace(LLAMA, windowed=(1,)), "sliding_window is None"),
        (lambda: replace(GPT2, n_head=5), "n_embd 12 is not a multiple of n_head 5"),
        (lambda: replace(GPT2, activation_function="x"), "unknown activation_function"),
        (lambda: replace(GPT2, n_layer=0), "n_layer is 0"),
    ],
)
def test_an_impossible_config_is_refused(make, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        make()


def test_a_text_longer_than_gpt2s_positions_is_refused() -> None:
    definition, params = concrete(GPT2)
    with pytest.raises(TransferlabError, match="Texts of 33 tokens are too long: this model has 32 positions"):
        run(definition, params, {"input_ids": jnp.zeros((1, 33), jnp.int32)})
