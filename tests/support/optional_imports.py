"""timm and open_clip without torchvision, which they name at import and do not use for the models compared here."""

from __future__ import annotations

import sys
import types
from enum import Enum
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import pytest

_NAMES = ("", ".ops", ".ops.misc", ".datasets", ".transforms", ".transforms.functional")
_MODES = Enum(
    "InterpolationMode", {n: n.lower() for n in ("NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")}
)


class _Stub(types.ModuleType):
    """Any name asked of it is an empty class."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _MODES if name == "InterpolationMode" else type(name, (), {})


def import_timm():
    """Return the module timm. torchvision is stubbed while it is imported, and not after: transformers looks for it too."""
    return _import("timm", "parity tests need timm: pip install --no-deps timm")


def import_open_clip():
    """Return the module open_clip, in the same way; it imports timm."""
    return _import("open_clip", "these need open_clip: pip install --no-deps open_clip_torch ftfy wcwidth")


def _import(module: str, reason: str):
    stubs = {}
    if find_spec("torchvision") is None:
        for name in (f"torchvision{n}" for n in _NAMES):
            stubs[name] = _Stub(name)
            stubs[name].__spec__, stubs[name].__path__ = ModuleSpec(name, None), []
            parent, _, last = name.rpartition(".")
            if parent:
                setattr(stubs[parent], last, stubs[name])
    sys.modules.update(stubs)
    try:
        return pytest.importorskip(module, reason=reason)
    finally:
        for name in stubs:
            del sys.modules[name]
