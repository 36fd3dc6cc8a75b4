"""``tl.from_tree``: a network of one's own and its arrays as a source, which every method adapts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.data.arrays import ArrayTransform
from transferlab.data.audio import AudioTransform
from transferlab.data.images import ImageTransform
from transferlab.data.inputs import Transform
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, check_arguments, nearest, shown
from transferlab.models.foreign.headed import Example, HeadedNetwork, with_head
from transferlab.models.foreign.network import ForeignNetwork
from transferlab.models.foreign.nnx_module import NnxModule
from transferlab.models.heads import ClassifierConfig, HeadConfig, Pooling
from transferlab.models.nnx_network import NnxNetwork
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.names import SAME
from transferlab.pretrained.source import Source
from transferlab.pytrees import named_leaves
from transferlab.selectors import owns

FAMILY = "network"
"""What a run records as the family of such a source."""


@dataclass(frozen=True)
class NetworkConfig:
    """What a run records of a network of one's own.

    Attributes:
        kind: of its module: ``NnxModule``, ``LinenModule``, ``FunctionModule``.
        inputs, output: as of the network.
        stages: their names.
        leaves: a hash of the paths and shapes of all leaves.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    stages: tuple[str, ...]
    leaves: str


@dataclass(frozen=True, eq=False, repr=False)
class NetworkSource(Source):
    """A network of one's own with its arrays; :func:`transferlab.from_tree` makes one. It has what a run asks of a
    :class:`~transferlab.pretrained.Source`, and none of what files have.

    Attributes:
        body: the network.
        own_head: of what a run trained: the head that was put on it.
    """

    body: ForeignNetwork = field(kw_only=True)
    own_head: NnxNetwork | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.transform is not None:
            _ = self.network  # the preprocessing must give what the network takes

    @property
    def modality(self) -> str:
        """``text``, ``image``, ``audio`` or ``array``."""
        kinds = {TextTransform: "text", ImageTransform: "image", AudioTransform: "audio"}
        return kinds.get(type(self.transform), "array")

    @cached_property
    def network(self) -> Any:
        """The network as a run has it: it reads what the preprocessing gives."""
        inputs, example, longer = self.body.inputs, (), ()
        names = inputs
        if self.transform is not None:
            example, longer = _examples(self.transform)
            given = tuple(name for name, _, _ in example)
            names = inputs if set(inputs) <= set(given) else given[: len(inputs)]
            if len(names) < len(inputs):
                raise TransferlabError(
                    f"{self.name} takes {', '.join(inputs)}, and its preprocessing gives {', '.join(given)} alone. Name the inputs so: "
                    f"tl.network(…, inputs={list(given)!r})."
                )
        return HeadedNetwork(self.body, self.own_head, tuple(zip(inputs, names, strict=True)), example, longer)

    @cached_property
    def definition(self) -> Any:
        """The same as :attr:`network`."""
        return self.network

    def headed(self, head: HeadConfig) -> HeadedNetwork:
        """The network with this head; as it is where it puts out logits.

        Raises:
            TransferlabError: it puts out another number of logits, or cannot pool so.
        """
        bare = replace(self.network, head=None)
        if self.body.output == "hidden":
            if head.pooling not in bare.poolings:
                raise TransferlabError(
                    f"{self.name} cannot pool by '{head.pooling}'.{nearest(str(head.pooling), bare.poolings)} It can pool by "
                    f"{', '.join(bare.poolings)}."
                )
            return with_head(bare, head)
        if (outputs := bare.hidden.shape[-1]) != len(head.labels):
            raise TransferlabError(
                f"{self.name} puts out {outputs} logits, and the data has {len(head.labels)} labels: {', '.join(head.labels[:6])}. Its head "
                f"cannot be made anew for them. Leave it out of the module and put one on it: tl.network(…, output='hidden'); or make the "
                f"module with {len(head.labels)} outputs, and pass its arrays without the head's."
            )
        return bare

    @cached_property
    def params(self) -> trees.Tree:
        """The named parameter tree with lazy leaves, of those that there are."""
        return trees.unflatten({p: self.leaves[p] for p in trees.flatten(self.network.params) if p in self.leaves})

    @cached_property
    def state(self) -> trees.Tree:
        """Batch statistics and other state with lazy leaves."""
        return trees.unflatten({path: self.leaves[path] for path in trees.flatten(self.network.state)})

    def for_shape(self, shape: tuple[int, ...]) -> NetworkSource:
        """The source reading arrays of this shape, where it came without preprocessing."""
        if self.transform is not None:
            return self
        if shape not in self._shaped:
            self._shaped[shape] = replace(self, transform=ArrayTransform(shape))
        return self._shaped[shape]

    @cached_property
    def _shaped(self) -> dict[tuple[int, ...], NetworkSource]:
        """The same source for arrays of each shape: runs share its plans."""
        return {}

    def trained(self, network: HeadedNetwork, head: HeadConfig, params: trees.Tree, state: trees.Tree) -> NetworkSource:
        """The source with what a run trained; adapters are added to their kernels."""
        body, leaves = network.body, trees.flatten(params)
        if (merge := getattr(body, "merge", None)) is not None:
            body, leaves = getattr(body, "base"), trees.flatten(merge(jax.tree.map(jnp.asarray, params)))  # noqa: B009
        arrays = {**leaves, **trees.flatten(state)}
        own = {path: _leaf(path, value, trained=True) for path, value in arrays.items()}
        return replace(self, body=body, own_head=network.head, head=head, leaves=own, config=_config(body))

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Evaluate the network: deterministic, jitted.

        Args:
            inputs: by the names that the preprocessing gives, or by those of the network.

        Raises:
            TransferlabError: an input that is missing or unknown.
        """
        given = dict(self.network.feeds)
        arrays = {given.get(name, name): jnp.asarray(value) for name, value in inputs.items()}
        for name in self.network.inputs:
            if name not in arrays:
                raise TransferlabError(f"{self.name} needs '{name}'; got {', '.join(inputs) or 'nothing'}.")
        return self._evaluate(*self.arrays, arrays)

    @cached_property
    def _evaluate(self) -> Any:
        network, dtype = self.network, self.dtype
        return jax.jit(lambda params, state, inputs: network.run(params, state, inputs, compute=dtype)[0])

    @property
    def table(self) -> str:
        """No path: which leaf is a table of tokens is not known."""
        return ""

    def names_for(self, head: HeadConfig | None) -> None:
        """No table: it has no files."""
        return None

    def module(self, dtype: Any = None) -> NoReturn:
        """Its module is the caller's own."""
        raise TransferlabError(
            f"{self.name} is a network of your own, whose module transferlab does not make. Its arrays are source.arrays, and "
            "source.network.run(params, state, inputs) runs it."
        )

    def _resizable(self, transform: Any) -> NoReturn:
        self._fixed("inputs of another size")

    def encoder(self) -> NoReturn:
        """Refused: parts of it are the caller's to make."""
        self._fixed("only its encoder")

    def _fixed(self, what: str) -> NoReturn:
        raise TransferlabError(
            f"{self.name} is a network of your own, which transferlab does not change: make one with {what}, and\n"
            "  >>> tl.from_tree(network, params, state, transform=…)"
        )


@check_arguments
def from_tree(
    network: ForeignNetwork,
    params: Any,
    state: Any = None,
    *,
    transform: Transform | None = None,
    labels: Sequence[str] = (),
    pooling: Pooling = "mean",
    name: str = "network",
) -> NetworkSource:
    """Make a source of a network of your own and its arrays, for :func:`transferlab.adapt` and :func:`transferlab.extract_features`.

    A network whose output is ``hidden`` gets our head, which pools and classifies, as its last stages. One with ``logits`` keeps its
    own: leaves below ``head`` that ``params`` lacks start anew, as its module starts them. Where every stage says how it runs,
    frozen ones are computed once for each example; between network and head that always holds.

    Args:
        network: from :func:`transferlab.network`, :func:`transferlab.linen_network` or :func:`transferlab.function_network`.
        params: its arrays: nested dicts, an ``nnx.State``, Linen's ``params``, an Equinox module, what :func:`transferlab.graft` placed.
        state: batch statistics and other Variables, if it has any.
        transform: what makes inputs of texts, images or audio: a :class:`~transferlab.data.ImageTransform`, or that of a source
            that :func:`transferlab.load` opened. None for data that are arrays. Its inputs go to those of the network of the
            same name, else in their order.
        labels: names of what its own head puts out; where the data has others, that head starts anew.
        pooling: ``mean``, ``first`` or ``last``, of what has an axis of length.
        name: what plans and errors call it.

    Returns:
        A :class:`~transferlab.pretrained.Source`.

    Raises:
        TransferlabError: leaves that are missing, left over, or of another shape; all are named.

    Example:
        >>> mine = tl.network(lambda rngs: MLP(rngs), "x", output="hidden")
        >>> source = tl.from_tree(mine, nnx.state(module, nnx.Param))
        >>> tl.adapt(source, tl.dataset({"x": x, "label": y}), method=tl.methods.Probe()).fit()
    """
    if not isinstance(network, ForeignNetwork):
        raise TransferlabError(
            f"network is {shown(network)}; make one of your module: tl.network(create), tl.linen_network(module, example) or "
            "tl.function_network(apply, params)."
        )
    expected = {**trees.flatten(network.params), **trees.flatten(network.state)}
    arrays = dict(named_leaves(params)[0])
    if state is not None:
        arrays |= named_leaves(state)[0]
    streams = network.module.random if isinstance(network.module, NnxModule) else {}
    arrays = {path: leaf for path, leaf in arrays.items() if path not in streams}
    problems = []
    for path, leaf in expected.items():
        shape = tuple(leaf.shape)
        if path in arrays and tuple(np.shape(arrays[path])) != shape:
            problems.append(f"'{path}' is {tuple(np.shape(arrays[path]))}; the network has {shape} there.")
        elif path not in arrays and not (network.output == "logits" and owns(("head",), path)):
            kind = "state" if path in network.module.state else "params"
            problems.append(f"'{path}' {shape} is not in {kind}.{nearest(path, arrays)}")
    problems += [
        f"'{path}' has no place in the network.{nearest(path, expected)}" for path in arrays if path not in expected
    ]
    if problems:
        more = [f"and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise TransferlabError(
            "These arrays are not those of the network:\n  " + "\n  ".join([*problems[:20], *more])
            + "\nWhere paths differ, graft first:\n  >>> params, state = tl.graft(network, params, rename={new: old}).place()"
        )  # fmt: skip
    leaves = {path: _leaf(path, arrays[path]) for path in expected if path in arrays}
    own = ClassifierConfig(tuple(labels)) if labels else None
    provenance = {"name": name, "family": FAMILY}
    return NetworkSource(
        name, FAMILY, _config(network), own, leaves, (), transform, pooling, False, provenance, body=network
    )


def _config(network: ForeignNetwork) -> NetworkConfig:
    shapes = {
        path: list(leaf.shape) for path, leaf in sorted({**network.module.params, **network.module.state}.items())
    }
    digest = hashlib.sha256(str(shapes).encode()).hexdigest()[:16]
    names = tuple(step.name for step in network.stages)
    return NetworkConfig(type(network.module).__name__, network.inputs, network.output, names, digest)


def _leaf(path: str, value: Any, trained: bool = False) -> LazyLeaf:
    array = value if hasattr(value, "dtype") else np.asarray(value)
    tensor = LazyTensor(tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))
    return LazyLeaf(path, tensor, SAME, trained=trained)


def _examples(transform: Transform) -> tuple[Example, Example]:
    """Inputs of one example; of texts also those of a longer one."""
    if isinstance(transform, TextTransform):
        lengths = sorted({transform.bucket(1), transform.bucket(transform.max_length)})
        short, long = (_example(transform.pad([], length, 1)) for length in (lengths[0], lengths[-1]))
        return short, long if long != short else ()
    if isinstance(transform, ImageTransform):
        return (("pixel_values", (1, transform.size, transform.size, transform.channels), "float32"),), ()
    if isinstance(transform, AudioTransform):
        return (("input_features", (1, transform.frames, transform.bands), "float32"),), ()
    return (("array", (1, *transform.shape), "float32"),), ()


def _example(inputs: Mapping[str, np.ndarray]) -> Example:
    return tuple((name, tuple(value.shape), str(value.dtype)) for name, value in inputs.items())
