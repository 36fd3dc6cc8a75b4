"""Spans from a tag for each word, and their F1 as seqeval 1.2.2 counts it.

Two ways are known there. The default is that of conlleval (Tjong Kim Sang & Buchholz 2000): any change of type begins a span, a
misplaced ``I`` too. The strict one takes a span only where it begins and ends as its scheme says (Ramshaw & Marcus 1995; Ratinov &
Roth 2009 for BILOU). The default does not know ``L`` and ``U``: BILOU is always strict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

Scheme = Literal["bio", "iobes", "bilou"]
Span = tuple[str, int, int]
"""Type, index of the first word, index of the last."""

_PREFIXES: dict[Scheme, str] = {"bio": "BIO", "iobes": "BIOES", "bilou": "BIOLU"}


def scheme_of(tags: Iterable[str]) -> Scheme | None:
    """Return the scheme of these tags, ``O`` or a prefix, a hyphen and a type; None where some are of another form.

    ``B`` and ``I`` alone are ``bio``. Tags with ``E`` or ``S`` are ``iobes``, with ``L`` or ``U`` ``bilou``.

    Example:
        >>> scheme_of(["O", "B-PER", "I-PER"]), scheme_of(["NOUN", "VERB"])
        ('bio', None)
    """
    typed = [tag for tag in tags if tag != "O"]
    if not typed or not all(re.match(r"[BIESLU]-.", tag) for tag in typed):
        return None
    prefixes = {tag[0] for tag in typed} | {"O"}
    return next((scheme for scheme, known in _PREFIXES.items() if prefixes <= set(known)), None)


def misfit(tags: Iterable[str], scheme: Scheme) -> str | None:
    """Return the first tag that this scheme does not have; None where all are its own."""
    return next((tag for tag in tags if tag[:1] not in tuple(_PREFIXES[scheme]) or tag[1:2] not in ("", "-")), None)


def spans_of(tags: Sequence[str], scheme: Scheme = "bio", strict: bool = False) -> list[Span]:
    """Return the spans of one example, in their order.

    Example:
        >>> spans_of(["I-PER", "B-PER", "O", "I-LOC"]), spans_of(["I-PER", "B-PER", "O", "I-LOC"], strict=True)
        ([('PER', 0, 0), ('PER', 1, 1), ('LOC', 3, 3)], [('PER', 1, 1)])
    """
    parts = [(tag[0], tag[2:] or "_") for tag in tags]
    if strict or scheme == "bilou":
        return _strict(parts, scheme)
    return _lenient(parts)


def _lenient(parts: Sequence[tuple[str, str]]) -> list[Span]:
    spans: list[Span] = []
    before, kind, start = "O", "", 0
    for i, (prefix, now) in enumerate([*parts, ("O", "_")]):
        changes = kind != now
        if before != "O" and (changes or before in "ES" or (before in "BI" and prefix in "BSO")):
            spans.append((kind, start, i - 1))
        if prefix != "O" and (changes or prefix in "BS" or (before in "ESO" and prefix in "EI")):
            start = i
        before, kind = prefix, now
    return spans


def _strict(parts: Sequence[tuple[str, str]], scheme: Scheme) -> list[Span]:
    spans, i = [], 0
    while i < len(parts):
        start, (last, kind) = i, parts[i]
        i += 1
        if last not in ("B", "S", "U"):
            continue
        while i < len(parts) and last in ("B", "I") and parts[i][0] in ("I", "E", "L") and parts[i][1] == kind:
            last, i = parts[i][0], i + 1
        # Where a scheme marks the last word, a span without that mark is none.
        if scheme == "bio" or last not in ("B", "I"):
            spans.append((kind, start, i - 1))
    return spans


def span_scores(
    predicted: Iterable[Sequence[str]], true: Iterable[Sequence[str]], scheme: Scheme = "bio", strict: bool = False
) -> dict[str, float]:
    """Return ``span_f1``, ``span_precision`` and ``span_recall`` over the spans of all examples (micro-averaged).

    A span counts where type, first and last word are right. A score without spans to divide by is 0, as in seqeval.

    Args:
        predicted: the tags of each example's words.
        true: as many.
        scheme: of the tags.
        strict: whether a span that its scheme does not allow is none (always so for ``bilou``).
    """
    hits = found = total = 0
    for one, other in zip(predicted, true, strict=True):
        guesses, spans = set(spans_of(one, scheme, strict)), set(spans_of(other, scheme, strict))
        hits, found, total = hits + len(guesses & spans), found + len(guesses), total + len(spans)
    return {
        "span_f1": 2 * hits / max(1, found + total),
        "span_precision": hits / max(1, found),
        "span_recall": hits / max(1, total),
    }
