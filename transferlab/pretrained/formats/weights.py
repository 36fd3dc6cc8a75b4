"""Weights of a file or directory in any format, chosen by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transferlab.errors import TransferlabError, nearest
from transferlab.pretrained.formats.ctranslate2 import read_ctranslate2
from transferlab.pretrained.formats.gguf import read_gguf
from transferlab.pretrained.formats.npz import read_npz
from transferlab.pretrained.formats.safetensors import read_safetensors
from transferlab.pretrained.formats.tensors import LazyTensor, check_count
from transferlab.pretrained.formats.torch_files import TORCH_SUFFIXES, is_torch, read_torch_file, torch_entry
from transferlab.reading import check_file, read_object, reading


def read_entry(path: Path, entry: str | None) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """Return (the tensors of a weight file, the names of its other state dicts): a torch file can hold several.

    Args:
        path: of any weight file.
        entry: the name of the state dict, in a torch file.
    """
    if is_torch(path):
        return torch_entry(path, entry)
    check_no_entry(path, entry)
    return read_any(path), ()


def check_no_entry(path: Path, entry: str | None) -> None:
    """Refuse the name of a state dict for anything that is not a single torch file."""
    if entry is not None:
        raise TransferlabError(
            f"{path}: entry='{entry}' chooses a state dict of a torch file, but this is not one. Omit entry."
        )


def read_directory(directory: Path) -> tuple[dict[str, LazyTensor], list[Path]]:
    """Read a Hugging Face directory's weights, single or sharded; return (tensors, the files that hold them)."""
    return directory_entry(directory, None)[:2]


def directory_entry(directory: Path, entry: str | None) -> tuple[dict[str, LazyTensor], list[Path], tuple[str, ...]]:
    """Return (tensors, the files that hold them, the names of the other state dicts of a single torch file).

    Args:
        directory: of the model.
        entry: the name of the state dict, in a torch file of several.

    Raises:
        TransferlabError: there are no weights, or a shard or its index is damaged or missing.
    """
    # transformers' order: where a directory holds several, old shards are next to a model that was saved later, whole.
    for name, reader in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch_file)):
        if (path := directory / name).exists():
            if reader is read_torch_file:
                tensors, others = torch_entry(path, entry)
                return tensors, [path], others
            check_no_entry(path, entry)
            return reader(path), [path], ()
        if (path := directory / f"{name}.index.json").exists():
            check_no_entry(path, entry)
            return *_read_sharded(directory, path.name, reader), ()
    files = sorted(p.name for p in directory.iterdir())
    raise TransferlabError(
        f"{directory} has no weights: expected model.safetensors or pytorch_model.bin (or their index). It holds: {files}."
    )


def _read_sharded(
    directory: Path, index_name: str, reader: Callable[[Path], dict[str, LazyTensor]]
) -> tuple[dict[str, LazyTensor], list[Path]]:
    try:
        weight_map = dict(read_object(directory / index_name)["weight_map"])
        names = set(weight_map.values())
        if not all(isinstance(name, str) and name and Path(name).name == name for name in names):
            raise ValueError("weight_map must name files of this directory")
    except (TransferlabError, ValueError, KeyError, TypeError) as error:
        raise TransferlabError(f"{directory / index_name}: not a readable index ({error!r}).") from None
    tensors: dict[str, LazyTensor] = {}
    check_count(directory / index_name, len(weight_map))
    keys: dict[str, list[str]] = {name: [] for name in sorted(names)}
    for key, name in weight_map.items():
        keys[name].append(key)
    files = [directory / name for name in keys]
    for file in files:
        if not file.exists():
            raise TransferlabError(f"{directory / index_name} names the shard '{file.name}', which does not exist.")
        shard = reader(file)
        for key in keys[file.name]:
            if key not in shard:
                raise TransferlabError(
                    f"{index_name} says that '{key}' is in {file.name}, but it is not.{nearest(key, shard)}"
                )
            tensors[key] = shard[key]
    return tensors, files


def read_any(path: Path) -> dict[str, LazyTensor]:
    """Read any weight file or directory.

    Raises:
        TransferlabError: its kind is unknown, or it is damaged; it is named, whatever a library raised.
    """
    with reading(path):
        return _read_any(path)


def _read_any(path: Path) -> dict[str, LazyTensor]:
    if path.is_dir():
        return read_directory(path)[0]
    suffix = path.suffix.lower()
    check_file(path)
    if suffix == ".safetensors":
        return read_safetensors(path)
    if path.name.lower().endswith(TORCH_SUFFIXES):
        return read_torch_file(path) if is_torch(path) else read_ctranslate2(path)
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".gguf":
        return read_gguf(path).tensors
    raise TransferlabError(
        f"{path}: unknown kind of weight file. Expected .safetensors, .pth, .pt, .bin, .ckpt, .pth.tar, .npz, .gguf or a "
        "directory."
    )
