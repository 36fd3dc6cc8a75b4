"""Ways to adapt a pretrained model. A method defines how it edits the module, what trains, and its default settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.fields import check_mapping, read
from transferlab.methods.base import Method, Modifier
from transferlab.methods.bitfit import BitFit
from transferlab.methods.dora import DoRA
from transferlab.methods.full import Full
from transferlab.methods.gradual_unfreezing import GradualUnfreezing
from transferlab.methods.l2sp import L2SP
from transferlab.methods.last_layers import LastLayers
from transferlab.methods.layer_decay import LayerDecay
from transferlab.methods.lora import LoRA
from transferlab.methods.lpft import LPFT
from transferlab.methods.pissa import PiSSA
from transferlab.methods.probe import Probe
from transferlab.methods.scratch import Scratch
from transferlab.plugins import Registry, check_class, face_with
from transferlab.transfer.phases import Phase

METHODS: Registry[type[Method]] = Registry(__name__, "method", Method, check=check_class)
"""Name → method, as configs and ``transferlab methods`` know them: those of this folder's files, and those of entry points."""
MODIFIERS: Registry[type[Modifier]] = Registry(
    __name__, "modifier", Modifier, group="transferlab.modifiers", check=check_class
)
"""Name → modifier, likewise."""
for _each in (*METHODS.ours.values(), *MODIFIERS.ours.values()):
    check_arguments(_each)


def method_named(name: str) -> type[Method]:
    """Return the method class of this name.

    Raises:
        TransferlabError: an unknown name; the nearest is suggested.
    """
    if name not in METHODS:
        modifier = f" '{name}' is a modifier: it goes into modifiers of a method." if name in MODIFIERS else ""
        raise TransferlabError(f"Unknown method '{name}'.{modifier or nearest(name, METHODS)}")
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
    if "modifiers" in arguments:
        arguments["modifiers"] = tuple(modifier_from(each, f"{where}.modifiers") for each in arguments["modifiers"])
    return read(method_named(str(arguments.pop("name"))), arguments, where)


def modifier_from(fields: Any, where: str = "modifiers") -> Modifier:
    """Return the modifier that a name, or ``{"name": …, **fields}``, describes.

    Args:
        fields: as a config or a run's directory has them.
        where: starts the error.

    Raises:
        TransferlabError: an unknown name or field, or a value that a field cannot have.
    """
    if isinstance(fields, Modifier):
        return fields
    arguments = {"name": fields} if isinstance(fields, str) else dict(check_mapping(fields, where))
    name = str(arguments.pop("name", ""))
    if name not in MODIFIERS:
        raise TransferlabError(f"{where}: unknown modifier '{name}'.{nearest(name, MODIFIERS)}")
    return read(MODIFIERS[name], arguments, where)


__all__ = [
    "L2SP",
    "LPFT",
    "METHODS",
    "MODIFIERS",
    "BitFit",
    "DoRA",
    "Full",
    "GradualUnfreezing",
    "LastLayers",
    "LayerDecay",
    "LoRA",
    "Method",
    "Modifier",
    "Phase",
    "PiSSA",
    "Probe",
    "Scratch",
    "method_from",
    "method_named",
    "modifier_from",
]  # fmt: skip

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_with(METHODS, __name__, __all__)
