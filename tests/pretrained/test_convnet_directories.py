"""Directories of the convolutional families and Swin: names in both directions, configs, preprocessing."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.typed import as_image, found

import transferlab as tl
from transferlab import trees
from transferlab.data.images import ImageTransform
from transferlab.errors import TransferlabError
from transferlab.models import BitConfig, ClassifierConfig, ConvNeXtConfig, MobileNetV2Config, ResNetConfig, SwinConfig
from transferlab.pretrained.families.bit import bit_from_hf, bit_from_timm, bit_names
from transferlab.pretrained.families.convnext import convnext_from_hf, convnext_from_timm, convnext_names
from transferlab.pretrained.families.mobilenet import mobilenet_from_hf, mobilenet_from_timm, mobilenet_names
from transferlab.pretrained.families.resnet import resnet_from_hf, resnet_from_timm, resnet_names
from transferlab.pretrained.families.swin import swin_from_hf, swin_from_timm, swin_names
from transferlab.pretrained.names import to_file
from transferlab.pretrained.timm import TimmConfig

RESNET = ResNetConfig(embedding_size=4, hidden_sizes=(8, 12), depths=(2, 11), groups=2, width_per_group=32)
MOBILE = MobileNetV2Config(0.1)
CONVNEXT = ConvNeXtConfig(hidden_sizes=(4, 6), depths=(1, 12))
BIT = BitConfig(embedding_size=8, hidden_sizes=(16, 32), depths=(1, 11), num_groups=4)
SWIN = SwinConfig(embed_dim=4, depths=(2, 11), num_heads=(1, 2), window_sizes=(3, 3), image_size=32)
CASES = {
    "resnet torchvision": (RESNET, lambda c: resnet_names(c, "torchvision")),
    "resnet hf": (replace(RESNET, groups=1, width_per_group=64), lambda c: resnet_names(c, "hf")),
    **{f"mobilenet {d}": (MOBILE, partial(mobilenet_names, dialect=d)) for d in ("torchvision", "timm", "hf")},
    **{f"convnext {d}": (CONVNEXT, partial(convnext_names, dialect=d)) for d in ("authors", "timm", "hf")},
    "convnext v2 authors": (CONVNEXT.v2(), lambda c: convnext_names(c, "authors")),
    "convnext v2 timm, 1×1": (replace(CONVNEXT.v2(), conv_mlp=True), lambda c: convnext_names(c, "timm")),
    **{f"bit {d}": (BIT, partial(bit_names, dialect=d)) for d in ("authors", "timm", "hf")},
    **{f"swin {d}": (SWIN, partial(swin_names, dialect=d)) for d in ("authors", "timm", "hf")},
}
HEAD = ClassifierConfig(("0", "1"))


def drawn(config) -> dict[str, np.ndarray]:
    definition = trees.define(config.build(HEAD))
    rng = np.random.default_rng(0)
    shapes = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
    return {
        path: np.abs(values) + 0.5 if path.endswith("var") else values
        for path, leaf in shapes.items()
        for values in [rng.normal(0, 0.3, leaf.shape).astype(np.float32)]
    }


@pytest.mark.parametrize("case", CASES)
def test_a_file_read_and_written_has_the_same_keys_and_bytes(case: str, tmp_path: Path) -> None:
    config, table = CASES[case]
    leaves = drawn(config)
    tensors = to_file(table(config), leaves)
    save_file(tensors, str(tmp_path / "model.safetensors"))
    source = tl.load(tmp_path / "model.safetensors", config=config)
    assert source.leaves.keys() == leaves.keys() and not source.unused
    for path, leaf in source.leaves.items():
        np.testing.assert_array_equal(leaf.read(), leaves[path], err_msg=path)
    again = to_file(table(config), {path: leaf.read() for path, leaf in source.leaves.items()})
    assert again.keys() == tensors.keys()


def test_a_missing_statistic_and_an_unknown_key_are_refused(tmp_path: Path) -> None:
    tensors = to_file(resnet_names(RESNET, "torchvision"), drawn(RESNET))
    del tensors["layer2.10.bn2.running_var"]
    tensors["layer2.11.bn2.running_var"] = np.ones(3, np.float32)
    tensors["layer1.0.bn1.num_batches_tracked"] = np.ones((), np.int64)
    save_file(tensors, str(tmp_path / "model.safetensors"))
    with pytest.raises(TransferlabError) as error:
        tl.load(tmp_path / "model.safetensors", config=RESNET)
    assert "'stages/1/10/spatial_norm/var' (key 'layer2.10.bn2.running_var') is not in the file" in str(error.value)
    assert "the file's key 'layer2.11.bn2.running_var' (3,) matches no leaf" in str(error.value)
    assert "num_batches_tracked" not in str(error.value)


def test_a_saved_directory_is_the_one_that_was_read(tmp_path: Path) -> None:
    """Statistics and torch's counters of batches included, for a file of timm."""
    tensors = to_file(resnet_names(ResNetConfig.resnet18(), "torchvision"), drawn(ResNetConfig.resnet18()))
    tensors["bn1.num_batches_tracked"] = np.array(7, np.int64)
    (tmp_path / "old").mkdir()
    raw = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    (tmp_path / "old" / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(tmp_path / "old" / "model.safetensors"))
    source = tl.load(tmp_path / "old")
    assert source.unused == (("bn1.num_batches_tracked", "a counter, not a parameter"),)
    tl.save(source, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == raw
    again = load_file(str(tmp_path / "new" / "model.safetensors"))
    assert again.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key], tensor, err_msg=key)


def timm(name: str, size: int = 224, **arguments) -> TimmConfig:
    return TimmConfig.read({"architecture": name, "model_args": arguments,
                            "pretrained_cfg": {"input_size": [3, size, size]}})  # fmt: skip


def test_a_timm_name_gives_its_size() -> None:
    assert resnet_from_timm(timm("resnext50_32x4d.a1_in1k", 288)) == replace(
        ResNetConfig.resnext50_32x4d(), image_size=288
    )
    assert mobilenet_from_timm(timm("mobilenetv2_140", drop_rate=0.2)) == MobileNetV2Config.w140()
    assert convnext_from_timm(timm("convnextv2_huge")) == ConvNeXtConfig.huge().v2()
    assert convnext_from_timm(timm("convnext_nano", ls_init_value=None)).layer_scale_init_value is None
    assert resnet_from_timm(timm("resnet18", global_pool="", num_classes=0)) == ResNetConfig.resnet18()
    assert bit_from_timm(timm("resnetv2_152x4_bit", 480)) == replace(BitConfig.r152x1().wide(4), image_size=480)
    assert swin_from_timm(timm("swin_large_patch4_window7_224")) == SwinConfig.large()
    large = swin_from_timm(timm("swin_base_patch4_window12_384", 384))
    assert large == replace(SwinConfig.base(), window_sizes=(12,) * 4, image_size=384)
    assert swin_from_timm(timm("swin_tiny_patch4_window7_224", 96)).window_sizes == (7, 7, 6, 3)


@pytest.mark.parametrize(
    ("read", "name", "arguments", "message"),
    [
        (resnet_from_timm, "resnet50", {"stem_type": "deep"}, r"model_args\.stem_type 'deep' is not supported"),
        (resnet_from_timm, "resnet50", {"global_pool": "max"}, "global_pool 'max' is not supported"),
        (resnet_from_timm, "resnet50", {"global_pool": ""}, "global_pool '' is not supported; expected 'avg'"),
        (convnext_from_timm, "convnext_tiny", {"global_pool": ""}, "global_pool '' is not supported; expected 'avg'"),
        (swin_from_timm, "swin_tiny_patch4_window7_224", {"global_pool": ""}, "global_pool '' is not supported"),
        (resnet_from_timm, "resnet18", {"in_chans": 1}, r"model_args\.in_chans 1 is not supported"),
        (mobilenet_from_timm, "mobilenetv2_100", {"se_layer": "ese"}, r"model_args\.se_layer 'ese'"),
        (convnext_from_timm, "convnext_tiny", {"head_norm_first": True}, r"model_args\.head_norm_first True"),
        (convnext_from_timm, "convnext_tiny", {"kernel_sizes": [7, 5]}, r"kernel_sizes \[7, 5\] is not square"),
        (swin_from_timm, "swin_tiny_patch4_window7_224", {"always_partition": True}, r"model_args\.always_partition"),
    ],
)
def test_a_timm_argument_that_cannot_be_honored_is_refused(read, name: str, arguments: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        read(timm(name, **arguments))


@pytest.mark.parametrize(
    ("read", "raw", "message"),
    [
        (resnet_from_hf, {"layer_type": "basik"}, "layer_type 'basik'"),
        (mobilenet_from_hf, {"output_stride": 8}, "output_stride 8 is not supported; only 32"),
        (mobilenet_from_hf, {"depth_multiplier": 0.25}, "cannot have depth_multiplier 0.25: its first block has no"),
        (mobilenet_from_hf, {"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        (convnext_from_hf, {"model_type": "convnext", "num_stages": 3}, "num_stages 3"),
        (convnext_from_hf, {"model_type": "convnext", "image_size": [224, 256]}, "image_size .* is not square"),
        (bit_from_hf, {"global_padding": "SAME"}, "global_padding .SAME. is not supported; only None"),
        (swin_from_hf, {"use_absolute_embeddings": True}, "use_absolute_embeddings true is not supported"),
    ],
)
def test_a_config_that_cannot_be_honored_is_refused(read, raw: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        read(raw)


def test_hugging_faces_defaults_are_those_of_its_config_classes() -> None:
    assert resnet_from_hf({}) == ResNetConfig.resnet50()
    assert mobilenet_from_hf({}) == MobileNetV2Config(padding="same", eps=1e-3)
    assert convnext_from_hf({"model_type": "convnext"}) == replace(ConvNeXtConfig.tiny(), layer_norm_eps=1e-12)
    assert bit_from_hf({}) == BitConfig.r50x1()
    assert swin_from_hf({}) == replace(SwinConfig.tiny(), pad_first=True)


@pytest.mark.parametrize(
    ("size", "want"),
    [(224, (224, 224 / 256, "crop")), ({"shortest_edge": 224}, (224, 224 / 256, "crop")), (384, (384, 1.0, "squash"))],
)
def test_a_convnext_processors_size_is_read_by_its_own_rule(size, want: tuple, tmp_path: Path) -> None:
    raw = {"model_type": "convnext", "hidden_sizes": [4, 6], "depths": [1, 12], "num_stages": 2}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    kind = {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "resample": 3, "size": size}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**kind, "image_mean": mean, "image_std": std}))
    tensors = to_file(convnext_names(CONVNEXT, "hf"), drawn(CONVNEXT))
    save_file(tensors, str(tmp_path / "model.safetensors"))
    pixels, fraction, fit = want
    source = tl.load(tmp_path)
    assert source.transform == ImageTransform(pixels, tuple(mean), tuple(std), "bicubic", fraction, fit)
    # That processor reads another size differently, so the file names a processor that does not.
    other = source.resized(96)
    again = tl.load(tl.save(other, tmp_path / "again")).transform
    assert (as_image(again).size, as_image(again).resized, as_image(again).fit) == (
        96,
        as_image(other.transform).resized,
        fit,
    )


# ---------------------------------------------------------------------------------------------------------------
# What users do with them


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory):
    """Dark and bright noise."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label, low in (("bright", 120), ("dark", 0)):
        (folder / label).mkdir()
        for i in range(16):
            Image.fromarray(rng.integers(low, low + 130, (32, 32, 3), np.uint8)).save(folder / label / f"{i}.png")
    return tl.dataset(folder, test_examples=8)


@pytest.mark.parametrize(
    "case", ["resnet torchvision", "mobilenet timm", "convnext hf", "convnext v2 authors", "swin timm", "bit authors"]
)
def test_a_probe_on_a_frozen_backbone_is_planned_and_fitted(
    case: str, image_folder, tmp_path: Path, monkeypatch
) -> None:
    from transferlab.transfer import frontier

    # The tiny backbones cost so little that their carries would not be kept.
    monkeypatch.setattr(frontier, "FLOPS_PER_BYTE", 0.0)
    config, table = CASES[case]
    config = replace(config, image_size=32)
    if not isinstance(config, MobileNetV2Config):
        config = replace(config, depths=(1, 1))
    save_file(to_file(table(config), drawn(config)), str(tmp_path / "model.safetensors"))
    source = tl.load(tmp_path / "model.safetensors", config=config)
    settings = tl.train.Settings(learning_rate=1e-1, epochs=10, batch_size=8)
    run = tl.adapt(source, image_folder, method=tl.methods.Probe(), settings=settings)
    assert set(run.plan.trainable) == {"head/kernel", "head/bias"} and run.plan.training == {"head"}
    assert "computed once per example and kept" in str(run.plan)
    before = trees.flatten(run.plan.place(0)[0])
    result = run.fit()
    for path, leaf in trees.flatten(found(result.params)).items():
        if not path.startswith("head"):
            np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
