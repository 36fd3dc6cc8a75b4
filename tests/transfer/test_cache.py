"""The frontier cache: carries come back exactly, from memory or disk, whichever process wrote them or was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from transferlab.errors import TransferlabError
from transferlab.files import DiskFull
from transferlab.transfer import cache as module
from transferlab.transfer.cache import FrontierCache

LENGTHS = [3, 1, 5, 2]
SPANS = [slice(0, length) for length in LENGTHS]


def carry(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.arange(6)[None, :] < np.array(LENGTHS)[:, None]
    hidden = rng.normal(size=(4, 6, 3)).astype(np.float32) * mask[..., None]
    return {"hidden": hidden, "mask": mask, "pooled layers/0": rng.normal(size=(4, 2)).astype(np.float32)}


SEQUENCES = ("hidden", "mask")


def fill(cache: FrontierCache, key: str = "k", indices=(7, 3, 9, 1), seed: int = 0) -> dict[str, np.ndarray]:
    entries = carry(seed)
    assert cache.missing(key, np.array(indices)).tolist() == sorted(indices)
    cache.add(key, list(indices), entries, SEQUENCES, SPANS)
    cache.flush(key, SEQUENCES)
    return entries


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path / "frontier"


def test_rows_come_back_unchanged(place) -> None:
    cache = FrontierCache(place)
    entries = fill(cache)
    assert cache.missing("k", np.array([1, 2, 3])).tolist() == [2]
    got = cache.rows("k", np.array([9, 7]), bucket=6, rows=3, sequence_entries=SEQUENCES)
    for name, values in entries.items():
        np.testing.assert_array_equal(got[name][0], values[2])
        np.testing.assert_array_equal(got[name][1], values[0])
        assert not got[name][2].any()
        assert got[name].dtype == values.dtype
    shorter = cache.rows("k", np.array([3]), bucket=2, rows=1, sequence_entries=SEQUENCES)
    np.testing.assert_array_equal(shorter["hidden"][0], entries["hidden"][1, :2])


def test_carries_of_several_chunks_are_kept_apart(place, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    cache = FrontierCache(place)
    first, second = fill(cache), fill(cache, indices=(20, 21, 22, 23), seed=1)
    got = cache.rows("k", np.array([21, 3, 20, 9]), 6, 4, SEQUENCES)
    for name in first:
        want = np.stack([second[name][1], first[name][1], second[name][0], first[name][2]])
        np.testing.assert_array_equal(got[name], want)


def test_another_process_sees_what_was_written(tmp_path: Path) -> None:
    one, other = FrontierCache(tmp_path), FrontierCache(tmp_path)
    assert other.missing("k", np.array([7])).tolist() == [7]
    entries = fill(one)
    assert other.missing("k", np.array([7, 8])).tolist() == [8]
    np.testing.assert_array_equal(other.rows("k", np.array([7]), 6, 1, SEQUENCES)["hidden"][0], entries["hidden"][0])
    assert other.computed == 0
    assert other.missing("another", np.array([7])).tolist() == [7]


WRITER = """
import sys, numpy as np
from pathlib import Path
from transferlab.transfer.cache import FrontierCache
cache = FrontierCache(Path(sys.argv[1]))
for i in range(int(sys.argv[2]), int(sys.argv[2]) + 300, 3):
    cache.missing("k", np.array([i, i + 1, i + 2]))
    values = np.full((3, 50), i, np.float32) + np.arange(3, dtype=np.float32)[:, None]
    cache.add("k", [i, i + 1, i + 2], {"pooled": values}, (), [slice(0, 0)] * 3)
    cache.flush("k", ())
    print(i, flush=True)
"""


def test_concurrent_writers_and_a_killed_one_leave_correct_carries(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), start], stdout=subprocess.PIPE, text=True)
        for start in ("0", "150", "0")
    ]
    killed = writers[2]
    assert killed.stdout is not None
    for line in killed.stdout:
        if int(line) > 20:
            break
    killed.kill()
    for writer in writers:
        writer.communicate(timeout=120)
    assert [writer.returncode for writer in writers[:2]] == [0, 0]
    cache = FrontierCache(tmp_path)
    wanted = np.arange(450)
    assert cache.missing("k", wanted).tolist() == []
    got = cache.rows("k", wanted, 0, 450, ())["pooled"]
    np.testing.assert_array_equal(got, np.repeat(wanted[:, None], 50, axis=1))


def test_a_damaged_chunk_is_not_read(tmp_path: Path) -> None:
    fill(FrontierCache(tmp_path))
    (file,) = tmp_path.glob("k/*/carry hidden.npy")
    file.write_bytes(file.read_bytes()[:90])
    cache = FrontierCache(tmp_path)
    assert cache.missing("k", np.array([7, 3])).tolist() == [3, 7]


def test_the_limit_holds_and_keys_in_use_are_not_dropped(tmp_path: Path) -> None:
    old = FrontierCache(tmp_path, limit=1000)
    fill(old, "old")
    long_ago = time.time() - 7200
    os.utime(tmp_path / "old", (long_ago, long_ago))
    fill(FrontierCache(tmp_path, limit=1000), "recent")
    assert not (tmp_path / "old").exists()
    new = FrontierCache(tmp_path, limit=10)
    fill(new, "new")
    fill(new, "newer")
    assert {path.name for path in tmp_path.iterdir()} == {"recent", "new", "newer"}
    assert new.missing("new", np.array([7])).tolist() == []


def test_in_memory_the_newest_key_stays_within_the_limit() -> None:
    cache = FrontierCache(None, limit=300)
    fill(cache, "first")
    fill(cache, "second")
    assert cache.missing("second", np.array([7])).tolist() == []
    assert cache.missing("first", np.array([7])).tolist() == [7]


def test_a_chunk_without_its_carry_is_computed_again(tmp_path: Path) -> None:
    def filled() -> FrontierCache:
        cache = FrontierCache(tmp_path)
        missing = cache.missing("key", np.arange(3))
        cache.add(
            "key",
            missing.tolist(),
            {"pooled": np.ones((len(missing), 4), np.float32)},
            (),
            [slice(0, 1)] * len(missing),
        )
        cache.flush("key", ())
        return cache

    filled()
    for file in tmp_path.rglob("carry*"):
        file.unlink()
    again = filled()
    assert again.computed == 3
    np.testing.assert_array_equal(again.rows("key", np.arange(3), 0, 3, ())["pooled"], np.ones((3, 4)))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DiskFull("x: the disk is full. Make room.")])
def test_a_full_disk_is_one_sentence_that_asks_once_for_room(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FrontierCache(tmp_path)
    cache.missing("key", np.arange(1))
    cache.add("key", [0], {"pooled": np.ones((1, 4), np.float32)}, (), [slice(0, 1)])

    def full(*args: object) -> None:
        raise error

    monkeypatch.setattr(np, "save", full)
    said = r"Cached features could not be written to .*: the disk is full\. Make room there"
    with pytest.raises(TransferlabError, match=said) as caught:
        cache.flush("key", ())
    assert str(caught.value).count("room") == 1
