"""Our own models are run as anyone's: whole, by stages, with activations computed again, in a loop of one's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.modules import drawn

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import BertConfig, ClassifierConfig
from transferlab.models.network import Network
from transferlab.models.nnx_network import NnxNetwork

CONFIG = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=8, pooler=False,
)  # fmt: skip
INPUTS = {
    "input_ids": jnp.asarray([[1, 5, 6, 2], [1, 7, 2, 0]]),
    "attention_mask": jnp.asarray([[1] * 4, [1, 1, 1, 0]]),
}


@pytest.fixture(scope="module")
def network() -> tuple[NnxNetwork, trees.Tree]:
    definition, params = drawn(CONFIG.build(ClassifierConfig(("a", "b", "c"), pooling="first")))
    return NnxNetwork(definition), params


def test_our_own_models_run_from_any_stage_to_any_other(network) -> None:
    model, params = network
    checked: Network = model  # pyright holds it to the protocol
    assert isinstance(checked, Network) and checked.divisible
    assert [stage.name for stage in model.stages] == ["embed", "layers/0", "layers/1", "pool", "head"]
    whole, _ = model.run(params, {}, INPUTS)
    np.testing.assert_allclose(whole["logits"], model.definition.merge(params)(INPUTS)["logits"], atol=1e-6)
    for cut in (1, 2, 3, 4):
        middle, _ = model.run(params, {}, INPUTS, stop=cut)
        # Leaves of stages that ran already are not needed.
        rest = {path: leaf for path, leaf in trees.walk(params) if not path.startswith("embed/")}
        out, _ = model.run(trees.unflatten(rest), {}, middle, start=cut)
        np.testing.assert_allclose(out["logits"], whole["logits"], atol=1e-5)
    with pytest.raises(TransferlabError, match=r"'embed/word/embedding' .* is missing"):
        model.run(trees.unflatten(rest), {}, INPUTS)


def test_a_loop_of_ones_own_trains_our_own_models(network) -> None:
    model, params = network
    step = tl.train_step(model, tl.tasks.Classification(), "depth >= -1 | head", optax.sgd(0.1))
    assert {path.split("/")[0] for path in step.trainable} == {"layers", "head"}  # pool and head have no depth
    state, frozen = step.init(params)
    batch = {"inputs": INPUTS, "targets": {"label": jnp.asarray([0, 2])}}
    losses = []
    update = jax.jit(step)
    for _ in range(3):
        state, metrics = update(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    assert losses[2] < losses[0] and "layers/0/mlp/up/kernel" not in trees.flatten(state["params"])
