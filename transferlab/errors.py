"""Errors that a user should see as one line: each names the thing, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TransferlabError(Exception):
    """Base of every error whose message alone tells a user what to mend; the command line prints it without a trace."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice closest to ``name``, or the list of choices if none is close.

    Returns an empty string when there are no choices at all.
    """
    choices = sorted(choices)
    same = [choice for choice in choices if choice.lower() == str(name).lower()]
    close = same or difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    if not choices:
        return ""
    shown = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return f" Choose from: {shown}."
