"""Ways to adapt a pretrained model. A method defines how it edits the module, what trains, and its default settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.fields import read
from transferlab.methods.base import Method
from transferlab.methods.full import Full
from transferlab.methods.lora import LoRA
from transferlab.methods.probe import Probe
from transferlab.methods.scratch import Scratch
from transferlab.plugins import Registry, check_class, face_with

METHODS: Registry[type[Method]] = Registry(__name__, "method", Method, check=check_class)
"""Name → method, as configs and ``transferlab methods`` know them: those of this folder's files, and those of entry points."""
for _method in METHODS.ours.values():
    check_arguments(_method)


def method_named(name: str) -> type[Method]:
    """Return the method class of this name.

    Raises:
        TransferlabError: an unknown name; the nearest is suggested.
    """
    if name not in METHODS:
        raise TransferlabError(f"Unknown method '{name}'.{nearest(name, METHODS)}")
    return METHODS[name]


def method_from(fields: Mapping[str, Any], where: str = "method") -> Method:
    """Return the method that ``{"name": …, **fields}`` describes, as a run's directory records it.

    Args:
        fields: name and fields.
        where: starts the error message.

    Raises:
        TransferlabError: an unknown name or field, or a value that a field cannot have.
    """
    arguments = dict(fields)
    return read(method_named(str(arguments.pop("name"))), arguments, where)


__all__ = ["METHODS", "Full", "LoRA", "Method", "Probe", "Scratch", "method_from", "method_named"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_with(METHODS, __name__, __all__)
