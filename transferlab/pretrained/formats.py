"""Checkpoint files, read lazily: each reader returns ``{key: tensor}`` whose tensors know their shape and dtype."""

from __future__ import annotations

import json
import math
import mmap
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from transferlab import limits
from transferlab.errors import TransferlabError, nearest
from transferlab.pretrained.orbax import plain_path
from transferlab.reading import check_file, check_zip, read_object, reading


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that stays on disk until ``read``. ``np.asarray(tensor)`` reads it too.

    Attributes:
        shape, dtype: of what ``read`` returns.
        read: returns the array; it may be a read-only view of the mapped file.
        file: which it is in, for messages.
        release: lets go of the pages of the file that a read has mapped; they count as this process's memory till then.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    file: str = ""
    release: Callable[[], None] = lambda: None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = self.read()
        return out.astype(dtype) if dtype is not None and dtype != out.dtype else out.copy() if copy else out


def holds_nonfinite(array: np.ndarray) -> bool:
    """Whether any number of a floating array is a NaN or infinite: one pass over its bits, without a copy.

    As a signed integer a NaN without its sign bit is above infinity, and as an unsigned one with it above minus infinity.
    """
    infinities = {np.dtype(ml_dtypes.bfloat16): 0x7F80, np.dtype(np.float16): 0x7C00, np.dtype(np.float32): 0x7F800000,
                  np.dtype(np.float64): 0x7FF0000000000000}  # fmt: skip
    if array.size == 0 or (array.dtype not in infinities and not array.dtype.name.startswith("float8")):
        return False
    if array.dtype not in infinities:
        return not bool(np.isfinite(array).all())
    infinity, size = infinities[array.dtype], array.dtype.itemsize
    sign = 1 << (8 * size - 1)
    flat = array.T if array.flags.f_contiguous else array
    if not flat.flags.c_contiguous:
        return not bool(np.isfinite(flat).all())
    signed, unsigned = flat.reshape(-1).view(f"i{size}"), flat.reshape(-1).view(f"u{size}")
    for first in range(0, len(signed), _IN_CACHE // size):
        piece = slice(first, first + _IN_CACHE // size)
        if signed[piece].max() >= infinity or unsigned[piece].max() >= sign + infinity:
            return True
    return False


_IN_CACHE = 1 << 20
"""Bytes that the second look at them still finds in the processor's cache."""


_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
SAFETENSORS_DTYPES = {name: np.dtype(getattr(ml_dtypes, ours, ours)) for name, ours in _SAFETENSORS_DTYPES.items()}
"""Names of types in a safetensors header → numpy's."""


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Read one ``.safetensors`` file; its tensors are views of the mapped file. A truncated or corrupt one is an error.

    The format: https://github.com/huggingface/safetensors#format.
    """
    header, start, size = _safetensors_header(path)
    tensors, end = {}, 0
    check_count(path, len(header))
    entries = [(key, *_safetensors_entry(path, key, entry)) for key, entry in header.items() if key != "__metadata__"]
    for key, dtype, shape, first, last in sorted(entries, key=lambda entry: entry[3:]):
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            raise _unreadable(path, f"'{key}' {shape} {dtype} lies at {first} to {last}, after {end}")
        end = last
        tensors[key] = (dtype, shape, first)
    if start + end != size:
        raise _unreadable(path, f"its tensors end at {start + end}, the file at {size}")
    if not tensors:
        return {}
    mapped = _Mapped(path)
    return {
        key: LazyTensor(shape, dtype, _reader(mapped, key, (dtype, shape, start + first)), str(path),
                        mapped.releaser(start + first, math.prod(shape) * dtype.itemsize))
        for key, (dtype, shape, first) in ((key, tensors[key]) for key, *_ in entries)
    }  # fmt: skip


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the texts that a safetensors file has beside its tensors."""
    return dict(_safetensors_header(path)[0].get("__metadata__", {}))


def _safetensors_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return (header, where the tensors begin, the file's size)."""
    try:
        size = check_file(path).stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, limits.HEADER_BYTES):
                raise _unreadable(path, f"a header of {length:,} bytes in a file of {size:,}")
            header = json.loads(file.read(length), object_pairs_hook=_each_once)
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        texts = header.get("__metadata__", {})
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("its __metadata__ are not texts")
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(path, error) from None
    return header, 8 + length, size


def _safetensors_entry(path: Path, key: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Return (dtype, shape, first byte, last byte + 1)."""
    try:
        kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = (first, last, *shape)
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < limits.SIDE for n in numbers):
            raise ValueError
        check_name(path, key)
        if len(shape) > limits.AXES or math.prod(shape) > limits.SIDE:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise _unreadable(path, f"'{key}' is described wrongly") from None
    if not isinstance(kind, str) or kind not in SAFETENSORS_DTYPES:
        raise TransferlabError(f"{path}: '{key}' has the unknown type {str(kind)[:40]}.")
    return SAFETENSORS_DTYPES[kind], tuple(shape), first, last


def check_count(path: Path, tensors: int) -> None:
    """Refuse a file of more tensors than any model has."""
    if tensors > limits.TENSORS:
        raise TransferlabError(
            f"{path} holds {tensors:,} tensors; {limits.TENSORS:,} are the most (transferlab.limits)."
        )


def check_name(path: Path, name: str) -> None:
    """Refuse a name that is too long to be one."""
    if len(name) > limits.NAME_CHARACTERS:
        raise TransferlabError(
            f"{path}: the name '{name[:40]}…' has {len(name):,} characters; {limits.NAME_CHARACTERS} are the most "
            "(transferlab.limits)."
        )


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice")
    return made


def _unreadable(path: Path, why: object) -> TransferlabError:
    return TransferlabError(f"{path}: not a readable safetensors file ({why}).")


class _Mapped:
    """A file in memory, a page at a time as it is touched."""

    def __init__(self, path: Path):
        try:
            with path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise TransferlabError(f"{path}: cannot be opened ({error}).") from None

    def get(self, dtype: np.dtype, shape: tuple[int, ...], start: int) -> np.ndarray:
        """A read-only view."""
        return np.frombuffer(self.map, dtype, math.prod(shape), start).reshape(shape)

    def releaser(self, start: int, length: int) -> Callable[[], None]:
        """What lets go of the pages that lie in this part; a later look maps them again."""

        def release() -> None:
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            pages = (start + length - first) // mmap.PAGESIZE * mmap.PAGESIZE
            if pages > 0 and hasattr(mmap, "MADV_DONTNEED"):
                self.map.madvise(mmap.MADV_DONTNEED, first, pages)

        return release


def _reader(mapped: _Mapped, key: str, place: tuple[np.dtype, tuple[int, ...], int]) -> Callable[[], np.ndarray]:
    return lambda: mapped.get(*place)


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """Read a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` (zip or legacy) through the restricted unpickler."""
    return _torch_entry(path, None)[0]


def read_entry(path: Path, entry: str | None) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """Return (the tensors of a weight file, the names of its other state dicts): a torch file can hold several.

    Args:
        path: of any weight file.
        entry: the name of the state dict, in a torch file.
    """
    if _is_torch(path):
        return _torch_entry(path, entry)
    if entry is not None:
        raise TransferlabError(
            f"{path}: entry='{entry}' chooses among the state dicts of a torch file, and this is none."
        )
    return read_any(path), ()


def _torch_entry(path: Path, entry: str | None) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    from transferlab.unpickle import read_torch_entry

    tensors, others = read_torch_entry(path, entry)
    lazy = {key: LazyTensor(tuple(t.shape), np.dtype(t.dtype), t.read, str(path)) for key, t in tensors.items()}
    return lazy, others


_TORCH = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")


def _is_torch(path: Path) -> bool:
    from transferlab.pretrained.ctranslate2 import is_ctranslate2

    return path.name.lower().endswith(_TORCH) and not is_ctranslate2(path)


def read_directory(directory: Path) -> tuple[dict[str, LazyTensor], list[Path]]:
    """Read a Hugging Face directory's weights, single or sharded. Returns (tensors, the files they are in)."""
    # The origin's order: where a directory holds several, old shards lie beside a model that was saved later, whole.
    for name, reader in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch_file)):
        if (directory / name).exists():
            return reader(directory / name), [directory / name]
        if (directory / f"{name}.index.json").exists():
            return _read_sharded(directory, f"{name}.index.json", reader)
    there = sorted(p.name for p in directory.iterdir())
    raise TransferlabError(
        f"{directory}: no weights; expected model.safetensors or pytorch_model.bin (or their index). There is: {there}."
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
            raise TransferlabError(f"{directory / index_name} names the shard '{file.name}', which is not there.")
        shard = reader(file)
        for key in keys[file.name]:
            if key not in shard:
                raise TransferlabError(f"{index_name} says '{key}' is in {file.name}; it is not.{nearest(key, shard)}")
            tensors[key] = shard[key]
    return tensors, files


def read_any(path: Path) -> dict[str, LazyTensor]:
    """Read any weight file or directory by its name; whatever a library raises at it becomes an error that names it."""
    with reading(path):
        return _read_any(path)


def _read_any(path: Path) -> dict[str, LazyTensor]:
    if path.is_dir():
        return read_directory(path)[0]
    suffix = path.suffix.lower()
    check_file(path)
    if suffix == ".safetensors":
        return read_safetensors(path)
    if path.name.lower().endswith(_TORCH):
        from transferlab.pretrained.ctranslate2 import read_ctranslate2

        return read_torch_file(path) if _is_torch(path) else read_ctranslate2(path)
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".gguf":
        from transferlab.pretrained.gguf import read_gguf

        return read_gguf(path).tensors
    raise TransferlabError(
        f"{path}: unknown kind of weight file; expected .safetensors, .pth, .pt, .bin, .ckpt, .pth.tar, .npz, .gguf or a "
        "directory."
    )


def read_npz(path: Path) -> dict[str, LazyTensor]:
    """Read a numpy ``.npz`` (no pickled objects), an array at a time when it is asked for.

    bfloat16, which numpy writes as raw bytes of two (``|V2``), comes back as such.
    """
    tensors, packed = {}, 0
    check_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    raise ValueError(f"'{member.filename}' is no array")
                key = member.filename.removesuffix(".npy")
                if key in tensors:
                    raise ValueError(f"'{key}' stands twice")
                tensors[key] = _npz_tensor(path, archive, member, key)
                packed += member.compress_size
        if packed > path.stat().st_size:
            raise ValueError("its arrays lie over one another")
    except ZIP_DAMAGE as error:
        raise TransferlabError(f"{path}: not a readable npz file ({error}).") from None
    return tensors


def read_orbax(path: Path, check: Callable[[], object] | None = None) -> dict[str, LazyTensor]:
    """Read an Orbax checkpoint of a tree, ``{path: tensor}``; integer keys are written as their digits.

    Each array is restored alone, when it is asked for; ``check`` is called before the first.
    """
    import orbax.checkpoint as ocp

    try:
        with plain_path(path) as plain:
            metadata: Any = ocp.StandardCheckpointer().metadata(plain).item_metadata
        tree = getattr(metadata, "tree", metadata)
        flat = dict(_leaves_of(tree))
        check_count(path, len(flat))
        shapes = {key: (tuple(leaf.shape), np.dtype(leaf.dtype)) for key, (_, leaf) in flat.items()}
    except TransferlabError:
        raise
    except Exception as error:
        raise TransferlabError(
            f"{path} is not a readable Orbax checkpoint ({type(error).__name__}: {str(error)[:200]})."
        ) from None

    checked = cache(check) if check is not None else None

    def reader(key: str, place: tuple[Any, ...]) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            if checked is not None:
                checked()
            item, args = None, None
            for part in reversed(place):
                item = {part: jax.ShapeDtypeStruct(*shapes[key]) if item is None else item}
                args = {part: ocp.RestoreArgs(restore_type=np.ndarray) if args is None else args}
            try:
                restore = ocp.args.PyTreeRestore(item=item, restore_args=args, partial_restore=True)
                with plain_path(path) as plain:
                    made: Any = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(plain, args=restore)
                for part in place:
                    made = made[part]
            except Exception as error:
                raise TransferlabError(f"{path}: cannot read '{key}' ({str(error)[:200]}).") from None
            return np.asarray(made)

        return read

    return {key: LazyTensor(*shapes[key], reader(key, place), str(path)) for key, (place, _) in flat.items()}


def _leaves_of(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[str, tuple[tuple[Any, ...], Any]]]:
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, (list, tuple)) else None
    if pairs is None:
        yield "/".join(map(str, place)), (place, tree)
        return
    for key, inner in pairs:
        yield from _leaves_of(inner, (*place, key))


ZIP_DAMAGE = (
    zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error, zlib.error,
    SyntaxError, OverflowError, TypeError, MemoryError, IndexError, KeyError,
)  # fmt: skip
"""What ``zipfile`` and numpy's reader of headers raise at bytes that were changed."""
_DEFLATE_AT_MOST = 1032
"""How many times its size a deflated run of bytes can unpack to."""


_PARSING = threading.Lock()
"""numpy parses an array's header as Python, and two threads that parse at once can fail (CPython 3.11, gh-106905)."""


def _npz_tensor(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str) -> LazyTensor:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"'{key}' is of the npy version {version}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject or len(shape) > limits.AXES or not all(0 <= n < limits.SIDE for n in shape):
            raise ValueError(f"'{key}' holds pickled objects, or a shape {shape}")
        size = math.prod(shape) * dtype.itemsize
        if file.tell() + size != member.file_size or size > (member.compress_size + 1) * _DEFLATE_AT_MOST:
            raise ValueError(f"'{key}' {shape} {dtype} is not of {member.file_size} bytes")
    brain = dtype == np.dtype("V2")

    def read() -> np.ndarray:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as file, _PARSING:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except ZIP_DAMAGE as error:
            raise TransferlabError(f"{path}: cannot read '{key}' ({error}).") from None
        return array.view(ml_dtypes.bfloat16) if brain else array

    return LazyTensor(shape, np.dtype(ml_dtypes.bfloat16) if brain else dtype, read, str(path))
