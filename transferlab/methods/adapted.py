"""``Adapted``: a base with its adapters, to be called, merged, or written for PEFT; ``load_adapter`` opens one."""

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
from transferlab.models.nnx_network import NnxNetwork
from transferlab.pretrained.loading import load
from transferlab.pretrained.outputs import evaluation
from transferlab.pretrained.peft import Pair, base_name, read_adapter, write_adapter
from transferlab.pretrained.peft_config import AdapterConfig
from transferlab.pretrained.source import Source


@dataclass(frozen=True)
class Adapted:
    """A base and its LoRA adapters, kept separate. :func:`transferlab.load_adapter`, ``Result.adapted`` and
    ``Predictor.adapted`` return one.

    Example:
        >>> adapted = tl.open_run("runs/lora").adapted
        >>> tl.save(adapted.merged(), "merged")
        >>> adapted.save_adapter("adapter")

    Attributes:
        source: the base, with the head and whatever else was trained as a whole.
        pairs: ``{kernel's path: its adapter}``; empty where the method has none.
    """

    source: Source
    pairs: Mapping[str, Pair] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Adapted({self.source!r} with {len(self.pairs):,} adapters)"

    @cached_property
    def definition(self) -> trees.Definition:
        """The module with ``lora`` next to each adapted kernel, without arrays."""
        module = self.source.config.build(self.source.head)
        for path, pair in self.pairs.items():
            parent = trees.submodule(module, path.removesuffix("/kernel"))
            if not isinstance(parent, Linear):
                raise TransferlabError(f"'{path}' is not the kernel of a linear map; only those can have an adapter.")
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
        """Evaluate base and adapters, like :meth:`transferlab.pretrained.source.Source.__call__`."""
        return self._evaluate(self.params, self.source.arrays[1], self.source.checked(inputs))

    @cached_property
    def _evaluate(self) -> Any:
        return evaluation(self.source, NnxNetwork(self.definition))

    def merged(self) -> Source:
        """The base with each adapter added to its kernel: ``kernel + scale · a b`` in float32, then the kernel's dtype."""
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
            directory: must not exist, or be empty, unless ``overwrite``.
            head: whether to write the head too, as one of ``modules_to_save``.
            overwrite: whether to replace existing files.

        Returns:
            The directory.

        Raises:
            TransferlabError: there are no adapters, or the directory is not empty.
        """
        target = folder_named(directory, "directory").expanduser()
        write_adapter(target, self.source, self.pairs, head, overwrite)
        return target


@check_arguments
def load_adapter(directory: str | Path, source: Source | None = None) -> Adapted:
    """Open a PEFT adapter on its base. :meth:`transferlab.methods.adapted.Adapted.save_adapter` writes one.

    Example:
        >>> adapted = tl.load_adapter("adapter", tl.load("base"))
        >>> source = adapted.merged()

    Args:
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        source: the base; by default ``base_model_name_or_path``, as a path or on the hub.

    Raises:
        TransferlabError: an adapter that is neither LoRA nor DoRA; a key or shape that does not fit the base.
    """
    if isinstance(directory, Source):
        raise TransferlabError("load_adapter takes the directory first: tl.load_adapter('adapter', source).")
    folder = Path(directory).expanduser()
    if source is None:
        path = folder / "adapter_config.json"
        if not path.exists():
            raise TransferlabError(f"{folder} is not a PEFT adapter: it has no adapter_config.json.")
        config = AdapterConfig.read(path)
        if not config.base:
            raise TransferlabError(
                f"{path} names no base_model_name_or_path; pass the base: tl.load_adapter('{directory}', tl.load(…))."
            )
        source = load(base_name(config))
    return Adapted(*read_adapter(folder, source))


def adapted(
    source: Source,
    trained: trees.Tree,
    initialised: trees.Tree,
    state: trees.Tree,
    head: Any,
    module: Any,
    started: trees.Tree | None = None,
) -> Adapted:
    """Return a run's base with the trained leaves in their places and its adapters separate.

    Args:
        source: the base.
        trained: leaves that were trained.
        initialised: frozen leaves that are not the source's own, as in a network with random weights.
        state: batch statistics.
        head: the new head.
        module: the edited module.
        started: first values of adapters that were taken out of their kernels, as PiSSA's: ``W − s a₀ b₀ + s a b`` is then written
            as an adapter of W itself, of twice the rank: ``W + s [a a₀] [b; −b₀]``.
    """
    flat, first = trees.flatten(initialised) | trees.flatten(trained), trees.flatten(started or {})
    pairs = {}
    for path in list(flat):
        parent, separator, last = path.rpartition("/lora/")
        if separator and last == "a":
            layer = trees.submodule(module, parent).lora
            a, b = flat[path], flat[f"{parent}/lora/b"]
            if path in first:
                a0, b0 = first[path], first[f"{parent}/lora/b"]
                rest = flat.pop(f"{parent}/kernel")
                if not _same(rest, source.leaves[f"{parent}/kernel"], a0, b0, layer.scale):
                    flat[f"{parent}/kernel"] = rest + layer.scale * (a0 @ b0)  # of a network with random weights
                a, b = np.concatenate([a, a0], 1), np.concatenate([b, -np.asarray(b0)], 0)
            magnitude = flat.get(f"{parent}/lora/magnitude")
            pairs[f"{parent}/kernel"] = Pair(a, b, layer.scale, layer.dropout, magnitude)
    whole = {path: leaf for path, leaf in flat.items() if "/lora/" not in path}
    return Adapted(source.with_params(trees.unflatten(whole), state, head=head), pairs)


def _same(rest: Any, leaf: Any, a: Any, b: Any, scale: float) -> bool:
    """Whether what is left of a kernel without ``scale · a b`` is left of the source's kernel."""
    kernel = np.asarray(leaf.read(), np.float32)
    return bool(np.allclose(np.asarray(rest, np.float32) + scale * (np.asarray(a) @ np.asarray(b)), kernel, atol=1e-4))
