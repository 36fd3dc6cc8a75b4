"""MobileNetV2 against transformers' and timm's own models; torchvision's real weights in timm's, and real photos."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_timm
from support.typed import as_image
from test_resnet_parity import channels_first, moved, pixels

import transferlab as tl
from transferlab.data.images import ImageTransform
from transferlab.models import MobileNetV2Config
from transferlab.pretrained.families.mobilenet import mobilenet_names
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")


near = partial(compare, family="MobileNetV2", tolerance=5e-5, floor=0.0)


@pytest.fixture(scope="session")
def timm():
    return import_timm()


@pytest.mark.parametrize(
    "sizes",
    [{"depth_multiplier": 0.35}, {"depth_multiplier": 0.5, "tf_padding": False, "layer_norm_eps": 1e-5}],
    ids=["TensorFlow's padding", "torch's padding"],
)
def test_feature_maps_and_logits_equal_transformers(sizes: dict, tmp_path: Path) -> None:
    config = transformers.MobileNetV2Config(**sizes, id2label={0: "cat", 1: "dog", 2: "cow"})
    made = moved(transformers.MobileNetV2ForImageClassification(config))
    made.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), pixels(45, 70)
    want, got = made.mobilenet_v2(channels_first(given)), source({"pixel_values": given})
    near(got["hidden"].transpose(0, 3, 1, 2), want.last_hidden_state, what="hidden", form="transformers")
    near(got["logits"], made(channels_first(given)).logits, form="transformers")
    assert source.labels == ("cat", "dog", "cow")
    written = to_file(mobilenet_names(source.config, "hf"), {p: leaf.read() for p, leaf in source.leaves.items()})
    own = {k.removeprefix("mobilenet_v2."): v.numpy() for k, v in made.state_dict().items()}
    assert own.keys() - written.keys() == {key for key in own if key.endswith("num_batches_tracked")}
    for key, tensor in written.items():
        np.testing.assert_array_equal(tensor, own[key], err_msg=key)


@pytest.mark.parametrize("width", ["035", "140"])
def test_a_timm_directory_equals_timms_logits(width: str, timm, tmp_path: Path) -> None:
    made = moved(timm.create_model(f"mobilenetv2_{width}", num_classes=5))
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True)
    source, given = tl.load(tmp_path), pixels(65, 48)
    got = source({"pixel_values": given})
    near(got["hidden"].transpose(0, 3, 1, 2), made.forward_features(channels_first(given)), what="hidden", form="timm")
    near(got["logits"], made(channels_first(given)), form="timm")


@pytest.mark.parametrize("multiplier", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
def test_a_width_has_the_channels_that_transformers_gives_it(multiplier: float) -> None:
    with torch.device("meta"):
        made = transformers.MobileNetV2Model(transformers.MobileNetV2Config(depth_multiplier=multiplier))
    own = [block.outputs for stage in MobileNetV2Config(multiplier).blocks() for block in stage]
    first = made.conv_stem.reduce_1x1.convolution.out_channels
    assert own == [first, *(layer.reduce_1x1.convolution.out_channels for layer in made.layer)]
    assert MobileNetV2Config(multiplier).features == made.conv_1x1.convolution.out_channels


@pytest.mark.network
def test_torchvisions_weights_in_timms_model_give_the_same_logits(timm) -> None:
    source = tl.load("mobilenet-v2")
    leaves = {path: leaf.read() for path, leaf in source.leaves.items()}
    tensors = to_file(mobilenet_names(source.config, "timm"), leaves)
    made = timm.create_model("mobilenetv2_100").eval()
    missing, unexpected = made.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()}, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    for shape in ((224, 224), (97, 131)):
        given = pixels(*shape)
        with torch.no_grad():
            got = source({"pixel_values": given})
            names: dict[str, Any] = {"family": "MobileNetV2 (published weights)", "form": "torchvision"}
            near(
                got["hidden"].transpose(0, 3, 1, 2),
                made.forward_features(channels_first(given)),
                what="hidden",
                **names,
            )
            near(got["logits"], made(channels_first(given)), **names)


@pytest.mark.network
@pytest.mark.parametrize(("photo", "label"), [("chelsea", 285), ("coffee", 967)])
def test_real_photos_are_recognised(photo: str, label: int) -> None:
    data = pytest.importorskip("skimage.data", reason="the photos come with scikit-image")
    source = tl.load("mobilenet-v2")
    assert source.transform == ImageTransform(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 0.875)
    logits = source({"pixel_values": as_image(source.transform)(getattr(data, photo)())[None]})["logits"]
    assert int(logits[0].argmax()) == label
