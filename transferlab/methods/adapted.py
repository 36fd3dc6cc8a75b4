"""``Adapted``: a base with what a method put on it, to be called, merged, or written for PEFT; ``load_adapter`` opens one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError, check_arguments
from transferlab.files import folder_named
from transferlab.methods.lora import LowRank
from transferlab.models.layers import Linear
from transferlab.pretrained.loading import load
from transferlab.pretrained.peft import AdapterConfig, Pair, base_name, read_adapter, write_adapter
from transferlab.pretrained.source import Source, evaluation


@dataclass(frozen=True)
class Adapted:
    """A base and its LoRA adapters, apart.

    Attributes:
        source: the base, with the head and whatever else was trained as a whole.
        pairs: ``{kernel's path: its adapter}``; empty where the method has none.
    """

    source: Source
    pairs: Mapping[str, Pair] = field(default_factory=dict, repr=False)

    @cached_property
    def definition(self) -> trees.Definition:
        """The module with ``lora`` beside each adapted kernel, without arrays."""
        module = self.source.config.build(self.source.head)
        for path, pair in self.pairs.items():
            parent = trees.submodule(module, path.removesuffix("/kernel"))
            if not isinstance(parent, Linear):
                raise TransferlabError(f"'{path}' is not the kernel of a linear map that can take an adapter.")
            inputs, outputs = parent.kernel.get_value().shape
            parent.lora = LowRank(
                inputs, outputs, pair.rank, pair.scale * pair.rank, pair.dropout, magnitude=pair.magnitude is not None
            )
        return trees.define(module)

    @cached_property
    def params(self) -> trees.Tree:
        """All parameters in memory, the adapters under ``…/lora/a`` and ``…/lora/b`` (and ``…/lora/magnitude``)."""
        flat = trees.flatten(self.source.arrays[0])
        for path, pair in self.pairs.items():
            parent = path.removesuffix("/kernel")
            for name, array in (("a", pair.a), ("b", pair.b), ("magnitude", pair.magnitude)):
                if array is not None:
                    leaf = f"{parent}/lora/{name}"
                    flat[leaf] = trees.placed(np.asarray(array), self.source.dtype, f"'{leaf}'")
        return trees.unflatten(flat)

    def module(self) -> Any:
        """The Flax NNX module with its weights in memory."""
        return self.definition.merge(self.params, self.source.arrays[1], compute=self.source.dtype)

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Evaluate, as :meth:`Source.__call__`."""
        return self._evaluate(self.params, self.source.arrays[1], self.source.checked(inputs))

    @cached_property
    def _evaluate(self) -> Any:
        return evaluation(self.source, self.definition)

    def merged(self) -> Source:
        """The base with each adapter in its kernel: ``kernel + scale · a b``, in float32 and then the kernel's dtype."""
        if not self.pairs:
            return self.source
        flat = {}
        for path, pair in self.pairs.items():
            leaf = self.source.leaves[path]
            flat[path] = pair.merged(leaf.read().astype(np.float32)).astype(leaf.dtype)
        return self.source.with_params(trees.unflatten(flat))

    def save_adapter(self, directory: str | Path, *, head: bool = True, overwrite: bool = False) -> Path:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``, which PEFT loads onto the same base.

        Args:
            directory: where to; it must not exist or be empty, unless ``overwrite``.
            head: whether the head goes with it, as one of ``modules_to_save``.
            overwrite: whether what is there is replaced.
        """
        target = folder_named(directory, "directory").expanduser()
        write_adapter(target, self.source, self.pairs, head, overwrite)
        return target


@check_arguments
def load_adapter(directory: str | Path, source: Source | None = None) -> Adapted:
    """Open a PEFT adapter on its base.

    Args:
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        source: the base; by default ``base_model_name_or_path``, as a path or on the hub.

    Raises:
        TransferlabError: another kind than LoRA and DoRA; a key or shape that does not fit the base.
    """
    place = Path(directory).expanduser()
    if source is None:
        path = place / "adapter_config.json"
        if not path.exists():
            raise TransferlabError(f"{place}: no adapter_config.json, so it is no PEFT adapter.")
        config = AdapterConfig.read(path)
        if not config.base:
            raise TransferlabError(f"{path} names no base_model_name_or_path; give the base, as tl.load(…).")
        source = load(base_name(config))
    return Adapted(*read_adapter(place, source))


def adapted(
    source: Source, trained: trees.Tree, initialised: trees.Tree, state: trees.Tree, head: Any, module: Any
) -> Adapted:
    """Return what a run made of its base: trained leaves in their places, its adapters apart.

    ``initialised`` are frozen leaves that the source has not as they are: of a network that began with random weights.
    """
    flat = trees.flatten(initialised) | trees.flatten(trained)
    pairs = {}
    for path in flat:
        parent, mark, last = path.rpartition("/lora/")
        if mark and last == "a":
            layer = trees.submodule(module, parent).lora
            magnitude = flat.get(f"{parent}/lora/magnitude")
            pairs[f"{parent}/kernel"] = Pair(
                flat[path], flat[f"{parent}/lora/b"], layer.scale, layer.dropout, magnitude
            )
    whole = {path: leaf for path, leaf in flat.items() if "/lora/" not in path}
    return Adapted(source.with_params(trees.unflatten(whole), state, head=head), pairs)
