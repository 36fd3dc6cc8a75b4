"""The step: gradients in parts are those of the whole, and bfloat16 is where it is meant to be and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.checkpoints import write_bert

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.train import Optimizer, Settings
from transferlab.train.fit import prepare
from transferlab.transfer.groups import Group

QUICK = Settings(learning_rate=1e-2, steps=6, batch_size=8, log_every=1)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory):
    """A BERT without dropout, so that nothing but the arithmetic can differ."""
    folder = tmp_path_factory.mktemp("still") / "bert"
    return tl.load(write_bert(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


@dataclass(frozen=True)
class LastLayer(tl.methods.Full):
    """Trains from the middle on, so that a carry with tokens is cached."""

    def groups(self, stages) -> tuple[Group, ...]:
        return (Group("layers/1"), Group("head"))


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("method", [tl.methods.Full(), tl.methods.Probe()])
def test_gradients_in_parts_are_those_of_the_whole_batch(still, films, method, parts: int) -> None:
    # 13 examples in batches of 8: the second batch has 5 rows and 3 of padding, spread unevenly over its parts.
    data = films.subset(13, 0)
    whole, pieces = (
        tl.adapt(still, data, method=method, settings=replace(QUICK, accumulate=n)).fit() for n in (1, parts)
    )
    for one, other in zip(whole.history, pieces.history, strict=True):
        for name in ("loss", "accuracy", "gradient_norm"):
            assert one[name] == pytest.approx(other[name], rel=2e-4, abs=1e-5)
    np.testing.assert_allclose(whole.probabilities, pieces.probabilities, atol=2e-4)


def test_parts_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(TransferlabError, match="accumulate is 3; it must divide the batch size 8"):
        Settings(batch_size=8, accumulate=3)


@pytest.mark.parametrize("method", [tl.methods.Full(), tl.methods.LoRA(rank=2), LastLayer(), tl.methods.Probe()])
def test_bfloat16_is_computed_in_while_parameters_stay_float32(still, films, method) -> None:
    data = films.subset(24, 0)
    exact, coarse = (
        tl.adapt(still, data, method=method, settings=replace(QUICK, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    member, state = prepare(coarse, {})
    assert {leaf.dtype for leaf in jax.tree.leaves(state["params"])} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state["optimizer"])} <= {
        jnp.dtype(jnp.float32),
        jnp.dtype(jnp.int32),
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(member.frozen)} <= {jnp.dtype(jnp.bfloat16)}
    first, second = exact.fit(), coarse.fit()
    losses = [[row["loss"] for row in result.history] for result in (first, second)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[0], losses[1], atol=0.05)
    assert second.params is not None
    assert {leaf.dtype for leaf in trees.flatten(second.params).values()} == {jnp.dtype(jnp.float32)}
    if exact.decision.cached:
        assert coarse.decision.bytes_per_example < exact.decision.bytes_per_example


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_feature_stage_whose_name_is_a_path_reaches_the_head(still, films, monkeypatch, precision: str) -> None:
    """Features of every stage with a frontier in the middle: the carry holds the taps of the frozen stages."""
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    settings = replace(QUICK, precision=precision, learning_rate=0.3, optimizer=Optimizer("sgd"))
    data = films.subset(16, 0)
    runs = [
        tl.adapt(still, data, method=LastLayer(pooling="stages"), settings=replace(settings, cache_bytes=size))
        for size in (1 << 30, 0)
    ]
    assert [run.decision.cached for run in runs] == [True, False]
    cached, recomputed = (run.fit().probabilities for run in runs)
    np.testing.assert_allclose(cached, recomputed, atol=2e-5 if precision == "float32" else 2e-2)


def test_a_cached_bfloat16_carry_comes_back_as_bfloat16(still, films, tmp_path: Path, monkeypatch) -> None:
    from transferlab.transfer.cache import FrontierCache

    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    data = films.subset(16, 0)
    for method in (LastLayer(), tl.methods.Probe()):
        results, counts = [], []
        for _ in range(2):
            run = tl.adapt(still, data, method=method, settings=replace(QUICK, precision="bfloat16"))
            run.cache = FrontierCache(tmp_path)
            results.append(run.fit())
            counts.append(run.cache.computed)
        # The second process, as it were, read what the first had written.
        assert counts == [16 + len(data.test), 0]
        np.testing.assert_array_equal(results[0].probabilities, results[1].probabilities)


@pytest.mark.parametrize(
    "method",
    [tl.methods.Full(), tl.methods.Full(pooling="first"), tl.methods.LoRA(rank=2, dropout=0.2), LastLayer()],
)
def test_recomputed_activations_give_the_same_gradients(source, films, method) -> None:
    """Dropout is on: what is computed again must draw the same."""
    data, settings = films.subset(24, 0), replace(QUICK, optimizer=Optimizer("sgd"), learning_rate=0.1)
    kept, again = (
        tl.adapt(source, data, method=method, settings=replace(settings, remat=remat)).fit() for remat in (False, True)
    )
    for one, other in zip(kept.history, again.history, strict=True):
        for name in ("loss", "gradient_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-5)
    np.testing.assert_allclose(kept.probabilities, again.probabilities, atol=1e-5)


def test_recomputed_activations_leave_the_batch_statistics_the_same(tmp_path: Path) -> None:
    """The running statistics that a stage moves come out of it, whichever way its gradient is computed."""
    from PIL import Image

    from transferlab.models import EfficientNetConfig
    from transferlab.train.fit import prepare
    from transferlab.train.member import make_batch

    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    config = EfficientNetConfig(width=0.25, depth=0.2, image_size=32)
    source = tl.load(write_efficientnet(tmp_path / "weights.npz", config), config=config)
    data = tl.dataset(tmp_path, test_examples=8)
    after = []
    for remat in (False, True):
        run = tl.adapt(source, data, settings=replace(QUICK, remat=remat, optimizer=Optimizer("sgd")))
        member, state = prepare(run, {})
        before = jax.tree.map(np.array, state["stats"])
        batch = make_batch(member, run.order[0])
        state, metrics = run.program.step(state, member.frozen, batch, run.hparams())
        assert not np.allclose(jax.tree.leaves(before)[0], jax.tree.leaves(state["stats"])[0])
        after.append((state["stats"], state["params"], metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), after[0], after[1])


def write_efficientnet(path: Path, config) -> Path:
    from transferlab.pretrained.families.efficientnet import efficientnet_names

    definition = trees.define(config.build())
    shapes = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
    rng = np.random.default_rng(0)
    tensors = {}
    for name in efficientnet_names(config, "timm").names:
        if name.path in shapes:
            values = rng.normal(0, 0.2, shapes[name.path].shape).astype(np.float32)
            tensors[name.key] = name.layout.to_file(np.abs(values) + 0.5 if name.path.endswith("var") else values)
    np.savez(path, **tensors)
    return path


def test_the_moving_average_is_tested_kept_and_restored(source, films, tmp_path: Path) -> None:
    data = films.subset(24, 0)
    settings = replace(QUICK, steps=12, schedule="constant", warmup=0.0, learning_rate=3e-2)
    plain = tl.adapt(source, data, method=tl.methods.LoRA(rank=2), settings=settings).fit()
    run = tl.adapt(
        source, data, method=tl.methods.LoRA(rank=2), settings=replace(settings, ema=0.9), directory=tmp_path / "run"
    )
    averaged = run.fit()
    assert [row["loss"] for row in plain.history] == [row["loss"] for row in averaged.history]
    assert not np.allclose(plain.probabilities, averaged.probabilities)
    texts = [data.records[i]["text"] for i in data.test]
    np.testing.assert_allclose(tl.open_run(tmp_path / "run")(texts), averaged.probabilities, atol=2e-6)


def test_the_moving_average_follows_its_formula(source, films) -> None:
    from transferlab.train.fit import prepare
    from transferlab.train.member import make_batch

    run = tl.adapt(source, films.subset(24, 0), method=tl.methods.Probe(), settings=replace(QUICK, ema=0.5))
    member, state = prepare(run, {})
    want = np.array(state["params"]["head"]["kernel"])
    for step in range(4):
        batch = make_batch(member, run.order[step])
        state, _ = run.program.step(state, member.frozen, batch, run.hparams())
        kept = min(0.5, (1 + step) / (10 + step))
        want = kept * want + (1 - kept) * np.asarray(state["params"]["head"]["kernel"])
        np.testing.assert_allclose(state["ema"]["head"]["kernel"], want, rtol=1e-6)


@dataclass(frozen=True)
class TwoSchedules(tl.methods.Full):
    """The head falls on a cosine without warm-up, the last layer rises for half of the steps and stays."""

    def groups(self, stages) -> tuple[Group, ...]:
        return (
            Group("head", schedule="cosine", warmup=0.0),
            Group("layers/1", lr_scale=0.5, schedule="constant", warmup=0.5),
        )


def test_a_group_follows_its_own_schedule(source, films) -> None:
    """Plain gradient descent on a gradient of ones: an update is its learning rate."""
    settings = replace(QUICK, steps=8, warmup=0.25, optimizer=Optimizer("sgd", clip_norm=None), weight_decay=0.0)
    run = tl.adapt(source, films.subset(24, 0), method=TwoSchedules(), settings=settings)
    program = run.program
    rates = program._rates(jnp.float32(0.5), jnp.float32(1.0), jax.tree.map(jnp.asarray, run.hparams()))
    assert float(rates["head/kernel"]) == pytest.approx(1e-2 * 0.5 * (1 + np.cos(np.pi / 8)))
    assert float(rates["layers/1/mlp/up/kernel"]) == pytest.approx(1e-2 * 0.5 * 2 / 4)
    rows = {leaf.path: leaf.schedule for leaf in run.plan.leaves}
    assert rows["head/kernel"] == "cosine, warm-up 0"
    assert rows["layers/0/mlp/up/kernel"] == ""
    assert "0.5 (constant, warm-up 0.5)" in str(run.plan)


def test_batch_statistics_are_kept_in_float32() -> None:
    from transferlab.models.norms import BatchNorm

    definition = trees.define(BatchNorm(3, eps=1e-3, momentum=0.1))
    params = definition.initialise(["scale", "bias"], jax.random.key(0))
    model = definition.merge(params, definition.initialise(["mean", "var"], jax.random.key(0)), compute="bfloat16")
    out = model(jnp.ones((4, 3), jnp.bfloat16) * jnp.arange(4)[:, None], jax.random.key(0))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in trees.flatten(trees.state_of(model)).values()} == {jnp.dtype(jnp.float32)}
    with pytest.raises(TransferlabError, match=r"'scale' is \(3,\) float16; expected \(3,\) float32"):
        definition.merge({**params, "scale": params["scale"].astype(jnp.float16)}, {}, partial=True, compute="bfloat16")
