"""ViT, DeiT and DINOv2 against transformers' and timm's own models, on weights that they wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_timm
from support.typed import as_image
from test_bert_parity import randomised

import transferlab as tl
from transferlab import trees
from transferlab.models import ViTConfig
from transferlab.pretrained.positions import resized_positions

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

NARROW = {"hidden_size": 36, "num_hidden_layers": 12, "num_attention_heads": 3, "image_size": 24, "patch_size": 8}
WIDE = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 1, "image_size": 23, "patch_size": 5}
REFERENCES = {
    "ViT, twelve layers": ("ViTModel", "ViTConfig", {**NARROW, "intermediate_size": 50}),
    "ViT, pixels left over, no qkv bias, tanh gelu": (
        "ViTModel", "ViTConfig", {**WIDE, "intermediate_size": 64, "qkv_bias": False, "hidden_act": "gelu_new",
                                  "layer_norm_eps": 1e-5},
    ),
    "DeiT": ("DeiTModel", "DeiTConfig", {**WIDE, "intermediate_size": 30}),
    "DINOv2, twelve layers": ("Dinov2Model", "Dinov2Config", NARROW),
    "DINOv2 with SwiGLU": ("Dinov2Model", "Dinov2Config", {**WIDE, "use_swiglu_ffn": True}),
    "DINOv2 with registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {**WIDE, "num_register_tokens": 3}),
}  # fmt: skip


@pytest.fixture(scope="session")
def timm():
    return import_timm()


def pixels(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, size, size, 3)).astype(np.float32)


def channels_first(x: np.ndarray):
    return torch.tensor(x).permute(0, 3, 1, 2)


FAMILIES = {"Dinov2WithRegisters": "DINOv2 with registers", "DINOv2 with registers": "DINOv2 with registers",
            "DINOv2": "DINOv2", "Dinov2": "DINOv2", "DeiT": "DeiT"}  # fmt: skip


def near(name: str, form: str = "transformers"):
    """``compare`` with the family that a case's name begins with."""
    family = next((family for start, family in FAMILIES.items() if name.startswith(start)), "ViT")
    return partial(compare, family=family, form=form)


@pytest.mark.parametrize("name", REFERENCES)
def test_hidden_states_and_pooled_vector_equal_transformers(name: str, tmp_path: Path) -> None:
    model, config, sizes = REFERENCES[name]
    made = randomised(getattr(transformers, model)(getattr(transformers, config)(**sizes)))
    made.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), pixels(sizes["image_size"])
    want, got = made(channels_first(given)), source({"pixel_values": given})
    near(name)(got["hidden"], want.last_hidden_state, what="hidden")
    near(name)(got["pooled"], want.pooler_output, what="pooled")


@pytest.mark.parametrize(
    ("family", "sizes"),
    [("ViT", {**WIDE, "intermediate_size": 30}), ("DeiT", {**WIDE, "intermediate_size": 30}), ("Dinov2", WIDE),
     ("Dinov2WithRegisters", WIDE)],
)  # fmt: skip
def test_a_classifier_keeps_its_logits_and_label_names(family: str, sizes: dict, tmp_path: Path) -> None:
    labels = {0: "cat", 1: "dog", 2: "cow"}
    config = getattr(transformers, f"{family}Config")(**sizes, id2label=labels)
    made = randomised(getattr(transformers, f"{family}ForImageClassification")(config))
    made.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), pixels(sizes["image_size"])
    near(family)(source({"pixel_values": given})["logits"], made(channels_first(given)).logits)
    assert source.labels == ("cat", "dog", "cow")


def test_a_teachers_two_heads_are_left_out_by_name(tmp_path: Path) -> None:
    config = transformers.DeiTConfig(**WIDE, intermediate_size=30)
    made = randomised(transformers.DeiTForImageClassificationWithTeacher(config))
    made.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), pixels(23)
    near("DeiT")(
        source({"pixel_values": given})["hidden"], made.deit(channels_first(given)).last_hidden_state, what="hidden"
    )
    assert {key for key, _ in source.unused} == {
        f"{head}_classifier.{leaf}" for head in ("cls", "distillation") for leaf in ("weight", "bias")
    }


def gradients_equal(source, given: np.ndarray, made, logits, family: str, form: str) -> None:
    """d(sum of squared logits) with respect to every leaf, of twelve layers."""
    logits.square().sum().backward()
    theirs = {key: p.grad.numpy() for key, p in made.named_parameters()}
    params = trees.unflatten({p: jnp.asarray(leaf.read()) for p, leaf in source.leaves.items()})

    def loss(params):
        return jnp.square(source.definition.merge(params)({"pixel_values": jnp.asarray(given)})["logits"]).sum()

    grads = trees.flatten(jax.jit(jax.grad(loss))(params))
    saved = written(made)
    for path, leaf in source.leaves.items():
        want = leaf.layout.to_tree(theirs[saved[leaf.key]])
        compare(grads[path], want, family=family, form=form, what="gradients", tolerance=1e-4, where=path)


def written(made) -> dict[str, str]:
    """Key in the file → name of the parameter: transformers 5 writes the old names but computes under new ones."""
    from safetensors.torch import load_file

    folder = made.folder
    tensors = load_file(str(folder / "model.safetensors"))
    own = {name: p.detach() for name, p in made.named_parameters()}
    return {
        key: next(name for name, p in own.items() if p.shape == tensor.shape and torch.equal(p, tensor))
        for key, tensor in tensors.items()
    }


def test_gradients_of_every_parameter_equal_transformers(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**NARROW, intermediate_size=50, num_labels=2)
    made = randomised(transformers.ViTForImageClassification(config))
    made.save_pretrained(tmp_path)
    made.folder = tmp_path
    given = pixels(24)
    gradients_equal(tl.load(tmp_path), given, made, made(channels_first(given)).logits, "ViT", "transformers")


@pytest.mark.parametrize("family", ["ViT", "DeiT", "Dinov2", "Dinov2WithRegisters"])
@pytest.mark.parametrize("size", [15, 35, 61])
def test_another_image_size_equals_transformers_interpolation(family: str, size: int, tmp_path: Path) -> None:
    config = getattr(transformers, f"{family}Config")(**WIDE)
    made = randomised(getattr(transformers, f"{family}Model")(config))
    made.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path).resized(size), pixels(size)
    asked = {} if family.startswith("Dino") else {"interpolate_pos_encoding": True}
    want = made(channels_first(given), **asked)
    near(family)(source({"pixel_values": given})["hidden"], want.last_hidden_state, what="hidden")
    back = source.resized(23)
    np.testing.assert_array_equal(
        back.leaves["embed/position"].read(), tl.load(tmp_path).leaves["embed/position"].read()
    )


def test_dinov2_reads_images_of_the_size_that_its_preprocessing_makes(tmp_path: Path) -> None:
    """Trained at 518, evaluated at 224: transformers interpolates by default."""
    made = randomised(transformers.Dinov2Model(transformers.Dinov2Config(**{**WIDE, "image_size": 35})))
    made.save_pretrained(tmp_path)
    transformers.BitImageProcessorPil(size={"shortest_edge": 18}, crop_size=15).save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), pixels(15)
    near("DINOv2")(
        source({"pixel_values": given})["hidden"], made(channels_first(given)).last_hidden_state, what="hidden"
    )
    assert source.config.image_size == as_image(source.transform).size == 15


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViTImageProcessorPil", {"size": {"height": 30, "width": 30}}),
        ("DeiTImageProcessorPil", {"size": {"height": 34, "width": 34}, "crop_size": {"height": 30, "width": 30}}),
        ("BitImageProcessorPil", {"size": {"shortest_edge": 33}, "crop_size": {"height": 30, "width": 30}}),
        ("BitImageProcessorPil", {"size": {"shortest_edge": 30}, "crop_size": 30, "rescale_factor": 1 / 127.5}),
        ("ViTImageProcessorPil", {"size": {"height": 30, "width": 30}, "do_normalize": False, "resample": 3}),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_preprocessing_equals_that_of_transformers(kind: str, settings: dict, nested: bool, tmp_path: Path) -> None:
    made = transformers.ViTModel(transformers.ViTConfig(**{**WIDE, "image_size": 30}))
    made.save_pretrained(tmp_path)
    processor = getattr(transformers, kind)(**settings)
    processor.save_pretrained(tmp_path)
    if nested:
        alone = tmp_path / "preprocessor_config.json"
        whole = {"image_processor": json.loads(alone.read_text()), "processor_class": "CLIPProcessor"}
        (tmp_path / "processor_config.json").write_text(json.dumps(whole))
        alone.write_text(
            json.dumps({**whole["image_processor"], "resample": 2, "do_normalize": False, "rescale_factor": 1})
        )
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    transform = tl.load(tmp_path).transform
    for shape in ((47, 61), (80, 41), (31, 200)):
        image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
        want = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        near("ViT")(as_image(transform)(image), want, what="input", tolerance=4e-6)


# ---------------------------------------------------------------------------------------------------------------
# timm

TIMM = {
    "as published": ("vit_tiny_patch16_224", {"img_size": 32}),
    "mean, norm after it": ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg"}),
    "mean, norm before it": ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg", "fc_norm": False}),
    "no class token": ("vit_tiny_patch16_224", {"img_size": 48, "class_token": False, "global_pool": "avg"}),
    "registers with positions": ("vit_tiny_patch16_224", {"img_size": 48, "reg_tokens": 3, "depth": 2}),
    "registers without": ("vit_tiny_patch16_224", {"img_size": 48, "reg_tokens": 3, "no_embed_class": True, "depth": 2}),
    "layer scale, no qkv bias": ("vit_tiny_patch16_224", {"img_size": 32, "init_values": 0.1, "qkv_bias": False, "depth": 3}),
    "DINOv2": ("vit_small_patch14_dinov2", {"img_size": 28, "depth": 2}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 42, "depth": 2}),
    "DINOv2 with SwiGLU": ("vit_giant_patch14_dinov2", {"img_size": 28, "depth": 2, "embed_dim": 48, "num_heads": 3}),
    "DeiT III": ("deit3_small_patch16_224", {"img_size": 32, "depth": 2}),
}  # fmt: skip


def from_timm(timm, folder: Path, name: str, labels: int = 5, **arguments):
    """timm's model with random weights, and the directory that timm itself writes of it."""
    made = randomised(timm.create_model(name, num_classes=labels, **arguments))
    timm.models.save_for_hf(made, folder, safe_serialization=True)
    return made


@pytest.mark.parametrize("name", TIMM)
def test_features_and_logits_equal_timms(name: str, timm, tmp_path: Path) -> None:
    architecture, arguments = TIMM[name]
    made = from_timm(timm, tmp_path, architecture, **arguments)
    source, given = tl.load(tmp_path), pixels(arguments["img_size"])
    got = source({"pixel_values": given})
    features = made.forward_features(channels_first(given))
    near(name, "timm")(got["hidden"], features, what="hidden", tolerance=8e-6)
    near(name, "timm")(got["logits"], made(channels_first(given)))
    near(name, "timm")(got["pooled"], made.forward_head(features, pre_logits=True), what="pooled")


@pytest.mark.parametrize("prefix", [{"class_token": False}, {}, {"reg_tokens": 3}])
def test_attention_pools_the_tokens_before_the_patches_too(prefix: dict, timm, tmp_path: Path) -> None:
    sizes = {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 3, "global_pool": "map"}
    made = from_timm(timm, tmp_path, "vit_tiny_patch16_224", **sizes, **prefix)
    source, given = tl.load(tmp_path), pixels(32)
    got, features = source({"pixel_values": given}), made.forward_features(channels_first(given))
    near("ViT", "timm")(got["hidden"], features, what="hidden")
    near("ViT", "timm")(got["pooled"], made.forward_head(features, pre_logits=True), what="pooled")
    near("ViT", "timm")(got["logits"], made(channels_first(given)))


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_normalized_as_timm_does(channels: int, timm, tmp_path: Path) -> None:
    made = from_timm(timm, tmp_path, "vit_tiny_patch16_224", img_size=32, depth=2, in_chans=channels)
    source = tl.load(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, channels), np.uint8)
    wanted = timm.data.resolve_model_data_config(made)
    given = replace(as_image(source.transform), crop_fraction=1.0)(image)[None]
    mean, std = (np.resize(np.float32(wanted[name]), channels) for name in ("mean", "std"))
    np.testing.assert_allclose(given[0], (image / np.float32(255) - mean) / std, atol=1e-6)
    near("ViT", "timm")(source({"pixel_values": given})["logits"], made(channels_first(given)))


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_equal_transformers(channels: int, tmp_path: Path) -> None:
    sizes = {**WIDE, "intermediate_size": 30, "num_channels": channels, "image_size": 32, "patch_size": 8}
    made = randomised(transformers.ViTModel(transformers.ViTConfig(**sizes)))
    made.save_pretrained(tmp_path)
    values = {"image_mean": [0.1, 0.2, 0.3, 0.4][:channels], "image_std": [0.5, 0.6, 0.7, 0.8][:channels]}
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, **values)
    processor.save_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, channels), np.uint8)
    source = tl.load(tmp_path)
    given = as_image(source.transform)(image)[None]
    want = processor(torch.tensor(image).permute(2, 0, 1), return_tensors="pt")["pixel_values"]
    near("ViT")(given.transpose(0, 3, 1, 2), want, what="input")
    near("ViT")(source({"pixel_values": given})["hidden"], made(want).last_hidden_state, what="hidden")


def test_a_distilled_timm_model_equals_timms_features(timm, tmp_path: Path) -> None:
    made = from_timm(timm, tmp_path, "deit_tiny_distilled_patch16_224", img_size=32)
    source, given = tl.load(tmp_path), pixels(32)
    near("DeiT", "timm")(
        source({"pixel_values": given})["hidden"], made.forward_features(channels_first(given)), what="hidden"
    )
    assert sorted(key for key, _ in source.unused) == ["head.bias", "head.weight", "head_dist.bias", "head_dist.weight"]


def test_gradients_through_a_fused_projection_equal_timms(timm, tmp_path: Path) -> None:
    made = from_timm(timm, tmp_path, "vit_tiny_patch16_224", img_size=32)
    made.folder = tmp_path
    given = pixels(32)
    gradients_equal(tl.load(tmp_path), given, made, made(channels_first(given)), "ViT", "timm")


@pytest.mark.parametrize("size", [32, 80, 144])
def test_another_image_size_equals_timms_resampling(size: int, timm, tmp_path: Path) -> None:
    made = from_timm(timm, tmp_path, "vit_tiny_patch16_224", img_size=96, depth=2, dynamic_img_size=True)
    source, given = tl.load(tmp_path).resized(size), pixels(size)
    near("ViT", "timm")(source({"pixel_values": given})["logits"], made(channels_first(given)))


@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 6), (7, 7), (5, 1), (37, 16), (3, 40)])
def test_a_bicubic_rule_is_timms_formula(old: int, new: int, timm) -> None:
    table = np.random.default_rng(0).normal(size=(2 + old * old, 6)).astype(np.float32)
    for rule, antialias in (("bicubic antialias", True), ("bicubic", False)):
        want = timm.layers.resample_abs_pos_embed(
            torch.tensor(table)[None], [new, new], num_prefix_tokens=2, antialias=antialias
        )[0]
        # torch takes its coordinates in float32
        compare(
            resized_positions(table, 2, new, rule),
            want,
            family="Resized positions",
            form="timm",
            what="input",
            tolerance=2e-6,
        )


@pytest.mark.parametrize(
    ("size", "name"),
    [("ti16", "vit_tiny_patch16_224"), ("b32", "vit_base_patch32_224"), ("dinov2_s14", "vit_small_patch14_dinov2")],
)
def test_a_named_size_is_timms_of_that_name(size: str, name: str, timm) -> None:
    with torch.device("meta"):
        made = timm.create_model(name, num_classes=0)
    config = getattr(ViTConfig, size)()
    assert sum(p.numel() for p in made.parameters()) == trees.count(trees.define(config.build()).params)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b1", "tf_efficientnet_lite0", "tf_efficientnet_b2"])
@pytest.mark.parametrize("size", [64, 65])
def test_an_efficientnet_of_timm_equals_timms_logits(name: str, size: int, timm, tmp_path: Path) -> None:
    made = randomised(timm.create_model(name, num_classes=5))
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True)
    source, given = tl.load(tmp_path), pixels(size)
    got = source({"pixel_values": given})
    held = partial(
        compare, family="EfficientNet-Lite" if "lite" in name else "EfficientNet", form="timm", tolerance=1e-4
    )
    held(got["hidden"].transpose(0, 3, 1, 2), made.forward_features(channels_first(given)), what="hidden")
    held(got["logits"], made(channels_first(given)))


@pytest.mark.parametrize("flat", [False, True])
def test_preprocessing_and_labels_of_a_timm_directory_are_kept(flat: bool, timm, tmp_path: Path) -> None:
    made = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=2))
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["pretrained_cfg"] |= {"label_names": ["cat", "dog"], "crop_pct": 0.95, "interpolation": "bilinear"}
    if flat:
        raw = {"architecture": raw["architecture"], **raw["pretrained_cfg"]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    source = tl.load(tmp_path)
    wanted = timm.data.resolve_data_config(pretrained_cfg=raw.get("pretrained_cfg", raw))
    assert source.labels == ("cat", "dog")
    assert (as_image(source.transform).size, as_image(source.transform).crop_fraction) == (
        wanted["input_size"][1],
        0.95,
    )
    assert (as_image(source.transform).resize, as_image(source.transform).fit) == ("bilinear", "crop")
    assert (list(as_image(source.transform).mean), list(as_image(source.transform).std)) == (
        list(wanted["mean"]),
        list(wanted["std"]),
    )
