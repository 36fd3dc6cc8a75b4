"""Each method: what it edits, what trains under it, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_bert

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.methods import METHODS, Full, LoRA, Method, Probe, Scratch, method_from, method_named
from transferlab.train import Settings
from transferlab.train.setup import plan_for

LABELS = ("down", "up")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory):
    """Twelve layers: string keys sort 10 and 11 before 2."""
    return tl.load(write_bert(tmp_path_factory.mktemp("deep"), num_hidden_layers=12))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_a_run_records_is_read_back(name: str) -> None:
    method = METHODS[name](pooling="first", head_dropout=0.25)
    recorded = json.loads(json.dumps(method.record()))
    assert method.name == name and method_from(recorded) == method


@pytest.mark.parametrize("name", METHODS)
def test_the_defaults_of_a_method_are_settings_of_a_run(name: str) -> None:
    assert METHODS[name].summary and METHODS[name].defaults
    Settings(**METHODS[name].defaults)


@pytest.mark.parametrize("name", METHODS)
def test_the_head_trains_under_every_method_and_every_leaf_has_one_action(source, name: str) -> None:
    plan = plan_for(source, LABELS, METHODS[name]())
    assert {"head/kernel", "head/bias"} <= set(plan.trainable)
    assert len({leaf.path for leaf in plan.leaves}) == len(plan.leaves)
    assert plan.method == name


def test_only_lora_edits_the_module(source) -> None:
    paths = {name: {leaf.path for leaf in plan_for(source, LABELS, METHODS[name]()).leaves} for name in METHODS}
    assert paths["probe"] == paths["full"] == paths["scratch"] < paths["lora"]


def test_full_trains_every_leaf_and_scales_the_rate_of_the_head_alone(source) -> None:
    plan = plan_for(source, LABELS, Full(head_lr_scale=4.0))
    assert set(plan.trainable) == {leaf.path for leaf in plan.leaves}
    assert {leaf.path for leaf in plan.leaves if leaf.lr_scale == 4.0} == {"head/kernel", "head/bias"}
    assert {leaf.lr_scale for leaf in plan.leaves} == {1.0, 4.0}


def test_scratch_is_full_from_random_weights() -> None:
    assert Scratch().weights == "random" and isinstance(Scratch(), Full) and Scratch().groups(()) == Full().groups(())


@pytest.mark.parametrize("targets", ["**/attention/{query,key,value,output}/kernel", "layers/11/mlp/up/kernel"])
def test_lora_adapts_the_kernels_that_its_selector_names_and_no_other(source, targets: str) -> None:
    plan = plan_for(source, LABELS, LoRA(rank=2, targets=targets))
    adapted = {leaf.path.partition("/lora/")[0] + "/kernel" for leaf in plan.leaves if "/lora/" in leaf.path}
    assert adapted == set(tl.select(targets).match(source.leaves))
    assert set(plan.trainable) == {leaf.path for leaf in plan.leaves if "/lora/" in leaf.path or "head/" in leaf.path}


def test_lora_changes_nothing_before_its_first_step(source) -> None:
    plan = plan_for(source, LABELS, LoRA(rank=2))
    params = trees.flatten(plan.place(0)[0])
    for path, leaf in params.items():
        if path.endswith("/lora/b"):
            assert not np.asarray(leaf).any(), path
        if path.endswith("/lora/a"):
            assert np.asarray(leaf).any(), path


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (LoRA, {"rank": 0}, "rank is 0"),
        (LoRA, {"dropout": 1.0}, "dropout is 1"),
        (Full, {"head_lr_scale": -1.0}, "head_lr_scale is -1"),
        (Probe, {"weights": "randm"}, "weights is 'randm'. Did you mean 'random'"),
        (Probe, {"pooling": "men"}, "pooling is 'men'. Did you mean 'mean'"),
        (Scratch, {"head_dropout": float("nan")}, "head_dropout is nan"),
        (LoRA, {"alfa": 8}, "Did you mean 'alpha'"),
    ],
)
def test_a_field_with_an_impossible_value_is_refused_by_name(
    kind: type[Method], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(TransferlabError) as error:
        kind(**fields)
    assert said in str(error.value)


def test_an_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(TransferlabError, match=r"Unknown method 'lorra'\. Did you mean 'lora'"):
        method_named("lorra")
    with pytest.raises(TransferlabError, match="Unknown method 'prob'"):
        method_from({"name": "prob"})


def test_a_probe_trains_the_head_alone_and_its_frontier_is_the_head(source) -> None:
    plan = plan_for(source, LABELS, tl.methods.Probe())
    assert plan.trainable == ("head/bias", "head/kernel")
    assert plan.stages[plan.frontier] == "head"
    assert plan.training == {"head"}


def test_lora_adapters_are_next_to_kernels_and_rename_no_path(source) -> None:
    plain = plan_for(source, LABELS, tl.methods.Full())
    plan = plan_for(source, LABELS, tl.methods.LoRA(rank=3))
    before, after = ({leaf.path for leaf in p.leaves} for p in (plain, plan))
    assert before < after
    added = after - before
    assert added == {f"layers/{i}/attention/{t}/lora/{x}" for i in range(12) for t in ("query", "value") for x in "ab"}
    assert plan.trainable_parameters == 12 * 2 * (16 * 3 + 3 * 16) + 34
    decays = {leaf.path: leaf.decay for leaf in plan.leaves if leaf.trains}
    assert decays["head/kernel"] == 1 and decays["head/bias"] == 0 and decays["layers/0/attention/query/lora/a"] == 0


def test_a_scratch_arm_takes_nothing_from_the_source(bert_folder) -> None:
    source = tl.load(bert_folder)
    plan = plan_for(source, LABELS, tl.methods.Scratch())
    assert {leaf.action for leaf in plan.leaves} == {"initialised"}
    params, _ = plan.place(0)
    again, _ = plan.place(0)
    other, _ = plan.place(1)
    word = [tree["embed"]["word"]["embedding"] for tree in (params, again, other)]
    np.testing.assert_array_equal(word[0], word[1])
    assert np.abs(np.asarray(word[0]) - np.asarray(word[2])).max() > 0.01
    assert np.abs(np.asarray(word[0]) - source.leaves["embed/word/embedding"].read()).max() > 0.1


@pytest.mark.parametrize("targets", ["layers/*/attn/query/kernel", "layers/99/attention/query/kernel"])
def test_misspelt_lora_targets_are_an_error(source, targets: str) -> None:
    with pytest.raises(TransferlabError, match="matches no leaf"):
        plan_for(source, LABELS, tl.methods.LoRA(targets=targets))


def test_lora_on_a_leaf_that_is_not_a_linear_map_is_an_error(source) -> None:
    with pytest.raises(TransferlabError, match="embed/word/embedding"):
        plan_for(source, LABELS, tl.methods.LoRA(targets="embed/word/embedding"))


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("depth >= -2", 12), (["query", "value"], 24), ("layers/*/attention/**/kernel", 48), ("layers/*/attention", 48),
        ("**/kernel", 72), ("(depth >= -2) & **/kernel", 12), ("layers/0 & query", 1),
    ],
)  # fmt: skip
def test_lora_adapts_the_kernels_among_the_selected_leaves(source, targets, count: int) -> None:
    plan = plan_for(source, LABELS, tl.methods.LoRA(targets=targets))
    assert sum(path.endswith("/lora/a") for path in plan.trainable) == count
    assert not any(path.startswith("head/") and "lora" in path for path in plan.trainable)


@pytest.mark.parametrize("targets", ["query | embed/word/embedding", "bias", "head/kernel", "query & value"])
def test_each_part_of_loras_targets_must_have_a_kernel(source, targets: str) -> None:
    with pytest.raises(TransferlabError, match=r"LoRA cannot adapt .*must select kernels of linear maps"):
        plan_for(source, LABELS, tl.methods.LoRA(targets=targets))


@pytest.mark.parametrize("alpha", [0.0, -16.0])
def test_lora_refuses_a_scale_that_does_nothing(alpha: float) -> None:
    with pytest.raises(TransferlabError, match=r"alpha is .*; it must be greater than 0"):
        tl.methods.LoRA(alpha=alpha)
