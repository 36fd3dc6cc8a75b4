"""Likelihoods over a vocabulary: those of whole logits, with their gradients, in memory that does not grow with the batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.modules import drawn

from transferlab.models import BertConfig, GPT2Config, LanguageModelConfig, MaskedLanguageModelConfig
from transferlab.models.heads import likelihood

GPT2 = GPT2Config(vocab_size=23, n_positions=16, n_embd=12, n_layer=1, n_head=3)
BERT = BertConfig(vocab_size=23, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=10, pooler=False)  # fmt: skip
HEADS = {
    "causal, tied": (GPT2, LanguageModelConfig(tied=True)),
    "causal, all": (GPT2, LanguageModelConfig(tied=False, bias=True, scale=0.5, soft_cap=1.5)),
    "masked, tied": (BERT, MaskedLanguageModelConfig()),
    "masked, untied": (BERT, MaskedLanguageModelConfig(tied=False, bias=False, dense_bias=False, norm_bias=False)),
}
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 23, (3, 7)))
LABELS = jnp.asarray(np.random.default_rng(1).integers(0, 23, (3, 7))).at[0, 5:].set(-1)


def whole(model: Any, ids: Any) -> tuple[Any, Any]:
    logits = model({"input_ids": ids})["logits"]
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(LABELS, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(LABELS >= 0, logp, 0.0), (logits.argmax(-1) == LABELS).astype(jnp.float32)


def by_labels(model: Any, ids: Any) -> tuple[Any, Any]:
    out = model({"input_ids": ids, "labels": LABELS})
    assert "logits" not in out
    return out["log_likelihood"], out["correct"]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("logits", [1 << 23, 23 * 4, 1])
def test_likelihoods_and_gradients_are_those_of_all_logits(
    name: str, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "LOGITS", logits)
    config, head = HEADS[name]
    definition, params = drawn(config.build(head))

    def loss(params: Any, each: Any) -> Any:
        values, correct = each(definition.merge(params), IDS)
        return (values * jnp.arange(21.0).reshape(3, 7)).sum(), (values, correct)

    (_, want), slope = jax.value_and_grad(loss, has_aux=True)(params, whole)
    (_, got), own = jax.value_and_grad(loss, has_aux=True)(params, by_labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), (want, slope), (got, own))
    assert not np.asarray(got[0])[0, 5:].any()


def test_selected_positions_alone_reach_the_vocabulary() -> None:
    definition, params = drawn(BERT.build(MaskedLanguageModelConfig()))
    model = definition.merge(params)
    selected = jnp.array([[6, 2], [0, -1], [3, 3]])
    labels = jnp.where(selected >= 0, jnp.take_along_axis(IDS, jnp.maximum(selected, 0), axis=1), -1)
    out = model({"input_ids": IDS, "labels": labels, "selected": selected})
    logp = jax.nn.log_softmax(model({"input_ids": IDS})["logits"])
    want = [[float(logp[r, p, IDS[r, p]]) if p >= 0 else 0.0 for p in row] for r, row in enumerate(selected.tolist())]
    np.testing.assert_allclose(out["log_likelihood"], want, atol=1e-5)


def test_memory_does_not_grow_with_batch_times_vocabulary() -> None:
    def temporary(tokens: int, vocabulary: int) -> int:
        def loss(hidden: Any, kernel: Any) -> Any:
            return likelihood.token_likelihoods(hidden, jnp.zeros((1, tokens), jnp.int32), kernel)[0].sum()

        shapes = jax.ShapeDtypeStruct((1, tokens, 8), jnp.float32), jax.ShapeDtypeStruct((8, vocabulary), jnp.float32)
        memory = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    once = 4 * likelihood.LOGITS
    # All logits of 4,096 tokens would be 15 and 30 times as many as exist at once.
    assert temporary(4096, 30522) < 6 * once and temporary(4096, 61044) < 6 * once
