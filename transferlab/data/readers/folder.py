"""Folders of images, sounds or texts: one sub-folder per label, in folders of splits if there are such."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transferlab.data import images, sounds
from transferlab.data.examples import SPLITS
from transferlab.data.labels import check_alike, ordered
from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.readers.text import check_prose, documents_of
from transferlab.errors import TransferlabError


@dataclass(frozen=True)
class Files:
    """The files of one kind that folders are searched for.

    Attributes:
        content: what an example of them holds.
        word: for one of them.
        suffixes: of their names.
        among: folder → the files of this kind in it.
    """

    content: str
    word: str
    suffixes: tuple[str, ...]
    among: Callable[[Path], list[Path]]

    def nested(self, folder: Path) -> list[Path]:
        """Those in sub-folders, at any depth; hidden folders are skipped."""
        paths = []
        for place, inside, _ in os.walk(folder):
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            paths += self.among(Path(place)) if Path(place) != folder else []
        return paths


def _by_suffix(suffixes: tuple[str, ...]) -> Callable[[Path], list[Path]]:
    def among(folder: Path) -> list[Path]:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        return [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]

    return among


_IMAGES = Files("image", "image", images.SUFFIXES, images.image_files)
_SOUNDS = Files("audio", "sound", sounds.SUFFIXES, _by_suffix(sounds.SUFFIXES))
_TEXTS = Files("text", "text", (".txt",), _by_suffix((".txt",)))


class FolderReader(Reader):
    """A folder with one sub-folder per label; or of texts alone, each file a document unless ``documents`` says otherwise."""

    name = "folder of images, sounds or texts"
    takes = ("white", "documents")
    last = True

    def recognises(self, source: Any) -> bool:
        return isinstance(source, Path) and source.is_dir()

    def read(self, source: Path, options: Options) -> Table:
        kind = _kind(source)
        for argument, value, of in (("documents", options.documents, _TEXTS), ("white", options.white, _IMAGES)):
            if value is not None and kind is not of:
                raise TransferlabError(f"{argument} is {value!r}, but '{source}' holds no {of.word}s. Leave it out.")
        if kind is _TEXTS and _TEXTS.among(source) and not _TEXTS.nested(source):
            return _documents(source, options)
        return _labelled(source, kind, options)


def _kind(path: Path) -> Files:
    """What the folder holds. Texts next to images or sounds (a license) are passed over."""
    names = [name.lower() for _, _, files in os.walk(path) for name in files if not name.startswith(".")]
    found = [kind for kind in (_SOUNDS, _TEXTS) if any(name.endswith(kind.suffixes) for name in names)]
    if any(name.endswith(_IMAGES.suffixes) for name in names):
        found = [_IMAGES, *found]
    if len([kind for kind in found if kind is not _TEXTS]) > 1:
        raise TransferlabError(f"{path} holds images and sounds; an example is one of them. Move the others elsewhere.")
    return found[0] if found else _IMAGES


def _documents(path: Path, options: Options) -> Table:
    """Texts without labels."""
    if options.documents is None:
        for file in _TEXTS.among(path):
            check_prose(file)
    how = options.documents or "file"
    found = [(file, line, text) for file in _TEXTS.among(path) for line, text in documents_of(file, how)]
    places = [file.name if how == "file" else f"{file.name}, line {line}" for file, line, _ in found]
    return Table(str(path), {"text": [text for _, _, text in found]}, places, roles={"text": "text"})


def _labelled(path: Path, kind: Files, options: Options) -> Table:
    """Files in a folder for each label.

    Raises:
        TransferlabError: a label without files, files outside the labels' folders, or folders of splits next to others.
    """
    splits = _splits(path, kind)
    roots = {path / name: split for name, split in splits.items()} or {path: ""}
    names = ordered(name for root in roots for name in _folders(root))
    check_alike(str(path), names)
    if not kind.nested(path):
        raise TransferlabError(
            f"{path} holds no {kind.word}s; expected {path}/<label>/*{kind.suffixes[0]}"
            f"{' or .jpg' if kind is _IMAGES else ''}."
        )
    rows: list[tuple[Path, int, str]] = []
    for root, split in roots.items():
        _check(root, kind)
        rows += [
            (file, i, split)
            for i, name in enumerate(names)
            if (root / name).is_dir()
            for file in kind.among(root / name)
        ]
    columns: dict[str, Sequence[Any]] = {kind.content: [file for file, _, _ in rows], "label": [i for _, i, _ in rows]}
    places = [str(file.relative_to(path)) for file, _, _ in rows]
    if kind is _TEXTS:
        texts = [list(documents_of(file, options.documents or "file")) for file, _, _ in rows]
        places = [_place(places[row], line, options) for row, of in enumerate(texts) for line, _ in of]
        rows = [rows[row] for row, of in enumerate(texts) for _ in of]
        columns = {"text": [text for of in texts for _, text in of], "label": [i for _, i, _ in rows]}
    roles: dict[str, str | tuple[str, ...]] = {kind.content: kind.content, "target": "label"}
    if splits:
        columns, roles = {**columns, "split": [split for _, _, split in rows]}, {**roles, "splits": "split"}
    ignored = images.passed_over([root / name for root in roots for name in _folders(root)], kind.suffixes, kind.word)
    return Table(
        str(path), columns, places, roles, {"label": names}, about={"passed_over": ignored} if ignored else {},
    )  # fmt: skip


def _place(file: str, line: int, options: Options) -> str:
    return file if (options.documents or "file") == "file" else f"{file}, line {line}"


def _folders(path: Path) -> list[str]:
    return sorted(place.name for place in path.iterdir() if place.is_dir() and not place.name.startswith("."))


def _splits(path: Path, kind: Files) -> dict[str, str]:
    """Folders of splits: those with a split's name that hold folders of labels, as torchvision reads an ``ImageFolder`` of each."""
    names = [name for name in _folders(path) if kind.among(path / name) or kind.nested(path / name)]
    found = {
        name: SPLITS[name.lower()]
        for name in names
        if name.lower() in SPLITS and not kind.among(path / name) and kind.nested(path / name)
    }
    if found and (others := [name for name in names if name not in found]):
        raise TransferlabError(
            f"{path} has folders of splits ({', '.join(found)}), and others ({', '.join(others)}) next to them. Move these "
            f"elsewhere, or open a split alone:\n  >>> tl.dataset({str(path / next(iter(found)))!r})"
        )
    if len(set(found.values())) < len(found):
        raise TransferlabError(f"{path} has two folders of one split ({', '.join(found)}). Put their files together.")
    return found


def _check(root: Path, kind: Files) -> None:
    """Check that every file of the kind is in a label's own folder, and every such folder has one."""
    if loose := kind.among(root):
        raise TransferlabError(
            f"{loose[0]} is outside the labels' folders ({root}/<label>/*), one of {len(loose)} such {kind.word}s. Move them into "
            "a label's folder, or elsewhere."
        )
    for name in _folders(root):
        if deeper := kind.nested(root / name):
            raise TransferlabError(
                f"{deeper[0]} is a folder deeper than a label's {kind.word}s ({root}/<label>/*), one of {len(deeper)} such "
                f"{kind.word}s. Move them up, or elsewhere."
            )
        if not kind.among(root / name):
            raise TransferlabError(
                f"{root / name} holds no {kind.word}s ({', '.join(kind.suffixes)}), so that no example has the label '{name}'."
            )
