"""ResNet against transformers' and timm's own models (torchvision's have timm's keys and numbers)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_timm
from test_bert_parity import randomised

import transferlab as tl
from transferlab import trees
from transferlab.models import ClassifierConfig, ResNetConfig
from transferlab.pretrained.families.resnet import resnet_names
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

REFERENCES = {
    "bottlenecks, fourteen blocks": {"embedding_size": 6, "hidden_sizes": [8, 12, 16, 20], "depths": [2, 2, 8, 2]},
    "basic, identity in the first stage": {
        "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [2, 1], "layer_type": "basic",
    },
    "stride in the first convolution": {
        "embedding_size": 6, "hidden_sizes": [8, 16], "depths": [1, 2], "downsample_in_bottleneck": True,
        "downsample_in_first_stage": True,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def timm():
    return import_timm()


def pixels(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, *size, 3)).astype(np.float32)


def channels_first(x: np.ndarray):
    return torch.tensor(x).permute(0, 3, 1, 2)


near = partial(compare, family="ResNet", form="transformers", tolerance=5e-5, floor=0.0)


def moved(made):
    """Random weights, and the batch statistics that they give: with any other, rounding grows from layer to layer."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in randomised(made).modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(0.7 + 0.6 * torch.rand(module.weight.shape, generator=generator))
                module.momentum = 0.9
        made.train()(torch.randn(8, 3, 64, 64, generator=generator))
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.1
    return made.eval()


@pytest.mark.parametrize("name", REFERENCES)
def test_feature_maps_and_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    config = transformers.ResNetConfig(**REFERENCES[name], id2label={0: "cat", 1: "dog", 2: "cow"})
    made = moved(transformers.ResNetForImageClassification(config))
    made.save_pretrained(tmp_path)
    source = tl.load(tmp_path)
    for shape in ((64, 64), (45, 71)):
        given = pixels(*shape)
        want, got = made.resnet(channels_first(given)), source({"pixel_values": given})
        near(got["hidden"].transpose(0, 3, 1, 2), want.last_hidden_state, what="hidden")
        near(got["pooled"], want.pooler_output[:, :, 0, 0], what="pooled")
        near(got["logits"], made(channels_first(given)).logits)
    assert source.labels == ("cat", "dog", "cow")


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
@pytest.mark.parametrize("act", ["gelu", "silu"])
def test_another_activation_acts_between_a_blocks_convolutions(act: str, kind: str, tmp_path: Path) -> None:
    """``hidden_act`` is of the stem and after the sum."""
    config = transformers.ResNetConfig(
        embedding_size=6, hidden_sizes=[8, 12], depths=[2, 1], layer_type=kind, hidden_act=act, num_labels=3
    )
    made = moved(transformers.ResNetForImageClassification(config))
    made.save_pretrained(tmp_path)
    given = pixels(45, 71)
    near(tl.load(tmp_path)({"pixel_values": given})["logits"], made(channels_first(given)).logits)


def test_written_here_is_read_by_transformers(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(**REFERENCES["bottlenecks, fourteen blocks"])
    moved(transformers.ResNetModel(config)).save_pretrained(tmp_path / "old")
    source, given = tl.load(tmp_path / "old"), pixels(64, 64)
    leaves = {path: leaf.read() + np.float32(0.01) for path, leaf in source.leaves.items()}
    tensors = to_file(resnet_names(source.config, "hf"), leaves)
    made = transformers.ResNetModel(config).eval()
    missing, unexpected = made.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()}, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    params = trees.unflatten({path: jnp.asarray(leaves[path]) for path in trees.flatten(source.definition.params)})
    state = trees.unflatten({path: jnp.asarray(leaves[path]) for path in trees.flatten(source.definition.state)})
    got = jax.jit(lambda p, s, x: source.definition.merge(p, s)({"pixel_values": x})["hidden"])(params, state, given)
    near(made(channels_first(given)).last_hidden_state, got.transpose(0, 3, 1, 2), what="hidden", way="written")


TIMM = {"resnet18": (64, 64), "resnet50": (65, 97), "resnext50_32x4d": (50, 64)}


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_directory_and_a_state_dict_equal_timms_logits(name: str, timm, tmp_path: Path) -> None:
    made = moved(timm.create_model(name, num_classes=5))
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True)
    source, given = tl.load(tmp_path), pixels(*TIMM[name])
    got = source({"pixel_values": given})
    # Fifty layers: torch's own float32 is as far from its float64.
    names = {"family": "Wide ResNet/ResNeXt" if "next" in name else "ResNet", "tolerance": 1e-4}
    features = made.forward_features(channels_first(given))
    near(got["hidden"].transpose(0, 3, 1, 2), features, what="hidden", form="timm", **names)
    near(got["logits"], made(channels_first(given)), form="timm", **names)
    if name == "resnet18":
        torch.save(made.state_dict(), tmp_path / "resnet18.pth")
        bare = tl.load(tmp_path / "resnet18.pth", config=ResNetConfig.resnet18())
        np.testing.assert_array_equal(bare({"pixel_values": given})["logits"], got["logits"])
        near(bare({"pixel_values": given})["logits"], made(channels_first(given)), form="torch file", **names)


@pytest.mark.parametrize(
    "name",
    ["resnet26", "resnet34", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2", "resnext101_32x4d",
     "resnext101_32x8d", "resnext101_64x4d"],
)  # fmt: skip
def test_a_named_size_has_timms_keys_and_shapes(name: str, timm) -> None:
    with torch.device("meta"):
        want = {key: tuple(tensor.shape) for key, tensor in timm.create_model(name, num_classes=3).state_dict().items()}
    config = getattr(ResNetConfig, name)()
    definition = trees.define(config.build(ClassifierConfig(("a", "b", "c"))))
    shapes = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
    table = resnet_names(config, "torchvision").names
    got = {entry.key: np.empty(shapes[entry.path].shape, np.bool_) for entry in table}
    got = {entry.key: entry.layout.to_file(got[entry.key]).shape for entry in table}
    assert got == {key: shape for key, shape in want.items() if not key.endswith("num_batches_tracked")}


def test_training_gradients_and_batch_statistics_equal_timms(timm, tmp_path: Path) -> None:
    """With the batch's own statistics: all parameters' gradients, and where the running mean goes."""
    made = moved(timm.create_model("resnet18", num_classes=3))
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True)
    source, given = tl.load(tmp_path), pixels(48, 40)
    made.train()
    made(channels_first(given)).square().sum().backward()
    theirs = dict(made.named_parameters())
    arrays = {path: jnp.asarray(leaf.read()) for path, leaf in source.leaves.items()}
    params = trees.unflatten({p: arrays[p] for p in trees.flatten(source.definition.params)})
    state = trees.unflatten({p: arrays[p] for p in trees.flatten(source.definition.state)})

    @jax.jit
    def step(params):
        def loss(params):
            model = source.definition.merge(params, state)
            out = model({"pixel_values": jnp.asarray(given)}, jax.random.key(0))
            return jnp.square(out["logits"]).sum(), trees.state_of(model)

        return jax.grad(loss, has_aux=True)(params)

    grads, after = step(params)
    for path, got in trees.flatten(grads).items():
        want = source.leaves[path].layout.to_tree(theirs[source.leaves[path].key].grad.numpy())
        # Statistics over two examples of 2 × 2 pixels: the normalisation amplifies rounding.
        near(got, want, form="timm", what="gradients", tolerance=1e-3, where=path)
    buffers = dict(made.named_buffers())
    for path, got in trees.flatten(after).items():
        if path.endswith("/mean"):
            want = buffers[source.leaves[path].key].numpy()
            np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max(), rtol=0, err_msg=path)
