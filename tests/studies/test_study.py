"""A study: each arm at each budget and seed once, and its directory belongs to one config."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import transferlab as tl
from transferlab.config import parse_config, read_config
from transferlab.errors import TransferlabError
from transferlab.studies.directory import recorded_config, verify_directory
from transferlab.studies.settings import StudyConfig
from transferlab.studies.study import Study

SMALL = (
    "budgets=(12,)",
    "seeds=(0,)",
    "baselines=('majority',)",
    "methods={'probe': {'train': {'steps': 4}}, 'random': {'method': 'probe', 'weights': 'random', 'train': {'steps': 4}}}",
)


def small(config: Path, place: Path, *words: str) -> StudyConfig:
    """The config of a study of seconds, in a directory."""
    return read_config(config, [f"--config.{word}" for word in (*SMALL, f"workdir={place}", *words)])


def claim(study: Study) -> None:
    verify_directory(study.directory, study.config, study.source, study.data)


@pytest.fixture(scope="module")
def study(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a study that ran."""
    place = tmp_path_factory.mktemp("studies") / "films"
    Study(small(config, place)).run()
    return place


def test_every_arm_runs_at_every_budget_and_seed_and_the_table_has_them(study: Path) -> None:
    runs = {path.parent.relative_to(study / "runs").as_posix() for path in study.glob("runs/**/record.json")}
    assert runs == {f"{arm}/12/0" for arm in ("majority", "probe", "random")}
    arms = json.loads((study / "result.json").read_text())["arms"]
    assert {(row["name"], row["budget"]) for row in arms} == {(arm, 12) for arm in ("majority", "probe", "random")}


def test_all_arms_of_one_budget_and_seed_learn_from_the_same_examples(study: Path) -> None:
    first, other = (
        json.loads((study / "runs" / arm / "12" / "0" / "run.json").read_text()) for arm in ("probe", "random")
    )
    assert first["data"] == other["data"]


def test_a_finished_study_runs_nothing_again(study: Path, config: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.glob("runs/**/record.json")}
    Study(small(config, study)).run()
    assert {path: path.stat().st_mtime_ns for path in study.glob("runs/**/record.json")} == before


def test_an_added_seed_adds_its_runs_to_the_existing_ones(study: Path, config: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "films")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "films").glob("runs/**/record.json")}
    Study(small(config, tmp_path / "films", "seeds=(0,1)")).run()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "films").glob("runs/**/record.json")}
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in after.keys() - before.keys()} == {"1"}


def test_another_setting_of_an_arm_that_ran_is_refused_by_its_name(study: Path, config: Path) -> None:
    with pytest.raises(TransferlabError, match=r"methods\.probe"):
        Study(small(config, study, "methods.probe.train.steps=5")).run()


@pytest.mark.parametrize(
    ("tags", "often", "wrong"),
    [("abcdefgh", 0.15, {(4, 0), (4, 1), (4, 3), (4, 4), (4, 5), (8, 1), (8, 4), (8, 5)}), ("abcdef", 0.3, None)],
)
def test_subsets_that_a_task_cannot_train_on_are_all_named_before_anything_runs(
    bert_folder: Path, tmp_path: Path, tags: str, often: float, wrong: set[tuple[int, int]] | None
) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "t.jsonl"
    rows = [{"text": f"film {i}", "label": [tag for tag in tags if rng.random() < often]} for i in range(160)]
    path.write_text("\n".join(map(json.dumps, rows)))
    raw = {
        "source": str(bert_folder), "data": {"source": str(path)}, "budgets": (4, 8), "seeds": tuple(range(6)), "workdir": str(tmp_path / "s"),
        "task": {"positive_weights": "balanced"}, "grid": "full",
        "methods": {"probe": {"tune": ({"learning_rate": 1e-2},)}}, "train": {"steps": 1, "batch_size": 4},
    }  # fmt: skip
    data = tl.dataset(path)
    wanted = {}
    for budget in raw["budgets"]:
        for seed in raw["seeds"]:
            subset = data.subset(budget, seed)
            for name, part in (("", subset), ("the tuning trials of ", subset.hold_out(0.2, seed))):
                has = data.target.values[part.train].sum(0)
                if ((has == 0) | (has == len(part.train))).any():
                    wanted[budget, seed] = f"{name}{budget} labels with seed {seed}"
                    break
    # Other seeds than the first, and trials alone.
    assert wanted.keys() == wrong if wrong else any(place.startswith("the") for place in wanted.values())
    with pytest.raises(TransferlabError, match="positive_weights is 'balanced', and no training example has") as error:
        Study(parse_config(raw))
    said = str(error.value)
    for place in wanted.values():
        assert re.search(rf"(^|, ){place}(,|:)", said, re.MULTILINE), place
    assert len(re.findall(r"\d labels with seed", said)) == len(wanted)
    assert not (tmp_path / "s").exists()


def test_a_directory_records_the_config_that_it_ran(study: Path, config: Path) -> None:
    recorded = parse_config(recorded_config(study))
    asked = small(config, study)
    assert (recorded.methods, recorded.budgets, recorded.seeds) == (asked.methods, asked.budgets, asked.seeds)


@pytest.mark.parametrize("what", ["data", "weights"])
def test_changed_weights_or_data_do_not_join_a_study_that_began_with_others(
    study: Path, config: Path, tmp_path: Path, what: str
) -> None:
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    raw = {**json.loads((copy / "config.json").read_text()), "workdir": str(copy)}
    Study(parse_config(raw)).report()
    # The same words at the same places of a config, with other contents behind them.
    held = json.loads((copy / "inputs.json").read_text())
    held["data" if what == "data" else "source"]["mark"] = "0" * 64
    (copy / "inputs.json").write_text(json.dumps(held))
    for again in (Study(parse_config(raw)).report, Study(parse_config(raw)).run):
        with pytest.raises(TransferlabError, match=f"other contents of its {'data' if what == 'data' else 'source'}"):
            again()


def test_a_single_seed_may_be_a_plain_number_and_the_study_continues(config: Path, tmp_path: Path) -> None:
    words = ["budgets=12", "seeds=1", "baselines=majority", f"workdir={tmp_path / 'films'}"]
    read = read_config(config, [f"--config.{word}" for word in words])
    assert (read.budgets, read.seeds, read.baselines) == ((12,), (1,), ("majority",))
    for _ in range(2):
        claim(Study(read))
    recorded = json.loads((tmp_path / "films" / "config.json").read_text())
    assert recorded["seeds"] == [1]
    # As earlier versions recorded them.
    (tmp_path / "films" / "config.json").write_text(json.dumps({**recorded, "seeds": 1, "budgets": 12}))
    claim(Study(read))


@pytest.mark.parametrize(
    "left", [(), (".lock",), ("inputs.json",), ("inputs.json", ".config.json.abcd1234.tmp-written")]
)
def test_a_study_killed_between_its_first_files_continues(left: tuple[str, ...], config: Path, tmp_path: Path) -> None:
    place = tmp_path / "s"
    place.mkdir()
    for name in left:
        # What it was to read may have changed since.
        (place / name).write_text('{"source": {"name": "another", "mark": "1"}}')
    begun = Study(read_config(str(config), (f"--config.workdir={place}",)))
    claim(begun)
    assert {path.name for path in place.iterdir()} - {".lock"} == {"inputs.json", "config.json"}
    assert json.loads((place / "inputs.json").read_text())["source"]["mark"] == begun.source.sha256
    claim(begun)


def test_a_directory_with_other_files_is_refused_and_not_changed(config: Path, tmp_path: Path) -> None:
    for name in ("inputs.json", "thesis.tex"):  # the first alone as well: it is not what a study writes
        (tmp_path / name).write_text("{}")
        with pytest.raises(TransferlabError, match="not empty and holds no study"):
            claim(Study(read_config(str(config), (f"--config.workdir={tmp_path}",))))
        assert (tmp_path / "inputs.json").read_text() == "{}"


def test_a_report_is_the_same_from_any_working_directory(config: Path, table: Path, tmp_path: Path) -> None:
    here, before = tmp_path / "here", os.getcwd()
    here.mkdir()
    shutil.copy(table, here / "table.csv")
    words = ["data=table.csv", "budgets=12", "seeds=1", "baselines=majority", "workdir=made"]
    try:
        os.chdir(here)
        read = read_config(config, [f"--config.{word}" for word in words])
        claim(Study(read))
        os.chdir(tmp_path)
        assert (
            Study(parse_config(recorded_config(here / "made"))).data.sha256
            == Study(parse_config({**recorded_config(here / "made"), "data": str(here / "table.csv")})).data.sha256
        )
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    "probe",
    ["{'train': {'steps': 4, 'patience': 2}}", "{'train': {'steps': 4}, 'tune': ({'patience': 2}, {'keep': 'last'})}"],
)
def test_patience_is_refused_before_anything_trains_where_no_labels_are_set_aside(
    config: Path, tmp_path: Path, probe: str
) -> None:
    study = Study(small(config, tmp_path / "study", "grid=full", f"methods={{'probe': {probe}}}"))
    with pytest.raises(TransferlabError, match=r"settings.patience is 2, and .* has no validation split"):
        study.run()
    assert not list((tmp_path / "study").glob("runs/probe/**/run.json"))


def test_keep_is_a_field_of_a_config(config: Path, tmp_path: Path) -> None:
    read = small(config, tmp_path, "methods={'probe': {'train': {'steps': 4, 'keep': 'last'}}}")
    assert read.methods["probe"].train.keep == "last"
