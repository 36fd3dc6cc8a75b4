"""EfficientNet: published sizes, stages that compose, batch statistics, and an evaluation written without JAX."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.modules import drawn_convnet

from transferlab import trees
from transferlab.models import ClassifierConfig, EfficientNetConfig, run_stages
from transferlab.models.backbone import check_ownership
from transferlab.pretrained.families.efficientnet import efficientnet_names

KEY = jax.random.key(0)
SMALL = EfficientNetConfig(width=0.25, depth=0.5, lite=True, image_size=32)


def concrete(config: EfficientNetConfig, head: ClassifierConfig | None = None, seed: int = 0):
    return drawn_convnet(config.build(head), seed)


def compiled(definition, start: int, stop: int | None = None, training: tuple[str, ...] = ()):
    """(params, state, carry) → (carry, batch statistics), as one program; stages named in ``training`` get a key."""

    @jax.jit
    def run(params, state, carry):
        model = definition.merge(params, state)
        names = [stage.name for stage in model.all_stages()]
        live = frozenset(names if training == ("all",) else training)
        out = run_stages(model, carry, start, stop or len(names), KEY if training else None, live)
        return out, trees.state_of(model)

    return run


def images(*shape: int, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("lite0", 4_652_008),
        ("lite1", 5_416_680),
        ("lite2", 6_092_072),
        ("lite3", 8_197_096),
        ("lite4", 13_006_568),
        ("b0", 5_288_548),
        ("b1", 7_794_184),
        ("b2", 9_109_994),
        ("b3", 12_233_232),
    ],
)
def test_a_named_size_has_the_published_number_of_parameters(size: str, parameters: int):
    config = getattr(EfficientNetConfig, size)()
    head = ClassifierConfig(tuple(str(i) for i in range(1000)))
    module = config.build(head)
    definition = trees.define(module)
    leaves = trees.flatten(definition.params) | trees.flatten(definition.state)
    assert trees.count(definition.params) == parameters
    check_ownership(module.all_stages(), leaves)
    # Both dialects of checkpoint names fill every leaf, none twice.
    for dialect in ("port", "timm"):
        names = efficientnet_names(config, dialect).names
        assert sorted(name.path for name in names) == sorted(leaves)
        assert len({name.key for name in names}) == len(names)


@pytest.mark.parametrize("pooling", ["mean", "stages"])
def test_stages_run_in_pieces_give_the_logits_of_the_model(pooling):
    definition, params, state = concrete(SMALL, ClassifierConfig(("cat", "dog"), pooling=pooling))
    x = images(2, 33, 40)
    whole = compiled(definition, 0)(params, state, {"pixel_values": x})[0]
    for cut in (1, 6, 13):
        carry = compiled(definition, 0, cut)(params, state, {"pixel_values": x})[0]
        assert "pixel_values" not in carry
        logits = compiled(definition, cut)(params, state, carry)[0]["logits"]
        np.testing.assert_allclose(logits, whole["logits"], atol=1e-5)


def test_a_frozen_backbone_drops_no_path_and_keeps_its_statistics():
    definition, params, state = concrete(replace(SMALL, drop_path=0.9), ClassifierConfig(("cat", "dog")))
    inputs = {"pixel_values": images(2, 32, 32), "weight": jnp.ones(2)}
    quiet, _ = compiled(definition, 0)(params, state, inputs)
    # The head trains, the backbone does not.
    trained, after = compiled(definition, 0, training=("head",))(params, state, inputs)
    np.testing.assert_array_equal(trained["logits"], quiet["logits"])
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_training_one_stage_leaves_the_statistics_of_another():
    definition, params, state = concrete(SMALL, ClassifierConfig(("cat", "dog")))
    inputs = {"pixel_values": images(4, 32, 32)}
    before, after = state, compiled(definition, 0, training=("top",))(params, state, inputs)[1]
    before, after = trees.flatten(before), trees.flatten(after)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {"top/norm/mean", "top/norm/var"}


def test_padding_rows_do_not_change_what_a_training_batch_computes():
    definition, params, state = concrete(replace(SMALL, drop_path=0.0), ClassifierConfig(("cat", "dog")))
    x = images(3, 32, 32)
    padded = jnp.concatenate([x, jnp.full((2, 32, 32, 3), 50.0)])
    train = compiled(definition, 0, training=("all",))
    want, want_state = train(params, state, {"pixel_values": x, "weight": jnp.ones(3)})
    weight = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0])
    got, got_state = train(params, state, {"pixel_values": padded, "weight": weight})
    np.testing.assert_allclose(got["logits"][:3], want["logits"], atol=1e-4)
    for path, leaf in trees.flatten(want_state).items():
        np.testing.assert_allclose(trees.flatten(got_state)[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)
        assert not np.array_equal(leaf, trees.flatten(state)[path]), f"{path} did not move"


def test_stochastic_depth_drops_its_rate_of_whole_examples():
    definition, params, state = concrete(replace(SMALL, drop_path=0.5))
    names = [stage.name for stage in definition.merge(params, state).all_stages()]
    number, rate = names.index("stages/5/1"), 0.5 * 8 / 10
    # Equal examples have equal branches, so that only the draw tells them apart.
    width = params["stages"]["5"]["1"]["expand"]["kernel"].shape[0]
    x = jnp.broadcast_to(images(1, 2, 2, seed=1)[..., :1], (3000, 2, 2, width))
    out, _ = compiled(definition, number, number + 1, ("stages/5/1",))(params, state, {"hidden": x})
    change = np.asarray(out["hidden"] - x)
    dropped = np.abs(change).max((1, 2, 3)) == 0.0
    assert abs(dropped.mean() - rate) < 0.03
    kept = change[~dropped]
    np.testing.assert_allclose(kept, np.broadcast_to(kept[:1], kept.shape), atol=1e-5)


@pytest.mark.parametrize("lite", [True, False])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_logits_equal_an_evaluation_in_plain_numpy(lite, padding):
    config = replace(SMALL, lite=lite, padding=padding)
    definition, params, state = concrete(config, ClassifierConfig(("cat", "dog", "cow")))
    x = images(2, 33, 50)
    got = compiled(definition, 0)(params, state, {"pixel_values": x})[0]["logits"]
    leaves = {p: np.asarray(v, np.float64) for p, v in {**trees.flatten(params), **trees.flatten(state)}.items()}
    want = in_numpy(leaves, np.asarray(x, np.float64), lite, padding)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def in_numpy(leaves: dict[str, np.ndarray], x: np.ndarray, lite: bool, padding: str) -> np.ndarray:
    """The network as loops over output pixels, in float64; strides are the published ones."""

    def convolve(x, kernel, stride):
        size, depthwise = kernel.shape[0], kernel.shape[2] == 1
        rows, columns, pads = [], [], []
        for length in x.shape[1:3]:
            if padding == "same":
                total = max((int(np.ceil(length / stride)) - 1) * stride + size - length, 0)
                pads.append((total // 2, total - total // 2))
            else:
                pads.append(((size - 1) // 2,) * 2)
        x = np.pad(x, ((0, 0), *pads, (0, 0)))
        rows, columns = ((length - size) // stride + 1 for length in x.shape[1:3])
        y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
        for r in range(rows):
            for c in range(columns):
                window = x[:, r * stride : r * stride + size, c * stride : c * stride + size]
                if depthwise:
                    y[:, r, c] = (window * kernel[:, :, 0]).sum((1, 2))
                else:
                    y[:, r, c] = np.tensordot(window, kernel, 3)
        return y

    def norm(x, path):
        scale, bias, mean, var = (leaves[f"{path}/{leaf}"] for leaf in ("scale", "bias", "mean", "var"))
        return (x - mean) / np.sqrt(var + 1e-3) * scale + bias

    def sigmoid(x):
        return 1.0 / (1.0 + np.exp(-x))

    def silu(x):
        return x * sigmoid(x)

    def activate(x):
        return np.clip(x, 0.0, 6.0) if lite else silu(x)

    x = activate(norm(convolve(x, leaves["stem/conv/kernel"], 2), "stem/norm"))
    for stage, first_stride in enumerate((1, 2, 2, 2, 1, 2, 1)):
        block = 0
        while f"stages/{stage}/{block}/project/kernel" in leaves:
            path, y = f"stages/{stage}/{block}", x
            if f"{path}/expand/kernel" in leaves:
                y = activate(norm(y @ leaves[f"{path}/expand/kernel"], f"{path}/expand_norm"))
            y = convolve(y, leaves[f"{path}/depthwise/kernel"], first_stride if block == 0 else 1)
            y = activate(norm(y, f"{path}/depthwise_norm"))
            if not lite:
                gate = y.mean((1, 2), keepdims=True)
                for part, after in (("reduce", silu), ("expand", sigmoid)):
                    here = f"{path}/squeeze_excite/{part}"
                    gate = after(gate @ leaves[f"{here}/kernel"] + leaves[f"{here}/bias"])
                y = y * gate
            y = norm(y @ leaves[f"{path}/project/kernel"], f"{path}/project_norm")
            x = x + y if x.shape == y.shape else y
            block += 1
    x = activate(norm(x @ leaves["top/conv/kernel"], "top/norm")).mean((1, 2))
    return x @ leaves["head/kernel"] + leaves["head/bias"]
