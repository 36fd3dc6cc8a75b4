"""T5's parts without transformers: sizes, stages, masks, dtype, training, bad configs."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.typed import found

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import ClassifierConfig, T5Config, frontier, run_stages, shift_right
from transferlab.models.backbone import check_ownership, training_stages
from transferlab.models.heads import Classifier

TINY = T5Config(
    vocab_size=40, d_model=12, d_kv=5, d_ff=16, num_layers=3, num_decoder_layers=2, num_heads=2,
    relative_attention_num_buckets=8, relative_attention_max_distance=16,
)  # fmt: skip
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def definition():
    return trees.define(TINY.build(TINY.language_model(tied=True)))


@pytest.fixture(scope="module")
def params(definition):
    return trees.unflatten(definition.initialise(trees.flatten(definition.params), jax.random.key(0)))


@pytest.fixture(scope="module")
def given():
    mask = np.ones((3, 9), np.int32)
    mask[1, 5:] = 0
    ids, target = RNG.integers(0, 40, (3, 9)), RNG.integers(0, 40, (3, 6))
    return {
        "input_ids": jnp.asarray(ids),
        "attention_mask": jnp.asarray(mask),
        "decoder_input_ids": jnp.asarray(target),
    }


@pytest.fixture(scope="module")
def logits(definition, params):
    """The whole model, compiled once for evaluation and once for training."""
    return jax.jit(lambda given, key=None: definition.merge(params)(given, key)["logits"])


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (T5Config.small(), 60_506_624),
        (T5Config.base(), 222_903_552),
        (T5Config.large(), 737_668_096),
        (T5Config.v1_1_small(), 76_961_152),
        (T5Config.v1_1_base(), 247_577_856),
        (T5Config.v1_1_large(), 783_150_080),
        (T5Config.v1_1_xl(), 2_849_757_184),
        (T5Config.v1_1_xxl(), 11_135_332_352),
    ],
)
def test_a_published_size_has_its_number_of_parameters(config: T5Config, parameters: int) -> None:
    head = config.language_model(tied=config.scale_decoder_outputs)
    assert trees.count(trees.define(config.build(head)).params) == parameters


@pytest.mark.parametrize("config", [TINY, TINY.v1_1(), TINY.encoder_only()])
def test_every_leaf_has_exactly_one_stage(config: T5Config) -> None:
    module = config.build(config.language_model(tied=False) if config.num_decoder_layers else None)
    check_ownership(module.all_stages(), trees.flatten(trees.define(module).params))


def test_stages_run_in_pieces_give_the_logits_of_the_model(definition, params, given, logits) -> None:
    model = definition.merge(params)

    def in_parts(inputs, cuts):
        carry, start = dict(inputs), 0
        for cut in (*cuts, len(model.all_stages())):
            carry, start = run_stages(model, carry, start, cut), cut
        return carry["logits"]

    parts = jax.jit(lambda inputs: in_parts(inputs, (1, 4, 5, 7)))(given)
    np.testing.assert_allclose(parts, logits(given), atol=1e-6)
    assert [stage.name for stage in model.all_stages()] == [
        "encoder/embed", "encoder/layers/0", "encoder/layers/1", "encoder/layers/2", "encoder/norm",
        "decoder/embed", "decoder/layers/0", "decoder/layers/1", "decoder/norm", "head",
    ]  # fmt: skip


def test_a_borrowed_table_that_trains_holds_the_frontier_before_it(definition) -> None:
    """The bias of all layers lives in the first, and the tied head reads the table of tokens."""
    stages = definition.module.all_stages()
    names = [stage.name for stage in stages]
    # What the decoder reads differs from what is read before it: the target enters there, and is never before the frontier.
    assert frontier(stages, {"decoder/layers/1/mlp/up/kernel"}) == names.index("decoder/embed")
    assert frontier(stages, {"encoder/layers/0/attention/relative/embedding"}) == 1
    alike = [s.name for s in stages if any(path.startswith("encoder/embed") for path in s.borrows)]
    assert alike == ["decoder/embed", "head"]
    assert [s.name for s in stages if s.borrows == ("encoder/layers/0/attention/relative",)] == names[2:4]
    assert training_stages(stages, {"decoder/norm/scale"}) == {"decoder/norm"}


def test_neither_a_masked_token_nor_a_later_target_is_seen(given, logits) -> None:
    whole = logits(given)
    other = given["input_ids"].at[1, 5:].set(7)
    np.testing.assert_allclose(logits({**given, "input_ids": other}), whole, atol=1e-6)
    target = given["decoder_input_ids"]
    target = target.at[:, 4:].set((target[:, 4:] + 1) % 40)
    changed = logits({**given, "decoder_input_ids": target})
    np.testing.assert_allclose(changed[:, :4], whole[:, :4], atol=1e-6)
    assert np.abs(np.asarray(changed[:, 4:] - whole[:, 4:])).max() > 1e-3


def test_training_draws_dropout_anew_for_each_key(given, logits) -> None:
    first, again, other = (logits(given, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.asarray(first - other)).max() > 1e-3


def test_bfloat16_stays_close_to_float32(definition, params, given, logits) -> None:
    want = logits(given)
    low = definition.merge(trees.cast(params, jnp.bfloat16), compute=jnp.bfloat16)
    got = jax.jit(lambda given: low(given)["logits"])(given)
    assert got.dtype == jnp.bfloat16
    assert np.abs(np.asarray(got, np.float32) - np.asarray(want)).max() < 0.05 * np.abs(np.asarray(want)).max()


def test_shifting_right_drops_the_last_label_and_the_ignored() -> None:
    labels = jnp.array([[5, 6, 7], [5, -100, -100]])
    config = replace(TINY, decoder_start_token_id=3, pad_token_id=1)
    np.testing.assert_array_equal(shift_right(labels, config), [[3, 5, 6], [3, 5, 1]])


def test_a_decoder_without_targets_or_under_a_head_for_labels_is_refused(definition, params, given) -> None:
    with pytest.raises(TransferlabError, match="needs 'decoder_input_ids'"):
        definition.merge(params)({"input_ids": given["input_ids"]})
    with pytest.raises(TransferlabError, match=r"(?s)use its encoder:.*source\.encoder\(\)"):
        TINY.build(ClassifierConfig(("a", "b")))
    model = TINY.encoder_only().build(ClassifierConfig(("a", "b"), pooling="stages"))
    assert isinstance(model.head, Classifier) and found(model.head.kernel).shape == (12 * 5, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "gated-gelo"}, "unknown feed_forward_proj.*'gated-gelu'"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"relative_attention_num_buckets": 7}, "relative_attention_num_buckets is 7"),
        ({"relative_attention_max_distance": 4}, "relative_attention_max_distance 4 is not above the 4"),
    ],
)
def test_an_impossible_config_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        replace(TINY, **changes)
