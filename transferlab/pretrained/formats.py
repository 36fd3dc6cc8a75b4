"""Checkpoint files, read lazily: each reader returns ``{key: tensor}`` whose tensors know their shape and dtype."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transferlab.errors import TransferlabError, nearest


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that stays on disk until ``read``. ``np.asarray(tensor)`` reads it too."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = self.read()
        return out if dtype is None else out.astype(dtype)


_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Read one ``.safetensors`` file. A truncated or corrupt one is an error that names it."""
    import ml_dtypes
    from safetensors import SafetensorError, safe_open

    try:
        handle = safe_open(str(path), framework="numpy")
        tensors = {}
        for key in handle.keys():  # noqa: SIM118  (a handle, not a dict)
            piece = handle.get_slice(key)
            name = _SAFETENSORS_DTYPES.get(piece.get_dtype())
            if name is None:
                raise TransferlabError(f"{path}: '{key}' has the unknown type {piece.get_dtype()}.")
            dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
            tensors[key] = LazyTensor(tuple(piece.get_shape()), dtype, _reader(handle, key, path))
        return tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise TransferlabError(f"{path}: not a readable safetensors file ({error}).") from None


def _reader(handle: Any, key: str, path: Path) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            return handle.get_tensor(key)
        except Exception as error:
            raise TransferlabError(f"{path}: cannot read '{key}' ({error}).") from None

    return read


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """Read a ``.pth``, ``.pt`` or ``.bin`` (zip or legacy) through the restricted unpickler."""
    from transferlab.unpickle import read_torch

    tensors = read_torch(path)
    return {key: LazyTensor(tuple(t.shape), np.dtype(t.dtype), t.read) for key, t in tensors.items()}


def read_directory(directory: Path) -> tuple[dict[str, LazyTensor], list[Path]]:
    """Read a Hugging Face directory's weights, single or sharded. Returns (tensors, the files they are in)."""
    for index_name, reader in (
        ("model.safetensors.index.json", read_safetensors),
        ("pytorch_model.bin.index.json", read_torch_file),
    ):
        if (directory / index_name).exists():
            return _read_sharded(directory, index_name, reader)
    for name, reader in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch_file)):
        if (directory / name).exists():
            return reader(directory / name), [directory / name]
    there = sorted(p.name for p in directory.iterdir())
    raise TransferlabError(
        f"{directory}: no weights; expected model.safetensors or pytorch_model.bin (or their index). There is: {there}."
    )


def _read_sharded(
    directory: Path, index_name: str, reader: Callable[[Path], dict[str, LazyTensor]]
) -> tuple[dict[str, LazyTensor], list[Path]]:
    try:
        weight_map = dict(json.loads((directory / index_name).read_text("utf-8"))["weight_map"])
        if not all(isinstance(name, str) and Path(name).name == name for name in weight_map.values()):
            raise ValueError("weight_map must name files of this directory")
    except (ValueError, KeyError, TypeError) as error:
        raise TransferlabError(f"{directory / index_name}: not a readable index ({error!r}).") from None
    tensors: dict[str, LazyTensor] = {}
    files = [directory / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.exists():
            raise TransferlabError(f"{directory / index_name} names the shard '{file.name}', which is not there.")
        shard = reader(file)
        for key in (key for key, name in weight_map.items() if name == file.name):
            if key not in shard:
                raise TransferlabError(f"{index_name} says '{key}' is in {file.name}; it is not.{nearest(key, shard)}")
            tensors[key] = shard[key]
    return tensors, files


def read_any(path: Path) -> dict[str, LazyTensor]:
    """Read any weight file or directory by its name."""
    if path.is_dir():
        return read_directory(path)[0]
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return read_safetensors(path)
    if suffix in (".pth", ".pt", ".bin"):
        return read_torch_file(path)
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".gguf":
        from transferlab.pretrained.gguf import read_gguf

        return read_gguf(path).tensors
    raise TransferlabError(
        f"{path}: unknown kind of weight file; expected .safetensors, .pth, .pt, .bin, .npz, .gguf or a directory."
    )


def read_npz(path: Path) -> dict[str, LazyTensor]:
    """Read a numpy ``.npz`` (no pickled objects)."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: LazyTensor(archive[key].shape, archive[key].dtype, _constant(archive[key])) for key in archive}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise TransferlabError(f"{path}: not a readable npz file ({error}).") from None


def _constant(array: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: array
