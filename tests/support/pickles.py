"""Pickles as torch writes them, without torch."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.bias": np.array([1.5, -2.0], np.float16),
    "n": np.array(7, np.int64),
}
KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


class Global:
    """Stands for a class of torch, which is not installed where these tests run."""

    def __init__(self, module: str, name: str, *arguments: object):
        self.module, self.name, self.arguments = module, name, arguments


IN_PYTHON: Any = pickle._Pickler  # a global can be written by its name alone, and type stubs do not know it


class Pickler(IN_PYTHON):
    dispatch = IN_PYTHON.dispatch.copy()

    def save_tensor(self, one: Global) -> None:
        self.write(f"c{one.module}\n{one.name}\n".encode())
        if one.arguments:
            self.save(tuple(one.arguments))
            self.write(pickle.REDUCE)

    dispatch[Global] = save_tensor

    def persistent_id(self, one: object) -> object:
        return one[1] if isinstance(one, tuple) and one and one[0] is STORAGE else None


STORAGE = object()


def pickled(value: object) -> bytes:
    out = io.BytesIO()
    Pickler(out, 2).dump(value)
    return out.getvalue()


def tensors(arrays: dict[str, np.ndarray]) -> tuple[OrderedDict, list[np.ndarray]]:
    named, storages = OrderedDict(), []
    for name, array in arrays.items():
        kind = Global("torch", KINDS[array.dtype.name])
        pid = ("storage", kind, str(len(storages)), "cpu", array.size)
        strides = tuple(s // array.itemsize for s in array.strides)
        named[name] = Global(
            "torch._utils", "_rebuild_tensor_v2", (STORAGE, pid), 0, array.shape, strides, False, OrderedDict()
        )
        storages.append(array)
    return named, storages


def legacy(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    named, storages = tensors(arrays)
    data = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    data += pickled(named) + pickle.dumps([str(i) for i in range(len(storages))], 2)
    for array in storages:
        data += struct.pack("<q", array.size) + array.tobytes()
    path.write_bytes(data)
    return path


def zipped(path: Path, arrays: dict[str, np.ndarray], wrap: str | None = None) -> Path:
    named, storages = tensors(arrays)
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", pickled({wrap: named, "epoch": 3} if wrap else named))
        for i, array in enumerate(storages):
            out.writestr(f"archive/data/{i}", array.tobytes())
    return path
