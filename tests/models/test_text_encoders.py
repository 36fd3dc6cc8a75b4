"""RoBERTa, DistilBERT, MPNet, ModernBERT: stages that compose, sizes, dropout, low precision, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.modules import drawn

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import (
    ClassifierConfig,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    frontier,
    run_stages,
)
from transferlab.models.backbone import check_ownership
from transferlab.models.heads import HiddenLayer
from transferlab.models.mpnet import distance_buckets
from transferlab.models.roberta import counted_positions

KEY = jax.random.key(0)
SIZES: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12,
}  # fmt: skip
QUIET: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TINY = {
    "roberta": RobertaConfig(**SIZES, **QUIET, max_position_embeddings=16),
    "distilbert": DistilBertConfig(
        20, 8, 3, 2, 12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=16
    ),
    "mpnet": MPNetConfig(**SIZES, **QUIET, max_position_embeddings=16),
    "modernbert": ModernBertConfig(**SIZES, local_attention=4),
}
DROPOUT = {
    "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "distilbert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "mpnet": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "modernbert": ("embedding_dropout", "attention_dropout", "mlp_dropout"),
}
HEAD = ClassifierConfig(("cat", "dog"), hidden=HiddenLayer("relu", norm=1e-5))
IDS = jnp.array([[0, 5, 6, 2, 1, 1, 1, 1], [0, 7, 8, 9, 3, 4, 11, 2]])
INPUTS = {"input_ids": IDS, "attention_mask": jnp.array([[1] * 4 + [0] * 4, [1] * 8])}


def concrete(config, head: ClassifierConfig | None = HEAD):
    return drawn(config.build(head))


def compiled(definition, start: int = 0, stop: int | None = None, training: frozenset[str] = frozenset()):
    @jax.jit
    def run(params, carry):
        model = definition.merge(params)
        return run_stages(model, carry, start, stop or len(model.all_stages()), KEY if training else None, training)

    return run


@pytest.mark.parametrize("family", TINY)
def test_stages_run_in_pieces_give_the_logits_of_the_model(family: str) -> None:
    definition, params = concrete(TINY[family])
    given = {**INPUTS, "position_ids": jnp.arange(8)[None] + 2}
    whole = compiled(definition)(params, given)["logits"]
    carry = compiled(definition, 0, 2)(params, given)
    assert "input_ids" not in carry and all(len(value) == 2 for value in carry.values())
    np.testing.assert_allclose(compiled(definition, 2)(params, carry)["logits"], whole, atol=1e-5)


@pytest.mark.parametrize("family", TINY)
def test_every_leaf_is_owned_by_exactly_one_stage(family: str) -> None:
    module = TINY[family].build(HEAD)
    check_ownership(module.all_stages(), trees.flatten(trees.define(module).params))
    paths = trees.flatten(trees.define(module).params)
    assert {
        "embed/word/embedding", "embed/norm/scale", "layers/2/attention/query/kernel", "layers/2/attention/norm/scale",
        "layers/2/mlp/up/kernel", "layers/2/mlp/down/kernel", "head/dense/kernel", "head/norm/scale", "head/kernel",
    } <= set(paths)  # fmt: skip
    assert ("layers/0/attention/norm/scale" in paths) == (family != "modernbert")


def test_a_layer_is_not_frozen_while_the_bias_that_it_borrows_trains() -> None:
    stages = TINY["mpnet"].build(HEAD).all_stages()
    assert [stage.borrows for stage in stages if stage.name.startswith("layers/")] == [("embed/relative",)] * 3
    assert frontier(stages, {"embed/relative/embedding"}) == 0
    assert frontier(stages, {"layers/1/attention/query/kernel"}) == 2


@pytest.mark.parametrize("family", TINY)
def test_a_rate_acts_only_in_training_and_in_the_stages_declared_random(family: str) -> None:
    shallow = replace(TINY[family], num_hidden_layers=1)
    definition, params = concrete(shallow)
    quiet = compiled(definition)(params, INPUTS)["logits"]
    for field in DROPOUT[family]:
        noisy = concrete(replace(shallow, **{field: 0.5}))[0]
        stages = noisy.module.backbone_stages()[:2]
        for stage in stages:
            moved = compiled(noisy, training=frozenset({stage.name}))(params, INPUTS)["logits"]
            assert stage.random == (not np.allclose(moved, quiet, atol=1e-6)), (field, stage.name)
        np.testing.assert_array_equal(compiled(noisy)(params, INPUTS)["logits"], quiet)


@pytest.mark.parametrize("family", TINY)
def test_bfloat16_is_close_to_float32(family: str) -> None:
    definition, params = concrete(TINY[family])
    plain = compiled(definition)(params, INPUTS)["pooled"]
    low = jax.jit(lambda params: definition.merge(params, compute=jnp.bfloat16)(INPUTS))(params)
    assert low["pooled"].dtype == low["logits"].dtype == jnp.bfloat16
    np.testing.assert_allclose(low["pooled"].astype(jnp.float32), plain, atol=0.15)


@pytest.mark.parametrize("family", TINY)
def test_tokens_in_the_padding_are_not_read(family: str) -> None:
    definition, params = concrete(TINY[family])
    run = compiled(definition)
    longer = {
        name: jnp.pad(value, ((0, 0), (0, 5)), constant_values=name == "input_ids") for name, value in INPUTS.items()
    }
    np.testing.assert_allclose(run(params, longer)["logits"], run(params, INPUTS)["logits"], atol=1e-5)


def test_positions_skip_padding_and_begin_where_the_reference_begins() -> None:
    ids = jnp.array([[7, 8, 9, 1, 1], [1, 1, 7, 8, 9], [7, 1, 8, 1, 9]])
    want = [[2, 3, 4, 1, 1], [1, 1, 2, 3, 4], [2, 1, 3, 1, 4]]
    np.testing.assert_array_equal(counted_positions(ids, 1, 10), want)
    with pytest.raises(TransferlabError, match="Texts of 5 tokens are too long: this model has 4 positions"):
        counted_positions(ids, 1, 4)


def test_distances_fall_into_the_right_buckets() -> None:
    buckets = distance_buckets(400)
    assert buckets[0, :9].tolist() == [0, 17, 18, 19, 20, 21, 22, 23, 24] and buckets[8, 0] == 8
    assert (np.diff(buckets[0, 1:]) >= 0).all() and buckets[0, -1] == 31 and buckets[-1, 0] == 15
    assert buckets[0, 90] < buckets[0, 128] == 31


def test_a_window_reaches_half_of_its_width() -> None:
    config = replace(TINY["modernbert"], num_hidden_layers=1, layer_types=("sliding_attention",))
    definition, params = concrete(config, None)
    run = compiled(definition)
    plain = run(params, {"input_ids": IDS})["hidden"]
    moved = run(params, {"input_ids": IDS.at[1, 7].set(13)})["hidden"]
    changed = np.abs(np.asarray(moved - plain)[1]).max(-1) > 1e-7
    assert changed.tolist() == [False] * 5 + [True] * 3  # local_attention 4: two to each side


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (RobertaConfig.base(), 124.6), (RobertaConfig.large(), 355.4), (RobertaConfig.xlm_base(), 278.0),
        (RobertaConfig.xlm_large(), 559.9), (DistilBertConfig.base(), 66.4), (MPNetConfig.base(), 109.5),
        (ModernBertConfig.base(), 149.0), (ModernBertConfig.large(), 394.8),
    ],
)  # fmt: skip
def test_a_named_size_has_the_number_of_parameters_published(config, millions: float) -> None:
    assert round(trees.count(trees.define(config.build()).params) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RobertaConfig(hidden_size=10, num_attention_heads=3), "hidden_size 10 is not a multiple"),
        (lambda: RobertaConfig(pad_token_id=-1), "pad_token_id is -1; it must be at least 0"),
        (lambda: RobertaConfig(max_position_embeddings=2), "max_position_embeddings 2 leaves no row"),
        (lambda: RobertaConfig(hidden_act="geluu"), "unknown hidden_act.*'gelu'"),
        (
            lambda: DistilBertConfig(hidden_size=10, num_attention_heads=3),
            "hidden_size 10 is not a multiple of num_attention_heads 3",
        ),
        (lambda: DistilBertConfig(num_hidden_layers=0), "num_hidden_layers is 0"),
        (lambda: MPNetConfig(relative_attention_num_buckets=16), "relative_attention_num_buckets is 16"),
        (lambda: ModernBertConfig(hidden_size=12, num_attention_heads=4), "hidden_size 12 is not an even multiple"),
        (lambda: ModernBertConfig(classifier_pooling="max"), "classifier_pooling 'max'"),
        (lambda: ModernBertConfig(layer_types=("full_attention",)), "layer_types has 1 entries"),
        (
            lambda: ModernBertConfig(num_hidden_layers=1, layer_types=("full",)),
            "layer_types: unknown 'full'.*full_attention",
        ),
    ],
)
def test_an_impossible_config_is_refused(make, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        make()
