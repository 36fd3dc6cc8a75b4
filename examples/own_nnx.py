"""A Flax NNX module of one's own has learned the digits 0 to 3. LoRA on its frozen trunk and a new head learn 4 to 9.

    python examples/own_nnx.py

Prints what is grafted, and the accuracy on held-out digits, with the adapters next to their kernels and merged into them.
"""

import jax
import optax
from flax import nnx
from sklearn.datasets import load_digits

import transferlab as tl
from transferlab import trees


class MLP(nnx.Module):
    def __init__(self, classes: int, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(64, 64, rngs=rngs) for _ in range(4)])
        self.head = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x)


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x, few, later = x / 16, y < 4, y >= 4
    four, six = (tl.network(lambda rngs, n=n: MLP(n, rngs), "x") for n in (4, 6))
    start, _ = tl.graft(four, nnx.state(MLP(4, nnx.Rngs(0)))).place()
    old = train(four, start, "**", x[few], y[few])  # elsewhere, as a rule

    network = tl.edit(six, tl.methods.LoRA(rank=4, targets="layers/**"))
    graft = tl.graft(network, old, initialise="**/lora/** | head", unused="head")
    print(graft)
    params, _ = graft.place(seed=0)
    params = train(network, params, "**/lora/** | head", x[later][:800], y[later][:800] - 4)

    for name, logits in (
        ("beside", network(params, x=x[later][800:])["logits"]),
        ("merged", six(network.merge(params), x=x[later][800:])["logits"]),
    ):
        print(f"adapters {name}: accuracy {(logits.argmax(-1) == y[later][800:] - 4).mean():.3f}")


def train(network, params, trainable, x, y):
    step = tl.train_step(network, tl.tasks.Classification(), trainable, optax.adam(3e-3))
    (state, frozen), update = step.init(params), jax.jit(step)
    for _ in range(60):
        state, _ = update(state, frozen, {"inputs": {"x": x}, "targets": {"label": y}})
    return trees.join(state["params"], frozen)


if __name__ == "__main__":
    main()
