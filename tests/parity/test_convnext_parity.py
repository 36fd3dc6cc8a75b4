"""ConvNeXt and its second version against transformers' and timm's own models, and files under the authors' names."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_timm
from test_bert_parity import randomised
from test_resnet_parity import channels_first, pixels
from test_vit_parity import gradients_equal

import transferlab as tl
from transferlab import trees
from transferlab.models import ClassifierConfig, ConvNeXtConfig
from transferlab.pretrained.families.convnext import convnext_names
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

DEEP = {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 11, 2], "layer_scale_init_value": 0.2}
REFERENCES = {
    "fifteen blocks": ("ConvNext", DEEP),
    "no layer scale, other patches": (
        "ConvNext", {"hidden_sizes": [8, 12], "depths": [2, 1], "num_stages": 2, "layer_scale_init_value": 0.0,
                     "patch_size": 3, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    ),
    "V2": ("ConvNextV2", {"hidden_sizes": [6, 8, 10], "depths": [1, 2, 1], "num_stages": 3}),
}  # fmt: skip


def near(name: str, form: str):
    """``compare`` for either version, which the name of a case or of an architecture says."""
    return partial(
        compare, family="ConvNeXt V2" if "v2" in name.lower() else "ConvNeXt", form=form, tolerance=5e-5, floor=0.0
    )


@pytest.fixture(scope="session")
def timm():
    return import_timm()


@pytest.mark.parametrize("name", REFERENCES)
def test_feature_maps_and_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    family, sizes = REFERENCES[name]
    config = getattr(transformers, f"{family}Config")(**sizes, id2label={0: "cat", 1: "dog", 2: "cow"})
    made = randomised(getattr(transformers, f"{family}ForImageClassification")(config))
    made.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), pixels(66, 83)
    want, got = made.base_model(channels_first(given)), source({"pixel_values": given})
    near(name, "transformers")(got["hidden"].transpose(0, 3, 1, 2), want.last_hidden_state, what="hidden")
    near(name, "transformers")(got["pooled"], want.pooler_output, what="pooled")
    near(name, "transformers")(got["logits"], made(channels_first(given)).logits)
    assert source.labels == ("cat", "dog", "cow") and not source.unused
    written = to_file(convnext_names(source.config, "hf"), {p: leaf.read() for p, leaf in source.leaves.items()})
    fresh = getattr(transformers, f"{family}ForImageClassification")(config)
    prefix = f"{fresh.base_model_prefix}."
    state = {k if k.startswith("classifier") else prefix + k: torch.tensor(v) for k, v in written.items()}
    fresh.load_state_dict(state)
    near(name, "transformers")(fresh.eval()(channels_first(given)).logits, got["logits"], way="written")


def test_gradients_of_every_parameter_equal_transformers(tmp_path: Path) -> None:
    made = randomised(transformers.ConvNextV2ForImageClassification(
        transformers.ConvNextV2Config(**REFERENCES["V2"][1], num_labels=2)
    ))  # fmt: skip
    made.save_pretrained(tmp_path)
    made.folder = tmp_path
    given = pixels(48, 33)
    gradients_equal(tl.load(tmp_path), given, made, made(channels_first(given)).logits, "ConvNeXt V2", "transformers")


TIMM = {
    "as published, small": ("convnext_atto", {}),
    "linear MLP": ("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20), "ls_init_value": 0.3}),
    "other kernels": ("convnext_tiny", {"depths": (1, 1), "dims": (8, 12), "kernel_sizes": 5, "norm_eps": 1e-5}),
    "V2, 1×1 convolutions": ("convnextv2_atto", {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20)}),
    "V2": ("convnextv2_tiny", {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20)}),
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in TIMM if n != "other kernels"])
def test_a_timm_directory_equals_timms_logits(name: str, timm, tmp_path: Path) -> None:
    architecture, arguments = TIMM[name]
    made = randomised(timm.create_model(architecture, num_classes=5, **arguments))
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True, model_args=arguments)
    source, given = tl.load(tmp_path), pixels(64, 97)
    got = source({"pixel_values": given})
    features = made.forward_features(channels_first(given))
    near(architecture, "timm")(got["hidden"].transpose(0, 3, 1, 2), features, what="hidden")
    near(architecture, "timm")(got["pooled"], made.forward_head(features, pre_logits=True), what="pooled")
    near(architecture, "timm")(got["logits"], made(channels_first(given)))


def test_a_file_under_the_authors_names_equals_timms_reading_of_it(timm, tmp_path: Path) -> None:
    arguments = {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20)}
    for number, architecture in enumerate(("convnext_tiny", "convnextv2_tiny")):
        made = randomised(timm.create_model(architecture, num_classes=5, **arguments))
        state = {authors(key): value for key, value in made.state_dict().items()}
        state = {k: v.reshape(1, 1, 1, -1) if ".grn." in k else v for k, v in state.items()}
        torch.save({"model": state}, tmp_path / f"{number}.pth")
        config = ConvNeXtConfig(hidden_sizes=arguments["dims"], depths=arguments["depths"])
        source = tl.load(tmp_path / f"{number}.pth", config=config.v2() if number else config)
        given = pixels(64, 64)
        near(architecture, "torch file")(source({"pixel_values": given})["logits"], made(channels_first(given)))


def authors(key: str) -> str:
    """The name that the authors' own code gives this tensor of timm's."""
    key = re.sub(r"^stem\.", "downsample_layers.0.", key)
    key = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", key).replace(".blocks.", ".")
    for ours, theirs in (("mlp.grn.weight", "grn.gamma"), ("mlp.grn.bias", "grn.beta"), ("conv_dw", "dwconv"),
                         ("mlp.fc", "pwconv"), ("head.norm", "norm"), ("head.fc", "head")):  # fmt: skip
        key = key.replace(ours, theirs)
    return key


SIZES = ["atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge"]


@pytest.mark.parametrize(
    "name", [*(f"convnext_{s}" for s in SIZES), "convnextv2_nano", "convnextv2_base", "convnextv2_huge"]
)
def test_a_named_size_has_timms_keys_and_shapes(name: str, timm) -> None:
    with torch.device("meta"):
        want = {key: tuple(tensor.shape) for key, tensor in timm.create_model(name, num_classes=3).state_dict().items()}
    version, _, size = name.partition("_")
    config = getattr(ConvNeXtConfig, size)()
    config = config.v2() if version == "convnextv2" else config
    shapes = trees.flatten(trees.define(config.build(ClassifierConfig(("a", "b", "c")))).params)
    table = convnext_names(config, "timm").names
    got = {entry.key: entry.layout.to_file(np.empty(shapes[entry.path].shape, np.bool_)).shape for entry in table}
    assert got == want
