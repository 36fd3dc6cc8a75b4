"""Reading foreign files: anything that is not a file, or too large, is refused first; a library's errors name the file."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transferlab import limits
from transferlab.errors import FieldError, TransferlabError


def check_file(path: Path, most: int | None = None) -> Path:
    """Return ``path`` if it is a regular file: neither a directory nor a pipe, socket or device.

    Args:
        path: of the file; a link to one is fine.
        most: largest size in bytes, from :mod:`transferlab.limits`.

    Raises:
        TransferlabError: it is missing, of another kind (opening a pipe waits for its writer forever), or larger.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise TransferlabError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error}).") from None
    if not stat.S_ISREG(status.st_mode):
        kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
        kind = next((kind for test, kind in kinds if test(status.st_mode)), "device")
        raise TransferlabError(f"{path} is a {kind}; expected a file.")
    if most is not None and status.st_size > most:
        raise TransferlabError(
            f"{path} has {status.st_size:,} bytes; such a file can have {most:,} (transferlab.limits)."
        )
    return path


def check_zip(path: Path) -> None:
    """Refuse a zip archive of more members than :data:`transferlab.limits.ZIP_MEMBERS`: listing them takes time and memory.

    An archive that cannot be read here is left to ``zipfile``, which says why.
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
    if min(listed, size) > limits.ZIP_MEMBERS * 100:  # each takes 46 bytes and its name there
        raise TransferlabError(
            f"{path} lists {min(listed, size):,} bytes of names, more than transferlab.limits.ZIP_MEMBERS allows."
        )


def read_json(path: Path, most: int | None = None) -> Any:
    """Read JSON of at most this many bytes.

    Raises:
        TransferlabError: the file is larger, or is not JSON; it is named.
    """
    check_file(path, limits.JSON_BYTES if most is None else most)
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        raise TransferlabError(f"{path} is not readable JSON ({error}).") from None


def read_object(path: Path, most: int | None = None) -> dict[str, Any]:
    """Read JSON that must be an object; see :func:`read_json`."""
    raw = read_json(path, most)
    if not isinstance(raw, dict):
        raise TransferlabError(f"{path}: expected a JSON object, not {type(raw).__name__}.")
    return raw


@contextmanager
def reading(path: Path | str, what: str = "") -> Iterator[None]:
    """Turn whatever libraries raise at a damaged file into one error that names the file.

    That includes a lack of memory, too deep a recursion, and panics of libraries in Rust, which are not an ``Exception``.
    Ctrl-C, the end of the process and a missing package pass through.

    Args:
        path: the file.
        what: the part that is read, as a tensor's key.

    Raises:
        TransferlabError: the block raised anything but that.
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
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        where = f"{path}: {what[:200]}: " if what else f"{path}: "
        raise TransferlabError(f"{where}it holds a value that cannot be used ({reason}).") from error
