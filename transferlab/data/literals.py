"""Lists that a table of texts holds as texts: as JSON, Python or NumPy writes them."""

from __future__ import annotations

import ast
import io
import tokenize
from typing import Any

_NAMES: dict[str, Any] = {
    "None": None, "null": None, "nan": None, "NaN": None, "True": True, "true": True, "False": False, "false": False,
}  # fmt: skip
_LAYOUT = (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)


def list_in(text: str) -> list[Any] | None:
    """Return the items of a text that is a flat list of texts and numbers; None for any other text.

    NumPy writes no commas, ``['EU' 'rejects']``, which Python would read as a single text.

    Example:
        >>> list_in("['EU' 'rejects']"), list_in("[1, 2]"), list_in("[sic]")
        (['EU', 'rejects'], [1, 2], None)
    """
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "()"):
        return None
    items: list[Any] = []
    sign = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text[1:-1].replace("\n", " ")).readline):
            if token.type in (tokenize.STRING, tokenize.NUMBER):
                items.append(ast.literal_eval(sign + token.string))
            elif token.type == tokenize.NAME and token.string in _NAMES:
                items.append(_NAMES[token.string])
            elif token.string not in (",", "-") and token.type not in _LAYOUT:
                return None
            sign = "-" if token.string == "-" else ""
    except (tokenize.TokenError, SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return items
