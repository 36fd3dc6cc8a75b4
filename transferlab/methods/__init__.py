"""Ways to adapt a pretrained model. A method defines how it edits the module, what trains, and its default settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transferlab.errors import TransferlabError, check_arguments, face_of, nearest
from transferlab.methods.base import Method
from transferlab.methods.full import Full
from transferlab.methods.lora import LoRA
from transferlab.methods.probe import Probe
from transferlab.methods.scratch import Scratch

METHODS: dict[str, type[Method]] = {"scratch": Scratch, "probe": Probe, "lora": LoRA, "full": Full}
"""Name → method, as configs and ``transferlab methods`` know them."""
for _method in METHODS.values():
    check_arguments(_method)


def method_named(name: str) -> type[Method]:
    """Return the method class of this name.

    Raises:
        TransferlabError: an unknown name; the nearest is suggested.
    """
    if name not in METHODS:
        raise TransferlabError(f"Unknown method '{name}'.{nearest(name, METHODS)}")
    return METHODS[name]


def method_from(fields: dict[str, Any]) -> Method:
    """Return the method that ``{"name": …, **fields}`` describes, as a run's directory records it.

    Raises:
        TransferlabError: an unknown name or field, or a value that a field cannot have.
    """
    arguments = dict(fields)
    return method_named(arguments.pop("name"))(**arguments)


__all__ = ["METHODS", "Full", "LoRA", "Method", "Probe", "Scratch", "method_from", "method_named"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_of(__name__, __all__)
