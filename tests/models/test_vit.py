"""ViT: stages that compose, positions that only their tokens get, and an evaluation written without JAX."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from support.modules import drawn

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import ClassifierConfig, ViTConfig, run_stages
from transferlab.models.backbone import check_ownership
from transferlab.models.heads import Pooling

KEY = jax.random.key(0)
TINY = ViTConfig(
    hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=10, image_size=17, patch_size=5
)
VARIANTS = {
    "plain": TINY,
    "no qkv bias": replace(TINY, qkv_bias=False),
    "registers, layer scale": replace(TINY, registers=2, layer_scale=0.3),
    "registers with positions": replace(TINY, registers=2, position_slots=3),
    "distilled": TINY.distilled(),
    "swiglu": replace(TINY, swiglu=True, layer_scale=0.3),
    "no token": replace(TINY, class_token=False, position_slots=0, pooling="mean"),
    "norm after the mean": replace(TINY, norm_pooled=True, pooling="mean"),
    "hidden before the norm": replace(TINY, norm_hidden=False),
}
HEAD = ClassifierConfig(("cat", "dog"))


def concrete(config: ViTConfig, head: ClassifierConfig | None = None):
    return drawn(config.build(head))


def images(size: int = 17, batch: int = 2):
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, size, size, 3)), jnp.float32)


def compiled(definition, start: int = 0, stop: int | None = None, training: frozenset[str] = frozenset()):
    @jax.jit
    def run(params, carry):
        model = definition.merge(params)
        return run_stages(model, carry, start, stop or len(model.all_stages()), KEY if training else None, training)

    return run


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_hidden_state_is_that_of_an_evaluation_in_plain_numpy(variant: str) -> None:
    config = VARIANTS[variant]
    definition, params = concrete(config, HEAD)
    got = compiled(definition)(params, {"pixel_values": images()})
    leaves = {p: np.asarray(v, np.float64) for p, v in trees.flatten(params).items()}
    want = in_numpy(config, leaves, np.asarray(images(), np.float64))
    stop = len(definition.module.backbone_stages())
    carry = compiled(definition, 0, stop)(params, {"pixel_values": images()})
    np.testing.assert_allclose(carry["hidden"], want[0], atol=2e-4)
    np.testing.assert_allclose(got["logits"], want[1], atol=2e-4)


def in_numpy(config: ViTConfig, leaves: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states and logits over the patches' mean, with loops over patches and heads, in float64."""

    def norm(x, path):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * leaves[f"{path}/scale"] + leaves[f"{path}/bias"]

    def linear(x, path):
        return x @ leaves[f"{path}/kernel"] + leaves.get(f"{path}/bias", 0.0)

    def silu(x):
        return x / (1 + np.exp(-x))

    side, grid = config.patch_size, config.image_size // config.patch_size
    patches = [
        np.tensordot(x[:, r * side : (r + 1) * side, c * side : (c + 1) * side], leaves["embed/patch/kernel"], 3)
        for r in range(grid)
        for c in range(grid)
    ]
    tokens = [leaves[f"embed/{t}"] for t in ("class_token", "distillation_token") if f"embed/{t}" in leaves]
    tokens += list(leaves.get("embed/registers", ()))
    hidden = np.stack([np.tile(t, (len(x), 1)) for t in tokens] + [p + leaves["embed/patch/bias"] for p in patches], 1)
    position, slots = leaves["embed/position"], config.position_slots
    hidden[:, :slots] += position[:slots]
    hidden[:, len(tokens) :] += position[slots:]
    for i in range(config.num_hidden_layers):
        here, width = f"layers/{i}", config.hidden_size // config.num_attention_heads
        y = norm(hidden, f"{here}/attention/norm")
        q, k, v = (linear(y, f"{here}/attention/{part}") for part in ("query", "key", "value"))
        mixed = np.zeros_like(y)
        for head in range(config.num_attention_heads):
            cut = slice(head * width, (head + 1) * width)
            scores = q[..., cut] @ k[..., cut].transpose(0, 2, 1) / np.sqrt(width)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[..., cut] = weights / weights.sum(-1, keepdims=True) @ v[..., cut]
        gain = leaves.get(f"{here}/attention/layer_scale", 1.0)
        hidden = hidden + gain * linear(mixed, f"{here}/attention/output")
        y = norm(hidden, f"{here}/mlp/norm")
        up = linear(y, f"{here}/mlp/up")
        up = silu(linear(y, f"{here}/mlp/gate")) * up if config.swiglu else up * 0.5 * (1 + erf(up / np.sqrt(2)))
        hidden = hidden + leaves.get(f"{here}/mlp/layer_scale", 1.0) * linear(up, f"{here}/mlp/down")
    if config.norm_pooled:
        pooled = norm(hidden[:, len(tokens) :].mean(1), "norm")
    else:
        normal = norm(hidden, "norm")
        pooled = normal[:, len(tokens) :].mean(1)
        hidden = normal if config.norm_hidden else hidden
    return hidden, linear(pooled, "head")


@pytest.mark.parametrize("pooling", ["mean", "first", "first and mean", "pooler", "stages"])
def test_stages_run_in_pieces_give_the_logits_of_the_model(pooling: Pooling) -> None:
    definition, params = concrete(replace(TINY, pooler=True), ClassifierConfig(("cat", "dog"), pooling=pooling))
    whole = compiled(definition)(params, {"pixel_values": images()})["logits"]
    for cut in (1, 3, 5):
        carry = compiled(definition, 0, cut)(params, {"pixel_values": images(), "weight": jnp.ones(2)})
        assert "pixel_values" not in carry and "weight" in carry
        np.testing.assert_allclose(compiled(definition, cut)(params, carry)["logits"], whole, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_leaf_is_owned_by_exactly_one_stage(variant: str) -> None:
    module = replace(VARIANTS[variant], pooler=VARIANTS[variant].pooling == "first").build(HEAD)
    check_ownership(module.all_stages(), trees.flatten(trees.define(module).params))
    assert [stage.name for stage in module.all_stages()][:5] == ["embed", "layers/0", "layers/1", "layers/2", "norm"]


def test_paths_are_those_of_the_other_families() -> None:
    paths = set(trees.flatten(trees.define(replace(TINY, registers=1, layer_scale=1.0).build(HEAD)).params))
    assert {
        "embed/patch/kernel", "embed/class_token", "embed/position", "embed/registers", "layers/2/attention/norm/scale",
        "layers/2/attention/query/kernel", "layers/2/attention/layer_scale", "layers/2/mlp/up/kernel",
        "layers/2/mlp/norm/bias", "norm/scale", "head/kernel",
    } <= paths  # fmt: skip


@pytest.mark.parametrize(
    ("field", "noisy"),
    [
        ("hidden_dropout_prob", {"embed", "layers/0", "layers/1", "layers/2"}),
        ("attention_probs_dropout_prob", {"layers/0", "layers/1", "layers/2"}),
        ("drop_path", {"layers/1", "layers/2"}),
    ],
)
def test_a_rate_acts_in_training_alone_and_in_the_stages_that_say_they_are_random(field: str, noisy: set[str]) -> None:
    definition, params = concrete(replace(TINY, **{field: 0.5}), HEAD)
    inputs = {"pixel_values": images(batch=8)}
    quiet = compiled(concrete(TINY, HEAD)[0])(params, inputs)["logits"]
    np.testing.assert_array_equal(compiled(definition)(params, inputs)["logits"], quiet)
    for stage in definition.module.backbone_stages():
        moved = compiled(definition, training=frozenset({stage.name}))(params, inputs)["logits"]
        assert (stage.name in noisy) == stage.random == (not np.allclose(moved, quiet, atol=1e-6)), stage.name


def test_pixels_beyond_the_last_whole_patch_are_not_seen() -> None:
    definition, params = concrete(TINY)
    x = images()
    want = compiled(definition)(params, {"pixel_values": x})["hidden"]
    np.testing.assert_array_equal(compiled(definition)(params, {"pixel_values": x.at[:, 15:].set(9.0)})["hidden"], want)
    assert not np.allclose(compiled(definition)(params, {"pixel_values": x.at[:, 14].set(9.0)})["hidden"], want)


def test_images_of_another_size_are_refused() -> None:
    definition, params = concrete(TINY)
    with pytest.raises(TransferlabError, match=r"20 × 20 pixels do not fit: this model reads 17 × 17"):
        definition.merge(params)({"pixel_values": images(20)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 13}, "hidden_size 13 is no multiple of num_attention_heads 2"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"image_size": 4}, "image_size 4 is smaller than one patch"),
        ({"hidden_act": "geluu"}, "unknown hidden_act.*'gelu'"),
        ({"position_slots": 2}, "position_slots is 2; there are 1"),
        ({"class_token": False, "position_slots": 0}, "pooling 'first' is not possible here.*'mean'|Choose from"),
        ({"norm_pooled": True}, "pooling 'first' is not possible"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("ti16", 5_717_416), ("s16", 22_050_664), ("b16", 86_567_656), ("b32", 88_224_232), ("l16", 304_326_632),
        ("h14", 632_045_800),
    ],
)  # fmt: skip
def test_a_named_size_has_the_published_number_of_parameters(size: str, parameters: int) -> None:
    head = ClassifierConfig(tuple(str(i) for i in range(1000)), pooling="first")
    assert trees.count(trees.define(getattr(ViTConfig, size)().build(head)).params) == parameters


def test_twelve_layers_come_back_in_order() -> None:
    """String keys sort 10 and 11 before 2."""
    definition, params = concrete(replace(TINY, num_hidden_layers=12))
    shuffled = trees.unflatten(dict(sorted(trees.flatten(params).items())))
    inputs = {"pixel_values": images()}
    want = compiled(definition)(params, inputs)["hidden"]
    np.testing.assert_array_equal(compiled(definition)(shuffled, inputs)["hidden"], want)
