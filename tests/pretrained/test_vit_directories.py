"""ViT directories of both dialects: names in both directions, fused tensors, configs, preprocessing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.checkpoints import VIT_DIALECTS, vit_config, write_vit
from support.typed import as_image

import transferlab as tl
from transferlab.data.images import Fit
from transferlab.errors import TransferlabError
from transferlab.models import EfficientNetConfig, ViTConfig
from transferlab.pretrained.families.efficientnet import efficientnet_from_timm
from transferlab.pretrained.families.vit import Dialect, vit_from_hf, vit_names
from transferlab.pretrained.names import NameTable, to_file
from transferlab.pretrained.timm import TimmConfig

HF, TIMM = VIT_DIALECTS["vit"], VIT_DIALECTS["timm"]


@pytest.mark.parametrize("dialect", VIT_DIALECTS)
def test_loaded_leaves_write_the_files_own_tensors(dialect: str, tmp_path: Path) -> None:
    tensors = write_vit(tmp_path, dialect)
    source = tl.load(tmp_path)
    again = to_file(
        vit_names(source.config, cast("Dialect", dialect)), {path: leaf.read() for path, leaf in source.leaves.items()}
    )
    assert again.keys() == tensors.keys() and not source.unused
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key], tensor, err_msg=key)


def test_a_fused_tensor_is_cut_in_the_order_query_key_value(tmp_path: Path) -> None:
    tensors = write_vit(tmp_path, "timm")
    attention = tl.load(tmp_path).params["layers"]["1"]["attention"]
    for n, part in enumerate(("query", "key", "value")):
        rows = slice(12 * n, 12 * (n + 1))
        np.testing.assert_array_equal(attention[part]["kernel"], tensors["blocks.1.attn.qkv.weight"][rows].T)
        np.testing.assert_array_equal(attention[part]["bias"], tensors["blocks.1.attn.qkv.bias"][rows])
    assert attention["key"]["kernel"].layout.name == "part 2 of 3, transposed"


@pytest.mark.parametrize("rows", [35, 37, 24, 1])
def test_a_fused_tensor_of_the_wrong_length_is_refused(rows: int, tmp_path: Path) -> None:
    tensors = write_vit(tmp_path, "timm") | {"blocks.1.attn.qkv.weight": np.zeros((rows, 12), np.float32)}
    save_file(tensors, str(tmp_path / "model.safetensors"))
    said = rf"'layers/1/attention/\w+/kernel': key 'blocks\.1\.attn\.qkv\.weight' has shape \({rows}, 12\)"
    with pytest.raises(TransferlabError, match=said):
        tl.load(tmp_path)


def test_a_missing_fused_tensor_is_named(tmp_path: Path) -> None:
    tensors = write_vit(tmp_path, "timm")
    del tensors["blocks.0.attn.qkv.bias"]
    save_file(tensors, str(tmp_path / "model.safetensors"))
    with pytest.raises(TransferlabError, match=r"'layers/0/attention/value/bias' \(key 'blocks\.0\.attn\.qkv\.bias'\)"):
        tl.load(tmp_path)


def test_a_fused_tensor_is_not_written_without_one_of_its_parts() -> None:
    config = vit_config(TIMM)
    names = vit_names(config, "timm")
    leaves = {
        name.path: np.zeros((12, 12), np.float32) for name in names.names if "attention/query/kernel" in name.path
    }
    with pytest.raises(
        TransferlabError, match=r"'blocks\.0\.attn\.qkv\.weight' cannot be written: it fuses 'layers/0/attention/key"
    ):
        to_file(NameTable(names.names), leaves)


def test_prefixes_and_mask_tokens_are_read_and_unknown_keys_refused(tmp_path: Path) -> None:
    tensors = write_vit(tmp_path, "dinov2", prefix="dinov2_with_registers.")
    tensors["classifier.weight"] = tensors.pop("dinov2_with_registers.classifier.weight")
    tensors["classifier.bias"] = tensors.pop("dinov2_with_registers.classifier.bias")
    mask = {"dinov2_with_registers.embeddings.mask_token": np.zeros((1, 12), np.float32)}
    save_file(tensors | mask, str(tmp_path / "model.safetensors"))
    assert [key for key, _ in tl.load(tmp_path).unused] == list(mask)
    save_file(tensors | {"encoder.layer.7.norm1.weight": np.zeros(12, np.float32)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(
        TransferlabError, match=r"key 'encoder\.layer\.7\.norm1\.weight' \(12,\) matches no leaf of vit"
    ):
        tl.load(tmp_path)


def test_a_fused_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    tensors = write_vit(tmp_path, "dinov2")
    key = "encoder.layer.0.mlp.weights_in.bias"
    save_file(tensors | {f"dinov2.{key}": tensors[key]}, str(tmp_path / "model.safetensors"))
    with pytest.raises(TransferlabError, match=r"Two keys of the file fill 'layers/0/mlp/gate/bias'"):
        tl.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": [16, 32]}, r"image_size \[16, 32\] is not square"),
        ({"pooler_act": "relu"}, "pooler_act 'relu' is not supported"),
        ({"pooler_output_size": 7}, "pooler_output_size 7 is not hidden_size 12"),
        ({"hidden_act": "geluu"}, "unknown hidden_act"),
        ({"num_attention_heads": 5}, "no multiple of num_attention_heads 5"),
    ],
)
def test_a_config_that_cannot_be_honored_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        vit_from_hf({**HF, **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"qk_norm": True}, r"model_args\.qk_norm True is not supported"),
        ({"pre_norm": True}, r"model_args\.pre_norm True is not supported"),
        ({"init_value": 0.1}, r"model_args\.init_value 0\.1 is not supported.*'init_values'"),
        ({"global_pool": "max"}, "global_pool 'max' is not supported"),
        ({"fc_norm": True}, "fc_norm with global_pool 'token'"),
        ({"img_size": [16, 20]}, r"input_size \[16, 20\] is not square"),
    ],
)
def test_a_timm_argument_that_cannot_be_honored_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        vit_config({**TIMM, "model_args": {**TIMM["model_args"], **arguments}})


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("vit_base_patch32_384", ViTConfig.b32()),
        ("vit_large_patch16_224", ViTConfig.l16()),
        ("deit_small_distilled_patch16_224", ViTConfig.s16().distilled()),
        ("vit_giant_patch14_dinov2", replace(ViTConfig.dinov2_g14(), image_size=224)),
        (
            "vit_small_patch14_reg4_dinov2",
            replace(ViTConfig.dinov2_s14(), image_size=224, registers=4, position_slots=0),
        ),
        ("deit3_base_patch16_224", replace(ViTConfig.b16(), layer_scale=1e-6, position_slots=0)),
    ],
)
def test_the_name_of_a_timm_architecture_says_another_size(name: str, want: ViTConfig) -> None:
    assert vit_config({"architecture": f"{name}.tag_in1k", "num_classes": 1000}) == want


def test_an_efficientnet_of_timm_gets_its_own_padding_and_eps() -> None:
    def read(name: str, **arguments) -> EfficientNetConfig:
        given = {"architecture": name, "model_args": arguments, "pretrained_cfg": {"input_size": [3, 240, 240]}}
        return efficientnet_from_timm(TimmConfig.read(given))

    born = replace(EfficientNetConfig.b1(), image_size=240)
    assert read("tf_efficientnet_b1") == born
    assert read("efficientnet_b1", drop_path_rate=0.0) == replace(born, padding="symmetric", eps=1e-5, drop_path=0.0)
    assert read("tf_efficientnet_lite3") == replace(EfficientNetConfig.lite3(), image_size=240)
    with pytest.raises(TransferlabError, match=r"model_args\.in_chans 1 is not supported"):
        read("efficientnet_b0", in_chans=1)


def test_an_architecture_that_is_not_known_is_not_guessed_at(tmp_path: Path) -> None:
    write_vit(tmp_path, "timm")
    (tmp_path / "config.json").write_text(json.dumps({**TIMM, "architecture": "regnety_040"}))
    with pytest.raises(
        TransferlabError, match=r"timm's architecture 'regnety_040' is not supported.*efficientnet.*vit_"
    ):
        tl.load(tmp_path)


def test_a_timm_directorys_preprocessing_and_labels_are_kept(tmp_path: Path) -> None:
    write_vit(tmp_path, "timm")
    source = tl.load(tmp_path)
    assert source.labels == ("cat", "dog")
    assert source.transform == tl.data.ImageTransform(16, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.9, crop_rounds=True)
    flat = {"architecture": "vit_tiny_patch16_224", **TIMM["pretrained_cfg"], "crop_mode": "squash"}
    assert TimmConfig.read(flat).transform().fit == "squash"
    for field, value in (("crop_mode", "border"), ("interpolation", "random"), ("mean", [0.5, 0.5])):
        with pytest.raises(TransferlabError, match=field):
            TimmConfig.read({**flat, field: value}).transform()


GREY = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("given", "size", "fit", "fraction"),
    [
        ({"size": 16, "image_processor_type": "ViTImageProcessor"}, 16, "squash", 1.0),
        ({"size": {"height": 16, "width": 16}}, 16, "squash", 1.0),
        ({"size": 20, "crop_size": 16, "feature_extractor_type": "DeiTFeatureExtractor"}, 16, "squash", 0.8),
        ({"size": 20, "crop_size": 16, "image_processor_type": "BitImageProcessor"}, 16, "crop", 0.8),
        ({"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}, 16, "crop", 0.8),
        ({"size": 20, "crop_size": 16, "image_processor_type": "MobileNetV2ImageProcessor"}, 16, "crop", 0.8),
        ({"size": 16, "crop_size": 20, "image_processor_type": "DeiTImageProcessorFast"}, 20, "squash", 1.25),
        ({"size": 16, "crop_size": 12, "image_processor_type": "ViTImageProcessor"}, 16, "squash", 1.0),
        ({"size": [16, 16], "do_center_crop": None, "image_processor_type": "SiglipImageProcessor"}, 16, "squash", 1.0),
    ],
)
def test_a_preprocessors_size_means_what_its_class_makes_of_it(
    given: dict, size: int, fit: Fit, fraction: float, tmp_path: Path
) -> None:
    write_vit(tmp_path, "vit")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**GREY, "resample": 3, **given}))
    half = (0.5, 0.5, 0.5)
    assert tl.load(tmp_path).transform == tl.data.ImageTransform(size, half, half, "bicubic", fraction, fit)


def test_a_processor_within_processor_config_is_read(tmp_path: Path) -> None:
    write_vit(tmp_path, "vit")
    inner = {**GREY, "resample": 3, "size": 16, "image_processor_type": "ViTImageProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Own", "image_processor": inner}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**GREY, "size": 20}))
    source = tl.load(tmp_path)
    assert (as_image(source.transform).size, as_image(source.transform).resize) == (16, "bicubic")
    larger = source.resized(24)
    again = tl.load(tl.save(larger, tmp_path / "again"))
    assert again.transform == larger.transform
    assert json.loads((tmp_path / "again" / "processor_config.json").read_text())["processor_class"] == "Own"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": {"height": 16, "width": 20}}, "size .* is not square"),
        ({"size": {"shortest_edge": 16}}, "shortest_edge and do_center_crop is false"),
        ({"size": {"longest_edge": 16}, "crop_size": 16}, r"size \{'longest_edge': 16\} is not supported"),
        (
            {"size": {"shortest_edge": 16, "longest_edge": 40}, "crop_size": 16},
            "size .*longest_edge.* is not supported",
        ),
        ({"size": {"max_height": 16, "max_width": 16}}, "size .*max_height.* is not supported"),
        ({"size": "16"}, "size is '16'; it must be a positive integer"),
        ({"size": 16.5}, r"size is 16\.5; it must be a positive integer"),
        ({"size": 0}, "size is 0; it must be a positive integer"),
        ({"size": [16, 20]}, r"size \[16, 20\] is not square"),
        (
            {"size": {"shortest_edge": 16}, "crop_size": {"shortest_edge": 16}},
            "crop_size .* it must be a positive integer",
        ),
        ({"size": 16, "resample": 6}, r"resample is 6; expected one of 0 \(nearest\), .* 2 \(bilinear\)"),
        ({"size": 16, "rescale_factor": 0}, "rescale_factor is 0; it must be a number above 0"),
        ({"size": 16, "rescale_offset": True}, "rescale_offset is True, which is not supported"),
        ({"size": 16, "do_pad": True, "pad_size": {"height": 20, "width": 20}}, "pad_size .* is not supported"),
        ({"size": 16, "image_processor_type": "ViTImageProcesor"}, "image_processor_type .* mean 'ViTImageProcessor'"),
        ({"size": 16, "image_processor_type": "Siglip2ImageProcessor"}, "image_processor_type 'Siglip2ImageProcessor'"),
        ({"image_processor_type": "CLIPImageProcessor", "do_center_crop": False}, "do_center_crop is false"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": 30, "do_center_crop": True, "crop_size": 20},
            "crop_size 20 is not size 30",
        ),
        ({"size": 16, "do_resize": False}, "do_resize is false"),
        ({"size": 16, "do_normalize": "false"}, "do_normalize is 'false'; it must be true or false"),
        ({"size": 16, "crop_size": 16, "do_center_crop": "no"}, "do_center_crop is 'no'; it must be true or false"),
        ({"size": 16, "resample": True}, "resample is True; it can be 0"),
        (
            {"size": 16, "image_mean": [0.5, 0.5]},
            r"image_mean \[0\.5, 0\.5\] has 2 values; .* 3 channels it can have 1 or 3\.",
        ),
    ],
)
def test_a_preprocessor_that_cannot_be_honored_is_refused(given: dict, message: str, tmp_path: Path) -> None:
    write_vit(tmp_path, "vit")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    with pytest.raises(TransferlabError, match=rf"preprocessor_config\.json: .*{message}"):
        tl.load(tmp_path)


def test_settings_nested_in_processor_config_are_not_replaced_by_a_default(tmp_path: Path) -> None:
    write_vit(tmp_path, "vit")
    said = {
        "size": {"height": 16, "width": 16},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 3,
    }
    nested = {"processor_class": "AProcessor", "image_processor": said, "feature_extractor": {"size": 1}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    want = tl.data.ImageTransform(16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 1.0, "squash")
    assert tl.load(tmp_path).transform == want
    # transformers prefers it to the old file, which is read only where nothing is nested.
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**said, "image_mean": 0.0, "resample": 2}))
    assert tl.load(tmp_path).transform == want
    written = tl.save(tl.load(tmp_path).resized(24), tmp_path / "again")
    assert as_image(tl.load(written).transform).size == 24
    assert json.loads((written / "processor_config.json").read_text())["feature_extractor"] == {"size": 1}
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "AProcessor"}))
    assert (
        as_image(tl.load(tmp_path).transform).mean == (0.0,)
        and as_image(tl.load(tmp_path).transform).resize == "bilinear"
    )
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {**said, "do_pad": True}}))
    with pytest.raises(TransferlabError, match=r"processor_config\.json: do_pad is True"):
        tl.load(tmp_path)


@pytest.mark.parametrize(
    ("channels", "mean", "applied"),
    [
        (1, None, (0.5,)),
        (1, [0.2], (0.2,)),
        (1, [0.1, 0.2, 0.6], (0.3,)),
        (3, 0.2, (0.2, 0.2, 0.2)),
        (3, [0.2], (0.2, 0.2, 0.2)),
        (4, [0.2], (0.2, 0.2, 0.2, 0.2)),
        (4, [0.1, 0.2, 0.6], (0.1, 0.2, 0.6, 0.1)),
        (4, [0.1, 0.2, 0.3, 0.4], (0.1, 0.2, 0.3, 0.4)),
    ],
)
@pytest.mark.parametrize("dialect", ["vit", "timm"])
def test_images_of_other_channels_are_not_read_as_rgb(
    dialect: str, channels: int, mean: list | float | None, applied: tuple, tmp_path: Path
) -> None:
    given = {} if mean is None else {"mean": mean}
    if dialect == "timm":
        arguments, pretrained = (
            TIMM["model_args"] | {"in_chans": channels},
            TIMM["pretrained_cfg"] | given,
        )
        write_vit(tmp_path, "timm", model_args=arguments, pretrained_cfg=pretrained)
    else:
        write_vit(tmp_path, "vit", num_channels=channels)
        given = {"size": 16, **{f"image_{name}": value for name, value in given.items()}}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    source = tl.load(tmp_path)
    image = np.full((20, 24, channels), 255, np.uint8)
    got = as_image(source.transform)(image)
    assert as_image(source.transform).channels == channels and got.shape == (16, 16, channels)
    deviation = as_image(source.transform).per_channel(as_image(source.transform).std)
    np.testing.assert_allclose(got[0, 0], (1 - np.array(applied)) / deviation, rtol=1e-5)
    assert source({"pixel_values": got[None]})["hidden"].shape[0] == 1
    # What is written says the same.
    again = tl.load(tl.save(source, tmp_path / "again"))
    np.testing.assert_allclose(as_image(again.transform)(image), got, rtol=1e-6)


def test_weights_that_bring_no_preprocessing_read_three_channels(tmp_path: Path) -> None:
    write_vit(tmp_path, "vit", num_channels=1)
    source = tl.load(tmp_path)
    alone = tl.load(tmp_path / "model.safetensors", config=source.config)
    for one in (source, alone):
        assert as_image(one.transform)(np.zeros((20, 24, 3), np.uint8)).shape == (16, 16, 1)
    # transformers' processor takes one value for one channel.
    written = json.loads((tl.save(source, tmp_path / "again") / "preprocessor_config.json").read_text())
    assert written["image_mean"] == written["image_std"] == [0.5]
    assert as_image(tl.load(tmp_path / "again").transform).channels == 1
    tl.save(source, tmp_path / "orbax", format="orbax")
    assert as_image(tl.load(tmp_path / "orbax").transform).channels == 1


def test_a_squashed_image_loses_its_proportions_and_is_cropped() -> None:
    image = np.zeros((30, 60, 3), np.uint8)
    image[:, :30] = 255
    plain = tl.data.ImageTransform(16, (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0, "squash")(image)
    assert plain.shape == (16, 16, 3)
    np.testing.assert_allclose(plain[:, :7], 1.0)
    np.testing.assert_allclose(plain[:, 9:], 0.0, atol=1e-6)
    cut = tl.data.ImageTransform(16, (0.0,) * 3, (1.0,) * 3, "bilinear", 0.5, "squash")(image)
    np.testing.assert_allclose(cut[:, :6], 1.0)


def test_a_bare_weight_file_pools_as_its_config(tmp_path: Path) -> None:
    write_vit(tmp_path, "timm")
    bare = tl.load(tmp_path / "model.safetensors", config=vit_config(TIMM))
    given = {"pixel_values": np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)}
    out = bare(given)
    np.testing.assert_array_equal(out["pooled"], out["hidden"][:, 0])
    np.testing.assert_array_equal(out["logits"], tl.load(tmp_path)(given)["logits"])
