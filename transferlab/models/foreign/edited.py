"""Networks of somebody else's modules with adapters: next to the kernels of NNX layers, on the weights of anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax import nnx

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models.foreign.adapters import Adapter, Factors, attach, has_own_call, kernel_of
from transferlab.models.foreign.base import Leaves, Module, Run
from transferlab.models.foreign.function_module import FunctionModule
from transferlab.models.foreign.layouts import KERNELS, Layout, layout_of, named_layout
from transferlab.models.foreign.linen_module import LinenModule
from transferlab.models.foreign.network import ForeignNetwork
from transferlab.models.foreign.nnx_module import NnxModule
from transferlab.models.foreign.stages import Step
from transferlab.selectors import owns
from transferlab.trees import Tree, key_of

ON_WEIGHTS = "adapters act on the weights: no dropout on their input"


@dataclass(frozen=True)
class EditedNetwork(ForeignNetwork):
    """A network with adapters, as :func:`transferlab.edit` returns it. Its leaves are those of ``base`` and the adapters'.

    Attributes:
        base: the network without adapters.
        adapters: one for each adapted kernel.
        derived: paths of leaves → how they start as a graft places them, each a ``Derived`` of leaves of this network.
        notes: what the table of a graft says of them.
    """

    base: ForeignNetwork
    adapters: tuple[Adapter, ...]
    derived: Mapping[tuple[str, ...], Any] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = ()

    def merge(self, params: Mapping[str, Any]) -> Tree:
        """Return parameters of ``base``: those of this network with each adapter added to its kernel.

        Raises:
            TransferlabError: a kernel or a leaf of an adapter that is missing.
        """
        return trees.unflatten(merged(trees.flatten(params), self.adapters))


def merged(leaves: Mapping[str, Any], adapters: Sequence[Adapter]) -> Leaves:
    """Return the leaves with each adapter in its kernel. One whose kernel is not among them is left out."""
    out = dict(leaves)
    for adapter in adapters:
        parts = {path: out.pop(path, None) for path in adapter.shapes}
        if adapter.kernel not in out:
            continue
        missing = next((path for path, part in parts.items() if part is None), None)
        if missing is not None:
            raise TransferlabError(f"'{missing}' is missing: the kernel '{adapter.kernel}' has an adapter.")
        names = {path.rpartition("/")[2]: part for path, part in parts.items()}
        out[adapter.kernel] = adapter.merged(out[adapter.kernel], names["a"], names["b"], names.get("magnitude"))
    return out


class WeightModule:
    """A module whose kernels are given to it with their adapters added."""

    def __init__(self, base: Module, adapters: tuple[Adapter, ...]):
        self.base, self.adapters, self.one_mode, self.state = base, adapters, base.one_mode, base.state
        self.params = dict(base.params)
        for adapter in adapters:
            self.params |= adapter.shapes

    def draw(self, key: jax.Array) -> Leaves:
        """All leaves: the module's own as it draws them, and the adapters'."""
        leaves = self.base.draw(key)
        for adapter in self.adapters:
            leaves |= adapter.draw(key_of(key, adapter.folder), leaves[adapter.kernel])
        return leaves

    def call(
        self,
        run: Run | None,
        leaves: Leaves,
        value: Any,
        key: jax.Array | None,
        trains: Callable[[str], bool],
        training: bool,
    ) -> tuple[Any, Leaves]:
        """Call the module with its kernels adapted."""
        return self.base.call(run, merged(leaves, self.adapters), value, key, trains, training)


def kernels_of(module: nnx.Module) -> dict[str, Layout | str]:
    """Path → layout of each kernel of an NNX module's layers; text where no adapter fits it, and why.

    Raises:
        TransferlabError: a layer that has an adapter already.
    """
    out: dict[str, Layout | str] = {}
    parts = list(nnx.iter_modules(module))
    users = [id(value) for _, part in parts for value in vars(part).values() if isinstance(value, nnx.Param)]
    for place, part in parts:
        if isinstance(part, Factors):
            raise TransferlabError(
                f"'{_path(place)}' is an adapter already. Merge those that there are first: tl.merge(module)."
            )
        for name in KERNELS:
            variable = getattr(part, name, None)
            if isinstance(variable, nnx.Param):
                layout = layout_of(part, tuple(variable.shape), variable.dtype)
                if users.count(id(variable)) > 1:
                    layout = "another layer has the same Param, which merging would change too"
                elif hasattr(part, "lora"):
                    layout = f"its {type(part).__name__} has an attribute 'lora' of its own"
                out[_path((*place, name))] = layout
    return out


def attach_all(module: nnx.Module, adapters: Sequence[Adapter], key: jax.Array) -> dict[str, nnx.Param]:
    """Give the layers of an NNX module these adapters, in place.

    Returns:
        Path → Param of the adapted kernels and the leaves of their adapters.

    Raises:
        TransferlabError: dropout on the input of an adapter that acts on the weights.
    """
    found = {_path(place): part for place, part in nnx.iter_modules(module)}
    layers: list[Any] = [found[adapter.kernel.rpartition("/")[0]] for adapter in adapters]
    for adapter, layer in zip(adapters, layers, strict=True):
        if adapter.dropout and has_own_call(type(layer)):
            raise TransferlabError(
                f"'{adapter.kernel}' cannot have an adapter with dropout on its input: its {type(layer).__name__} has a __call__ of its own, "
                "so the adapter is added to its kernel. Leave the dropout out, as LoRA(dropout=0.0), or this kernel."
            )
    leaves: dict[str, nnx.Param] = {}
    for adapter, layer in zip(adapters, layers, strict=True):
        attach(layer, adapter, key_of(key, adapter.folder))
        leaves[adapter.kernel] = kernel_of(layer)
        leaves |= {path: getattr(layer.lora, path.rpartition("/")[2]) for path in adapter.shapes}
    return leaves


def network_kernels(network: ForeignNetwork) -> dict[str, Layout | str]:
    """As :func:`kernels_of`, of a network: by the layers of Flax, and by name where a function has no layers."""
    module = network.module
    if isinstance(module, NnxModule):
        return kernels_of(nnx.eval_shape(lambda: module.create(nnx.Rngs(0))))
    if isinstance(module, LinenModule):
        layers, out = module.layers(), {}
        for path, shape in module.params.items():
            parent, _, name = path.rpartition("/")
            if name in KERNELS and parent in layers:
                out[path] = layout_of(layers[parent], shape.shape, shape.dtype)
        return out
    named = {path: named_layout(path, shape.shape, shape.dtype) for path, shape in module.params.items()}
    return {path: layout for path, layout in named.items() if layout is not None}


def edited(
    network: ForeignNetwork, adapters: Sequence[Adapter], derived: Mapping[tuple[str, ...], Any]
) -> EditedNetwork:
    """Return the network with these adapters, and how some of their leaves start.

    Raises:
        TransferlabError: a leaf of an adapter has the path of one that the network has.
    """
    base = network.module
    notes: tuple[str, ...] = ()
    module: Module
    if isinstance(base, NnxModule):

        def create(rngs: nnx.Rngs) -> nnx.Module:
            made = base.create(rngs)
            attach_all(made, adapters, rngs.params())
            return made

        module = NnxModule(create, base.inputs, base.flag)
    else:
        taken = next(
            (path for one in adapters for path in one.shapes if path in base.params or path in base.state), None
        )
        if taken is not None:
            raise TransferlabError(f"The network has a leaf '{taken}' already, where an adapter would have its own.")
        module = WeightModule(base, tuple(adapters))
        ignored = sorted({one.dropout for one in adapters} - {0.0})
        notes = (ON_WEIGHTS + (f" (dropout={ignored[0]:g} has no effect)" if ignored else ""),)
        if isinstance(base, FunctionModule):
            notes += ("kernels called 'weight' are taken as (out, in, …), all others as (…, in, out)",)
    steps = tuple(_with_adapters(step, adapters) for step in network.stages)
    return EditedNetwork(
        module,
        network.inputs,
        network.output,
        steps,
        base=network,
        adapters=tuple(adapters),
        derived=derived,
        notes=notes,
    )


def _with_adapters(step: Step, adapters: Sequence[Adapter]) -> Step:
    """The stage that owns a kernel owns its adapter, and the one that borrows it borrows that."""

    def extended(prefixes: tuple[str, ...]) -> tuple[str, ...]:
        folders = (one.folder for one in adapters if owns(prefixes, one.kernel))
        return (*prefixes, *(folder for folder in folders if not owns(prefixes, folder)))

    return replace(step, owns=extended(step.owns), borrows=extended(step.borrows))


def _path(place: Sequence[Any]) -> str:
    return "/".join(map(str, place))
