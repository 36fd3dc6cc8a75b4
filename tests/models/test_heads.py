"""The classifier: what each way of pooling sees, and what cannot be pooled is said."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.methods import Probe
from transferlab.models import BertConfig
from transferlab.models.backbone import run_stages
from transferlab.models.efficientnet import EfficientNetConfig
from transferlab.models.heads import ClassifierConfig
from transferlab.train.setup import plan_for

CONFIG = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=16,
)  # fmt: skip
IDS = jnp.array([[2, 5, 6, 3, 0], [2, 7, 8, 9, 3]])
MASK = jnp.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])


def built(head: ClassifierConfig, config: BertConfig = CONFIG):
    definition = trees.define(config.build(head))
    rng = np.random.default_rng(0)
    flat = trees.flatten(definition.params)
    return definition.merge(
        trees.unflatten({p: jnp.asarray(rng.normal(0, 0.4, v.shape), jnp.float32) for p, v in flat.items()})
    )


def run(model, key=None, training=frozenset()):
    stages = model.all_stages()
    carry = run_stages(model, {"input_ids": IDS, "attention_mask": MASK}, 0, len(model.backbone_stages()))
    return carry, run_stages(model, carry, len(model.backbone_stages()), len(stages), key, training)


def test_each_pooling_reads_the_tokens_that_it_names() -> None:
    mask = np.asarray(MASK)[..., None]
    for pooling in ("mean", "first", "pooler"):
        model = built(ClassifierConfig(("a", "b", "c"), pooling=pooling))
        carry, out = run(model)
        hidden = np.asarray(carry["hidden"])
        want = {
            "mean": (hidden * mask).sum(1) / mask.sum(1),
            "first": hidden[:, 0],
            "pooler": np.asarray(carry["pooled"]),
        }[pooling]
        np.testing.assert_allclose(out["pooled"], want, atol=1e-6)
        head = model.head
        np.testing.assert_allclose(out["logits"], want @ head.kernel[...] + head.bias[...], atol=1e-5)
        assert out["logits"].shape == (2, 3)


def test_pooling_of_stages_concatenates_unit_vectors() -> None:
    model = built(ClassifierConfig(("a", "b"), pooling="stages"))
    _, out = run(model)
    pieces = np.asarray(out["pooled"]).reshape(2, 3, 8)  # the embeddings and both layers
    np.testing.assert_allclose(np.linalg.norm(pieces, axis=-1), 1.0, atol=1e-5)
    assert trees.flatten(trees.define(model).params)["head/kernel"].shape == (24, 2)


def test_normalize_makes_the_length_one() -> None:
    _, out = run(built(ClassifierConfig(("a", "b"), normalise=True)))
    np.testing.assert_allclose(np.linalg.norm(out["pooled"], axis=-1), 1.0, atol=1e-5)


def test_head_dropout_acts_only_where_the_head_trains() -> None:
    model = built(ClassifierConfig(("a", "b"), dropout=0.5))
    _, still = run(model)
    _, frozen = run(model, jax.random.key(0), frozenset())
    _, trained = run(model, jax.random.key(0), frozenset({"head"}))
    np.testing.assert_array_equal(still["logits"], frozen["logits"])
    assert np.abs(np.asarray(still["logits"] - trained["logits"])).max() > 1e-3


def test_a_new_head_does_not_start_at_zero() -> None:
    # From zeros a BERT trained from scratch stays at the majority rate.
    definition = trees.define(CONFIG.build(ClassifierConfig(("a", "b"))))
    drawn = definition.initialise(["head/kernel"], jax.random.key(0))["head/kernel"]
    assert 0.01 < float(jnp.std(drawn)) < 0.03


def test_a_pooling_that_the_model_lacks_is_one_error(source) -> None:
    images = replace(source, config=EfficientNetConfig.lite0())
    for pooling in ("first", "pooler"):
        with pytest.raises(TransferlabError, match=f"cannot pool by '{pooling}'.* It can pool by mean, stages"):
            plan_for(images, ("a", "b"), Probe(pooling=pooling))
