"""A module, a loop, an optimizer and a mesh of one's own: graft, freeze, and train on eight devices.

    python examples/own_mesh.py          # simulates eight devices on a CPU; leave XLA_FLAGS out where there are some

Prints what is grafted, how the leaves lie on the mesh, and the loss on eight devices and on one.
"""

from __future__ import annotations

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

import transferlab as tl


class MLP(nnx.Module):
    def __init__(self, classes: int, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(64, 64, rngs=rngs) for _ in range(4)])
        self.head = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x)


def losses(devices: int, steps: int = 5) -> list[float]:
    mesh = Mesh(jax.devices()[:devices], ("data",))

    def sharding(path: str, shape: tuple[int, ...]) -> Sharding:
        """Kernels are cut along their first axis, everything else is on each device."""
        return NamedSharding(mesh, PartitionSpec("data") if path.endswith("kernel") else PartitionSpec())

    old = MLP(1000, nnx.Rngs(0))  # trained on something else
    network = tl.network(lambda rngs: MLP(10, rngs), "x")
    graft = tl.graft(network, nnx.state(old, nnx.Param), initialise="head", unused="head")
    params, state = graft.place(seed=0, sharding=sharding)
    names = tl.labels(params, {"head": "head", "deep": "layers/3"}, rest="frozen")
    optimizer = optax.partition(
        {"head": optax.adam(1e-2), "deep": optax.adam(1e-3), "frozen": optax.set_to_zero()}, names
    )
    step = tl.train_step(network, tl.tasks.Classification(), "**", optimizer)
    loop, frozen = step.init(params, state)
    update = jax.jit(step, donate_argnums=0)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.device_put(jax.random.normal(jax.random.key(1), (32, 64)), rows)
    batch = {"inputs": {"x": x}, "targets": {"label": jax.device_put(jnp.arange(32) % 10, rows)}}
    out = []
    for _ in range(steps):
        loop, metrics = update(loop, frozen, batch)
        out.append(float(metrics["loss"]))
    if devices > 1:
        print(graft)
        kernel = loop["params"]["layers"]["3"]["kernel"]
        print(
            f"layers/3/kernel {kernel.shape}: {kernel.sharding.shard_shape(kernel.shape)} on each of {devices} devices"
        )
    kept = loop["params"]["layers"]["0"]["kernel"]
    assert bool((kept == old.layers[0].kernel[...]).all()), "a frozen leaf moved"
    return out


def main() -> None:
    many, one = losses(len(jax.devices())), losses(1)
    for step, (a, b) in enumerate(zip(many, one, strict=True)):
        print(f"step {step}\t{a:.6f}\t{b:.6f}")


if __name__ == "__main__":
    main()
