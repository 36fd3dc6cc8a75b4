"""What a source is called with, checked against the tables that it is looked up in: on the device it would be clamped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.core import Tracer

from transferlab.data.text import TextTransform, TokenTable
from transferlab.errors import TransferlabError
from transferlab.pretrained.families import FAMILIES

if TYPE_CHECKING:
    from transferlab.pretrained.source import LazyLeaf, Source

_IDS = ("input_ids", "decoder_input_ids", "token_type_ids", "position_ids")
_MASKS = {"attention_mask": "input_ids", "decoder_attention_mask": "decoder_input_ids"}
_TABLES = {
    "input_ids": ("embed/word/embedding", "encoder/embed/word/embedding"),
    "decoder_input_ids": ("encoder/embed/word/embedding",),
    "token_type_ids": ("embed/token_type/embedding",),
    "position_ids": ("embed/position/embedding",),
}
"""The tables that each of these is looked up in, in one family or another."""

_ROWS = {"token_type_ids": "token types", "position_ids": "positions"}

_AXES = {
    "pixel_values": ("batch", "height", "width", "channels"),
    "input_features": ("batch", "frames", "bands"),
}


def token_table(source: Source) -> TokenTable | None:
    """Return what texts are looked up in; None for a model that reads none."""
    table = _table(source.leaves, "input_ids")
    # Two towers have no rule for another vocabulary.
    grows = FAMILIES[source.family].vocabulary in source.leaves
    return None if table is None else TokenTable(table.shape[0], source.name, grows)


def _table(leaves: Mapping[str, LazyLeaf], name: str) -> LazyLeaf | None:
    places = (f"{tower}{place}" for place in _TABLES[name] for tower in ("", "text/"))
    return next((leaves[place] for place in places if place in leaves), None)


def check_inputs(source: Source, inputs: Mapping[str, Any]) -> None:
    """Raise for inputs whose kind, shape or values do not fit the source; those being traced have been checked.

    Raises:
        TransferlabError: the input, its row, and what there is room for are named.
    """
    arrays = {name: _array(name, value) for name, value in inputs.items() if not isinstance(value, Tracer)}
    for name, array in arrays.items():
        if name in _AXES:
            _check_signal(source, name, array)
        else:
            _check_kind(name, array)
    shapes = {name: np.shape(value) for name, value in inputs.items()}
    for name, array in arrays.items():
        ids = _MASKS.get(name, "decoder_input_ids" if name == "decoder_input_ids" else "input_ids")
        shape = shapes.get(ids)
        if name in _AXES or shape is None or array.shape == shape:
            continue
        if not (name == "position_ids" and array.shape == (1, shape[1])):
            raise TransferlabError(f"'{name}' has shape {array.shape}, but '{ids}' has {shape}.")
    for name in _IDS:
        if name in arrays:
            _check_rows(source, name, arrays[name])


def _array(name: str, value: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        # What is on a device is brought back for its integers alone.
        return value if name in _AXES else np.asarray(value)
    try:
        return np.asarray(value)
    except ValueError:
        raise TransferlabError(f"'{name}' has rows of different lengths; pad them to one.") from None


def _check_signal(source: Source, name: str, array: Any) -> None:
    """Pictures and spectrograms: numbers with a fraction, channels last."""
    axes = _AXES[name]
    if len(array.shape) != len(axes):
        raise TransferlabError(f"'{name}' has shape {tuple(array.shape)}; it must be ({', '.join(axes)}).")
    kind = np.dtype(array.dtype)
    if kind.kind in "iubOUS":
        how = "source.transform(image)" if name == "pixel_values" else "source.transform(waveform)"
        raise TransferlabError(f"'{name}' is of dtype {kind}; it must be normalised floats, as {how} makes them.")
    towers = source.config.towers() if source.towers else {}
    channels = getattr(towers.get("vision", source.config), "num_channels", None)
    if name == "pixel_values" and channels is not None and array.shape[-1] != channels:
        first = array.shape[1] == channels
        hint = " Channels come last: np.moveaxis(pixels, 1, -1)." if first else ""
        raise TransferlabError(
            f"'pixel_values' has shape {tuple(array.shape)}, with {array.shape[-1]} channels; {source.name} reads (batch, "
            f"height, width, {channels}).{hint}"
        )


def _check_kind(name: str, array: np.ndarray) -> None:
    if name in _IDS and array.dtype.kind not in "iu":
        raise TransferlabError(f"'{name}' is of dtype {array.dtype}; it must be of integers.")
    if array.ndim != 2:
        raise TransferlabError(
            f"'{name}' has shape {array.shape}; it must be (batch, length), with one row for a single text."
        )
    if name in _MASKS:
        try:
            wrong = array[(array != 0) & (array != 1)]
        except TypeError:
            wrong = array.reshape(-1)
        if wrong.size:
            raise TransferlabError(f"'{name}' holds {wrong[0]!r}; it must be 1 for a token and 0 for padding.")


def _check_rows(source: Source, name: str, array: np.ndarray) -> None:
    table = _table(source.leaves, name)
    if table is None:
        return
    rows = table.shape[0]
    wrong = np.argwhere((array < 0) | (array >= rows))
    if not len(wrong):
        return
    row, column = wrong[0].tolist()
    value = int(array[row, column])
    if name in _ROWS:
        raise TransferlabError(
            f"Row {row} of '{name}' holds {value}, but {source.name} has {rows} {_ROWS[name]} (0 to {rows - 1})."
        )
    transform, table = source.towers.get("text") if source.towers else source.transform, token_table(source)
    token = transform.tokenizer.id_to_token(value) if isinstance(transform, TextTransform) and value >= 0 else None
    assert table is not None
    raise TransferlabError(f"Row {row} of '{name}' holds {value}{table.lacks(token)}")
