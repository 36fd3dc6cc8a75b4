"""Optimizers: the update is the published one, per leaf."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transferlab.errors import TransferlabError
from transferlab.train.optimizers import Optimizer, apply_updates, learning_rate, names
from transferlab.train.settings import Settings


def test_our_update_is_optax_adamw_with_a_mask_for_decay() -> None:
    rng = np.random.default_rng(0)
    params = {"a": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "bias": jnp.ones(4)}}
    ours, theirs = params, params
    rule = Optimizer(clip_norm=None).rule()
    peer = optax.adamw(1e-2, weight_decay=0.1, mask={"a": {"kernel": True, "bias": False}})
    state, peer_state = rule.init(params), peer.init(params)
    for _ in range(5):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        steps, state = rule.update(grads, state, ours)
        rates = {"a/kernel": jnp.float32(1e-2), "a/bias": jnp.float32(1e-2)}
        ours = apply_updates(ours, cast("dict[str, Any]", steps), rates, {"a/kernel": jnp.float32(0.1), "a/bias": 0.0})
        updates, peer_state = peer.update(grads, peer_state, theirs)
        theirs = cast("dict[str, Any]", optax.apply_updates(theirs, updates))
    for path in ("kernel", "bias"):
        np.testing.assert_allclose(ours["a"][path], theirs["a"][path], rtol=1e-6)


def test_a_learning_rate_of_zero_keeps_a_leaf() -> None:
    params = {"x": jnp.ones(3), "y": jnp.ones(3)}
    new = apply_updates(params, params, {"x": jnp.float32(0.0), "y": jnp.float32(0.2)}, {"x": 0.0, "y": 0.0})
    np.testing.assert_array_equal(new["x"], params["x"])
    np.testing.assert_allclose(new["y"], 0.8, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "want"), [("linear", [0.5, 1, 0.5, 0]), ("cosine", [0.5, 1, 0.5, 0]), ("constant", [0.5, 1, 1, 1])]
)
def test_warmup_rises_and_the_schedule_falls_as_named(schedule: str, want: list[float]) -> None:
    got = [float(learning_rate(schedule, *(jnp.float32(v) for v in (step, 1.0, 10, 2)))) for step in (0, 2, 6, 10)]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_bad_settings_are_named() -> None:
    with pytest.raises(TransferlabError, match="Did you mean 'adamw'"):
        Optimizer("adamW")
    with pytest.raises(TransferlabError, match=r"takes no argument 'beta2'.*'b2'"):
        Optimizer("adamw", {"beta2": 0.95})
    with pytest.raises(TransferlabError, match="weight_decay is a field of the training settings"):
        Optimizer("adamw", {"weight_decay": 0.1})
    with pytest.raises(TransferlabError, match="'lbfgs' cannot be used: it needs the value of the loss"):
        Optimizer("lbfgs")
    with pytest.raises(TransferlabError, match="warmup is 3"):
        Settings(warmup=3.0)
    with pytest.raises(TransferlabError, match="learning_rate is 0"):
        Settings(learning_rate=0.0)
    with pytest.raises(TransferlabError, match="weight_decay is -1"):
        Settings(weight_decay=-1.0)
    with pytest.raises(TransferlabError, match="label_smoothing is 2"):
        Settings(label_smoothing=2.0)


WRONG = """
import optax
from transferlab.errors import TransferlabError
from transferlab.train import Optimizer, Settings
for make in (
    lambda: Settings(optimizer="adam"), lambda: Settings(optimizer="adamx"), lambda: Settings(optimizer=optax.adam(1e-3)),
    lambda: Settings(optimizer=optax.sgd), lambda: Settings(optimizer={"name": "sgd"}), lambda: Settings(optimizer=None),
    lambda: Optimizer(optax.sgd), lambda: Optimizer("sgd", 0.9),
):
    try:
        print("no error", make())
    except TransferlabError as error:
        print(error)
"""


def test_a_value_that_is_not_an_optimizer_is_refused_before_the_run_is_fitted() -> None:
    """In a process of its own: in this one annotations are checked before the fields are."""
    said = subprocess.run([sys.executable, "-c", WRONG], check=True, capture_output=True, text=True).stdout.splitlines()
    line = '; give Settings(optimizer=tl.Optimizer("{}")).'
    assert said[0].startswith("no error Settings(") and "optimizer=Optimizer(name='adam'" in said[0]
    assert said[1] == "Unknown optimizer 'adamx'. Did you mean 'adamax'?"
    assert said[2].startswith("optimizer is a transformation of optax; ") and 'Optimizer("adam")' in said[2]
    assert said[3].startswith("optimizer is optax's function sgd; ") and 'Optimizer("sgd")' in said[3]
    assert said[4] == "optimizer is {'name': 'sgd'}" + line.format("adamw")
    assert said[5] == "optimizer is None" + line.format("adamw")
    assert said[6].startswith("The name of an optimizer is optax's function sgd; ")
    assert said[7] == 'The arguments of \'sgd\' are 0.9; give them by name, as Optimizer("sgd", {"momentum": 0.9}).'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("adamw", {"b2": "high"}), "optimizer.arguments.b2 is 'high'; it must be a number"),
        (("adamw", {"eps": float("nan")}), "optimizer.arguments.eps is nan; it must be a finite number"),
        (("adamw", {"eps": -1e-8}), "optimizer.arguments.eps is -1e-08; it must be at least 0"),
        (("adam", {"eps_root": -1.0}), "optimizer.arguments.eps_root is -1.0; it must be at least 0"),
        (("adadelta", {"rho": 1.0}), "optimizer.arguments.rho is 1.0; it must be from 0 to below 1"),
        (("signum", {"beta": 1.5}), "optimizer.arguments.beta is 1.5; it must be from 0 to below 1"),
        (("adafactor", {"decay_rate": -0.8}), "decay_rate is -0.8; it must be greater than 0 and at most 1"),
        (("adafactor", {"clipping_threshold": 0.0}), "clipping_threshold is 0.0; it must be greater than 0"),
        (("adafactor", {"min_dim_size_to_factor": 0}), "min_dim_size_to_factor is 0; it must be at least 1"),
        (("adafactor", {"min_dim_size_to_factor": 1.5}), "min_dim_size_to_factor is 1.5; it must be an integer"),
        (("adagrad", {"initial_accumulator_value": -0.1}), "initial_accumulator_value is -0.1; it must be at least 0"),
        (("lars", {"trust_coefficient": -1.0}), "trust_coefficient is -1.0; it must be greater than 0"),
        (("adam", {"b1": None}), "optimizer.arguments.b1 is None; it must be a number"),
        (("adam", {"b1": lambda step: 0.9}), "; it must be a number"),
        (("adam", {"b1": np.float32(1.0)}), "; it must be from 0 to below 1"),
        (("adam", {"b2": jnp.float32(1.5)}), "; it must be from 0 to below 1"),
        (("adam", {"mu_dtype": "int32"}), "mu_dtype is 'int32'; it must be a floating dtype, as 'bfloat16'"),
        (("sgd", {"accumulator_dtype": "fp17"}), "accumulator_dtype is 'fp17'; it must be a floating dtype"),
        (("sgd", {"nesterov": "yes"}), "optimizer.arguments.nesterov is 'yes'; it must be True or False"),
    ],
)
def test_a_wrong_argument_is_refused_before_the_run_is_fitted(arguments: tuple, said: str) -> None:
    with pytest.raises(TransferlabError) as error:
        Optimizer(*arguments)
    assert said in str(error.value)


def test_arguments_within_their_meaning_are_taken() -> None:
    Optimizer("optimistic_adam_v2", {"alpha": 1.5, "beta": 1.5})  # factors, not running means
    Optimizer("adam", {"mu_dtype": "bfloat16", "b1": jnp.float32(0.5), "eps": 0.0})
    Optimizer("sgd", {"momentum": None, "accumulator_dtype": None})
    Optimizer("lars", {"trust_ratio_mask": lambda params: params})
    Optimizer("adafactor", {"momentum": 0.9, "dtype_momentum": jnp.bfloat16, "min_dim_size_to_factor": 32})


def test_the_optimizer_is_public() -> None:
    import transferlab as tl

    assert tl.train.Optimizer is Optimizer


ARGUMENTS = {"sgd": {"momentum": 0.9, "nesterov": True}, "rmsprop": {"momentum": 0.5}, "adamw": {"b2": 0.95}}


@pytest.mark.parametrize("name", names())
def test_an_optimizer_by_name_takes_the_step_of_optax(name: str) -> None:
    """At a learning rate of 1 times ours it must be what optax does at that rate."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(130, 140)), jnp.float32), "bias": jnp.ones(4)}
    ours, theirs = params, params
    rule = Optimizer(name, ARGUMENTS.get(name, {}), clip_norm=None).rule()
    make = getattr(optax, name)
    none = {"weight_decay": 0.0} if "weight_decay" in inspect.signature(make).parameters else {}
    peer = make(learning_rate=1e-2, **none, **ARGUMENTS.get(name, {}))
    state, peer_state = rule.init(params), peer.init(params)
    rates, none_decays = {path: jnp.float32(1e-2) for path in params}, dict.fromkeys(params, 0.0)
    for _ in range(3):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        steps, state = rule.update(grads, state, ours)
        ours = apply_updates(ours, cast("dict[str, Any]", steps), rates, none_decays)
        updates, peer_state = peer.update(grads, peer_state, theirs)
        theirs = cast("dict[str, Any]", optax.apply_updates(theirs, updates))
    for path in params:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-4, atol=1e-6)


def test_adafactor_keeps_no_matrix_of_second_moments() -> None:
    params = {"kernel": jnp.ones((256, 512))}
    sizes = {
        name: sum(x.size for x in jax.tree.leaves(Optimizer(name).rule().init(params)))
        for name in ("adamw", "adafactor")
    }
    assert sizes["adamw"] > 2 * 256 * 512
    assert sizes["adafactor"] < 2 * (256 + 512)


@pytest.mark.parametrize(
    ("name", "argument"), [("adamw", "b1"), ("adamw", "b2"), ("lion", "b2"), ("sgd", "momentum"), ("rmsprop", "decay")]
)
def test_a_decay_rate_of_1_or_more_is_refused(name: str, argument: str) -> None:
    for value in (1.0, 1, 1.5, -0.1):
        with pytest.raises(TransferlabError, match=rf"arguments\.{argument} is {value}; it must be from 0 to below 1"):
            Optimizer(name, {argument: value})
    Optimizer(name, {argument: 0.5})
