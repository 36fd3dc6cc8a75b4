"""The plan: every leaf accounted for, every leftover named, nothing silent."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from support.checkpoints import write_bert
from support.typed import nnx_network

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.train.setup import plan_for
from transferlab.transfer.groups import Group, assign_groups

LABELS = ("down", "up")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory):
    """Twelve layers: string keys sort 10 and 11 before 2."""
    return tl.load(write_bert(tmp_path_factory.mktemp("deep"), num_hidden_layers=12))


def test_every_backbone_leaf_is_copied_and_the_head_is_new(source) -> None:
    plan = plan_for(source, LABELS, tl.methods.Full())
    actions = {leaf.path: leaf.action for leaf in plan.leaves}
    assert {p for p, a in actions.items() if a == "initialised"} == {"head/kernel", "head/bias"}
    assert all(a == "copied" for p, a in actions.items() if not p.startswith("head/"))
    totals = plan.totals()
    assert totals["bytes_from_source"] == totals["bytes"] - 4 * (16 * 2 + 2)
    assert ("pooler.dense.weight", "the new head pools by mean") in plan.unused


def test_copied_values_are_the_files_values(source) -> None:
    plan = plan_for(source, LABELS, tl.methods.Probe())
    params, _ = plan.place(0)
    flat = trees.flatten(params)
    for path, leaf in source.leaves.items():
        if not path.startswith("pooler/"):
            np.testing.assert_array_equal(flat[path], leaf.read(), err_msg=path)


def test_biases_and_scales_are_not_decayed(source) -> None:
    plan = plan_for(source, LABELS, tl.methods.Full())
    kinds = {leaf.path.split("/")[-1]: leaf.decay for leaf in plan.leaves}
    assert kinds == {"kernel": 1.0, "embedding": 1.0, "bias": 0.0, "scale": 0.0}


def test_planning_allocates_no_array(source) -> None:
    before = {id(x) for x in jax.live_arrays()}
    plan_for(source, LABELS, tl.methods.LoRA())
    assert {id(x) for x in jax.live_arrays()} <= before


def test_a_leaf_that_two_groups_select_is_an_error() -> None:
    with pytest.raises(TransferlabError, match="'head/bias' is selected by two groups"):
        assign_groups((Group("head"), Group("bias")), ["head/kernel", "head/bias"], [])


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        ("encoder.layer.7.intermediate.dense.bias", "layers/7/mlp/up/bias"),
        ("embeddings.LayerNorm.weight", "embed/norm/scale"),
    ],
)
def test_a_key_that_the_file_lacks_is_named(tmp_path: Path, drop: str, said: str) -> None:
    with pytest.raises(TransferlabError, match=f"'{said}' .*{drop}"):
        tl.load(write_bert(tmp_path, num_hidden_layers=12, drop=(drop,)))


def test_a_trained_head_is_kept_by_label_name(tmp_path: Path) -> None:
    """MNLI's label order differs between checkpoints: rows follow names, never positions."""
    from safetensors.numpy import load_file, save_file

    folder = write_bert(tmp_path, id2label={"0": "sad", "1": "up", "2": "down"})
    tensors = load_file(folder / "model.safetensors")
    rows = np.arange(48, dtype=np.float32).reshape(3, 16)
    save_file(
        tensors | {"classifier.weight": rows, "classifier.bias": np.array([1, 2, 3], np.float32)},
        folder / "model.safetensors",
    )
    (folder / "1_Pooling" / "config.json").unlink()
    source = tl.load(folder)
    assert source.labels == ("sad", "up", "down")
    plan = plan_for(source, ("down", "new", "up"), tl.methods.Full())
    actions = {leaf.path: leaf for leaf in plan.leaves}
    assert actions["head/kernel"].action == "derived" and "down, up" in actions["head/kernel"].reason
    assert "1 new one initialised" in actions["head/kernel"].reason
    head, other = (plan.place(seed)[0]["head"] for seed in (0, 1))
    for kernel in (head["kernel"], other["kernel"]):
        np.testing.assert_array_equal(kernel[:, [0, 2]], np.stack([rows[2], rows[1]], 1))
    assert 0 < np.abs(head["kernel"][:, 1]).max() < 0.05
    assert (head["kernel"][:, 1] != other["kernel"][:, 1]).all()
    np.testing.assert_array_equal(head["bias"], [3, 0, 2])
    swapped = {leaf.path: leaf for leaf in plan_for(source, ("down", "up", "sad"), tl.methods.Full()).leaves}
    assert swapped["head/kernel"].action == "derived" and "new" not in swapped["head/kernel"].reason
    same = plan_for(source, ("sad", "up", "down"), tl.methods.Full())
    np.testing.assert_array_equal(same.place(0)[0]["head"]["kernel"], rows.T)


def test_the_plan_prints_and_is_plain_data(source) -> None:
    plan = plan_for(source, LABELS, tl.methods.LoRA())
    text = str(plan)
    assert "layers/0 … layers/11" in text and "added by lora" in text and "frozen" in text
    again = json.loads(json.dumps(plan.to_dict()))
    assert len(again["leaves"]) == len(plan.leaves)
    assert again["frontier"] == "layers/0"


def test_batch_statistics_move_only_where_the_norm_itself_trains() -> None:
    """An adapter in a block trains that stage; the block's frozen norms must not drift with it."""
    from dataclasses import replace
    from types import SimpleNamespace

    from transferlab.models import ClassifierConfig, EfficientNetConfig
    from transferlab.transfer.planning import plan

    source = SimpleNamespace(
        name="net", config=EfficientNetConfig.lite0(), leaves={}, unused=(), head=None, image_transform=None
    )
    head = ClassifierConfig(("a", "b"))
    lora = tl.methods.LoRA(targets="stages/*/*/{expand,project}/kernel")
    for method, moves in ((lora, False), (tl.methods.Full(), True), (tl.methods.Probe(), False)):
        target = plan(source, head, replace(method, weights="random"))  # type: ignore[arg-type]
        statistics = [leaf for leaf in target.leaves if leaf.kind == "state"]
        assert len(statistics) == 98 and {leaf.trains for leaf in statistics} == {moves}
        model = nnx_network(target).definition.merge({}, {}, partial=True)
        assert model.stages[1][0].depthwise_norm.frozen is not moves


def test_a_frozen_norm_uses_and_keeps_its_running_statistics_while_its_stage_trains() -> None:
    import jax.numpy as jnp

    from transferlab.models.norms import BatchNorm

    norm = BatchNorm(3, eps=1e-3, momentum=0.1)
    norm.frozen = True
    definition = trees.define(norm)
    params = trees.unflatten(definition.initialise(trees.flatten(definition.params), jax.random.key(0)))
    state = {"mean": jnp.array([1.0, 2.0, 3.0]), "var": jnp.array([4.0, 4.0, 4.0])}
    model = definition.merge(params, state)
    x = jax.random.normal(jax.random.key(1), (8, 3))
    np.testing.assert_array_equal(model(x, jax.random.key(2)), definition.merge(params, state)(x))
    np.testing.assert_array_equal(trees.state_of(model)["mean"], state["mean"])
