"""Writing files: hashes, atomic writes, locks, and leftovers of killed writers. Nothing is ever half-written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transferlab.errors import TransferlabError, shown


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_named(name: str | Path, argument: str) -> Path:
    """Return the path of a folder to write to.

    Raises:
        TransferlabError: the name is empty, which would be the current folder, or no name.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TransferlabError(f"{argument} is {shown(name)}; give a folder's name, as {argument}='runs/mine'.")
    if not str(name).strip():
        raise TransferlabError(f"{argument} is {str(name)!r}; give the folder's name ('.' is the current one).")
    return Path(name)


def new_folder(path: Path) -> None:
    """Create a folder and its parents, where they are missing.

    Raises:
        TransferlabError: there is a file in its place, or its parent is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TransferlabError(
            f"The directory {path} cannot be created: {error.strerror} ({error.filename})."
        ) from None


class DiskFull(TransferlabError, OSError):
    """A file could not be written for lack of space; also an ``OSError``, for callers that continue without the file."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no space: on the disk, in a quota, or within a limit on a file's size."""
    return isinstance(error, DiskFull) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk into one that names the file and says how to continue.

    Raises:
        DiskFull: there is no space for the file.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFull) or not is_full(error):
            raise
        raise DiskFull(
            f"{path} could not be written: the disk is full ({error.strerror}). Free some space and run the same command again."
        ) from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write to; it replaces ``path`` when the block succeeds, else it is removed.

    Raises:
        DiskFull: there is no space for it.
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
    """Give a temporary file or directory, which is private, the permissions of the user's other files."""
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
    """Flush every file below a directory to the disk, then its directories, the innermost first."""
    for folder, _, files in os.walk(directory, topdown=False):
        for file in files:
            _sync(Path(folder, file))
        sync_directory(Path(folder))


def sync_directory(directory: Path) -> None:
    """Flush the names in a directory to the disk."""
    if sys.platform != "win32":  # which opens no directories
        _sync(directory)


def _sync(path: Path) -> None:
    # Windows only flushes what is open for writing; elsewhere a read-only file is flushed too.
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


TEMPORARY = ".tmp-written"
"""Suffix of the names of files and directories that are being written."""
_LITTER = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(TEMPORARY)}")


@contextmanager
def temporary_sibling(path: Path, directory: bool) -> Iterator[Path]:
    """Create a private sibling of ``path`` and hold its lock; leftovers of killed writers next to it are removed first."""
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
            # Another writer may have removed it as litter before the lock was held.
            if held or sys.platform == "win32" or temporary.exists():
                yield temporary
                return


def drop_litter(folder: Path) -> None:
    """Remove temporary files and directories of killed writers: nobody holds their locks."""
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
    """Whether this temporary file or directory exists and a live process is writing it."""
    with _held(path, wait=False) as held:
        return path.exists() and not held


def remove(path: Path) -> None:
    """Remove a file, or a directory with its contents, as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def remove_directory(path: Path) -> None:
    """Remove a directory, its name first, so that an interrupted removal leaves none that looks complete."""
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
    """Hold the lock of a file or directory itself; yield False if another holds it, it is gone, or there are no locks."""
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


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


@contextmanager
def file_lock(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` between processes; it is released even if this one is killed.

    If another process holds it, wait; with ``busy``, raise a :class:`TransferlabError` with that message instead.
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
