"""Safe reading of pickles: only the few globals that numpy arrays and torch tensors need; any other is refused by name.

They are read by the unpickler written in Python, as torch's ``weights_only`` does: the one in C allocates a table as long as
the largest memo index that a pickle names, and hashes whatever is a key.
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
"""What ``zipfile`` and the like raise at damaged bytes."""

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
"""What training scripts keep besides the weights: arguments, paths, scores. None is created: :class:`_Unread` replaces it."""


def load_numpy_pickle(data: bytes, name: str) -> Any:
    """Unpickle numpy arrays and plain containers.

    Raises:
        TransferlabError: the pickle asks for anything else (named), or is damaged; ``name`` is the file's.
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
    """A tensor of a torch file, read on demand from its storage.

    Attributes:
        shape: of the tensor.
        dtype: of its elements.
    """

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
    """Read a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` file, zip or legacy, without torch.

    As :func:`read_torch_entry` without a name.
    """
    return read_torch_entry(path)[0]


def read_torch_entry(path: Path, entry: str | None = None) -> tuple[dict[str, TorchTensor], tuple[str, ...]]:
    """Return (a state dict of a torch file, the names of its other ones).

    A state dict wrapped in ``{"state_dict": …}`` or the like is unwrapped; entries that are not tensors are dropped.

    Args:
        path: of the file.
        entry: name of the state dict, where the file has several; by default the trained model's.

    Raises:
        TransferlabError: the file is truncated or corrupt, holds no tensors, or asks for a forbidden global; there is no
            such entry, or several state dicts of which none has a model's name.
    """
    name = str(check_file(path))
    check_zip(path)
    try:
        contents = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except _DAMAGE as error:
        raise TransferlabError(f"{name}: not a readable torch file ({error}).") from None
    others: list[str] = []
    for _ in range(_DEEPEST_ENTRY):
        if not (inner := _inner(contents)):
            break
        known = next((key for key in _ENTRIES if key in inner), None)
        if entry is None and known is None and _tensors(contents):
            break  # a dict that holds tensors next to them, under no name of a state dict, is the model's own
        chosen = entry or known or (next(iter(inner)) if len(inner) == 1 else None)
        if chosen is None:
            raise TransferlabError(
                f"{name} holds several state dicts: {', '.join(sorted(inner)[:12])}. Choose one: "
                f"tl.load('{name}', entry='{min(inner)}', …)"
            )
        if chosen not in inner:
            raise TransferlabError(f"{name} has no state dict '{chosen}'.{nearest(chosen, inner)}")
        others += [key for key in inner if key != chosen]
        contents, entry = inner[chosen], None
    if entry is not None:
        raise TransferlabError(f"{name} is a single state dict, without an entry '{entry}'. Omit entry.")
    tensors = _tensors(contents)
    if not tensors:
        raise TransferlabError(f"{name} holds no named tensors: expected a state dict.")
    return tensors, tuple(others)


def _tensors(contents: Any) -> dict[str, TorchTensor]:
    named = contents.items() if isinstance(contents, Mapping) else ()
    return {str(k): v for k, v in named if isinstance(v, TorchTensor) and isinstance(k, (str, int))}


def _inner(contents: Any) -> dict[str, Any]:
    """State dicts within a dict: mappings of names to tensors, or of such mappings, which an optimizer's state is not."""
    if not isinstance(contents, Mapping):
        return {}
    pairs = ((key, value) for key, value in contents.items() if isinstance(key, str) and isinstance(value, Mapping))
    return {
        key: value for key, value in pairs
        if any(isinstance(k, str) and isinstance(v, TorchTensor) for k, v in value.items())
        or any(isinstance(k, str) and k in _ENTRIES and isinstance(v, Mapping) for k, v in value.items())
    }  # fmt: skip


class _Unread:
    """A placeholder for a value that is not a weight; what a pickle passes to it or sets on it is dropped."""

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
    """A file of which a pickle may read a limited number of bytes, and never more at once than there are."""

    def __init__(self, file: Any, most: int):
        self._file, self._left = file, most
        position = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(position)

    def _claim(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise pickle.UnpicklingError(
                f"it is longer than transferlab.limits.PICKLE_BYTES = {limits.PICKLE_BYTES:,} bytes"
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
"""The operations of Python's unpickler."""


class _Restricted(pickle._Unpickler):
    """An unpickler that knows a table of globals and nothing else, and creates nothing that takes long to hash."""

    dispatch: ClassVar[Any] = {**_PLAIN}
    stack: list[Any]

    def __init__(
        self, file: Any, name: str, table: Mapping[tuple[str, str], Any], storage: Callable[..., Any] | None = None,
        most: int | None = None,
    ):  # fmt: skip
        super().__init__(_Bounded(file, limits.PICKLE_BYTES if most is None else most), encoding="utf-8")
        self._name, self._table, self._storage = name, table, storage
        self._lengths: dict[int, tuple[int, tuple]] = {}
        """By a tuple's id: how many items it has, nested ones included; and the tuple itself, so that its id is not reused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._table:
            raise TransferlabError(
                f"{self._name}: its pickle asks for '{module}.{name}', which is not allowed; nothing was run. Save the "
                "weights alone: torch.save(model.state_dict(), path)"
            )
        return self._table[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise TransferlabError(f"{self._name}: its pickle refers to a storage outside the file.")
        return self._storage(pid)

    def _bounded(self, kind: int) -> None:
        """Create the next tuple, or call what returns one. Doubled 40 times, one of 80 bytes has 2⁴⁰ items to hash."""
        if kind == pickle.REDUCE[0] and self.stack[-2] is OrderedDict:
            self._check_keys(key for pairs in self.stack[-1] for key, _ in pairs)
        _PLAIN[kind](self)
        result = self.stack[-1]
        if isinstance(result, tuple):
            inner = (
                self._lengths[id(item)][0] for item in result if isinstance(item, tuple) and id(item) in self._lengths
            )
            length = len(result) + sum(inner)
            if length > limits.PICKLE_TUPLE:
                raise pickle.UnpicklingError(
                    f"a nested tuple has more than transferlab.limits.PICKLE_TUPLE = {limits.PICKLE_TUPLE:,} items"
                )
            self._lengths[id(result)] = length, result

    def _build(self) -> None:
        """Set the state of an array or a dict. A tensor's is refused: it could point outside the file."""
        if isinstance(self.stack[-2], (TorchTensor, _Storage, type)) or callable(self.stack[-2]):
            raise pickle.UnpicklingError(f"it changes a {type(self.stack[-2]).__name__}")
        _PLAIN[pickle.BUILD[0]](self)

    def _check_keys(self, keys: Iterable[Any]) -> None:
        """Refuse long keys: a key is hashed each time that it occurs."""
        if any(isinstance(key, tuple) and self._lengths.get(id(key), (0,))[0] > limits.AXES for key in keys):
            raise pickle.UnpicklingError("a key is a tuple of many items")

    def _set(self, kind: int) -> None:
        """Put pairs into a dict."""
        self._check_keys(self.stack[-2:-1] if kind == pickle.SETITEM[0] else self.stack[::2])
        _PLAIN[kind](self)

    def _long(self) -> None:
        """Refuse an integer whose length takes four bytes: no model's is so long."""
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
        del dispatch[_kind[0]]  # no file that is read here uses these


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
    """A typed run of elements in the file."""

    key: str
    dtype: np.dtype
    size: int
    read: Callable[[], np.ndarray]


def _torch_table(name: str) -> dict[tuple[str, str], Any]:
    def rebuild(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TorchTensor:
        numbers = (offset, *size, *stride)
        if len(numbers) > 2 * limits.AXES + 1 or not all(type(n) is int and 0 <= n < limits.SIDE for n in numbers):
            raise TransferlabError(f"{name}: a tensor has an invalid offset, shape or strides.")
        shape, strides = tuple(size), tuple(stride)
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise TransferlabError(f"{name}: a tensor has an invalid offset, shape or strides.")
        # The last element that the view touches must lie inside its storage.
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if all(shape) else -1
        if last >= storage.size:
            raise TransferlabError(f"{name}: a tensor of shape {shape} extends past its storage '{storage.key}'.")
        # An expanded tensor repeats its storage by strides of 0; one that would expand to far more is a trap.
        if math.prod(shape) > max(storage.size, _LARGEST_EXPANDED):
            raise TransferlabError(f"{name}: a tensor of shape {shape} expands a storage of {storage.size} elements.")
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
            raise TransferlabError(f"{name}: a zip file that torch did not write: it has no data.pkl.")
        root = pickles[0][: -len("data.pkl")]
        # A pickle of a state dict is small; one that unpacks to more than the file's whole size is a trap.
        if members[pickles[0]].file_size > min(max(path.stat().st_size * 4, 1 << 20), limits.PICKLE_BYTES):
            raise TransferlabError(
                f"{name}: data.pkl unpacks to {members[pickles[0]].file_size:,} bytes, more than a state dict of this file can have."
            )
        data = archive.read(pickles[0])

    def storage(pid: Any) -> _Storage:
        _, dtype, key, _, size = _checked_pid(pid, name)
        member = members.get(f"{root}data/{key}")
        if member is None or member.file_size < size * dtype.itemsize:
            raise TransferlabError(f"{name}: the storage '{key}' is missing or too short.")
        # torch stores them uncompressed; a deflated one could unpack to a thousand times its size.
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
    """Four pickles (magic, protocol, system, object), the list of storage keys, then each storage: count, elements."""
    name, length = str(path), path.stat().st_size
    places: dict[str, tuple[int, int]] = {}

    def storage(pid: Any) -> _Storage:
        _, dtype, key, _, size = _checked_pid(pid, name)

        def read() -> np.ndarray:
            if key not in places:
                raise TransferlabError(f"{name}: the storage '{key}' is missing.")
            offset, count = places[key]
            if count != size:
                raise TransferlabError(f"{name}: the storage '{key}' holds {count} elements, expected {size}.")
            return np.memmap(path, dtype, mode="r", offset=offset, shape=(count,))

        storages[key] = _Storage(key, dtype, size, read)
        return storages[key]

    storages: dict[str, _Storage] = {}
    with path.open("rb") as file:
        head = [_load(_Restricted(file, name, {}), name) for _ in range(3)]
        if head[0] != _LEGACY_MAGIC:
            raise TransferlabError(f"{name}: not a torch file.")
        contents = _load(_Restricted(file, name, _torch_table(name), storage), name)
        keys = _load(_Restricted(file, name, {}), name)
        if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
            raise TransferlabError(f"{name}: its list of storages is not a list of keys.")
        if set(map(str, keys)) != set(storages):
            raise TransferlabError(f"{name}: its list of storages does not match its tensors.")
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
    return contents


def _checked_pid(pid: Any, name: str) -> tuple[str, np.dtype, str, Any, int]:
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], np.dtype):
        raise TransferlabError(f"{name}: a storage has an invalid description.")
    if not isinstance(pid[2], (str, int)):
        raise TransferlabError(f"{name}: a storage's key is a {type(pid[2]).__name__}, expected a string or integer.")
    if type(pid[4]) is not int or not 0 <= pid[4] < limits.SIDE:
        raise TransferlabError(f"{name}: the storage '{pid[2]}' has an invalid size.")
    return str(pid[0]), pid[1], str(pid[2]), pid[3], pid[4]
