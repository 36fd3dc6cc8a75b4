"""sentence-transformers' ``Dense``: a linear map of the pooled vector and an activation, in a folder of its own.

The files: ``sentence_transformers/base/modules/dense.py`` of its version 6, which reads those of all earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from transferlab.errors import TransferlabError, nearest
from transferlab.fields import given_fields
from transferlab.files import write_json
from transferlab.pretrained.formats.safetensors import write_safetensors
from transferlab.pretrained.formats.tensors import LazyTensor, wrong_dtype
from transferlab.pretrained.formats.weights import read_directory
from transferlab.reading import read_object

ACTIVATION_CLASSES = {
    "linear": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
}
"""Activations by our names, and the classes without arguments that sentence-transformers makes of them."""

_FIXED = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding", "use_residual": False}
"""Fields with the one value that is supported."""

_FIELDS: dict[str, type] = {"in_features": int, "out_features": int, "bias": bool, "activation_function": str}


@dataclass(frozen=True)
class Dense:
    """One such module.

    Attributes:
        weight: (out, in), as torch's ``Linear`` has it.
        bias: (out,), or None.
        activation: after the linear map, by our name.
        files: that its weights are read from.
    """

    weight: LazyTensor = field(repr=False)
    bias: LazyTensor | None = field(repr=False)
    activation: str = "linear"
    files: tuple[Path, ...] = ()

    @property
    def outputs(self) -> int:
        """Numbers that come out."""
        return self.weight.shape[0]


def read_dense(folder: Path) -> Dense:
    """Read the module in this folder, its weights unread.

    Raises:
        TransferlabError: a field, an activation or a tensor that is not supported, or that does not fit; it is named.
    """
    path = folder / "config.json"
    raw = read_object(path)
    for name, value in raw.items():
        if name not in _FIELDS and (name not in _FIXED or value not in (None, _FIXED[name])):
            raise TransferlabError(f"{path}: {name} {value!r} is not supported.{nearest(name, (*_FIELDS, *_FIXED))}")
    said = given_fields(_FIELDS, raw, where=str(path))
    if lacking := [name for name in ("in_features", "out_features") if name not in said]:
        raise TransferlabError(f"{path} lacks {lacking[0]}.")
    # Without the field sentence-transformers takes the hyperbolic tangent. torch's classes have moved between its versions.
    activation = said.get("activation_function", ACTIVATION_CLASSES["tanh"])
    names = {full.rpartition(".")[2]: name for name, full in ACTIVATION_CLASSES.items()}
    package, _, kind = activation.rpartition(".")
    if not package.startswith("torch.nn") or kind not in names:
        raise TransferlabError(
            f"{path}: activation_function {activation!r} is not supported; expected one of {list(ACTIVATION_CLASSES.values())}."
        )
    tensors, files = read_directory(folder)
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (said["out_features"], said["in_features"])}
    if said.get("bias", True):
        shapes["linear.bias"] = (said["out_features"],)
    got = {key: tensor.shape for key, tensor in tensors.items()}
    if got != shapes:
        raise TransferlabError(f"{files[0]} holds {got}; its config.json says {shapes}.")
    for key, tensor in tensors.items():
        if wrong := wrong_dtype(key, tensor.dtype):
            raise TransferlabError(f"{files[0]}: {wrong}.")
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), names[kind], tuple(files))


def write_dense(folder: Path, dense: Dense, metadata: Mapping[str, str]) -> None:
    """Write the module into this folder, which exists."""
    outputs, inputs = dense.weight.shape
    fields = {
        "in_features": inputs, "out_features": outputs, "bias": dense.bias is not None,
        "activation_function": ACTIVATION_CLASSES[dense.activation],
    }  # fmt: skip
    write_json(folder / "config.json", fields)
    tensors = {"linear.weight": dense.weight} | ({} if dense.bias is None else {"linear.bias": dense.bias})
    write_safetensors(folder / "model.safetensors", tensors, metadata)
