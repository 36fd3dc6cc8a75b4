"""The frontier: everything before the first stage that trains is a pure function of the example.

This file decides whether to compute it once, and hashes everything it depends on; :mod:`cache` stores it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.compute.flops import flops_of, lowered_to_count
from transferlab.models.backbone import Carry
from transferlab.models.network import Network, sequence_entries
from transferlab.selectors import owns

FLOPS_PER_BYTE = 100.0
"""A carry is cached where recomputing it costs at least this many operations for each byte that is read instead."""


@dataclass(frozen=True)
class CacheDecision:
    """Whether the stages before the frontier are computed once.

    Attributes:
        cached: whether they are.
        sentence: what the plan prints about it.
        bytes_per_example: size of an example's carry; 0 where it is not cached.
        flops_per_example: operations that computing it takes; 0 where it is not cached.
        has_sequences: whether the carry has an axis of length, so that examples differ in shape.
    """

    cached: bool
    sentence: str
    bytes_per_example: int = 0
    flops_per_example: float = 0.0
    has_sequences: bool = False


def decide_caching(
    network: Network, stop: int, inputs: dict[str, Any], limit: int, examples: int, compute: str = "float32"
) -> CacheDecision:
    """Decide from the cost of one example; nothing is allocated.

    Args:
        network: the target.
        stop: index of the frontier.
        inputs: one example's inputs (leading axis 1), arrays or shapes.
        limit: bytes that the cache may hold.
        examples: how many examples a run sees (training, validation and test).
        compute: dtype that the stages compute in.
    """
    if stop == 0:
        return CacheDecision(False, "nothing is frozen before the first stage")
    shapes = tuple((name, tuple(np.shape(value)), str(value.dtype)) for name, value in sorted(inputs.items()))
    flops, size, names, has_sequences = _cost(network, stop, shapes, compute)
    until = f"'{names[stop - 1]}'"
    # Where the compiler does not count operations, it is cached: most prefixes cost far more than their carry.
    if flops is not None and flops < FLOPS_PER_BYTE * size:
        return CacheDecision(
            False, f"the stages up to {until} are frozen, and recomputed: that is cheaper than keeping them"
        )
    if size * examples > limit:
        return CacheDecision(
            False,
            f"the stages up to {until} are frozen, but {examples} carries of {size:,} bytes exceed the limit of "
            f"{limit:,}: recomputed in each step",
        )
    return CacheDecision(
        True,
        f"the stages up to {until} are computed once per example and kept ({size:,} bytes each)",
        size,
        flops or 0.0,
        has_sequences,
    )


@cache
def _cost(
    network: Network, stop: int, inputs: tuple[tuple[str, tuple[int, ...], str], ...], compute: str
) -> tuple[float | None, int, tuple[str, ...], bool]:
    """Return (operations, bytes of the carry, names of the stages, whether the carry has sequences) for one example."""
    example = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in inputs}
    lowered = lowered_to_count(prefix_function(network, stop, compute), network.params, network.state, example)
    flops = flops_of(lowered)
    size = sum(trees.leaf_bytes(leaf) for leaf in jax.tree.leaves(lowered.out_info))
    has_sequences = any(name in sequence_entries(network) for name in lowered.out_info)
    return flops, size, tuple(stage.name for stage in network.stages), has_sequences


def prefix_function(network: Network, stop: int, compute: str = "float32") -> Callable[..., Carry]:
    """Return the pure function (params, state, inputs) → carry of ``stages[:stop]``, in evaluation."""

    def prefix(params: trees.Tree, state: trees.Tree, inputs: dict[str, Any]) -> Carry:
        return network.run(params, state, trees.cast(inputs, compute), stop=stop, compute=compute)[0]

    return prefix


def packed_function(network: Network, stop: int, compute: str = "float32") -> Callable[..., Carry]:
    """Return the pure function (params, state, inputs) → carry of ``stages[:stop]``, in evaluation, on packed texts, of a network
    that has a ``first_position``.

    ``inputs`` are those of :class:`transferlab.data.packing.Packed`. The carry is that of :func:`prefix_function`: a row for
    each text, as long as the packed rows are wide, with the mask of its own tokens.
    """
    tokens = min(stop, getattr(network, "tokens_until", stop))

    def prefix(params: trees.Tree, state: trees.Tree, inputs: dict[str, Any]) -> Carry:
        together, places = packed_inputs(inputs)
        carry, _ = network.run(params, state, together, stop=tokens, compute=compute)
        return network.run(params, state, separated(carry, *places), start=tokens, stop=stop, compute=compute)[0]

    return prefix


def packed_inputs(inputs: Mapping[str, Any]) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
    """Return (what the network reads of packed texts, where each begins and how long it is)."""
    rest = dict(inputs)
    segments, starts, lengths = (rest.pop(name) for name in ("segments", "starts", "lengths"))
    return {**rest, "attention_mask": segments[:, :, None] == segments[:, None, :]}, (starts, lengths)


def separated(carry: Carry, starts: jax.Array, lengths: jax.Array) -> Carry:
    """Return a carry of packed texts with a row for each text, as long as the packed rows are wide."""
    count, width = carry["hidden"].shape[:2]
    offset = jnp.arange(width)
    at = jnp.minimum(starts[:, None] + offset, count * width - 1)
    rows = {name: x.reshape(-1, *x.shape[2:])[at] for name, x in carry.items() if name != "mask"}
    return {**rows, "mask": offset < lengths[:, None]}


def cache_key(
    params: trees.Tree, state: trees.Tree, network: Network, stop: int, transform: Any, data_sha256: str,
    compute: str, weights_sha256: str | None = None,
) -> str:  # fmt: skip
    """Return the key: a hash of everything that the carries depend on, including ``compute`` (the stages' dtype).

    ``weights_sha256`` is the source's, where all leaves before the frontier are copied from it: they need not be hashed.
    """
    parts = _described(network, stop, transform, data_sha256, compute)
    if weights_sha256 is None:
        stages = network.stages[:stop]
        prefixes = [prefix for stage in stages for prefix in stage.owns + stage.borrows]
        leaves = {**trees.flatten(params), **trees.flatten(state)}
        weights_sha256 = trees.sha256(trees.unflatten({p: leaf for p, leaf in leaves.items() if owns(prefixes, p)}))
    return hashlib.sha256(f"{parts} {weights_sha256}".encode()).hexdigest()


@cache
def _described(network: Network, stop: int, transform: Any, data_sha256: str, compute: str) -> str:
    """All but the weights, as JSON."""
    described: Callable[[int], dict[str, Any]] = getattr(network, "described")  # noqa: B009
    parts = {
        **described(stop),
        "compute": compute,
        "backend": f"{jax.default_backend()} {jax.__version__}",
        "precision": str(jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
        "transform": repr(transform),
        "data": data_sha256,
    }
    return json.dumps(parts, sort_keys=True)
