"""Writing files: hashes, atomic writes, locks, and what killed writers left. Nothing is ever half-written."""

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

from transferlab.errors import TransferlabError


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
    """Make a private sibling of ``path`` and hold its lock; what killed writers left next to it is removed first."""
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
