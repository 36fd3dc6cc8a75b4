"""What a source puts out when it is called: hidden states, the pooled vector, embeddings, logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from transferlab import trees
from transferlab.models.heads import EmbeddingConfig, HeadConfig, unit_length
from transferlab.models.nnx_network import NnxNetwork


@runtime_checkable
class Evaluated(Protocol):
    """What of a source decides on its outputs."""

    @property
    def dtype(self) -> Any: ...
    @property
    def towers(self) -> Mapping[str, Any]: ...
    @property
    def pooling(self) -> Any: ...
    @property
    def normalise(self) -> bool: ...
    @property
    def head(self) -> HeadConfig | None: ...


def evaluation(source: Evaluated, network: NnxNetwork) -> Any:
    """Return the compiled (params, state, inputs) → outputs of a source's module, or of one with adapters."""

    @jax.jit
    def evaluate(params: trees.Tree, state: trees.Tree, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        carry, _ = network.run(params, state, inputs, stop=network.backbone, compute=source.dtype)
        if source.towers:
            hidden = [f"{name}/hidden" for name in source.towers]
            return {name: carry[name] for name in (*hidden, "image_embedding", "text_embedding", "logits")}
        out = {name: carry[name] for name in ("hidden", "encoded", "embedding") if name in carry}
        if source.pooling == "pooler":
            if "pooled" in carry:
                out["pooled"] = carry["pooled"]
        else:
            pooled = network.pool(carry, source.pooling)
            out["pooled"] = unit_length(pooled) if source.normalise else pooled
        if source.head is not None and not isinstance(source.head, EmbeddingConfig):
            last, _ = network.run(params, state, carry, start=network.backbone, compute=source.dtype)
            out["logits"] = last["logits"]
        return out

    return evaluate
