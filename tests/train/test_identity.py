"""What makes a run this run: another base, another set of leaves or other fields are refused by name."""

from __future__ import annotations

import pytest

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.files import write_json
from transferlab.reading import read_json
from transferlab.train import Settings
from transferlab.train.identity import check_base, identity, write_or_verify

QUICK = Settings(steps=2, batch_size=8)


def new_run(source, films, **changes):
    return tl.adapt(source, films.subset(16, 0), **{"method": tl.methods.Probe(), "settings": QUICK, **changes})


def test_a_directory_is_claimed_by_one_run(source, films, tmp_path) -> None:
    write_or_verify(new_run(source, films), tmp_path)
    stamp = (tmp_path / "run.json").stat().st_mtime_ns
    write_or_verify(new_run(source, films), tmp_path)
    assert (tmp_path / "run.json").stat().st_mtime_ns == stamp
    with pytest.raises(TransferlabError, match=r"settings\.steps \(2 → 3\)"):
        write_or_verify(new_run(source, films, settings=Settings(steps=3, batch_size=8)), tmp_path)
    with pytest.raises(TransferlabError, match=r"seeds\.initialisation \(0 → 5\); seeds\.order \(0 → 5\)"):
        write_or_verify(new_run(source, films, seed=5), tmp_path)


def test_a_base_that_moved_is_the_same_run(source, films, tmp_path) -> None:
    write_or_verify(new_run(source, films), tmp_path)
    written = read_json(tmp_path / "run.json")
    written["source"]["path"] = "/somewhere/else"
    write_json(tmp_path / "run.json", written)
    write_or_verify(new_run(source, films), tmp_path)
    written["source"]["files"] = {"model.safetensors": "0" * 64}
    write_json(tmp_path / "run.json", written)
    with pytest.raises(TransferlabError, match=r"source\.files\.model\.safetensors"):
        write_or_verify(new_run(source, films), tmp_path)


def test_the_identity_holds_what_decides_a_run(source, films) -> None:
    said = identity(new_run(source, films))
    assert said["data"]["sha256"] == films.sha256
    assert said["method"]["name"] == "probe"
    assert said["trainable"] == ["head/bias", "head/kernel"]
    assert said["transform"]["tokenizer"] == source.transform.sha256


def test_a_checkpoint_on_another_base_or_of_other_leaves_is_refused(source, films) -> None:
    run = new_run(source, films)
    meta = run.meta(1, [], 0.0, 0.0)
    check_base(run, meta)
    with pytest.raises(TransferlabError, match="was trained on other weights"):
        check_base(run, {**meta, "base": {**meta["base"], "sha256": "0" * 64}})
    with pytest.raises(TransferlabError, match="trained another set of leaves"):
        check_base(run, {**meta, "trainable": ["head/kernel"]})


@pytest.mark.parametrize("name", ["plan.json", "metrics.jsonl", "predictions.npz", "result.json", "thesis.tex"])
def test_files_of_something_else_are_not_overwritten(source, films, tmp_path, name) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(TransferlabError, match=rf"not empty \({name}\) and holds no run .*choose another"):
        write_or_verify(new_run(source, films), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "{}"


def test_a_directory_whose_run_was_killed_before_run_json_is_taken(source, films, tmp_path) -> None:
    run = new_run(source, films)
    (tmp_path / "trials").mkdir()  # of a study's cell, whose tuning comes first
    for name in (".lock", ".run.json.abcd1234.tmp-written"):
        (tmp_path / name).write_text("")
    write_json(tmp_path / "plan.json", run.plan.to_dict())
    write_or_verify(run, tmp_path)
    assert read_json(tmp_path / "run.json")["method"]["name"] == "probe"


def test_an_empty_directory_name_is_refused(source, films) -> None:
    with pytest.raises(TransferlabError, match="directory is ''; give the folder's name"):
        new_run(source, films, directory="")
    with pytest.raises(TransferlabError, match="directory is ''; give the folder's name"):
        tl.save(source, "", overwrite=True)


def test_a_run_with_a_damaged_run_json_continues_once_it_is_restored(source, films, tmp_path) -> None:
    class Enough(Exception):
        pass

    def report(done: int, total: int, row: object) -> None:
        if done == 2:
            raise Enough

    settings = Settings(steps=3, batch_size=8, checkpoint_steps=1)
    with pytest.raises(Enough):
        new_run(source, films, settings=settings, directory=tmp_path / "run").fit(report)
    claim = tmp_path / "run" / "run.json"
    claim.write_bytes(claim.read_bytes()[:100])
    again = new_run(source, films, settings=settings, directory=tmp_path / "run")
    with pytest.raises(
        TransferlabError, match=r"run\.json is not readable JSON .* start the same run in a new directory"
    ):
        again.fit()
    # What the error says.
    write_or_verify(new_run(source, films, settings=settings), tmp_path / "new")
    claim.write_bytes((tmp_path / "new" / "run.json").read_bytes())
    steps: list[int] = []
    assert again.fit(lambda done, total, row: steps.append(done)).status == "finished" and min(steps) >= 2
    tl.open_run(tmp_path / "run")
