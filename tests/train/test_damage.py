"""Damage: one bit, a cut, an empty or a lost file in what a run keeps is found, and work is continued from what is whole.

``FUZZ=20 pytest tests/train/test_damage.py -s`` damages twenty times as many files, and prints what came of it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.manifest import MANIFEST
from transferlab.train import Settings
from transferlab.train.checkpoints import Checkpoints
from transferlab.transfer.cache import FrontierCache

FUZZ = max(1, int(os.environ.get("FUZZ", "0")))
SETTINGS = Settings(learning_rate=1e-2, steps=24, batch_size=8, checkpoint_steps=4, log_every=2, evaluations=12)


def run_in(directory: Path, source, films):
    data = films.subset(64, 0).hold_out(0.25, 0)
    return tl.adapt(source, data, method=tl.methods.Full(), settings=SETTINGS, directory=directory)


class Enough(Exception):
    pass


def interrupted(directory: Path, source, films) -> None:
    def report(done, total, row) -> None:
        if done >= 23:
            raise Enough

    with pytest.raises(Enough):
        run_in(directory, source, films).fit(report)


@pytest.fixture(scope="module")
def opened(bert_folder: Path):
    return tl.load(bert_folder)


@pytest.fixture(scope="module")
def half(opened, films, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "half"
    interrupted(directory, opened, films)
    return directory


@pytest.fixture(scope="module")
def calm(opened, films, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "calm"
    run_in(directory, opened, films).fit()
    return directory


def arrays_at(directory: Path, step: int) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(directory / "checkpoints")
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(checkpoints._tree(step)).items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[path], other[path]) for path in one)


def damaged(root: Path, copy: Path, count: int, kinds: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Copies of a directory, each with one file changed: large files more often."""
    rng = random.Random(0)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    sizes = [max(64, (root / file).stat().st_size) for file in files]
    for _ in range(count):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root, copy)
        file = rng.choices(files, sizes)[0] if rng.random() < 0.5 else rng.choice(files)
        old, kind = (root / file).read_bytes(), rng.choice(kinds)
        if kind == "removed":
            (copy / file).unlink()
        elif kind == "emptied" or not old:
            (copy / file).write_bytes(b"")
        elif kind == "cut":
            (copy / file).write_bytes(old[: rng.randrange(len(old))])
        else:
            changed = bytearray(old)
            changed[rng.randrange(len(old))] ^= 1 << rng.randrange(8)
            (copy / file).write_bytes(bytes(changed))
        yield file, kind


def outcome(read: Callable[[], str]) -> str:
    try:
        return read()
    except TransferlabError:
        return "named error"


KINDS = ("flipped", "flipped", "flipped", "cut", "emptied", "removed")


def test_a_run_with_one_damaged_file_continues_from_an_undamaged_checkpoint(half, tmp_path, caplog) -> None:
    steps = Checkpoints(half / "checkpoints").steps
    assert len(steps) >= 3
    states = {step: arrays_at(half, step) for step in steps}
    counts: Counter[str] = Counter()
    for file, kind in damaged(half / "checkpoints", tmp_path / "c", 24 * FUZZ, KINDS):
        checkpoints = Checkpoints(tmp_path / "c")
        caplog.clear()

        def read(checkpoints: Checkpoints = checkpoints, file: Path = file, kind: str = kind) -> str:
            found = checkpoints.latest()
            assert found is not None
            step, best = found
            got = {path: np.asarray(leaf) for path, leaf in trees.flatten(checkpoints._tree(step)).items()}
            if not same(got, states[step]) or (best is None) or not same(arrays_at(tmp_path, step), states[step]):
                return "SILENT"
            if file.parts[0] == str(steps[-1]) and step == steps[-1] and kind != "removed" and file.name != MANIFEST:
                return "SILENT: used though damaged"
            return "the newest, whole" if step == steps[-1] else "an older one, and said"

        (tmp_path / "checkpoints").unlink(missing_ok=True)
        (tmp_path / "checkpoints").symlink_to(tmp_path / "c")
        what = outcome(read)
        if what.startswith("an older"):
            assert file.parts[0] in caplog.text and str(tmp_path / "c" / file) in caplog.text, caplog.text
        counts[what] += 1
    print(f"\ncheckpoints of a run, {sum(counts.values())} damages: {dict(counts)}")
    assert not [what for what in counts if what.startswith("SILENT")]
    assert counts["named error"] == 0  # there was always an older whole one
    assert counts["an older one, and said"] > 0


def test_a_damaged_file_of_a_finished_run_does_not_change_its_predictions(calm, tmp_path, caplog) -> None:
    wanted = Checkpoints(calm / "checkpoints")
    step = wanted.chosen()
    assert step is not None
    params = {path: np.asarray(leaf) for path, leaf in trees.flatten(wanted.weights(step)[0]).items()}
    assert len(wanted.steps) <= 2  # the newest and the best
    counts: Counter[str] = Counter()
    for _, _ in damaged(calm / "checkpoints", tmp_path / "c", 16 * FUZZ, KINDS):

        def read() -> str:
            checkpoints = Checkpoints(tmp_path / "c")
            chosen = checkpoints.chosen()
            assert chosen is not None
            got = {path: np.asarray(leaf) for path, leaf in trees.flatten(checkpoints.weights(chosen)[0]).items()}
            return "the same weights" if same(got, params) else "SILENT: other weights"

        counts[outcome(read)] += 1
    print(f"\ncheckpoints of a finished run, {sum(counts.values())} damages: {dict(counts)}")
    assert counts.keys() <= {"the same weights", "named error"}
    assert counts["named error"] > 0


def test_a_run_whose_newest_checkpoint_is_damaged_ends_the_same(half, calm, opened, films, tmp_path, caplog) -> None:
    def ended(directory: Path) -> tuple[np.ndarray, list[dict], dict[str, np.ndarray]]:
        checkpoints = Checkpoints(directory / "checkpoints")
        step = checkpoints.chosen()
        assert step is not None
        rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        with np.load(directory / "predictions.npz") as saved:
            return saved["probabilities"], rows, dict(trees.flatten(checkpoints.weights(step)[0]))

    again = tmp_path / "again"
    shutil.copytree(half, again)
    newest = Checkpoints(again / "checkpoints").steps[-1]
    (again / "checkpoints" / str(newest) / "tree" / "manifest.ocdbt").write_bytes(b"")
    # Other directories there are not checkpoints.
    (again / "checkpoints" / "notes").mkdir()
    (again / "checkpoints" / "99.txt").touch()
    (again / "checkpoints" / "100").touch()
    (again / "checkpoints" / "101").mkdir()
    (again / "checkpoints" / "8.orbax-checkpoint-tmp-1").mkdir()
    run_in(again, opened, films).fit()
    assert f"checkpoint of step {newest} is damaged" in caplog.text and "manifest.ocdbt" in caplog.text
    want, got = ended(calm), ended(again)
    np.testing.assert_array_equal(want[0], got[0])
    assert want[1] == got[1]
    assert want[2].keys() == got[2].keys()
    for path, value in want[2].items():
        np.testing.assert_array_equal(value, got[2][path], err_msg=path)
    assert sorted(p.name for p in (again / "checkpoints").iterdir() if not p.name.isdecimal()) == ["99.txt", "notes"]


def test_a_run_without_a_whole_checkpoint_does_not_silently_start_over(half, opened, films, tmp_path) -> None:
    shutil.copytree(half, tmp_path / "run")
    steps = Checkpoints(tmp_path / "run" / "checkpoints").steps
    for step in steps:
        (tmp_path / "run" / "checkpoints" / str(step) / "meta" / "metadata").write_bytes(b"")
    with pytest.raises(TransferlabError, match=r"No checkpoint in .* is whole.*metadata.*delete") as said:
        run_in(tmp_path / "run", opened, films).fit()
    assert all(f"checkpoints/{step}/" in str(said.value) for step in steps)


def test_a_checkpoint_of_an_earlier_version_can_be_opened(half, tmp_path, caplog) -> None:
    shutil.copytree(half / "checkpoints", tmp_path / "checkpoints")
    steps = Checkpoints(tmp_path / "checkpoints").steps
    for step in steps:
        (tmp_path / "checkpoints" / str(step) / MANIFEST).unlink()
        path = tmp_path / "checkpoints" / str(step) / "meta" / "metadata"
        meta = json.loads(path.read_text())
        del meta["best"]
        path.write_text(json.dumps(meta))
    with caplog.at_level(logging.WARNING):
        found = Checkpoints(tmp_path / "checkpoints").latest()
    assert found is not None and found[0] == steps[-1] and found[1] in steps
    assert caplog.text.count("has no manifest") == 1
    shutil.rmtree(tmp_path / "checkpoints" / str(steps[-1]) / "tree" / "d")
    found = Checkpoints(tmp_path / "checkpoints").latest()
    assert found is not None and found[0] < steps[-1]


def test_a_damaged_manifest_is_told_from_a_damaged_file(half, tmp_path, caplog) -> None:
    shutil.copytree(half / "checkpoints", tmp_path / "checkpoints")
    newest = str(Checkpoints(tmp_path / "checkpoints").steps[-1])
    manifest = tmp_path / "checkpoints" / newest / MANIFEST
    raw = json.loads(manifest.read_text())
    name = next(iter(raw["files"]))
    raw["files"][name]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(raw))
    found = Checkpoints(tmp_path / "checkpoints").latest()
    assert found is not None and found[0] < int(newest)
    assert f"{newest}/{MANIFEST} is damaged" in caplog.text and name not in caplog.text
    # One of an earlier version has no hash of its own; then the file is named that is not as it says.
    del raw["sha256"]
    manifest.write_text(json.dumps(raw))
    caplog.clear()
    Checkpoints(tmp_path / "checkpoints").latest()
    assert f"{newest}/{name} is damaged" in caplog.text


@pytest.mark.parametrize("name", ["run [v2]", "run\\v2", "run*?", "100% #1|é"])
def test_a_path_with_special_letters_keeps_checkpoints_that_can_be_read(name, half, tmp_path) -> None:
    like = arrays_at(half, Checkpoints(half / "checkpoints").steps[-1])
    checkpoints = Checkpoints(tmp_path / name)
    state: Any = {"params": {"w": np.arange(6.0)}, "optimizer": {}, "stats": {}, "step": np.int32(3)}
    checkpoints.save(state, {"step": 3}, None)
    checkpoints.close()
    again = Checkpoints(tmp_path / name)
    assert again.latest() == (3, None)
    np.testing.assert_array_equal(again.weights(3)[0]["w"], np.arange(6.0))
    assert not [path for path in tmp_path.iterdir() if path.name != name]
    shutil.copytree(half / "checkpoints", tmp_path / name, dirs_exist_ok=True)
    assert same(arrays_at_path(tmp_path / name), like)


def arrays_at_path(checkpoints: Path) -> dict[str, np.ndarray]:
    found = Checkpoints(checkpoints)
    step = found.last
    assert step is not None
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(found._tree(step)).items()}


def test_a_damaged_file_of_an_export_is_refused(opened, tmp_path, caplog) -> None:
    place = tl.save(opened, tmp_path / "ex[port]", format="orbax")
    want = opened.sha256
    assert tl.load(place).sha256 == want
    counts: Counter[str] = Counter()
    for file, _ in damaged(place, tmp_path / "c[1]", 16 * FUZZ, ("flipped", "cut", "emptied")):

        def read(file: Path = file) -> str:
            source = tl.load(tmp_path / "c[1]")
            source.sha256  # noqa: B018  (reads every array)
            return "unharmed" if file.name == MANIFEST and source.sha256 == want else f"SILENT: {file}"

        counts[outcome(read)] += 1
    print(f"\nan export, {sum(counts.values())} damages: {dict(counts)}")
    assert counts.keys() <= {"named error", "unharmed"}
    shutil.rmtree(tmp_path / "c[1]")
    shutil.copytree(place, tmp_path / "c[1]")
    (tmp_path / "c[1]" / MANIFEST).unlink()
    assert tl.load(tmp_path / "c[1]").sha256 == want
    assert "without a manifest" in caplog.text


def test_a_damaged_file_of_the_feature_cache_is_not_used_and_stops_no_later_run(tmp_path, caplog) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(4, 6, 3)).astype(np.float32)
    indices, spans = np.array([7, 3, 9, 1]), [slice(0, 6)] * 4

    def fill(cache: FrontierCache) -> None:
        cache.add("k", indices.tolist(), {"hidden": hidden}, ("hidden",), spans)
        cache.flush("k", ("hidden",))

    first = FrontierCache(tmp_path / "whole")
    first.missing("k", indices)
    fill(first)
    counts: Counter[str] = Counter()
    for file, kind in damaged(tmp_path / "whole", tmp_path / "c", 40 * FUZZ, KINDS):
        cache = FrontierCache(tmp_path / "c")
        missing = cache.missing("k", indices)
        if len(missing):
            assert missing.tolist() == [1, 3, 7, 9]
            assert not list((tmp_path / "c").rglob("*.npy")), "it was not thrown away"
            fill(cache)
        rows = cache.rows("k", indices, 6, 4, ("hidden",))["hidden"]
        again = FrontierCache(tmp_path / "c")
        assert not len(again.missing("k", indices)), (file, kind)
        whole = np.array_equal(rows, hidden) and np.array_equal(
            again.rows("k", indices, 6, 4, ("hidden",))["hidden"], hidden
        )
        counts[("computed again" if len(missing) else "unharmed") if whole else "SILENT"] += 1
    print(f"\nfeatures, {sum(counts.values())} damages: {dict(counts)}")
    assert not counts["SILENT"] and counts["computed again"] > 0
    assert "Damaged cached features are deleted" in caplog.text


def test_a_damaged_compiled_program_is_not_run_and_is_deleted(tmp_path) -> None:
    from jax._src.lru_cache import LRUCache

    from transferlab.compute.compile_cache import _Hashed

    cache = _Hashed(LRUCache(str(tmp_path), max_size=-1))
    cache.put("step", b"program")
    assert cache.get("step") == b"program" and cache.get("other") is None
    entry = tmp_path / "step-cache"
    for damage in (b"", b"prog", entry.read_bytes().replace(b"o", b"n")):
        entry.write_bytes(damage)
        assert cache.get("step") is None
        cache.put("step", b"program")
        assert cache.get("step") == b"program"


def test_jax_reads_programs_only_past_the_hash(tmp_path, monkeypatch) -> None:
    from jax._src import compilation_cache

    from transferlab.compute.compile_cache import keep_compiled

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [jax.config.values[name] for name in names]
    monkeypatch.setattr(compilation_cache, "get_file_cache", compilation_cache.get_file_cache)
    try:
        compilation_cache.reset_cache()
        keep_compiled(tmp_path / "xla")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        x = np.arange(4.0, dtype=np.float32)

        def cube() -> np.ndarray:
            jax.clear_caches()
            return np.asarray(jax.jit(lambda x: x**3 + 1)(x))

        np.testing.assert_array_equal(cube(), x**3 + 1)
        entries = {path: path.read_bytes() for path in (tmp_path / "xla").glob("*-cache")}
        assert entries
        for path, old in entries.items():
            path.write_bytes(old[:-40] + bytes(8) + old[-32:])
        np.testing.assert_array_equal(cube(), x**3 + 1)
        assert {path: path.read_bytes()[-40:-32] != bytes(8) for path in entries} == dict.fromkeys(entries, True)
    finally:
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
