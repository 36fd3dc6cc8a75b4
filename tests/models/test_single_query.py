"""A last layer that is computed for the one token that is read: equal to the whole one, and less work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.modules import drawn

import transferlab as tl
from transferlab import trees
from transferlab.models import (
    BertConfig,
    ClassifierConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    TextTowerConfig,
    ViTConfig,
    run_stages,
)
from transferlab.models.backbone import stages_between
from transferlab.models.causal import Rope
from transferlab.models.heads import Pooling

SIZES: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
}  # fmt: skip
BERT = BertConfig(**SIZES, pooler=True)
MODERN = ModernBertConfig(**SIZES, local_attention=4, embedding_dropout=0.1, attention_dropout=0.1, mlp_dropout=0.1)
VIT = ViTConfig(
    hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=10, image_size=10, patch_size=5,
    hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, registers=2, layer_scale=0.3,
)  # fmt: skip
TEXT = TextTowerConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=14,
    max_position_embeddings=9, hidden_act="gelu", eos_token_id=7, projection_dim=6,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=20, n_positions=32, n_embd=12, n_layer=2, n_head=3)
LLAMA = LlamaConfig(
    vocab_size=20, hidden_size=12, intermediate_size=10, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=6, max_position_embeddings=32,
)  # fmt: skip
GEMMA = replace(
    LLAMA, num_key_value_heads=1, query_norm=True, sliding_window=3, windowed=(1,), local_rope=Rope(50.0),
    query_pre_attn_scalar=5, attn_logit_softcapping=1.5, norm_offset=True, norm_after=True,
)  # fmt: skip

FIRST: dict[str, tuple[Any, Pooling]] = {
    "BERT": (BERT, "first"),
    "BERT's pooler": (BERT, "pooler"),
    "RoBERTa": (RobertaConfig(**SIZES, max_position_embeddings=16), "first"),
    "DistilBERT": (DistilBertConfig(20, 8, 2, 2, 12, max_position_embeddings=16), "first"),
    "MPNet": (MPNetConfig(**SIZES, max_position_embeddings=16), "first"),
    "ModernBERT": (MODERN, "first"),
    "ModernBERT, a window": (replace(MODERN, layer_types=("full_attention", "sliding_attention")), "first"),
    "ViT": (VIT, "first"),
    "ViT's pooler": (replace(VIT, pooler=True), "pooler"),
    "CLIP's vision": (replace(VIT, pre_norm=True, projection_dim=6, pooling="first", norm_hidden=False), "embedding"),
    "a vision tower's pooler, projected": (replace(VIT, pooler=True, projection_dim=6, pooling="pooler"), "embedding"),
}
OTHERS: dict[str, tuple[Any, Pooling]] = {
    "CLIP's text": (TEXT, "embedding"),
    "CLIP's text, no projection": (replace(TEXT, projection_dim=None), "pooler"),
    "SigLIP's text": (replace(TEXT, causal=False, pooled_token="last", projection_bias=True), "embedding"),
    "GPT-2": (GPT2, "last"),
    "GPT-2, first": (GPT2, "first"),
    "Llama": (LLAMA, "last"),
    "Gemma, a window": (GEMMA, "last"),
}
IDS = jnp.asarray(np.random.default_rng(2).integers(2, 20, (3, 9)))
MASK = jnp.array([[1] * 9, [1] * 5 + [0] * 4, [0] * 3 + [1] * 6])
KEY = jax.random.key(3)


def concrete(config, pooling: Pooling):
    return drawn(config.build(ClassifierConfig(("cat", "dog"), pooling=pooling)))


def inputs_of(config) -> dict:
    if isinstance(config, ViTConfig):
        size = config.image_size
        return {"pixel_values": jnp.asarray(np.random.default_rng(1).normal(size=(3, size, size, 3)), jnp.float32)}
    return {"input_ids": IDS, "attention_mask": MASK}


def objective(definition, inputs: dict, cut: int | None, training: bool):
    """Of the parameters: a sum over the logits, the stages run at once or in two pieces."""

    def total(params):
        model = definition.merge(params)
        names = frozenset(stage.name for stage in model.all_stages()) if training else frozenset()
        key, stop, carry = KEY if training else None, len(model.all_stages()), inputs
        for start, end in ((0, stop),) if cut is None else ((0, cut), (cut, stop)):
            carry = run_stages(model, carry, start, end, key, names)
        return (carry["logits"] * jnp.array([1.0, -0.5])).sum(), carry["logits"]

    return jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize(
    ("config", "pooling", "training"),
    # Dropout has the same bits for the first token; those of any other depend on its position.
    [(*case, True) for case in FIRST.values()] + [(*case, False) for case in OTHERS.values()],
    ids=[*FIRST, *OTHERS],
)
def test_logits_and_gradients_equal_those_of_all_tokens(config, pooling: Pooling, training: bool) -> None:
    definition, params = concrete(config, pooling)
    inputs = inputs_of(config)
    # Cut before the pooling, the last layer must give all tokens.
    cut = len(definition.module.backbone_stages())
    (_, whole), expected = objective(definition, inputs, cut, training)(params)
    (_, logits), grads = objective(definition, inputs, None, training)(params)
    np.testing.assert_allclose(logits, whole, rtol=2e-5, atol=2e-5)
    found = trees.flatten(grads)
    for path, grad in trees.flatten(expected).items():
        np.testing.assert_allclose(found[path], grad, rtol=1e-4, atol=1e-5, err_msg=path)
    assert np.ptp(whole, axis=0).min() > 1e-3


@pytest.mark.parametrize(("config", "pooling"), [*FIRST.values(), *OTHERS.values()], ids=[*FIRST, *OTHERS])
def test_the_last_layer_is_computed_only_for_the_token_that_is_read(config, pooling: Pooling) -> None:
    definition, params = concrete(config, pooling)
    last = len(config.build().layers) - 1
    seen = {}

    def run(params, carry):
        model = definition.merge(params)
        for stage in stages_between(model, 0, len(model.all_stages())):
            carry = stage.run(carry, None)
            seen[stage.name] = carry["hidden"].shape[1] if "hidden" in carry else None
        return carry["logits"]

    jax.eval_shape(run, params, inputs_of(config))
    assert seen[f"layers/{last}"] == 1
    assert seen[f"layers/{last - 1}"] > 1


@pytest.mark.parametrize(
    ("config", "pooling"),
    [(BERT, "mean"), (BERT, "stages"), (VIT, "first and mean"), (VIT, "mean"), (GPT2, "mean"), (GPT2, "stages"),
     (replace(VIT, pooler=True, pooler_kind="attention", pooling="pooler"), "pooler")],
)  # fmt: skip
def test_a_head_that_reads_all_tokens_gets_all(config, pooling: Pooling) -> None:
    model = config.build(ClassifierConfig(("cat", "dog"), pooling=pooling))
    assert model.head.reads(model) is None


def test_the_plan_says_which_tokens_are_not_computed(source, films) -> None:
    said = {
        pooling: str(tl.adapt(source, films, method=tl.methods.Full(pooling=pooling)).plan)
        for pooling in ("first", "mean")
    }
    assert "'layers/1' is computed for the first token alone" in said["first"]
    assert "alone" not in said["mean"]
