"""Two towers: each a chain of stages of its own, both together one chain; and an evaluation written without JAX."""

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
from transferlab.models import ClassifierConfig, ClipConfig, TextTowerConfig, ViTConfig, run_stages
from transferlab.models.backbone import check_ownership
from transferlab.models.heads import Pooling

KEY = jax.random.key(0)
VISION = ViTConfig(
    hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=10, image_size=16, patch_size=5
)
TEXT = TextTowerConfig(
    vocab_size=30, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=14,
    max_position_embeddings=9, hidden_act="gelu", eos_token_id=7, projection_dim=6,
)  # fmt: skip
CLIP = ClipConfig(replace(VISION, pre_norm=True, patch_bias=False, projection_dim=6, hidden_act="quick_gelu"), TEXT)
SIGLIP = ClipConfig(
    replace(VISION, class_token=False, position_slots=0, pooler=True, pooler_kind="attention", pooling="pooler"),
    replace(TEXT, causal=False, pooled_token="last", projection_dim=12, projection_bias=True),
    logit_bias=-10.0,
)
PAIRS = {"CLIP": CLIP, "SigLIP": SIGLIP}
IDS = np.array([[1, 5, 9, 7, 7, 0], [1, 7, 0, 0, 0, 29], [1, 2, 3, 4, 5, 7]])


def concrete(config, head: ClassifierConfig | None = None):
    return drawn(config.build() if head is None else config.build(head))


def given(size: int = 16) -> dict[str, jax.Array]:
    pixels = np.random.default_rng(1).normal(size=(2, size, size, 3))
    return {"pixel_values": jnp.asarray(pixels, jnp.float32), "input_ids": jnp.asarray(IDS)}


def compiled(definition, start: int = 0, stop: int | None = None, compute=None):
    @jax.jit
    def run(params, carry):
        model = definition.merge(params, compute=compute)
        return run_stages(model, carry, start, stop or len(model.all_stages()))

    return run


@pytest.mark.parametrize("pair", PAIRS)
def test_every_leaf_is_owned_by_exactly_one_stage(pair: str) -> None:
    module = PAIRS[pair].build()
    check_ownership(module.all_stages(), trees.flatten(trees.define(module).params))
    names = [stage.name for stage in module.all_stages()]
    assert names[:3] == ["vision/embed", "vision/layers/0", "vision/layers/1"]
    assert names[names.index("text/embed") - 1] == ("vision/projection" if pair == "CLIP" else "vision/pooler")
    assert names[-2:] == ["text/projection", "similarity"]
    for tower in module.towers().values():
        check_ownership(tower.all_stages(), trees.flatten(trees.define(tower).params))


@pytest.mark.parametrize("pair", PAIRS)
def test_both_towers_in_pieces_give_the_logits_of_the_model(pair: str) -> None:
    definition, params = concrete(PAIRS[pair])
    whole = compiled(definition)(params, given())
    assert whole["logits"].shape == (2, 3)
    for cut in (2, 6):
        carry = compiled(definition, 0, cut)(params, {**given(), "weight": jnp.ones(2)})
        assert "pixel_values" not in carry and "weight" in carry
        np.testing.assert_allclose(compiled(definition, cut)(params, carry)["logits"], whole["logits"], atol=1e-5)
    for name, inputs in (("vision", "pixel_values"), ("text", "input_ids")):
        alone = trees.define(getattr(PAIRS[pair], name).build())
        out = compiled(alone)(params[name], {inputs: given()[inputs]})
        np.testing.assert_allclose(out["hidden"], whole[f"{name}/hidden"], atol=1e-5)


@pytest.mark.parametrize("pair", PAIRS)
def test_logits_are_those_of_an_evaluation_in_plain_numpy(pair: str) -> None:
    definition, params = concrete(PAIRS[pair])
    got = compiled(definition)(params, given())
    leaves = {p: np.asarray(v, np.float64) for p, v in trees.flatten(params).items()}
    want = in_numpy(PAIRS[pair], leaves, np.asarray(got["vision/hidden"], np.float64))
    np.testing.assert_allclose(got["text_embedding"], want[0], atol=1e-4)
    np.testing.assert_allclose(got["logits"], want[1], atol=1e-3)


def in_numpy(config: ClipConfig, leaves: dict[str, np.ndarray], image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Text embeddings and logits, with a loop over texts, heads and positions; the image's hidden states are given."""

    def norm(x, path, eps):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + eps) * leaves[f"{path}/scale"] + leaves[f"{path}/bias"]

    def linear(x, path):
        return x @ leaves[f"{path}/kernel"] + leaves.get(f"{path}/bias", 0.0)

    def softmax(x):
        powers = np.exp(x - x.max())
        return powers / powers.sum()

    def gelu(x):
        return x * 0.5 * (1 + erf(x / np.sqrt(2)))

    text, embeddings = config.text, []
    width = text.hidden_size // text.num_attention_heads
    for ids in IDS:
        x = leaves["text/embed/word/embedding"][ids] + leaves["text/embed/position/embedding"][: len(ids)]
        for i in range(text.num_hidden_layers):
            here = f"text/layers/{i}"
            y = norm(x, f"{here}/attention/norm", 1e-5)
            q, k, v = (linear(y, f"{here}/attention/{part}") for part in ("query", "key", "value"))
            mixed = np.zeros_like(y)
            for head in range(text.num_attention_heads):
                cut = slice(head * width, (head + 1) * width)
                for t in range(len(ids)):
                    seen = t + 1 if text.causal else len(ids)
                    mixed[t, cut] = softmax(k[:seen, cut] @ q[t, cut] / np.sqrt(width)) @ v[:seen, cut]
            x = x + linear(mixed, f"{here}/attention/output")
            x = x + linear(gelu(linear(norm(x, f"{here}/mlp/norm", 1e-5), f"{here}/mlp/up")), f"{here}/mlp/down")
        x = norm(x, "text/norm", 1e-5)
        pooled = x[len(ids) - 1] if text.pooled_token == "last" else x[list(ids).index(7)]
        embeddings.append(linear(pooled, "text/projection"))
    vectors = []
    for tokens in image:
        if config.vision.class_token:
            vectors.append(linear(tokens[0], "vision/projection"))
            continue
        here, wide, q = "vision/pooler", config.vision.hidden_size // 2, []
        q, k, v = (
            linear(x, f"{here}/attention/{part}")
            for x, part in ((leaves[f"{here}/probe"], "query"), (tokens, "key"), (tokens, "value"))
        )
        mixed = np.concatenate(
            [softmax(k[:, c] @ q[c] / np.sqrt(wide)) @ v[:, c] for c in (slice(wide), slice(wide, 12))]
        )
        y = linear(mixed, f"{here}/attention/output")
        vectors.append(
            y + linear(gelu(linear(norm(y, f"{here}/mlp/norm", 1e-6), f"{here}/mlp/up")), f"{here}/mlp/down")
        )
    images, texts = (np.stack(x) / np.linalg.norm(np.stack(x), axis=1, keepdims=True) for x in (vectors, embeddings))
    return texts, np.exp(leaves["logit_scale"]) * images @ texts.T + leaves.get("logit_bias", 0.0)


@pytest.mark.parametrize(
    ("rule", "positions"), [("end", [3, 1, 5]), ("highest", [2, 5, 5]), ("last", [5, 5, 5])]
)  # fmt: skip
def test_the_configured_token_represents_the_text(rule: str, positions: list[int]) -> None:
    definition, params = concrete(replace(TEXT, pooled_token=rule))
    out = compiled(definition)(params, {"input_ids": jnp.asarray(IDS)})
    for row, position in enumerate(positions):
        np.testing.assert_array_equal(out["pooled"][row], out["hidden"][row, position])


def test_a_causal_token_does_not_see_what_comes_after_it() -> None:
    definition, params = concrete(TEXT)
    want = compiled(definition)(params, {"input_ids": jnp.asarray(IDS)})["hidden"]
    changed = jnp.asarray(IDS).at[:, 4:].set(11)
    got = compiled(definition)(params, {"input_ids": changed})["hidden"]
    np.testing.assert_array_equal(got[:, :4], want[:, :4])
    assert not np.allclose(got[:, 4:], want[:, 4:])


@pytest.mark.parametrize("pooling", ["pooler", "mean", "embedding", "stages"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_head_on_a_tower_gets_features_of_its_width(pair: str, pooling: Pooling) -> None:
    head = ClassifierConfig(("cat", "dog"), pooling=pooling)
    for config, inputs in ((PAIRS[pair].vision, "pixel_values"), (PAIRS[pair].text, "input_ids")):
        if pooling not in config.build().poolings:
            assert config is PAIRS[pair].vision and pooling in ("pooler", "embedding")
            continue
        definition, params = concrete(config, head)
        check_ownership(definition.module.all_stages(), trees.flatten(definition.params))
        out = compiled(definition)(params, {inputs: given()[inputs]})
        assert out["logits"].shape == (len(given()[inputs]), 2)


@pytest.mark.parametrize("pair", PAIRS)
def test_bfloat16_is_close_to_float32(pair: str) -> None:
    definition, params = concrete(PAIRS[pair])
    inputs = given()
    want = compiled(definition)(params, inputs)
    low = {**inputs, "pixel_values": inputs["pixel_values"].astype(jnp.bfloat16)}
    got = compiled(definition, compute=jnp.bfloat16)(params, low)
    assert got["text/hidden"].dtype == got["vision/hidden"].dtype == jnp.bfloat16
    assert got["logits"].dtype == jnp.float32
    np.testing.assert_allclose(got["text_embedding"], want["text_embedding"], atol=0.05)


def test_dropout_acts_with_a_key_and_not_without() -> None:
    definition, params = concrete(replace(TEXT, attention_dropout=0.5))
    inputs = {"input_ids": jnp.asarray(IDS)}
    run = jax.jit(lambda params, key: definition.merge(params)(inputs, key)["hidden"])
    quiet = compiled(concrete(TEXT)[0])(params, inputs)["hidden"]
    np.testing.assert_array_equal(compiled(definition)(params, inputs)["hidden"], quiet)
    assert not np.allclose(run(params, KEY), quiet, atol=1e-4)
    random = {stage.name for stage in definition.module.all_stages() if stage.random}
    assert random == {"layers/0", "layers/1", "layers/2"}


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("b32", 151_277_313), ("b16", 149_620_737), ("l14", 427_616_513), ("l14_336", 427_944_193),
        ("siglip_b16", 203_155_970), ("siglip_so400m14", 877_960_498),
    ],
)  # fmt: skip
def test_a_named_size_has_the_published_number_of_parameters(size: str, parameters: int) -> None:
    assert trees.count(trees.define(getattr(ClipConfig, size)().build()).params) == parameters


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: replace(TEXT, hidden_size=9), "hidden_size 9 is not a multiple of num_attention_heads 2"),
        (lambda: replace(TEXT, vocab_size=0), "vocab_size is 0"),
        (lambda: replace(TEXT, hidden_act="geluu"), "unknown hidden_act.*'gelu'"),
        (lambda: replace(CLIP, text=replace(TEXT, projection_dim=5)), "images are embedded in 6 dimensions and texts in 5"),
        (lambda: CLIP.build(ClassifierConfig(("a", "b"))), "takes no classifier"),
        (lambda: replace(VISION, pooler=True, class_token=False, position_slots=0, pooling="mean"), "'tanh' needs the class"),
        (lambda: replace(VISION, pooling="embedding"), "pooling 'embedding' is not possible"),
    ],
)  # fmt: skip
def test_sizes_that_contradict_each_other_are_refused(build, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        build()


def test_a_text_longer_than_the_positions_is_refused() -> None:
    definition, params = concrete(TEXT)
    with pytest.raises(TransferlabError, match="Texts of 10 tokens are too long: this model has 9 positions"):
        definition.merge(params)({"input_ids": jnp.ones((1, 10), jnp.int32)})
