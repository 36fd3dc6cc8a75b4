"""Folders of files: one sub-folder per label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transferlab.data.examples import SPLITS
from transferlab.data.images import SUFFIXES, image_files, nested_images, passed_over
from transferlab.data.labels import check_alike, ordered
from transferlab.data.readers.base import Options, Reader, Table
from transferlab.errors import TransferlabError


class FolderReader(Reader):
    """A folder with one sub-folder of images per label."""

    name = "folder of images"
    takes = ("white",)
    last = True

    def recognises(self, source: Any) -> bool:
        return isinstance(source, Path) and source.is_dir()

    def read(self, source: Path, options: Options) -> Table:
        del options
        return read_folder(source)


def read_folder(path: Path) -> Table:
    """Read a folder with one sub-folder of images per label.

    Raises:
        TransferlabError: a label without images, images outside the labels' folders, or folders of splits.
    """
    names = ordered(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    check_alike(str(path), names)
    images = {name: image_files(path / name) for name in names}
    files = [(file, i) for i, name in enumerate(names) for file in images[name]]
    if splits := [
        split
        for split in SPLITS
        for name in names
        if split == name.lower() and not images[name] and nested_images(path / name)
    ]:
        first = next(name for name in names if name.lower() == splits[0])
        raise TransferlabError(
            f"{path} has folders of splits ({', '.join(splits)}), each with folders of labels; these are not read yet. Open "
            f"one of them:\n  >>> tl.dataset({str(path / first)!r})"
        )
    if not files and not nested_images(path):
        raise TransferlabError(f"{path} holds no images; expected {path}/<label>/*.png or .jpg.")
    if loose := image_files(path):
        raise TransferlabError(
            f"{loose[0]} is outside the labels' folders ({path}/<label>/*), one of {len(loose)} such images. Move them into "
            "a label's folder, or elsewhere."
        )
    for name, inside in images.items():
        if deeper := nested_images(path / name):
            raise TransferlabError(
                f"{deeper[0]} is a folder deeper than a label's images ({path}/<label>/*), one of {len(deeper)} such images. "
                "Move them up, or elsewhere."
            )
        if not inside:
            raise TransferlabError(
                f"{path / name} holds no images ({', '.join(SUFFIXES)}), so that no example has the label '{name}'."
            )

    ignored = passed_over([path / name for name in names])
    return Table(
        str(path),
        {"image": [file for file, _ in files], "label": [label for _, label in files]},
        [str(file.relative_to(path)) for file, _ in files],
        roles={"image": "image", "target": "label"},
        classes={"label": names},
        about={"passed_over": ignored} if ignored else {},
    )
