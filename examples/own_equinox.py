"""An Equinox module of one's own has learned the digits 0 to 3. LoRA on its frozen trunk and a new head learn 4 to 9.

    pip install equinox && python examples/own_equinox.py

Prints what is grafted, and the accuracy on held-out digits, with the adapters on the weights and merged into them.
"""

import equinox as eqx
import jax
import optax
from sklearn.datasets import load_digits

import transferlab as tl
from transferlab import trees


class MLP(eqx.Module):
    layers: list[eqx.nn.Linear]
    head: eqx.nn.Linear

    def __init__(self, classes: int, key: jax.Array):
        self.layers = [eqx.nn.Linear(64, 64, key=one) for one in jax.random.split(key, 4)]
        self.head = eqx.nn.Linear(64, classes, key=key)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.head(x)


def network_of(classes: int):
    """The network, and the arrays that its key draws."""
    init = lambda key: eqx.filter(MLP(classes, key), eqx.is_array)  # noqa: E731
    params, static = eqx.partition(MLP(classes, jax.random.key(0)), eqx.is_array)
    return tl.function_network(lambda params, x: jax.vmap(eqx.combine(params, static))(x), params, init=init), params


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x, few, later = x / 16, y < 4, y >= 4
    (four, start), (six, like) = network_of(4), network_of(6)
    old = train(four, tl.graft(four, start).place()[0], "**", x[few], y[few])  # elsewhere, as a rule

    network = tl.edit(six, tl.methods.LoRA(rank=4, targets="layers/**"))
    graft = tl.graft(network, old, initialise="**/lora/** | head", unused="head")
    print(graft)
    params, _ = graft.place(seed=0)
    params = train(network, params, "**/lora/** | head", x[later][:800], y[later][:800] - 4)

    for name, logits in (
        ("on the weights", network(params, x=x[later][800:])["logits"]),
        ("merged", six(network.merge(params), x=x[later][800:])["logits"]),
    ):
        print(f"adapters {name}: accuracy {(logits.argmax(-1) == y[later][800:] - 4).mean():.3f}")
    module = tl.graft(like, network.merge(params)).place()  # an Equinox module again
    assert (module.layers[0].weight != params["layers"]["0"]["weight"]).any()


def train(network, params, trainable, x, y):
    step = tl.train_step(network, tl.tasks.Classification(), trainable, optax.adam(3e-3))
    (state, frozen), update = step.init(params), jax.jit(step)
    for _ in range(60):
        state, _ = update(state, frozen, {"inputs": {"x": x}, "targets": {"label": y}})
    return trees.join(state["params"], frozen)


if __name__ == "__main__":
    main()
