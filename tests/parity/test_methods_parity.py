"""How methods start and scale, against the libraries that are known for them: DoRA and PiSSA in PEFT, layer-wise decay in timm."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from support.optional_imports import import_timm
from test_bert_parity import SIZES, inputs, randomised, reference
from test_vit_parity import from_timm

import transferlab as tl
from transferlab import trees
from transferlab.methods.adapted import adapted
from transferlab.models import ClassifierConfig
from transferlab.models.nnx_network import NnxNetwork
from transferlab.train.setup import plan_for

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")
peft = pytest.importorskip("peft", reason="parity tests need peft")

BERT = SIZES["twelve layers, narrow"]


def started(model, **settings):
    """PEFT's model as it starts, and its tensors by name."""
    made = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"], **settings)
    ).eval()
    return made, {name: p.detach().numpy() for name, p in made.named_parameters()}


def ours(folder: Path, method: tl.methods.Method) -> dict[str, np.ndarray]:
    placed, _ = plan_for(tl.load(folder), ClassifierConfig(("a", "b"), pooling="pooler"), method).place(0)
    return {path: np.asarray(leaf) for path, leaf in trees.walk(placed)}


def layer(name: str) -> str:
    number, part = name.split("encoder.layer.")[1].split(".")[0], "query" if ".query." in name else "value"
    return f"layers/{number}/attention/{part}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    randomised(transformers.BertModel(transformers.BertConfig(**BERT))).save_pretrained(folder)
    return folder


def test_dora_starts_with_the_lengths_that_peft_starts_with(base: Path) -> None:
    _, theirs = started(transformers.BertModel.from_pretrained(base), use_dora=True)
    mine = ours(base, tl.methods.DoRA(rank=4, alpha=6.0))
    lengths = {name: value for name, value in theirs.items() if "magnitude" in name}
    assert len(lengths) == 24
    for name, value in lengths.items():
        np.testing.assert_allclose(mine[f"{layer(name)}/lora/magnitude"], value, rtol=1e-5, err_msg=name)


def test_pissa_splits_a_kernel_as_peft_does(base: Path) -> None:
    """Factors are equal up to the signs of singular vectors: their product, and what is left of the kernel, are equal."""
    _, theirs = started(transformers.BertModel.from_pretrained(base), init_lora_weights="pissa")
    mine = ours(base, tl.methods.PiSSA(rank=4, alpha=6.0))
    halves = [name for name in theirs if "lora_A" in name]
    assert len(halves) == 24
    for name in halves:
        path = layer(name)
        product = theirs[name.replace("lora_A", "lora_B")] @ theirs[name]
        np.testing.assert_allclose(mine[f"{path}/lora/a"] @ mine[f"{path}/lora/b"], product.T, atol=1e-5, err_msg=name)
        rest = theirs[name.replace("lora_A.default", "base_layer")]
        np.testing.assert_allclose(mine[f"{path}/kernel"], rest.T, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(
            np.linalg.norm(mine[f"{path}/lora/a"], axis=0), np.linalg.norm(theirs[name], axis=1), rtol=1e-4
        )


def test_a_pissa_adapter_that_was_trained_here_is_one_of_the_original_base_in_peft(base: Path, tmp_path: Path) -> None:
    source = tl.load(base)
    head, rng = ClassifierConfig(("a", "b"), pooling="pooler"), np.random.default_rng(0)
    plan = plan_for(source, head, tl.methods.PiSSA(rank=4, alpha=6.0))
    placed = trees.flatten(plan.place(0)[0])
    trained = {
        path: np.asarray(placed[path]) + 0.1 * rng.normal(size=placed[path].shape).astype(np.float32)
        for path in plan.trainable
    }
    assert isinstance(plan.network, NnxNetwork)
    whole = adapted(
        source,
        trees.unflatten(trained),
        plan.initialised(0),
        {},
        head,
        plan.network.module,
        plan.started(0),
    )
    whole.save_adapter(tmp_path / "adapter")
    given = inputs(transformers.BertConfig(**BERT))
    model = transformers.BertForSequenceClassification.from_pretrained(base, num_labels=2)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    assert loaded.peft_config["default"].r == 8
    logits = np.asarray(whole(given)["logits"])
    np.testing.assert_allclose(logits, reference(loaded, given).logits.numpy(), atol=2e-5)
    arrays = {name: jnp.asarray(value) for name, value in given.items()}
    direct, _ = plan.network.run(trees.unflatten({**placed, **trained}), {}, arrays)
    np.testing.assert_allclose(logits, direct["logits"], atol=2e-5)


def test_layer_decay_gives_each_leaf_the_rate_that_timm_gives_it(tmp_path: Path) -> None:
    timm = import_timm()
    sizes = {"img_size": 32, "embed_dim": 12, "depth": 4, "num_heads": 2}
    model = from_timm(timm, tmp_path, "vit_tiny_patch16_224", **sizes)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = import_module("timm.optim").param_groups_layer_decay(model, layer_decay=0.7)
    theirs = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    source = tl.load(tmp_path)
    assert source.head is not None
    plan = plan_for(source, source.head, tl.methods.Full() | tl.methods.LayerDecay(0.7))
    assert {leaf.source[0] for leaf in plan.leaves} == set(theirs)
    for leaf in plan.leaves:
        assert leaf.lr_scale == pytest.approx(theirs[leaf.source[0]]), leaf.path
    assert len({leaf.lr_scale for leaf in plan.leaves}) == 6
