"""BiT against transformers' and timm's own models, and the authors' npz names as timm reads them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_timm
from support.typed import savez
from test_bert_parity import randomised
from test_resnet_parity import channels_first, pixels
from test_vit_parity import gradients_equal

import transferlab as tl
from transferlab import trees
from transferlab.models import BitConfig, ClassifierConfig
from transferlab.pretrained.families.bit import bit_names
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

DEEP = {"embedding_size": 8, "hidden_sizes": [16, 32, 32], "depths": [1, 11, 2], "num_groups": 4}
SMOOTH = {"embedding_size": 12, "hidden_sizes": [16, 24], "depths": [2, 1], "num_groups": 2, "hidden_act": "gelu"}


@pytest.fixture(scope="session")
def timm():
    return import_timm()


@pytest.mark.parametrize("sizes", [DEEP, SMOOTH], ids=["fourteen blocks", "gelu"])
def test_feature_maps_and_logits_equal_transformers(sizes: dict, tmp_path: Path) -> None:
    config = transformers.BitConfig(**sizes, id2label={0: "cat", 1: "dog", 2: "cow"})
    made = randomised(transformers.BitForImageClassification(config))
    made.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), pixels(64, 45)
    want, got = made.bit(channels_first(given)), source({"pixel_values": given})
    near = partial(compare, family="BiT", form="transformers", tolerance=5e-5, floor=0.0)
    near(got["hidden"].transpose(0, 3, 1, 2), want.last_hidden_state, what="hidden")
    near(got["logits"], made(channels_first(given)).logits)
    assert source.labels == ("cat", "dog", "cow") and not source.unused
    written = to_file(bit_names(source.config, "hf"), {p: leaf.read() for p, leaf in source.leaves.items()})
    own = {key.removeprefix("bit."): tensor.numpy() for key, tensor in made.state_dict().items()}
    assert written.keys() == own.keys()
    for key, tensor in written.items():
        np.testing.assert_array_equal(tensor, own[key], err_msg=key)


def test_gradients_through_standardised_kernels_equal_transformers(tmp_path: Path) -> None:
    made = randomised(transformers.BitForImageClassification(transformers.BitConfig(**SMOOTH, num_labels=2)))
    made.save_pretrained(tmp_path)
    made.folder = tmp_path
    given = pixels(48, 33)
    gradients_equal(tl.load(tmp_path), given, made, made(channels_first(given)).logits, "BiT", "transformers")


def test_a_timm_directory_and_the_authors_npz_equal_timms_logits(timm, tmp_path: Path) -> None:
    made = randomised(timm.create_model("resnetv2_50x1_bit", num_classes=5))
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True)
    source, given = tl.load(tmp_path), pixels(64, 81)
    got, want = source({"pixel_values": given}), made(channels_first(given))
    # Fifty layers: torch's own float32 is as far from its float64.
    near = partial(compare, family="BiT", tolerance=1e-4, floor=0.0)
    near(got["hidden"].transpose(0, 3, 1, 2), made.forward_features(channels_first(given)), what="hidden", form="timm")
    near(got["logits"], want, form="timm")
    tensors = to_file(bit_names(source.config, "authors"), {p: leaf.read() for p, leaf in source.leaves.items()})
    savez(tmp_path / "BiT-M-R50x1.npz", {f"resnet/{key}": tensor for key, tensor in tensors.items()})
    fresh = timm.create_model("resnetv2_50x1_bit", num_classes=5).eval()
    with torch.no_grad():
        fresh.load_pretrained(str(tmp_path / "BiT-M-R50x1.npz"))
    np.testing.assert_array_equal(fresh(channels_first(given)).detach().numpy(), want.detach().numpy())
    again = tl.load(tmp_path / "BiT-M-R50x1.npz", config=BitConfig.r50x1())({"pixel_values": given})
    np.testing.assert_array_equal(again["logits"], got["logits"])
    near(
        again["hidden"].transpose(0, 3, 1, 2),
        fresh.forward_features(channels_first(given)),
        what="hidden",
        form="authors' npz",
    )
    near(again["logits"], fresh(channels_first(given)), form="authors' npz")


@pytest.mark.parametrize("name", ["50x3", "101x1", "152x2"])
def test_a_named_size_has_timms_keys_and_shapes(name: str, timm) -> None:
    with torch.device("meta"):
        made = timm.create_model(f"resnetv2_{name}_bit", num_classes=3)
    want = {key: tuple(tensor.shape) for key, tensor in made.state_dict().items()}
    depth, width = name.split("x")
    config = getattr(BitConfig, f"r{depth}x1")().wide(int(width))
    shapes = trees.flatten(trees.define(config.build(ClassifierConfig(("a", "b", "c")))).params)
    table = bit_names(config, "timm").names
    got = {entry.key: entry.layout.to_file(np.empty(shapes[entry.path].shape, np.bool_)).shape for entry in table}
    assert got == want
