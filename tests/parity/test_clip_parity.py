"""CLIP and SigLIP against the origins, transformers', timm's and open_clip's own models, on weights that they wrote."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_bert_parity import randomised
from test_vit_parity import channels_first, close, pixels

import transferlab as tl
from transferlab import trees
from transferlab.pretrained.clip import clip_names
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

VISION = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 30, "image_size": 23,
          "patch_size": 5}  # fmt: skip
TEXT = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 18, "vocab_size": 50,
        "max_position_embeddings": 11, "eos_token_id": 49, "bos_token_id": 48}  # fmt: skip
DEEP = {**VISION, "num_hidden_layers": 12, "hidden_size": 12}
PAIRS = {
    "CLIP, eos by its id": ("CLIP", DEEP, TEXT, {"projection_dim": 14}),
    "CLIP, eos by the highest id": ("CLIP", VISION, {**TEXT, "num_hidden_layers": 12, "eos_token_id": 2}, {"projection_dim": 9}),
    "CLIP, erf gelu, another eps": ("CLIP", {**VISION, "hidden_act": "gelu", "layer_norm_eps": 1e-4},
                                    {**TEXT, "hidden_act": "gelu", "layer_norm_eps": 1e-6}, {"projection_dim": 5}),
    "SigLIP": ("Siglip", VISION, {**TEXT, "hidden_size": 20, "num_attention_heads": 2}, {}),
    "SigLIP, deep": ("Siglip", DEEP, {**TEXT, "hidden_size": 6, "num_attention_heads": 1, "projection_size": 12,
                                      "num_hidden_layers": 12}, {}),
}  # fmt: skip


def made(name: str, folder: Path):
    kind, vision, text, rest = PAIRS[name]
    config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=text, **rest)
    model = randomised(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(folder)
    return model


def ids(length: int = 11, seed: int = 0) -> np.ndarray:
    """Texts between 48 and 49, of several lengths, padded with the end token, and one padded with 1."""
    rng = np.random.default_rng(seed)
    rows = np.full((4, length), 49, np.int64)
    for row, n in enumerate((length, 7, 2, 5)):
        rows[row, :n] = [48, *rng.integers(3, 48, n - 2), 49]
    rows[3, 5:] = 1
    return rows


def asked(model, **given):
    with torch.no_grad():
        return model(**given)


@pytest.mark.parametrize("name", PAIRS)
def test_embeddings_and_logits_of_a_pair_equal_the_origin(name: str, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    source, images, texts = tl.load(tmp_path), pixels(23), ids()
    want = asked(model, pixel_values=channels_first(images), input_ids=torch.tensor(texts))
    got = source({"pixel_values": images, "input_ids": texts})
    close(got["image_embedding"], want.image_embeds, atol=1e-5)
    close(got["text_embedding"], want.text_embeds, atol=1e-5)
    close(got["logits"], want.logits_per_image)
    close(got["text/hidden"], want.text_model_output.last_hidden_state)


@pytest.mark.parametrize("name", PAIRS)
def test_a_tower_alone_equals_the_origins_tower(name: str, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    vision, text = (tl.load(tmp_path, tower=tower) for tower in ("vision", "text"))
    images, texts, siglip = pixels(23), ids(), name.startswith("SigLIP")
    want, got = asked(model.vision_model, pixel_values=channels_first(images)), vision({"pixel_values": images})
    # CLIP's origin returns the hidden states before its last norm, which acts on the pooled token alone.
    hidden = want.last_hidden_state if siglip else model.vision_model.post_layernorm(want.last_hidden_state)
    close(got["hidden"], hidden)
    close(got["pooled"], want.pooler_output)
    want, got = asked(model.text_model, input_ids=torch.tensor(texts)), text({"input_ids": texts})
    close(got["hidden"], want.last_hidden_state)
    close(got["embedding" if siglip else "pooled"], want.pooler_output)


@pytest.mark.parametrize("name", ["CLIP, eos by its id", "SigLIP"])
@pytest.mark.parametrize("length", [4, 11])
def test_padding_that_is_masked_is_seen(name: str, length: int, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    texts = ids(length=11)[:, :length] if length == 11 else np.array([[48, 9, 49, 1], [48, 49, 1, 1], [1, 48, 7, 49]])
    mask = np.ones_like(texts)
    mask[1, 2:] = 0
    mask[2, :1] = 0  # on the left
    want = asked(model.text_model, input_ids=torch.tensor(texts), attention_mask=torch.tensor(mask)).last_hidden_state
    got = tl.load(tmp_path, tower="text")({"input_ids": texts, "attention_mask": mask})
    seen = mask.astype(bool)
    np.testing.assert_allclose(np.asarray(got["hidden"])[seen], want.numpy()[seen], atol=1e-4, rtol=0)


ALONE = {
    "CLIPVisionModel": ("CLIPVisionConfig", VISION),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {**VISION, "projection_dim": 7}),
    "CLIPTextModel": ("CLIPTextConfig", TEXT),
    "CLIPTextModelWithProjection": ("CLIPTextConfig", {**TEXT, "projection_dim": 7}),
    "SiglipVisionModel": ("SiglipVisionConfig", VISION),
    "SiglipTextModel": ("SiglipTextConfig", TEXT),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_directory_of_one_tower_equals_the_origin(name: str, tmp_path: Path) -> None:
    config, sizes = ALONE[name]
    model = randomised(getattr(transformers, name)(getattr(transformers, config)(**sizes)))
    model.save_pretrained(tmp_path)
    source = tl.load(tmp_path)
    if "Vision" in name:
        given = pixels(23)
        want, got = asked(model, pixel_values=channels_first(given)), source({"pixel_values": given})
        key, embeds = "pooled", "image_embeds"
    else:
        given = ids()
        want, got = asked(model, input_ids=torch.tensor(given)), source({"input_ids": given})
        key, embeds = "embedding" if "Siglip" in name else "pooled", "text_embeds"
    if "Projection" in name:
        close(got["embedding"], getattr(want, embeds))
    else:
        close(got[key], want.pooler_output)
        assert ("embedding" in got) == (name == "SiglipTextModel")


@pytest.mark.parametrize("name", ["CLIP, eos by its id", "SigLIP"])
def test_gradients_of_every_parameter_of_both_towers_equal_the_origin(name: str, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    source, images, texts = tl.load(tmp_path), pixels(23), ids()
    model(pixel_values=channels_first(images), input_ids=torch.tensor(texts)).logits_per_image.square().sum().backward()
    params = trees.unflatten({p: jnp.asarray(leaf.read()) for p, leaf in source.leaves.items()})

    def loss(params):
        out = source.definition.merge(params)({"pixel_values": jnp.asarray(images), "input_ids": jnp.asarray(texts)})
        return jnp.square(out["logits"]).sum()

    grads = trees.flatten(jax.jit(jax.grad(loss))(params))
    theirs = {key: p.grad.numpy() for key, p in model.named_parameters()}
    for path, leaf in source.leaves.items():
        want = leaf.layout.to_tree(theirs[leaf.key])
        bound = 1e-4 * max(1.0, np.abs(want).max())
        np.testing.assert_allclose(grads[path], want, atol=bound, rtol=0, err_msg=path)


@pytest.mark.parametrize("name", ["CLIP, eos by the highest id", "SigLIP"])
def test_what_is_written_from_here_is_not_what_the_origin_reads(name: str, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    source = tl.load(tmp_path)
    rng = np.random.default_rng(5)
    leaves = {p: rng.normal(0, 0.2, leaf.shape).astype(np.float32) for p, leaf in source.leaves.items()}
    tensors = to_file(clip_names(source.config)[0], leaves)
    if name.startswith("CLIP"):
        tensors["logit_scale"] = tensors["logit_scale"].reshape(())
    save_file(tensors, str(tmp_path / "model.safetensors"), {"format": "pt"})
    again, said = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"] and not said["mismatched_keys"]
    images, texts = pixels(23), ids()
    want = asked(again.eval(), pixel_values=channels_first(images), input_ids=torch.tensor(texts))
    got = tl.load(tmp_path)({"pixel_values": images, "input_ids": texts})
    close(got["logits"], want.logits_per_image)


@pytest.mark.parametrize("name", ["CLIP, erf gelu, another eps", "SigLIP"])
@pytest.mark.parametrize("size", [15, 38])
def test_another_image_size_equals_the_origins_interpolation(name: str, size: int, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    images, texts = pixels(size), ids()
    want = asked(
        model, pixel_values=channels_first(images), input_ids=torch.tensor(texts), interpolate_pos_encoding=True
    )
    got = tl.load(tmp_path).resized(size)({"pixel_values": images, "input_ids": texts})
    close(got["image_embedding"], want.image_embeds, atol=1e-5)
    alone = tl.load(tmp_path).resized(size).tower("vision")({"pixel_values": images})
    other = tl.load(tmp_path, tower="vision").resized(size)({"pixel_values": images})
    np.testing.assert_array_equal(alone["pooled"], other["pooled"])


# ---------------------------------------------------------------------------------------------------------------
# preprocessing


@pytest.mark.parametrize("kind", ["CLIPImageProcessorPil", "CLIPImageProcessor", "SiglipImageProcessorPil"])
def test_pixels_equal_the_origins_processor(kind: str, tmp_path: Path) -> None:
    if not hasattr(transformers, kind):
        pytest.skip(f"this transformers has no {kind}")
    side = {"size": {"height": 30, "width": 30}} if kind.startswith("Siglip") else {
        "size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}}  # fmt: skip
    try:
        processor = getattr(transformers, kind)(**side)
    except ImportError as error:
        pytest.skip(str(error))
    made("SigLIP" if kind.startswith("Siglip") else "CLIP, eos by its id", tmp_path)
    processor.save_pretrained(tmp_path)
    transform = tl.load(tmp_path, tower="vision").transform
    for shape in ((47, 61), (80, 41), (31, 200), (12, 19)):
        picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
        want = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(transform(picture), want, atol=1e-5, rtol=0)
