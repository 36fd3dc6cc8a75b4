"""Inputs of a source, checked against the tables that they index: on the device, ids beyond them would be clamped."""

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
"""The tables that each of these indexes, in one family or another."""

_ROWS = {"token_type_ids": "token types", "position_ids": "positions"}

_INT32 = 1 << 31
"""Bound of ids on the device; a tokenizer has none beyond it either."""

_AXES = {
    "pixel_values": ("batch", "height", "width", "channels"),
    "input_features": ("batch", "frames", "bands"),
}


def token_table(name: str, family: Family, leaves: Mapping[str, LazyLeaf]) -> TokenTable | None:
    """Return the table that the ids of this source's texts index; None for a model that reads no text."""
    table, types = _table(leaves, "input_ids"), _table(leaves, "token_type_ids")
    if table is None:
        return None
    # There is no rule for another vocabulary of a two-tower model.
    grows = family.vocabulary in leaves
    return TokenTable(table.shape[0], name, grows, types.shape[0] if types is not None else 0, family.no_pairs)


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
    """Raise for inputs whose dtype, shape or values do not fit a source; tracers are skipped, as they were checked before.

    Args:
        inputs: arrays by name.
        name: of the source.
        leaves: of the source.
        channels: of the images that it reads; None where it reads none.
        vocabulary: the table that its text ids index; None where it reads no text.
        tokenizer: of its texts, if there is one.

    Raises:
        TransferlabError: an input does not fit; the input, its row and the valid range are named.
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
        # Ids that index no table, as rotary positions, are int32 on the device.
        rows = _INT32 if table is None else table.shape[0]
        if key not in arrays or (outlier := _outside(arrays[key], rows)) is None:
            continue
        row, value = outlier
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
        # Only integers are copied back from a device.
        return value if name in _AXES else np.asarray(value)
    try:
        return np.asarray(value)
    except ValueError:
        raise TransferlabError(f"'{name}' has rows of different lengths; pad them to the same length.") from None


def _check_signal(name: str, channels: int | None, key: str, array: Any) -> None:
    """Check images and spectrograms: floats, channels last."""
    axes = _AXES[key]
    if len(array.shape) != len(axes):
        raise TransferlabError(f"'{key}' has shape {tuple(array.shape)}; it must be ({', '.join(axes)}).")
    kind = np.dtype(array.dtype)
    if kind.kind in "iubOUS":
        call = "source.transform(image)" if key == "pixel_values" else "source.transform(waveform)"
        raise TransferlabError(f"'{key}' is of dtype {kind}; it must be normalized floats, as {call} returns them.")
    if key == "pixel_values" and channels is not None and array.shape[-1] != channels:
        first = array.shape[1] == channels
        hint = " Channels come last: np.moveaxis(pixels, 1, -1)." if first else ""
        raise TransferlabError(
            f"'pixel_values' has shape {tuple(array.shape)}, with {array.shape[-1]} channels; {name} reads (batch, "
            f"height, width, {channels}).{hint}"
        )


def _check_kind(name: str, array: np.ndarray) -> None:
    if name in _IDS and array.dtype.kind not in "iu":
        raise TransferlabError(f"'{name}' is of dtype {array.dtype}; it must be integers.")
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
    """Return (row, value) of the first id outside a table of so many rows; None if all are inside."""
    wrong = np.argwhere((array < 0) | (array >= rows))
    if not len(wrong):
        return None
    row, column = wrong[0].tolist()
    return row, int(array[row, column])
