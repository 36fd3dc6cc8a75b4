"""What the engine asks of a model: named leaves, named stages, and one way to run some of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax

from transferlab.models.backbone import Carry
from transferlab.models.layers import Key
from transferlab.trees import Tree


@dataclass(frozen=True)
class StageInfo:
    """What is known of a stage without running it.

    Attributes:
        name: as in the tree: ``embed``, ``layers/3``, ``head``.
        owns: path prefixes of the leaves that live in this stage.
        borrows: path prefixes of leaves that it uses but another stage owns.
        random: whether it may draw anything while it trains (dropout, stochastic depth).
        takes_inputs: whether further inputs of the model enter here; it is never before the frontier.
    """

    name: str
    owns: tuple[str, ...] = ()
    borrows: tuple[str, ...] = ()
    random: bool = True
    takes_inputs: bool = False


@runtime_checkable
class Network(Protocol):
    """A model without arrays: frozen, and compared by what it computes.

    Its arrays are passed in as nested dicts whose paths (``layers/3/attention/query/kernel``) are those of ``params`` and
    ``state``; leaves that no stage to be run touches may be left out.
    """

    @property
    def params(self) -> Tree:
        """What may train, as a tree of ``jax.ShapeDtypeStruct``."""
        ...

    @property
    def state(self) -> Tree:
        """What moves without a gradient, as batch statistics, as a tree of ``jax.ShapeDtypeStruct``."""
        ...

    @property
    def stages(self) -> tuple[StageInfo, ...]:
        """The stages from the input on; each leaf is owned by exactly one."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        ...

    @property
    def divisible(self) -> bool:
        """Whether ``run`` can start and stop between stages; if not, it runs all of them."""
        ...

    def initialise(self, paths: Collection[str], key: jax.Array) -> dict[str, jax.Array]:
        """Return ``{path: array}`` for these leaves, as the model itself would start them."""
        ...

    def run(
        self,
        params: Mapping[str, Any],
        state: Mapping[str, Any],
        carry: Carry,
        *,
        start: int = 0,
        stop: int | None = None,
        key: Key | None = None,
        training: Collection[str] = frozenset(),
        compute: Any = None,
        remat: bool = False,
    ) -> tuple[Carry, Tree]:
        """Run ``stages[start:stop]``; to be traced.

        Args:
            params: nested dict of arrays.
            state: nested dict of arrays.
            carry: what the stage before ``start`` returned; the inputs by name where that is 0.
            start: index of the first stage to be run.
            stop: index of the one after the last; None for the end.
            key: what random stages that train draw from; each folds it with its name.
            training: names of the stages that run as in training.
            compute: dtype of the parameters and of the arithmetic; None leaves both.
            remat: compute a stage's activations again in the backward pass.

        Returns:
            The last carry, and the state after the call.
        """
        ...


def sequence_entries(network: Network) -> tuple[str, ...]:
    """Names of the carry's entries whose second axis is the length of a text; none where the network names none."""
    return getattr(network, "sequence_entries", ())
