"""A Flax Linen module of one's own has learned the digits 0 to 3. LoRA on its frozen trunk and a new head learn 4 to 9.

    python examples/own_linen.py

Prints what is grafted, and the accuracy on held-out digits, with the adapters on the weights and merged into them.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import transferlab as tl
from transferlab import trees


class MLP(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(4):
            x = nn.relu(nn.Dense(64, name=f"layer_{i}")(x))
        return nn.Dense(self.classes, name="head")(x)


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x, few, later = x / 16, y < 4, y >= 4
    four, six = (tl.linen_network(MLP(n), jnp.zeros((1, 64))) for n in (4, 6))
    old = train(four, MLP(4).init(jax.random.key(0), x[:1])["params"], "**", x[few], y[few])  # elsewhere, as a rule

    network = tl.edit(six, tl.methods.LoRA(rank=4, targets="layer_*"))
    graft = tl.graft(network, old, initialise="**/lora/** | head", unused="head")
    print(graft)
    params, _ = graft.place(seed=0)
    params = train(network, params, "**/lora/** | head", x[later][:800], y[later][:800] - 4)

    for name, logits in (
        ("on the weights", network(params, x=x[later][800:])["logits"]),
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
