"""Configs: what a file and the words after it say, as dataclasses or as one error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transferlab.config import parse_config, read_config
from transferlab.errors import TransferlabError
from transferlab.methods import METHODS, Full, LoRA, Probe
from transferlab.studies.study import Study
from transferlab.train import Optimizer

PLAIN: dict[str, Any] = {
    "source": "minilm-l6", "data": "tweets", "budgets": (16, 64), "seeds": (0,), "methods": {"probe": {}},
}  # fmt: skip


def test_an_arms_settings_override_those_of_all_arms_which_override_its_methods_defaults() -> None:
    arms = {"probe": {}, "lora": {"rank": 2, "train": {"learning_rate": 0.5}}}
    read = parse_config({**PLAIN, "methods": arms, "train": {"batch_size": 3, "learning_rate": 0.25}})
    probe, lora = read.methods["probe"], read.methods["lora"]
    assert probe.method == Probe() and lora.method == LoRA(rank=2)
    assert (probe.train.steps, probe.train.batch_size, probe.train.learning_rate) == (500, 3, 0.25)
    assert (lora.train.epochs, lora.train.batch_size, lora.train.learning_rate) == (10, 3, 0.5)


def test_an_arm_may_have_another_name_than_its_method() -> None:
    read = parse_config({**PLAIN, "methods": {"big-steps": {"method": "full", "head_lr_scale": 10}}})
    assert read.methods["big-steps"].method == Full(head_lr_scale=10.0)


def test_lists_and_single_values_read_like_tuples() -> None:
    given = {**PLAIN, "budgets": [16, 64], "seeds": 0}
    assert parse_config(given) == replace(parse_config(PLAIN), raw=parse_config(given).raw)


@pytest.mark.parametrize("targets", [["query", "value"], ("query", "value"), {"value", "query"}, "query | value"])
def test_targets_may_be_a_list_of_names(targets: Any) -> None:
    read = parse_config({**PLAIN, "methods": {"lora": {"targets": targets}}})
    assert read.methods["lora"].method == LoRA(targets="query | value")
    json.dumps(read.raw)  # as a study's directory keeps it


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["query", 3], r"config\.methods\.lora\.targets\[1\] is 3 \(int\); expected str"),
        ([], r"config\.methods\.lora\.targets is \(\); give a selector, such as 'query \| value', or a list of names"),
        (3, r"config\.methods\.lora\.targets is 3 \(int\); expected str"),
    ],
)
def test_targets_that_are_no_names_are_refused(targets: Any, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        parse_config({**PLAIN, "methods": {"lora": {"targets": targets}}})


def test_a_tuning_trial_is_stored_as_the_settings_store_it() -> None:
    arm = {"tune": ({"optimizer": {"name": "sgd"}}, {"learning_rate": 1})}
    trials = parse_config({**PLAIN, "methods": {"full": arm}}).methods["full"].tune
    assert trials == ({"optimizer": Optimizer("sgd")}, {"learning_rate": 1.0})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_an_arm_without_further_settings(name: str) -> None:
    assert type(parse_config({**PLAIN, "methods": {name: {}}}).methods[name].method) is METHODS[name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": {}}, "at least one arm"),
        ({"methods": {"probe": 3}}, "config.methods.probe is 3; it must be a mapping"),
        ({"methods": {"a/b": {"method": "full"}}}, "an arm's name is also a folder"),
        ({"methods": {"scratch": {"method": "full"}}}, "'scratch' is the control"),
        ({"methods": {"majority": {"method": "full"}}, "baselines": ("majority",)}, "has the name of a baseline"),
        ({"budgets": (16, 16)}, "config.budgets is .* each once"),
        ({"budgets": (0,)}, "a budget is at least one label"),
        ({"seeds": ()}, "at least one value"),
        ({"seeds": (2**32,)}, "a seed is from 0 to"),
        ({"budgets": "many"}, r"config.budgets\[0\] is 'many' \(str\); expected int"),
        ({"test_examples": True}, "config.test_examples is True"),
    ],
)
def test_an_impossible_study_is_refused_by_the_name_of_its_field(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TransferlabError, match=said):
        parse_config({**PLAIN, **changes})


@pytest.mark.parametrize("field", ["source", "data", "methods", "budgets", "seeds"])
def test_a_missing_field_that_every_study_needs_is_named(field: str) -> None:
    with pytest.raises(TransferlabError, match=f"config.{field} is missing"):
        parse_config({name: value for name, value in PLAIN.items() if name != field})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "There is no config"),
        ("x = 1", r"has no function get_config\(\)"),
        ("def get_config(:", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
    ],
)
def test_a_file_that_is_not_a_config_is_one_error_that_names_it(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TransferlabError, match=rf"mine\.py.*{said}" if text is not None else said):
        read_config(path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seeds=(1,)", "an override is written --config.path=value"),
        ("--config.seeds", "an override is written --config.path=value"),
        ("--config.methods.prob.pooling=mean", "Unknown arm config.methods.prob. Did you mean 'probe'"),
        ("--config.source.name=x", "config.source is .* which has no field 'name'"),
    ],
)
def test_an_override_of_an_unknown_field_is_refused(config: Path, override: str, said: str) -> None:
    with pytest.raises(TransferlabError, match=said):
        read_config(config, [override])


def test_an_override_is_a_python_literal_or_else_its_text(config: Path) -> None:
    words = ("seeds=(3,4)", "test_examples=30", "methods.full.first_seeds=none", "data=tweets")
    read = read_config(config, [f"--config.{word}" for word in words])
    assert (read.seeds, read.test_examples, read.methods["full"].first_seeds, read.data.source) == (
        (3, 4),
        30,
        None,
        "tweets",
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.sead=(1,)", "Did you mean 'seeds'"),
        ("--config.source=minilm", "Did you mean 'minilm-l6'"),
        ("--config.data=tweet", "Did you mean 'tweets'"),
        ("--config.methods.lorra={}", "Did you mean 'lora'"),
        ("--config.methods.full.train.learning_rte=1", "Did you mean 'learning_rate'"),
        ("--config.methods.full.train.epochs=ten", r"config.methods.full.train.epochs is 'ten' \(str\); expected int"),
        ("--config.budgets=(12,5000)", "5000 labels"),
        ("--config.grid=ful", "Did you mean 'full'"),
        ("--config.data.label_kind=class", "Did you mean 'classes'"),
        ("--config.baselines=('tf-idf',)", "Did you mean 'tfidf'"),
        ("--config.data.target=lable", "Did you mean 'label'"),
        ("--config.seeds=(0,-1)", "seeds is"),
        ("--config.test_examples=0", "test_examples is 0"),
        ("--config.baselines=('pixels',)", "reads images"),
        ("--config.budgets=(12,1)", "1 labels of .*: the target is .* in every example"),
        ("--config.train=3", "config.train is 3"),
        ("--config.methods.probe.train=3", "probe.train is 3"),
        ("--config.methods.probe.tune=(3,)", r"probe.tune\[0\] is 3"),
        ("--config.methods.probe.first_seeds=0", "first_seeds is 0"),
    ],
)
def test_bad_configs_are_one_clear_error_and_touch_nothing(
    config: Path, tmp_path: Path, override: str, said: str
) -> None:
    with pytest.raises(TransferlabError, match=said):
        _ = Study(read_config(config, [override, f"--config.workdir={tmp_path / 's'}"])).plans
    assert not (tmp_path / "s").exists()


def test_fields_of_the_data_are_those_of_dataset(config: Path, tmp_path: Path) -> None:
    read = read_config(config, ["--config.data.target=stars", "--config.data.text=('premise','hypothesis')"])
    assert (read.data.target, read.data.text) == ("stars", ("premise", "hypothesis")) and str(
        read.data.source
    ).endswith(".csv")
    assert parse_config({**PLAIN, "data": {"source": "tweets", "target": None}}).data.target is None
    with pytest.raises(TransferlabError, match=r"Unknown field config\.data\.txt\. Did you mean 'text'"):
        parse_config({**PLAIN, "data": {"source": "tweets", "txt": "body"}})
    with pytest.raises(TransferlabError, match=r"config\.data\.label_kind is 'clas'\. Did you mean 'classes'"):
        read_config(config, ["--config.data.label_kind=clas"])
    with pytest.raises(
        TransferlabError, match=r"config\.label_column is a field of .*'source': 'tweets', 'target': 'stars'"
    ):
        parse_config({**PLAIN, "label_column": "stars"})
    parts = {}
    for split, n in (("train", 12), ("validation", 4), ("test", 6)):
        parts[split] = str(tmp_path / f"{split}.csv")
        lines = [f"the {split} text {i},{'ab'[i % 2]},x" for i in range(n)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["body,verdict,note", *lines]))
    data = parse_config({**PLAIN, "data": {"source": parts, "text": "body", "target": "verdict"}}).data.open()
    assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 4, 6]


def test_a_study_recorded_before_keeps_its_columns_and_its_test_split(tmp_path: Path) -> None:
    from transferlab.studies.directory import recorded_config

    old = {**PLAIN, "text_column": "body", "label_column": "verdict", "white": None}
    (tmp_path / "config.json").write_text(json.dumps(old))
    read = parse_config(recorded_config(tmp_path))
    assert (read.data.source, read.data.text, read.data.target, read.test_examples) == (
        "tweets",
        "body",
        "verdict",
        1000,
    )
    new = parse_config(PLAIN)
    (tmp_path / "config.json").write_text(json.dumps(new.raw))
    assert parse_config(recorded_config(tmp_path)).test_examples is None
