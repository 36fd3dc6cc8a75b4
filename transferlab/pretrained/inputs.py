"""What a source is called with, checked against the tables that it is looked up in: on the device it would be clamped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.core import Tracer
from tokenizers import Tokenizer

from transferlab.data.text import TokenTable
from transferlab.errors import TransferlabError
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.leaves import LazyLeaf

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

_INT32 = 1 << 31
"""What ids are below on the device; a tokenizer has none beyond it either."""

_AXES = {
    "pixel_values": ("batch", "height", "width", "channels"),
    "input_features": ("batch", "frames", "bands"),
}


def token_table(name: str, family: Family, leaves: Mapping[str, LazyLeaf]) -> TokenTable | None:
    """Return what the texts of the source of this name are looked up in; None for a model that reads none."""
    table = _table(leaves, "input_ids")
    # Two towers have no rule for another vocabulary.
    return None if table is None else TokenTable(table.shape[0], name, family.vocabulary in leaves)


def _table(leaves: Mapping[str, LazyLeaf], name: str) -> LazyLeaf | None:
    places = (f"{tower}{place}" for place in _TABLES[name] for tower in ("", "text/"))
    return next((leaves[place] for place in places if place in leaves), None)


def check_inputs(
    inputs: Mapping[str, Any],
    name: str,
    leaves: Mapping[str, LazyLeaf],
    *,
    channels: int | None,
    vocabulary: TokenTable | None,
    tokenizer: Tokenizer | None,
) -> None:
    """Raise for inputs whose kind, shape or values do not fit a source; those being traced have been checked.

    Args:
        inputs: arrays by name.
        name: of the source.
        leaves: of the source.
        channels: of the images that it reads; None where it reads none.
        vocabulary: what its texts are looked up in; None where it reads none.
        tokenizer: that makes its ids, if there is one.

    Raises:
        TransferlabError: the input, its row, and what there is room for are named.
    """
    arrays = {key: _array(key, value) for key, value in inputs.items() if not isinstance(value, Tracer)}
    for key, array in arrays.items():
        if 0 in array.shape:
            raise TransferlabError(
                f"'{key}' is empty, of shape {tuple(array.shape)}; it must have at least one row, of at least one value."
            )
        if key in _AXES:
            _check_signal(name, channels, key, array)
        else:
            _check_kind(key, array)
    shapes = {key: np.shape(value) for key, value in inputs.items()}
    for key, array in arrays.items():
        ids = _MASKS.get(key, "decoder_input_ids" if key == "decoder_input_ids" else "input_ids")
        shape = shapes.get(ids)
        if key in _AXES or shape is None or array.shape == shape:
            continue
        if not (key == "position_ids" and array.shape == (1, shape[1])):
            raise TransferlabError(f"'{key}' has shape {array.shape}, but '{ids}' has {shape}.")
    for key in _IDS:
        table = _table(leaves, key)
        # What is looked up in no table, as rotary positions are, is an int32 on the device.
        rows = _INT32 if table is None else table.shape[0]
        if key not in arrays or (wrong := _outside(arrays[key], rows)) is None:
            continue
        row, value = wrong
        if table is None:
            raise TransferlabError(f"Row {row} of '{key}' holds {value}; it must be from 0 to {rows - 1}.")
        if key in _ROWS:
            raise TransferlabError(
                f"Row {row} of '{key}' holds {value}, but {name} has {rows} {_ROWS[key]} (0 to {rows - 1})."
            )
        token = tokenizer.id_to_token(value) if tokenizer is not None and 0 <= value < _INT32 else None
        assert vocabulary is not None
        raise TransferlabError(f"Row {row} of '{key}' holds {value}{vocabulary.lacks(token)}")


def _array(name: str, value: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        # What is on a device is brought back for its integers alone.
        return value if name in _AXES else np.asarray(value)
    try:
        return np.asarray(value)
    except ValueError:
        raise TransferlabError(f"'{name}' has rows of different lengths; pad them to one.") from None


def _check_signal(name: str, channels: int | None, key: str, array: Any) -> None:
    """Images and spectrograms: numbers with a fraction, channels last."""
    axes = _AXES[key]
    if len(array.shape) != len(axes):
        raise TransferlabError(f"'{key}' has shape {tuple(array.shape)}; it must be ({', '.join(axes)}).")
    kind = np.dtype(array.dtype)
    if kind.kind in "iubOUS":
        how = "source.transform(image)" if key == "pixel_values" else "source.transform(waveform)"
        raise TransferlabError(f"'{key}' is of dtype {kind}; it must be normalised floats, as {how} makes them.")
    if key == "pixel_values" and channels is not None and array.shape[-1] != channels:
        first = array.shape[1] == channels
        hint = " Channels come last: np.moveaxis(pixels, 1, -1)." if first else ""
        raise TransferlabError(
            f"'pixel_values' has shape {tuple(array.shape)}, with {array.shape[-1]} channels; {name} reads (batch, "
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
            raise TransferlabError(
                f"'{name}' holds {wrong[:1].tolist()[0]!r}; it must be 1 for a token and 0 for padding."
            )


def _outside(array: np.ndarray, rows: int) -> tuple[int, int] | None:
    """Return (row, value) of the first id that a table of so many rows has none for."""
    wrong = np.argwhere((array < 0) | (array >= rows))
    if not len(wrong):
        return None
    row, column = wrong[0].tolist()
    return row, int(array[row, column])
