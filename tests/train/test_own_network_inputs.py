"""Networks of somebody else's modules on texts and images, and their features without a run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import transferlab as tl
from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError
from transferlab.train import Settings
from transferlab.transfer.cache import FrontierCache

QUICK = Settings(learning_rate=1e-2, steps=4, batch_size=8)


class Words(nnx.Module):
    """Reads ids alone: it knows no mask."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(400, 8, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = self.embed(ids)
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


STAGES = (
    tl.stage("embed", lambda m, x: m.embed(x)),
    tl.stage("layers/*", lambda m, x, i: jnp.tanh(m.layers[i](x))),
)


class Pixels(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return linen.relu(linen.BatchNorm(not train)(linen.Conv(4, (3, 3))(x)))


NETWORK = tl.network(lambda rngs: Words(rngs), "ids", STAGES, output="hidden")


@pytest.fixture
def words(source):
    return tl.from_tree(NETWORK, nnx.state(Words(nnx.Rngs(0))), transform=source.transform)


def by_hand(source, text: str) -> np.ndarray:
    return np.asarray(Words(nnx.Rngs(0))(jnp.asarray([source.transform(text).ids]))[0])


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_texts_are_pooled_over_their_own_tokens(words, films, pooling, monkeypatch) -> None:
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    run = tl.adapt(words, films.subset(12, 0), method=tl.methods.Probe(pooling=pooling), settings=QUICK)
    run.cache = FrontierCache()
    predictor, texts = run.fit(quiet=True).predictor, ["a film", "a much longer text about a film"]
    head = predictor.params["head"]
    for row, text in zip(predictor(texts), texts, strict=True):
        hidden = by_hand(words, text)
        pooled = hidden.mean(0) if pooling == "mean" else hidden[-1]
        np.testing.assert_allclose(row, jax.nn.softmax(pooled @ head["kernel"] + head["bias"]), atol=1e-5)


def test_a_frontier_with_tokens_is_the_same_cached_and_recomputed(words, films, monkeypatch) -> None:
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    results = []
    for limit in (1 << 30, 0):
        settings = Settings(learning_rate=1e-2, steps=4, batch_size=8, cache_bytes=limit)
        run = tl.adapt(words, films.subset(12, 0), method=tl.methods.LastLayers(1), settings=settings)
        run.cache = FrontierCache()
        assert run.decision.cached == bool(limit) and run.decision.has_sequences == bool(limit)
        results.append(run.fit(quiet=True).probabilities)
    np.testing.assert_allclose(*results, atol=1e-5)


def test_features_of_ones_own_network_need_no_run(words, films) -> None:
    data, cache = films.subset(12, 0), FrontierCache()
    features = tl.extract_features(words, data, ["embed", "layers/*"], cache=cache)
    tokens = tl.extract_features(words, data, "layers/1", pool=None, cache=cache)["layers/1"]
    assert list(features) == ["embed", "layers/0", "layers/1"] and isinstance(tokens, Ragged)
    row, text = int(features.train[0]), data.records[int(data.train[0])]["text"]
    np.testing.assert_allclose(tokens[row], by_hand(words, text), atol=1e-6)
    np.testing.assert_allclose(features["layers/1"][row], by_hand(words, text).mean(0), atol=1e-6)


def test_a_linen_network_of_images_is_one_stage_and_its_statistics_move_where_it_trains() -> None:
    variables: Any = Pixels().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    network = tl.linen_network(Pixels(), jnp.zeros((1, 8, 8, 3)), "pixels", output="hidden", training="train")
    transform = tl.data.ImageTransform(8, (0.5,), (0.5,))
    source = tl.from_tree(network, variables["params"], variables["batch_stats"], transform=transform)
    data = tl.dataset("digits", examples=20, test_examples=20)
    plans = {m.name: tl.adapt(source, data, method=m).plan for m in (tl.methods.Full(), tl.methods.Probe())}
    assert [leaf.trains for plan in plans.values() for leaf in plan.leaves if leaf.kind == "state"] == [True] * 2 + [
        False
    ] * 2
    result = tl.adapt(source, data, method=tl.methods.Full(), settings=QUICK).fit(quiet=True)
    before, after = variables["batch_stats"]["BatchNorm_0"], result.predictor.state["BatchNorm_0"]
    assert not np.array_equal(before["mean"], after["mean"])
    with pytest.raises(TransferlabError, match=r"'network' .*is no stage|no stage of its backbone"):
        tl.extract_features(source, data, "layers/0")
