"""CLIP and SigLIP against transformers', timm's and open_clip's own models, on weights that they wrote."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from support.comparison import compare
from support.optional_imports import import_open_clip, import_timm
from support.typed import as_image, as_text
from test_bert_parity import randomised
from test_vit_parity import channels_first, pixels

import transferlab as tl
from transferlab import trees
from transferlab.pretrained.families.clip import clip_names
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


def near(name: str, form: str = "transformers"):
    """``compare`` with the family that a case's name begins with."""
    return partial(compare, family="SigLIP" if name.lower().startswith("siglip") else "CLIP", form=form, tolerance=1e-5)


def asked(model, **given):
    with torch.no_grad():
        return model(**given)


@pytest.mark.parametrize("name", PAIRS)
def test_embeddings_and_logits_of_a_pair_equal_transformers(name: str, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    source, images, texts = tl.load(tmp_path), pixels(23), ids()
    want = asked(model, pixel_values=channels_first(images), input_ids=torch.tensor(texts))
    got = source({"pixel_values": images, "input_ids": texts})
    near(name)(got["image_embedding"], want.image_embeds, what="embedding")
    near(name)(got["text_embedding"], want.text_embeds, what="embedding")
    near(name)(got["logits"], want.logits_per_image)
    near(name)(got["text/hidden"], want.text_model_output.last_hidden_state, what="hidden")


@pytest.mark.parametrize("name", PAIRS)
def test_a_tower_alone_equals_transformers_tower(name: str, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    vision, text = (tl.load(tmp_path, tower=tower) for tower in ("vision", "text"))
    images, texts, siglip = pixels(23), ids(), name.startswith("SigLIP")
    want, got = asked(model.vision_model, pixel_values=channels_first(images)), vision({"pixel_values": images})
    near(name)(got["hidden"], want.last_hidden_state, what="hidden")
    near(name)(got["pooled"], want.pooler_output, what="pooled")
    want, got = asked(model.text_model, input_ids=torch.tensor(texts)), text({"input_ids": texts})
    near(name)(got["hidden"], want.last_hidden_state, what="hidden")
    near(name)(got["embedding" if siglip else "pooled"], want.pooler_output, what="embedding" if siglip else "pooled")


@pytest.mark.parametrize("name", ["CLIP, eos by its id", "SigLIP"])
@pytest.mark.parametrize("length", [4, 11])
def test_padding_that_is_masked_is_not_seen(name: str, length: int, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    texts = ids(length=11)[:, :length] if length == 11 else np.array([[48, 9, 49, 1], [48, 49, 1, 1], [1, 48, 7, 49]])
    mask = np.ones_like(texts)
    mask[1, 2:] = 0
    mask[2, :1] = 0  # on the left
    want = asked(model.text_model, input_ids=torch.tensor(texts), attention_mask=torch.tensor(mask)).last_hidden_state
    got = tl.load(tmp_path, tower="text")({"input_ids": texts, "attention_mask": mask})
    seen = mask.astype(bool)
    near(name)(np.asarray(got["hidden"])[seen], want[seen], what="hidden")


ALONE = {
    "CLIPVisionModel": ("CLIPVisionConfig", VISION),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {**VISION, "projection_dim": 7}),
    "CLIPTextModel": ("CLIPTextConfig", TEXT),
    "CLIPTextModelWithProjection": ("CLIPTextConfig", {**TEXT, "projection_dim": 7}),
    "SiglipVisionModel": ("SiglipVisionConfig", VISION),
    "SiglipTextModel": ("SiglipTextConfig", TEXT),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_directory_of_one_tower_equals_transformers(name: str, tmp_path: Path) -> None:
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
        near(name)(got["embedding"], getattr(want, embeds), what="embedding")
    else:
        near(name)(got[key], want.pooler_output, what=key)
        assert ("embedding" in got) == (name == "SiglipTextModel")


@pytest.mark.parametrize("name", ["CLIP, eos by its id", "SigLIP"])
def test_gradients_of_every_parameter_of_both_towers_equal_transformers(name: str, tmp_path: Path) -> None:
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
        near(name)(grads[path], want, what="gradients", tolerance=1e-4, where=path)


@pytest.mark.parametrize("name", ["CLIP, eos by the highest id", "SigLIP"])
def test_a_pair_written_here_is_the_same_model_to_transformers(name: str, tmp_path: Path) -> None:
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
    near(name)(want.logits_per_image, got["logits"], way="written")


@pytest.mark.parametrize("name", ["CLIP, erf gelu, another eps", "SigLIP"])
@pytest.mark.parametrize("size", [15, 38])
def test_another_image_size_equals_transformers_interpolation(name: str, size: int, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    images, texts = pixels(size), ids()
    want = asked(
        model, pixel_values=channels_first(images), input_ids=torch.tensor(texts), interpolate_pos_encoding=True
    )
    got = tl.load(tmp_path).resized(size)({"pixel_values": images, "input_ids": texts})
    near(name)(got["image_embedding"], want.image_embeds, what="embedding")
    alone = tl.load(tmp_path).resized(size).tower("vision")({"pixel_values": images})
    other = tl.load(tmp_path, tower="vision").resized(size)({"pixel_values": images})
    np.testing.assert_array_equal(alone["pooled"], other["pooled"])


# ---------------------------------------------------------------------------------------------------------------
# preprocessing


@pytest.mark.parametrize("kind", ["CLIPImageProcessorPil", "CLIPImageProcessor", "SiglipImageProcessorPil"])
def test_pixels_equal_transformers_processor(kind: str, tmp_path: Path) -> None:
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
        image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
        want = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        near(kind)(as_image(transform)(image), want, what="input", tolerance=4e-6)


# ---------------------------------------------------------------------------------------------------------------
# tokenizers

WORDS = ["a", "photo", "of", "cat", "dog", "it", "don", "t", "s"]


def write_clip_tokenizer(folder: Path) -> None:
    """CLIP's kind of vocabulary at a small size: bytes, bytes at a word's end, and some merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in ("photo", "cat", "dog", "of"):
        left = word[0]
        for i, letter in enumerate(word[1:], 2):
            right = f"{letter}</w>" if i == len(word) else letter
            merges.append((left, right))
            left += right
            tokens.append(left)
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), "utf-8")


TEXTS = [
    "a photo of a cat",
    "A  Photo\nof a DOG!!",
    "",
    "don't it's they'll",
    "Café 漢字 123 💚",
    "cat " * 90,
    "naïve—ﬁ",
]


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json and merges.txt"])
def test_tokens_equal_those_of_transformers(form: str, tmp_path: Path) -> None:
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=VISION,
            text_config={**TEXT, "vocab_size": 600, "max_position_embeddings": 77, "eos_token_id": 2},
            projection_dim=6,
        )
    )
    randomised(model).save_pretrained(tmp_path)
    write_clip_tokenizer(tmp_path)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path, model_max_length=77)
    theirs.save_pretrained(tmp_path)
    for file in ("vocab.json", "merges.txt") if form == "tokenizer.json" else ("tokenizer.json",):
        (tmp_path / file).unlink(missing_ok=True)
    if form != "tokenizer.json":
        write_clip_tokenizer(tmp_path)
    source = tl.load(tmp_path, tower="text")
    encoded = as_text(source.transform).encode(TEXTS)
    wanted = theirs(TEXTS, truncation=True, max_length=77)["input_ids"]
    assert [list(one.ids) for one in encoded] == wanted
    assert [one.cut > 0 for one in encoded] == [False] * 5 + [True, False]
    padded = theirs(TEXTS, truncation=True, padding="max_length", max_length=77, return_tensors="pt")
    ours = as_text(source.transform).pad(encoded, 77, len(TEXTS))
    np.testing.assert_array_equal(ours["input_ids"], padded["input_ids"].numpy())
    want = asked(model.text_model, **padded).pooler_output
    near("CLIP")(source(ours)["pooled"], want, what="pooled")
    # Padding to a shorter length changes nothing: no token sees what comes after it.
    short = as_text(source.transform).pad(encoded[:3], 16, 3)
    near("CLIP")(source(short)["pooled"], want[:3], what="pooled")


def test_a_siglip_text_is_padded_to_the_whole_length(tmp_path: Path) -> None:
    """It is read at the last position, and its padding is seen."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=11,
        model_input_names=["input_ids"],
    )  # fmt: skip
    model = made("SigLIP", tmp_path)
    theirs.save_pretrained(tmp_path)
    source = tl.load(tmp_path, tower="text")
    texts = ["a photo of a cat", "", "dog " * 30]
    padded = theirs(texts, truncation=True, padding="max_length", max_length=11, return_tensors="pt")
    encoded = as_text(source.transform).encode(texts)
    ours = as_text(source.transform).pad(encoded, as_text(source.transform).bucket(len(encoded[0].ids)), 3)
    np.testing.assert_array_equal(ours["input_ids"], padded["input_ids"].numpy())
    assert [one.cut > 0 for one in encoded] == [False, False, True]
    want = asked(model.text_model, input_ids=padded["input_ids"]).pooler_output
    near("SigLIP")(source(ours)["embedding"], want, what="embedding")


# ---------------------------------------------------------------------------------------------------------------
# timm


@pytest.fixture(scope="session")
def timm():
    return import_timm()


TIMM = {
    "SigLIP": ("vit_base_patch16_siglip_224", {"img_size": 48, "embed_dim": 48, "depth": 12, "num_heads": 3}),
    "SigLIP 2, tanh": ("vit_so400m_patch16_siglip_256", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "SigLIP, mean": ("vit_base_patch16_siglip_gap_224", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "CLIP": ("vit_base_patch32_clip_224", {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "CLIP, quick": ("vit_large_patch14_clip_quickgelu_224", {"img_size": 28, "embed_dim": 48, "depth": 2, "num_heads": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("labels", [0, 5])
def test_features_and_logits_of_a_timm_tower_equal_timms(name: str, labels: int, timm, tmp_path: Path) -> None:
    architecture, arguments = TIMM[name]
    model = randomised(timm.create_model(architecture, num_classes=labels, **arguments))
    timm.models.save_for_hf(model, tmp_path, model_args=arguments, safe_serialization=True)
    source, given = tl.load(tmp_path), pixels(arguments["img_size"])
    got = source({"pixel_values": given})
    features = model.forward_features(channels_first(given))
    near(name, "timm")(got["hidden"], features, what="hidden")
    near(name, "timm")(got["pooled"], model.forward_head(features, pre_logits=True), what="pooled")
    if labels:
        near(name, "timm")(got["logits"], model(channels_first(given)))


# ---------------------------------------------------------------------------------------------------------------
# open_clip

PLAIN = {
    "embed_dim": 10,
    "vision_cfg": {"image_size": 23, "layers": 12, "width": 24, "head_width": 8, "patch_size": 5, "mlp_ratio": 2.0},
    "text_cfg": {"context_length": 11, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2},
}
SIGLIP = {
    "embed_dim": 1152, "init_logit_bias": -10, "custom_text": True,
    "vision_cfg": {"image_size": 224, "timm_model_name": "vit_so400m_patch14_siglip_224", "timm_model_pretrained": False,
                   "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {"context_length": 11, "vocab_size": 50, "width": 24, "heads": 3, "layers": 2, "no_causal_mask": True,
                 "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
                 "act_kwargs": {"approximate": "tanh"}},
}  # fmt: skip
OPEN_CLIPS = {
    "erf gelu": PLAIN,
    "quick gelu": {**PLAIN, "quick_gelu": True},
    "text tower next to it": {
        **PLAIN,
        "custom_text": True,
        "text_cfg": {**PLAIN["text_cfg"], "pool_type": "eos", "eos_id": 49},
    },
    "SigLIP": SIGLIP,
}


@pytest.fixture(scope="session")
def open_clip():
    import_timm()
    return import_open_clip()


@pytest.mark.parametrize("name", OPEN_CLIPS)
def test_embeddings_and_logits_equal_open_clips(name: str, open_clip, monkeypatch, tmp_path: Path) -> None:
    config = OPEN_CLIPS[name]
    cut: dict = {}
    if name == "SigLIP":
        # The published sizes are all large: two layers of them are enough.
        timm = import_timm()
        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **{**given, "depth": 2}))
        from transferlab.pretrained.families import vit_timm

        cut = {"so400m": (1152, 2, 16)}
        monkeypatch.setattr(vit_timm, "_SIZES", vit_timm._SIZES | cut)
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = randomised(kind(**{k: v for k, v in config.items() if k != "custom_text"}))
    save_for_hf = sys.modules["open_clip.push_to_hf_hub"].save_config_for_hf
    model.visual.image_mean, model.visual.image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    save_for_hf(model, tmp_path / "open_clip_config.json", config)
    tensors = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    save_file(tensors, str(tmp_path / "open_clip_model.safetensors"))
    source, texts = tl.load(tmp_path), ids()
    images = pixels(source.config.vision.image_size)
    with torch.no_grad():
        image = model.encode_image(channels_first(images), normalize=True)
        text = model.encode_text(torch.tensor(texts), normalize=True)
        logits = model.logit_scale.exp() * image @ text.T
        logits = logits if model.logit_bias is None else logits + model.logit_bias
    got = source({"pixel_values": images, "input_ids": texts})
    near(name, "open_clip")(got["image_embedding"], image, what="embedding")
    near(name, "open_clip")(got["text_embedding"], text, what="embedding")
    near(name, "open_clip")(got["logits"], logits, tolerance=8e-6)
    assert as_image(source.tower("vision").transform).mean == (0.1, 0.2, 0.3)
    again = max((to_file(t, {p: leaf.read() for p, leaf in source.leaves.items()}) for t in clip_names(source.config)
                 if {n.key for n in t.names} >= tensors.keys()), key=len)  # fmt: skip
    assert again.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key].reshape(tensor.shape), tensor, err_msg=key)


def test_open_clips_weights_written_for_transformers_give_the_same_logits(open_clip, tmp_path: Path) -> None:
    model = randomised(open_clip.CLIP(**OPEN_CLIPS["quick gelu"]))
    model.visual.image_mean, model.visual.image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    (tmp_path / "a").mkdir()
    hub = sys.modules["open_clip.push_to_hf_hub"]
    hub.save_config_for_hf(model, tmp_path / "a" / "open_clip_config.json", OPEN_CLIPS["quick gelu"])
    tensors = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    save_file(tensors, str(tmp_path / "a" / "open_clip_model.safetensors"))
    tl.save(tl.load(tmp_path / "a"), tmp_path / "b")
    theirs, said = transformers.CLIPModel.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"] and not said["mismatched_keys"]
    images, texts = pixels(23), ids()
    want = asked(theirs.eval(), pixel_values=channels_first(images), input_ids=torch.tensor(texts)).logits_per_image
    with torch.no_grad():
        image = model.encode_image(channels_first(images), normalize=True)
        text = model.encode_text(torch.tensor(texts), normalize=True)
        near("CLIP", "open_clip")(want, model.logit_scale.exp() * image @ text.T, way="written")
    processor = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path / "b")
    assert list(processor.image_mean) == [0.1, 0.2, 0.3]


# ---------------------------------------------------------------------------------------------------------------
# zero-shot


def test_zero_shot_probabilities_are_those_that_transformers_gives(tmp_path: Path) -> None:
    config = transformers.CLIPConfig(
        vision_config={**VISION, "image_size": 25},
        text_config={**TEXT, "vocab_size": 600, "max_position_embeddings": 77, "eos_token_id": 2},
        projection_dim=6,
    )
    model = randomised(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path)
    write_clip_tokenizer(tmp_path)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path, model_max_length=77)
    tokenizer.save_pretrained(tmp_path)
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 25}, crop_size={"height": 25, "width": 25})
    processor.save_pretrained(tmp_path)
    labels, templates = ("cat", "dog", "photo"), tl.evaluate.TEMPLATES
    images = [np.random.default_rng(i).integers(0, 256, (30 + i, 40, 3), np.uint8) for i in range(5)]
    classes = []
    for label in labels:
        texts = tokenizer(
            [t.format(label) for t in templates], padding="max_length", max_length=77, return_tensors="pt"
        )
        pooled = asked(model.text_model, **texts).pooler_output
        vectors = torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)
        classes.append(torch.nn.functional.normalize(vectors.mean(0), dim=0))
    given = processor(images, return_tensors="pt")
    vision = model.visual_projection(asked(model.vision_model, **given).pooler_output)
    image = torch.nn.functional.normalize(vision, dim=-1)
    want = (model.logit_scale.exp() * image @ torch.stack(classes).T).softmax(-1)
    classifier = tl.zero_shot_classifier(tl.load(tmp_path), labels, templates, rows=4)
    near("CLIP")(classifier(images, rows=2), want)
