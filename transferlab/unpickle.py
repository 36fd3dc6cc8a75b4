"""Pickles read safely: only the few globals that numpy arrays and torch tensors need; any other is refused by name.

They are read by Python's own unpickler in Python, as torch's ``weights_only`` does: the one in C makes a table as long as
the largest place that a pickle names, and hashes whatever stands as a key.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from transferlab import limits
from transferlab.errors import TransferlabError, nearest
from transferlab.reading import check_file, check_zip

_DAMAGE = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    MemoryError,
    LookupError,
    OverflowError,
)
"""What ``zipfile`` and its kin raise at bytes that were changed."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
_LARGEST_EXPANDED = 1 << 24
_ENTRIES = (
    "state_dict", "model", "model_state_dict", "model_state", "params", "net", "net_state_dict", "network", "weights", "module",
    "state_dict_ema", "model_ema", "model_ema_state_dict", "ema_state_dict", "params_ema", "ema",
)  # fmt: skip
"""Names under which training scripts keep a model's state dict, the trained weights before their running averages."""
_DEEPEST_ENTRY = 4

_SETTINGS = (
    ("argparse", "Namespace"), ("types", "SimpleNamespace"),
    *product(("pathlib", "pathlib._local"), ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    ("pytorch_lightning.utilities.parsing", "AttributeDict"), ("lightning.fabric.utilities.data", "AttributeDict"),
    ("lightning_fabric.utilities.data", "AttributeDict"), ("lightning.pytorch.utilities.parsing", "AttributeDict"),
    ("omegaconf.dictconfig", "DictConfig"), ("omegaconf.listconfig", "ListConfig"),
    ("omegaconf.base", "ContainerMetadata"), ("omegaconf.base", "Metadata"), ("omegaconf.nodes", "AnyNode"),
    ("omegaconf.nodes", "StringNode"), ("omegaconf.nodes", "IntegerNode"), ("omegaconf.nodes", "FloatNode"),
    ("omegaconf.nodes", "BooleanNode"), ("typing", "Any"), ("collections", "defaultdict"),
    ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"), ("numpy", "dtype"),
    ("_codecs", "encode"), ("torch", "device"), *(("builtins", kind) for kind in ("dict", "list", "int", "float", "str", "bool")),
)  # fmt: skip
"""What training scripts keep beside the weights: arguments, paths, scores. None of it is made: :class:`_Unread` stands for it."""


def load_numpy_pickle(data: bytes, name: str) -> Any:
    """Unpickle numpy arrays and plain containers.

    Raises:
        TransferlabError: the pickle asks for anything else (named), or is broken; ``name`` is the file's.
    """
    arrays = {
        ("numpy.core.multiarray", "_reconstruct"): np.core.multiarray._reconstruct  # pyright: ignore[reportAttributeAccessIssue]
        if hasattr(np, "core") and not hasattr(np, "_core")
        else np._core.multiarray._reconstruct,  # pyright: ignore[reportAttributeAccessIssue]
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    arrays["numpy._core.multiarray", "_reconstruct"] = arrays["numpy.core.multiarray", "_reconstruct"]
    return _load(_Restricted(io.BytesIO(data), name, arrays, most=len(data)), name)


@dataclass(frozen=True)
class TorchTensor:
    """A tensor of a torch file: where it lies, read on demand."""

    shape: tuple[int, ...]
    dtype: np.dtype
    _storage: Callable[[], np.ndarray]
    _offset: int
    _strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Return the array, contiguous."""
        flat = self._storage()
        strides = tuple(step * self.dtype.itemsize for step in self._strides)
        view = np.lib.stride_tricks.as_strided(flat[self._offset :], self.shape, strides, writeable=False)
        return np.ascontiguousarray(view)


def read_torch(path: Path) -> dict[str, TorchTensor]:
    """Read a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` file, zip or legacy, without torch: :func:`read_torch_entry` of no name."""
    return read_torch_entry(path)[0]


def read_torch_entry(path: Path, entry: str | None = None) -> tuple[dict[str, TorchTensor], tuple[str, ...]]:
    """Return (a state dict of a torch file, the names of its other ones).

    A state dict wrapped in ``{"state_dict": …}`` or the like is unwrapped; entries that are no tensors are left out.

    Args:
        path: of the file.
        entry: name of the state dict, where the file has several; by default the one that is the trained model's.

    Raises:
        TransferlabError: the file is truncated or corrupt, holds no tensors, or asks for a forbidden global; no such
            entry, or several state dicts of which no name says that it is the model's.
    """
    name = str(check_file(path))
    check_zip(path)
    try:
        found = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except _DAMAGE as error:
        raise TransferlabError(f"{name}: not a readable torch file ({error}).") from None
    others: list[str] = []
    for _ in range(_DEEPEST_ENTRY):
        if not (inner := _inner(found)):
            break
        known = next((key for key in _ENTRIES if key in inner), None)
        if entry is None and known is None and _tensors(found):
            break  # what holds tensors beside them, under no name of a state dict, is the model's own
        chosen = entry or known or (next(iter(inner)) if len(inner) == 1 else None)
        if chosen is None:
            raise TransferlabError(
                f"{name} holds several state dicts: {', '.join(sorted(inner)[:12])}. Choose one: "
                f"tl.load('{name}', entry='{min(inner)}', …)"
            )
        if chosen not in inner:
            raise TransferlabError(f"{name} has no state dict '{chosen}'.{nearest(chosen, inner)}")
        others += [key for key in inner if key != chosen]
        found, entry = inner[chosen], None
    if entry is not None:
        raise TransferlabError(f"{name} is one state dict, without an entry '{entry}'.")
    tensors = _tensors(found)
    if not tensors:
        raise TransferlabError(f"{name}: holds no named tensors.")
    return tensors, tuple(others)


def _tensors(found: Any) -> dict[str, TorchTensor]:
    named = found.items() if isinstance(found, Mapping) else ()
    return {str(k): v for k, v in named if isinstance(v, TorchTensor) and isinstance(k, (str, int))}


def _inner(found: Any) -> dict[str, Any]:
    """State dicts within a dict: what holds tensors by their names, or holds what does, as no optimizer's state is."""
    if not isinstance(found, Mapping):
        return {}
    pairs = ((key, value) for key, value in found.items() if isinstance(key, str) and isinstance(value, Mapping))
    return {
        key: value for key, value in pairs
        if any(isinstance(k, str) and isinstance(v, TorchTensor) for k, v in value.items())
        or any(isinstance(k, str) and k in _ENTRIES and isinstance(v, Mapping) for k, v in value.items())
    }  # fmt: skip


class _Unread:
    """Stands for a value that is no weight; what a pickle gives it or sets of it is dropped."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """As a list's."""

    def extend(self, items: Any) -> None:
        """As a list's."""


# ---------------------------------------------------------------------------------------------------------------


class _Bounded:
    """A file of which a pickle may read so many bytes, and at once no more than there are."""

    def __init__(self, file: Any, most: int):
        self._file, self._left = file, most
        here = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(here)

    def _claim(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise pickle.UnpicklingError(
                f"it goes on past what {limits.PICKLE_BYTES:,} bytes hold (transferlab.limits)"
            )
        if length > 1 and self._file.tell() + length > self._end:
            raise EOFError("it ends early")

    def read(self, length: int) -> bytes:
        """The next bytes."""
        self._claim(length)
        return self._file.read(length)

    def readline(self) -> bytes:
        """The rest of a line."""
        line = self._file.readline(self._left + 1)
        self._claim(len(line))
        return line

    def readinto(self, place: Any) -> int:
        """The next bytes, into a buffer."""
        self._claim(len(place))
        return self._file.readinto(place)


_PLAIN: dict[int, Callable[[Any], None]] = {**pickle._Unpickler.dispatch}
"""What Python's unpickler does at each operation."""


class _Restricted(pickle._Unpickler):
    """An unpickler that knows a table of globals and nothing else, and makes nothing that cannot be hashed in a moment."""

    dispatch: ClassVar[Any] = {**_PLAIN}
    stack: list[Any]

    def __init__(
        self, file: Any, name: str, table: Mapping[tuple[str, str], Any], storage: Callable[..., Any] | None = None,
        most: int | None = None,
    ):  # fmt: skip
        super().__init__(_Bounded(file, limits.PICKLE_BYTES if most is None else most), encoding="utf-8")
        self._name, self._table, self._storage = name, table, storage
        self._lengths: dict[int, tuple[int, tuple]] = {}
        """By a tuple's identity: its items, those of the tuples in it too; and itself, so that none other takes its place."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._table:
            raise TransferlabError(
                f"{self._name}: its pickle asks for '{module}.{name}', which is not allowed; nothing was run."
            )
        return self._table[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise TransferlabError(f"{self._name}: its pickle refers to outside storage.")
        return self._storage(pid)

    def _bounded(self, kind: int) -> None:
        """Make the tuple that is next, or call what gives one. Doubled 40 times, one of 80 bytes has 2⁴⁰ items to hash."""
        if kind == pickle.REDUCE[0] and self.stack[-2] is OrderedDict:
            self._check_keys(key for pairs in self.stack[-1] for key, _ in pairs)
        _PLAIN[kind](self)
        made = self.stack[-1]
        if isinstance(made, tuple):
            inner = (
                self._lengths[id(item)][0] for item in made if isinstance(item, tuple) and id(item) in self._lengths
            )
            length = len(made) + sum(inner)
            if length > limits.PICKLE_TUPLE:
                raise pickle.UnpicklingError("a tuple of tuples unfolds to more than any model's (transferlab.limits)")
            self._lengths[id(made)] = length, made

    def _build(self) -> None:
        """Set the state of an array or a dict. That of a tensor is its own: changed, it could point outside its file."""
        if isinstance(self.stack[-2], (TorchTensor, _Storage, type)) or callable(self.stack[-2]):
            raise pickle.UnpicklingError(f"it changes a {type(self.stack[-2]).__name__}")
        _PLAIN[pickle.BUILD[0]](self)

    def _check_keys(self, keys: Iterable[Any]) -> None:
        """Keys are hashed each time that they stand, so that a long one may not be one."""
        if any(isinstance(key, tuple) and self._lengths.get(id(key), (0,))[0] > limits.AXES for key in keys):
            raise pickle.UnpicklingError("a key is a tuple of many items")

    def _set(self, kind: int) -> None:
        """Put pairs into a dict."""
        self._check_keys(self.stack[-2:-1] if kind == pickle.SETITEM[0] else self.stack[::2])
        _PLAIN[kind](self)

    def _long(self) -> None:
        """An integer whose length takes four bytes: none is so long."""
        raise pickle.UnpicklingError("it holds an integer of thousands of digits")

    for _kind in (pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.REDUCE,
                  pickle.NEWOBJ):  # fmt: skip
        dispatch[_kind[0]] = partial(lambda self, kind: self._bounded(kind), kind=_kind[0])
    for _kind in (pickle.SETITEM, pickle.SETITEMS, pickle.DICT):
        dispatch[_kind[0]] = partial(lambda self, kind: self._set(kind), kind=_kind[0])
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.LONG4[0]] = _long
    for _kind in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.ADDITEMS,
                  pickle.FROZENSET):  # fmt: skip
        del dispatch[_kind[0]]  # nothing that is read here was written with these


def _load(unpickler: pickle._Unpickler, name: str) -> Any:
    try:
        return unpickler.load()
    except TransferlabError:
        raise
    except RecursionError:
        raise TransferlabError(f"{name}: its pickle is nested too deeply.") from None
    except Exception as error:
        raise TransferlabError(f"{name}: truncated or corrupt ({type(error).__name__}: {error}).") from None


@dataclass(frozen=True)
class _Storage:
    """A typed run of numbers in the file."""

    key: str
    dtype: np.dtype
    size: int
    read: Callable[[], np.ndarray]


def _torch_table(name: str) -> dict[tuple[str, str], Any]:
    def rebuild(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TorchTensor:
        numbers = (offset, *size, *stride)
        if len(numbers) > 2 * limits.AXES + 1 or not all(type(n) is int and 0 <= n < limits.SIDE for n in numbers):
            raise TransferlabError(f"{name}: a tensor is described wrongly.")
        shape, strides = tuple(size), tuple(stride)
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise TransferlabError(f"{name}: a tensor is described wrongly.")
        # The last element that the view touches must lie inside its storage.
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if all(shape) else -1
        if last >= storage.size:
            raise TransferlabError(f"{name}: a tensor of shape {shape} reaches past its storage '{storage.key}'.")
        # An expanded tensor repeats its storage by strides of 0; one that would unfold to far more is a trap.
        if math.prod(shape) > max(storage.size, _LARGEST_EXPANDED):
            raise TransferlabError(f"{name}: a tensor of shape {shape} unfolds a storage of {storage.size} numbers.")
        return TorchTensor(shape, storage.dtype, storage.read, int(offset), strides)

    table: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch._utils", "_rebuild_tensor"): rebuild,
        ("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
        ("torch", "Size"): tuple,
        **dict.fromkeys(_SETTINGS, _Unread),
    }
    for storage, dtype in _STORAGES.items():
        table["torch", storage] = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    return table


def _read_zip(path: Path) -> Any:
    name = str(path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [member for member in members if member.endswith("/data.pkl") or member == "data.pkl"]
        if len(pickles) != 1:
            raise TransferlabError(f"{name}: a zip file, but not one that torch wrote (no data.pkl).")
        root = pickles[0][: -len("data.pkl")]
        # A pickle of a state dict is small; one that unpacks to more than the file's whole size is a trap.
        if members[pickles[0]].file_size > min(max(path.stat().st_size * 4, 1 << 20), limits.PICKLE_BYTES):
            raise TransferlabError(f"{name}: data.pkl claims {members[pickles[0]].file_size:,} bytes.")
        data = archive.read(pickles[0])

    def storage(pid: Any) -> _Storage:
        _, dtype, key, _, size = _checked_pid(pid, name)
        member = members.get(f"{root}data/{key}")
        if member is None or member.file_size < size * dtype.itemsize:
            raise TransferlabError(f"{name}: the storage '{key}' is missing or too short.")
        # torch stores them as they are; a deflated one could unpack to a thousand times its size.
        if member.compress_type != zipfile.ZIP_STORED:
            raise TransferlabError(f"{name}: the storage '{key}' is compressed, which torch never does.")

        def read() -> np.ndarray:
            try:
                with zipfile.ZipFile(path) as archive:
                    return np.frombuffer(archive.read(member), dtype, count=size)
            except _DAMAGE as error:
                raise TransferlabError(f"{name}: cannot read the storage '{key}' ({error}).") from None

        return _Storage(key, dtype, size, read)

    return _load(_Restricted(io.BytesIO(data), name, _torch_table(name), storage), name)


def _read_legacy(path: Path) -> Any:
    """Four pickles (magic, protocol, system, object), the list of storage keys, then each storage: count, numbers."""
    name, length = str(path), path.stat().st_size
    places: dict[str, tuple[int, int]] = {}

    def storage(pid: Any) -> _Storage:
        _, dtype, key, _, size = _checked_pid(pid, name)

        def read() -> np.ndarray:
            if key not in places:
                raise TransferlabError(f"{name}: the storage '{key}' is missing.")
            offset, count = places[key]
            if count != size:
                raise TransferlabError(f"{name}: the storage '{key}' holds {count} numbers, expected {size}.")
            return np.memmap(path, dtype, mode="r", offset=offset, shape=(count,))

        storages[key] = _Storage(key, dtype, size, read)
        return storages[key]

    storages: dict[str, _Storage] = {}
    with path.open("rb") as file:
        head = [_load(_Restricted(file, name, {}), name) for _ in range(3)]
        if head[0] != _LEGACY_MAGIC:
            raise TransferlabError(f"{name}: not a torch file.")
        found = _load(_Restricted(file, name, _torch_table(name), storage), name)
        keys = _load(_Restricted(file, name, {}), name)
        if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
            raise TransferlabError(f"{name}: its list of storages is none.")
        if set(map(str, keys)) != set(storages):
            raise TransferlabError(f"{name}: its list of storages does not fit its tensors.")
        for key in map(str, keys):
            raw = file.read(8)
            if len(raw) < 8:
                raise TransferlabError(f"{name}: truncated before the storage '{key}'.")
            (count,) = struct.unpack("<q", raw)
            bytes_ = count * storages[key].dtype.itemsize
            if count != storages[key].size or file.tell() + bytes_ > length:
                raise TransferlabError(f"{name}: truncated or corrupt at the storage '{key}'.")
            places[key] = (file.tell(), count)
            file.seek(bytes_, io.SEEK_CUR)
    return found


def _checked_pid(pid: Any, name: str) -> tuple[str, np.dtype, str, Any, int]:
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], np.dtype):
        raise TransferlabError(f"{name}: a storage is described wrongly.")
    if not isinstance(pid[2], (str, int)):
        raise TransferlabError(f"{name}: a storage's key is a {type(pid[2]).__name__}.")
    if type(pid[4]) is not int or not 0 <= pid[4] < limits.SIDE:
        raise TransferlabError(f"{name}: the storage '{pid[2]}' is described wrongly: its size is none.")
    return str(pid[0]), pid[1], str(pid[2]), pid[3], pid[4]
