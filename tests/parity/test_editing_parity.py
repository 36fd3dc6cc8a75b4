"""Adapters of ``tl.edit`` against PEFT's on the same layers: not merged, and merged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import transferlab as tl

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
peft = pytest.importorskip("peft", reason="parity tests need peft")


def matrix(weight: Any) -> np.ndarray:
    """A weight of torch, output first, as a kernel, output last."""
    array = weight.detach().numpy()
    return array.transpose(*range(2, array.ndim), 1, 0)


LAYERS: dict[str, tuple[Callable[[], Any], Callable[[nnx.Rngs], Any]]] = {
    "linear": (lambda: torch.nn.Linear(6, 5), lambda r: nnx.Linear(6, 5, rngs=r)),
    "conv": (
        lambda: torch.nn.Conv2d(3, 5, (3, 2), stride=2, padding=1),
        lambda r: nnx.Conv(3, 5, (3, 2), strides=2, padding=1, rngs=r),
    ),
    "embedding": (lambda: torch.nn.Embedding(7, 5), lambda r: nnx.Embed(7, 5, rngs=r)),
}


@pytest.mark.parametrize(
    ("name", "dora"), [("linear", False), ("linear", True), ("conv", False), ("conv", True), ("embedding", False)]
)
def test_a_layer_of_nnx_computes_what_pefts_does(name: str, dora: bool) -> None:
    torch.manual_seed(0)
    theirs, ours = LAYERS[name][0](), LAYERS[name][1](nnx.Rngs(0))
    leaf = ours.embedding if name == "embedding" else ours.kernel
    leaf.set_value(jnp.asarray(theirs.weight.detach().numpy() if name == "embedding" else matrix(theirs.weight)))
    if name != "embedding":
        ours.bias.set_value(jnp.asarray(theirs.bias.detach().numpy()))
    method = tl.methods.DoRA if dora else tl.methods.LoRA
    tl.edit(ours, method(rank=4, alpha=6.0, targets="**"))
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"], use_dora=dora)
    wrapped = peft.get_peft_model(torch.nn.Sequential(theirs), config).eval()
    layer = wrapped.base_model.model[0]
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    if name == "embedding":
        a, b = layer.lora_embedding_A["default"].T, layer.lora_embedding_B["default"].T
        a, b = a.detach().numpy(), b.detach().numpy()
        x = np.array([[0, 6, 3], [1, 1, 5], [2, 4, 0]])
    else:
        a, b = (
            matrix(part["default"].weight).reshape(-1, last) for part, last in ((layer.lora_A, 4), (layer.lora_B, 5))
        )
        x = np.random.default_rng(0).normal(size=(3, 8, 7, 3) if name == "conv" else (3, 4, 6)).astype(np.float32)
    ours.lora.a.set_value(jnp.asarray(a))
    ours.lora.b.set_value(jnp.asarray(b))
    if dora:
        magnitude = layer.lora_magnitude_vector["default"].weight.detach().numpy().reshape(-1)
        ours.lora.magnitude.set_value(jnp.asarray(magnitude))

    def reference(model: Any) -> np.ndarray:
        with torch.no_grad():
            out = model(torch.from_numpy(x.transpose(0, 3, 1, 2) if name == "conv" else x)).numpy()
        return out.transpose(0, 2, 3, 1) if name == "conv" else out

    expected = reference(wrapped)
    np.testing.assert_allclose(ours(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    merged = reference(wrapped.merge_and_unload())
    np.testing.assert_allclose(merged, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tl.merge(ours)(jnp.asarray(x)), merged, rtol=1e-4, atol=1e-5)
