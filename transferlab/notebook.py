"""What values look like in a notebook: small HTML tables."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transferlab.errors import printable

LONGEST = 300
"""Characters of a cell."""
_SIDE = 96
"""Pixels of a small image."""


def table(caption: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a column for each field, below a caption. Texts are escaped, and images are shown small."""
    if not rows:
        return f"<div>{_text(caption)}</div>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[_text(name) for name in names], *([_cell(row.get(name, "")) for name in names] for row in rows)]
    head, *body = ("".join(f"<td style='text-align:left'>{cell}</td>" for cell in line) for line in lines)
    rest = "".join(f"<tr>{line}</tr>" for line in body)
    return f"<div>{_text(caption)}</div><table><thead><tr>{head}</tr></thead><tbody>{rest}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[-1] == 3:
        return _small(value)
    if isinstance(value, np.ndarray):
        return _text(f"{value.dtype} {value.shape}")
    return _text(f"{value:.4g}" if isinstance(value, float) else str(value))


def _text(text: str) -> str:
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return html.escape(printable(cut))


def _small(image: np.ndarray) -> str:
    from PIL import Image

    small, file = Image.fromarray(image), io.BytesIO()
    small.thumbnail((_SIDE, _SIDE))
    small.save(file, "PNG")
    return f"<img src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"
