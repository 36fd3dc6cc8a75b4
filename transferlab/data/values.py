"""Values of cells as plain Python: what pandas, NumPy, Arrow and Decimal represent in ways of their own."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a cell's value as a text, number, bool, bytes, list, dict or None; an object of another kind stays.

    Missing values (NaN, ``NaT``, ``pandas.NA``) are None, times are ISO 8601, and an array of one axis is a list.

    Example:
        >>> plain(np.float32(1.5)), plain(float("nan")), plain(np.array(["a", "b"]))
        (1.5, None, ['a', 'b'])
    """
    if value is None or isinstance(value, (str, bool, int, bytes)):
        return str(value) if isinstance(value, np.str_) else value
    if isinstance(value, np.generic):
        kind = value.dtype.kind
        return plain(value.astype(f"{kind}8[us]").item() if kind in "mM" else value.item())
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, decimal.Decimal):
        return None if value.is_nan() else int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return [plain(item) for item in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping) and "array" in value:
        return value  # a sound: its samples stay an array
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value
