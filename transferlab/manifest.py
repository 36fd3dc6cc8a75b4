"""Manifests: the files of a directory when it was written, with their SHA-256, so that damage is found before use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.files import sha256_file, write_json

MANIFEST = "files.json"


class Damaged(TransferlabError):
    """A file differs from what was written."""


def write_manifest(directory: Path) -> None:
    """Write sizes and hashes of all files below a directory; the last step before it gets its name."""
    files = {}
    for folder, _, names in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            name = path.relative_to(directory).as_posix()
            if name != MANIFEST:
                files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    # Its own hash tells a damaged manifest from a damaged file.
    write_json(directory / MANIFEST, {"format": 1, "files": dict(sorted(files.items())), "sha256": _own_sha256(files)})


def _own_sha256(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def check_manifest(directory: Path, select: Callable[[str], bool] = lambda name: True) -> bool:
    """Check a directory's files, those whose names ``select`` accepts, against its manifest. No other files are checked.

    Returns:
        Whether there is a manifest; without one nothing is checked.

    Raises:
        Damaged: a file that differs from what was written; it is named.
    """
    path = directory / MANIFEST
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}).") from None
    try:
        raw = json.loads(text)
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in raw["files"].items()}
        # Earlier versions wrote no hash of it.
        if raw.get("sha256", own := _own_sha256(raw["files"])) != own:
            raise Damaged(f"{path} is damaged: its list of files is not what was written.")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{path} is damaged: it is not a manifest.") from None
    for name, (size, digest) in files.items():
        if not select(name):
            continue
        path = directory / name
        try:
            length = path.stat().st_size
            if length != size:
                raise Damaged(f"{path} is damaged: it has {length:,} bytes; expected {size:,}.")
            if sha256_file(path) != digest:
                raise Damaged(f"{path} is damaged: its SHA-256 differs from the one recorded when it was written.")
        except FileNotFoundError:
            raise Damaged(f"{path} is missing.") from None
        except PermissionError:
            raise TransferlabError(f"{path} cannot be read by this user: permission denied.") from None
        except OSError as error:
            raise Damaged(f"{path} cannot be read ({error.strerror}).") from None
    return True
