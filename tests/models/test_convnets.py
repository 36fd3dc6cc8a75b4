"""The convolutional families and Swin: sizes, stages that compose, ownership, bfloat16, training, configs that err."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.modules import drawn_convnet

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import (
    BitConfig,
    ClassifierConfig,
    ConvNeXtConfig,
    MobileNetV2Config,
    ResNetConfig,
    SwinConfig,
    run_stages,
)
from transferlab.models.backbone import check_ownership
from transferlab.models.convolutions import max_pool

KEY = jax.random.key(0)
TINY = {
    "resnet": ResNetConfig(embedding_size=4, hidden_sizes=(8, 12), depths=(2, 1), groups=2, width_per_group=32),
    "resnet basic": ResNetConfig(embedding_size=4, hidden_sizes=(4, 8), depths=(1, 2), layer_type="basic"),
    "mobilenet": MobileNetV2Config(0.1),
    "convnext": ConvNeXtConfig(hidden_sizes=(4, 6), depths=(1, 2), kernel_size=3, layer_scale_init_value=0.3),
    "convnext v2": ConvNeXtConfig(hidden_sizes=(4, 6), depths=(1, 2), kernel_size=3).v2(),
    "bit": BitConfig(embedding_size=8, hidden_sizes=(16, 32), depths=(1, 2), num_groups=4),
    "swin": SwinConfig(
        embed_dim=4, depths=(2, 1), num_heads=(1, 2), window_sizes=(3, 3), patch_size=2, drop_path=0.0, image_size=32
    ),
}
HEAD = ClassifierConfig(("cat", "dog"))


def concrete(config, head: ClassifierConfig | None = HEAD, seed: int = 0):
    return drawn_convnet(config.build(head), seed)


def compiled(definition, start: int = 0, stop: int | None = None, training: tuple[str, ...] = (), compute=None):
    """(params, state, carry) → (carry, batch statistics), as one program; stages named in ``training`` get a key."""

    @jax.jit
    def run(params, state, carry):
        model = definition.merge(params, state, compute=compute)
        names = [stage.name for stage in model.all_stages()]
        live = frozenset(names if training == ("all",) else training)
        out = run_stages(model, carry, start, stop or len(names), KEY if training else None, live)
        return out, trees.state_of(model)

    return run


def images(*shape: int, seed: int = 1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 3)), jnp.float32)


PUBLISHED = {
    (ResNetConfig, "resnet18"): 11_689_512, (ResNetConfig, "resnet34"): 21_797_672,
    (ResNetConfig, "resnet26"): 15_995_176, (ResNetConfig, "resnet50"): 25_557_032,
    (ResNetConfig, "resnet101"): 44_549_160, (ResNetConfig, "resnet152"): 60_192_808,
    (ResNetConfig, "wide_resnet50_2"): 68_883_240, (ResNetConfig, "wide_resnet101_2"): 126_886_696,
    (ResNetConfig, "resnext50_32x4d"): 25_028_904, (ResNetConfig, "resnext101_32x8d"): 88_791_336,
    (ResNetConfig, "resnext101_64x4d"): 83_455_272, (ResNetConfig, "resnext101_32x4d"): 44_177_704,
    (MobileNetV2Config, "w050"): 1_968_680, (MobileNetV2Config, "w100"): 3_504_872,
    (MobileNetV2Config, "w140"): 6_108_776,
    (ConvNeXtConfig, "atto"): 3_695_520, (ConvNeXtConfig, "femto"): 5_217_784, (ConvNeXtConfig, "pico"): 9_045_672,
    (ConvNeXtConfig, "nano"): 15_593_560, (ConvNeXtConfig, "tiny"): 28_589_128, (ConvNeXtConfig, "small"): 50_223_688,
    (ConvNeXtConfig, "base"): 88_591_464, (ConvNeXtConfig, "large"): 197_767_336,
    (ConvNeXtConfig, "xlarge"): 350_196_968,
    (BitConfig, "r50x1"): 25_549_352, (BitConfig, "r101x1"): 44_541_480,
    (SwinConfig, "tiny"): 28_288_354, (SwinConfig, "small"): 49_606_258, (SwinConfig, "base"): 87_768_224,
    (SwinConfig, "large"): 196_532_476,
}  # fmt: skip


@pytest.mark.parametrize(("family", "size"), PUBLISHED, ids=lambda value: getattr(value, "__name__", value))
def test_a_named_size_has_the_published_number_of_parameters(family: type, size: str) -> None:
    head = ClassifierConfig(tuple(str(i) for i in range(1000)))
    assert trees.count(trees.define(getattr(family, size)().build(head)).params) == PUBLISHED[family, size]


@pytest.mark.parametrize("name", TINY)
def test_every_leaf_is_owned_by_exactly_one_stage(name: str) -> None:
    module = TINY[name].build(HEAD)
    definition = trees.define(module)
    check_ownership(module.all_stages(), {**trees.flatten(definition.params), **trees.flatten(definition.state)})
    assert [stage.name for stage in module.all_stages()][:2] == ["stem", "stages/0/0"]


@pytest.mark.parametrize("name", TINY)
def test_stages_run_in_pieces_give_the_logits_of_the_model(name: str) -> None:
    definition, params, state = concrete(TINY[name], ClassifierConfig(("cat", "dog"), pooling="stages"))
    x = images(2, 37, 42)
    whole = compiled(definition)(params, state, {"pixel_values": x})[0]["logits"]
    assert whole.shape == (2, 2) and np.isfinite(whole).all()
    for cut in (2, len(definition.module.backbone_stages())):
        carry = compiled(definition, 0, cut)(params, state, {"pixel_values": x, "weight": jnp.ones(2)})[0]
        assert "pixel_values" not in carry and "weight" in carry
        logits = compiled(definition, cut)(params, state, carry)[0]["logits"]
        np.testing.assert_allclose(logits, whole, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in TINY if name != "mobilenet"])
def test_bfloat16_is_close_to_float32_and_leaks_no_other_dtype(name: str) -> None:
    definition, params, state = concrete(TINY[name])
    x = images(4, 32, 32)
    want = compiled(definition)(params, state, {"pixel_values": x})[0]
    half = compiled(definition, compute=jnp.bfloat16)(params, state, {"pixel_values": x.astype(jnp.bfloat16)})[0]
    assert half["logits"].dtype == jnp.bfloat16
    error = np.abs(np.asarray(half["logits"], np.float32) - want["logits"]).max()
    assert error < 0.05 * max(1.0, float(np.abs(want["logits"]).max()))


@pytest.mark.parametrize("name", TINY)
def test_training_is_evaluation_with_noise_and_moving_statistics(name: str) -> None:
    definition, params, state = concrete(replace(TINY[name], drop_path=0.5))
    inputs = {"pixel_values": images(8, 32, 32), "weight": jnp.ones(8)}
    quiet, same = compiled(definition)(params, state, inputs)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    frozen, same = compiled(definition, training=("head",))(params, state, inputs)
    np.testing.assert_array_equal(frozen["logits"], quiet["logits"])
    jax.tree.map(np.testing.assert_array_equal, same, state)
    noisy, after = compiled(definition, training=("all",))(params, state, inputs)
    assert not np.allclose(noisy["logits"], quiet["logits"], atol=1e-5)
    for path, leaf in trees.flatten(after).items():
        assert not np.array_equal(leaf, trees.flatten(state)[path]), path
    says = {stage.name for stage in definition.module.backbone_stages() if stage.random}
    stages = [stage.name for stage in definition.module.backbone_stages() if stage.name.startswith("stages/")]
    # The rate rises from 0 at the first block.
    assert says == set(stages[1:])


@pytest.mark.parametrize("name", ["resnet", "resnet basic"])
def test_padding_rows_do_not_change_what_a_training_batch_computes(name: str) -> None:
    # At torch's eps a norm over the last map's few pixels makes much of rounding.
    definition, params, state = concrete(replace(TINY[name], eps=1e-2))
    x = images(3, 64, 64)
    padded = jnp.concatenate([x, jnp.full((2, 64, 64, 3), 50.0)])
    train = compiled(definition, training=("all",))
    want, want_state = train(params, state, {"pixel_values": x, "weight": jnp.ones(3)})
    weight = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0])
    got, got_state = train(params, state, {"pixel_values": padded, "weight": weight})
    np.testing.assert_allclose(got["logits"][:3], want["logits"], atol=1e-3)
    for path, leaf in trees.flatten(want_state).items():
        np.testing.assert_allclose(trees.flatten(got_state)[path], leaf, rtol=1e-3, atol=1e-4, err_msg=path)


def test_max_pool_does_not_pad_with_a_zero() -> None:
    x = -1.0 - jnp.arange(2.0 * 5 * 4 * 3).reshape(2, 5, 4, 3)
    got, wide = max_pool(x), np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    assert got.shape == (2, 3, 2, 3)
    for r in range(3):
        for c in range(2):
            np.testing.assert_array_equal(got[:, r, c], wide[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((1, 2)))


def test_a_shifted_window_does_not_see_the_other_side_of_the_image() -> None:
    """The shift brings the first rows next to the last ones; they must not attend to each other."""
    config = replace(TINY["swin"], depths=(2, 1), window_sizes=(4, 4))
    definition, params, state = concrete(config)
    run = compiled(definition, 2, 3)  # the second block of the first stage
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16, 16, 4)), jnp.float32)
    want = run(params, state, {"hidden": x})[0]["hidden"]
    changed = run(params, state, {"hidden": x.at[:, 0].multiply(jnp.arange(1.0, 5.0))})[0]["hidden"]
    moved = np.abs(np.asarray(changed - want)).max((0, 2, 3)) > 1e-6
    # Half a window of two rows: rows 0 and 1 are in a window with the last two, but attend only to each other.
    assert moved.tolist() == [True, True] + [False] * 14


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNetConfig(depths=(2, 2)), "depths .* and hidden_sizes .* differ in length"),
        (lambda: ResNetConfig(depths=(0, 1, 1, 1)), r"depths\[0\] is 0; it must be at least 1"),
        (lambda: ResNetConfig(layer_type="basik"), "layer_type 'basik'"),
        (lambda: replace(ResNetConfig.resnet18(), groups=2), "layer_type 'basic' needs groups 1"),
        (lambda: ResNetConfig(hidden_act="relux"), "unknown hidden_act.*'relu'"),
        (lambda: MobileNetV2Config(0.0), "depth_multiplier is 0.0"),
        (lambda: MobileNetV2Config(padding="valid"), "padding 'valid'"),
        (lambda: ConvNeXtConfig(depths=(1,)), "depths .* and hidden_sizes .* differ in length"),
        (lambda: ConvNeXtConfig(kernel_size=4), "kernel_size 4 is not odd"),
        (lambda: ConvNeXtConfig(hidden_act="geluu"), "unknown hidden_act.*'gelu'"),
        (lambda: BitConfig(num_groups=7), "num_groups 7 does not divide 64 channels"),
        (lambda: BitConfig(depths=(1,)), "depths .* and hidden_sizes .* differ in length"),
        (lambda: SwinConfig(num_heads=(1, 2)), "num_heads .* and depths .* differ in length"),
        (lambda: SwinConfig(num_heads=(5, 5, 5, 5)), "num_heads .* do not divide the widths"),
        (lambda: SwinConfig(window_sizes=(0, 7, 7, 7)), r"window_sizes\[0\] is 0; it must be at least 1"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(make, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        make()
