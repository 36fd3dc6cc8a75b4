"""Name rules as text: what a dialect's files call the leaves of a network, one line for each kind of leaf.

Which leaves there are follows from the network; a rule says what they are called::

    linear  layers/{i}/attention/{query,key,value}   encoder.layer.{i}.attention.self.{query,key,value}
    linear  layers/{i}/mlp/{gate,up}                 layers.{i}.mlp.Wi
    linear? head                                     classifier

``{i}`` is a number; in a key ``{i+1}`` is the one after it, ``{i+1:02}`` that with two digits, and ``{n}`` the number of a
block counted over all stages, where the path begins with ``stages/{i}/{i}``. ``{a,b}`` are alternatives, matched by place; where the key has none, the file fuses them in one tensor
in this order, and the rule applies where the network has all of them. The first rule that applies to a leaf counts. A
kind that ends in ``?`` names leaves that the file may hold even if the network does not have them: heads, poolers.

The kinds are ``linear``, ``conv``, ``conv1d`` and ``pointwise`` (kernel, bias), ``dense`` (that too, its kernel (in, out) as in
the tree), ``norm`` (scale, bias), ``batch_norm`` (and statistics), ``table`` (embedding), ``attention`` (torch's
``MultiheadAttention``, which fuses query, key and value under names of its own), ``same`` (a leaf as it is), ``matrix`` (a leaf
that the file holds transposed), ``row``, ``token`` and ``channels`` (a leaf that the file holds with one, two and three leading
axes of length 1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.pretrained.names import CONV, CONV1D, LINEAR, POINTWISE, SAME, Entry, Layout, fused, squeezed

_KERNEL = (("/kernel", ".weight", LINEAR), ("/bias", ".bias", SAME))
_NORM = (("/scale", ".weight", SAME), ("/bias", ".bias", SAME))
_KINDS: dict[str, tuple[tuple[str, str, Layout], ...]] = {
    "linear": _KERNEL,
    "conv": (("/kernel", ".weight", CONV), _KERNEL[1]),
    "conv1d": (("/kernel", ".weight", CONV1D), _KERNEL[1]),
    "pointwise": (("/kernel", ".weight", POINTWISE), _KERNEL[1]),
    # Of kernels (in, out), the parts of a fused one lie along the second axis.
    "dense": (("/kernel", ".weight", replace(SAME, axis=1)), _KERNEL[1]),
    "norm": _NORM,
    "batch_norm": (*_NORM, ("/mean", ".running_mean", SAME), ("/var", ".running_var", SAME)),
    "table": (("/embedding", ".weight", SAME),),
    "attention": (("/kernel", ".in_proj_weight", LINEAR), ("/bias", ".in_proj_bias", SAME)),
    "same": (("", "", SAME),),
    "matrix": (("", "", LINEAR),),
    "row": (("", "", squeezed(1)),),
    "token": (("", "", squeezed(2)),),
    "channels": (("", "", squeezed(3)),),
}
"""Kind → (what follows the path, what follows the key, the layout between them)."""

_CHOICE = re.compile(r"\{([^{}]*)\}")
_NUMBER = re.compile(r"([in])([+-]\d+)?(:\d+)?")
"""What a choice holds that is a number: ``{i}`` or ``{n}``, what is added to it, its format."""
_BLOCK = re.compile(r"stages/(\d+)/(\d+)/.*")


@dataclass(frozen=True)
class Rule:
    """One line.

    Attributes:
        kind: a key of the kinds above.
        path, key: the two patterns.
        optional: whether it also names leaves that the network does not have.
    """

    kind: str
    path: str
    key: str
    optional: bool = False

    def names(self, paths: frozenset[str]) -> Iterator[tuple[Entry, ...]]:
        """Yield, for each tensor of the file, the leaves among these paths that it fills."""
        counted = _counted(paths) if "{n" in self.key else {}
        for ending, suffix, layout in _KINDS[self.kind]:
            for numbers in self._numbers(paths, ending):
                block = counted.get(numbers[:2], 0)
                for filled, choices in _filled(self.path, numbers):
                    key = _key(self.key, numbers, block, [place for place, _ in choices])
                    if key is not None:
                        group = (Entry(filled + ending, key + suffix, layout),)
                    elif choices[-1][0] > 0:
                        continue  # its tensor was yielded with the first of its parts
                    else:
                        group = self._parts(numbers, block, choices, ending, suffix, layout)
                    if self.optional or all(name.path in paths for name in group):
                        yield group

    def _numbers(self, paths: frozenset[str], ending: str) -> list[tuple[str, ...]]:
        """The numbers that are in the place of ``{i}``, in the order of the layers."""
        if "{i}" not in self.path:
            return [()]
        pattern = re.compile("".join(_pattern(self.path)) + re.escape(ending))
        matches = {match.groups() for match in map(pattern.fullmatch, paths) if match is not None}
        return sorted(matches, key=lambda numbers: [int(number) for number in numbers])

    def _parts(
        self,
        numbers: tuple[str, ...],
        block: int,
        choices: list[tuple[int, str]],
        ending: str,
        suffix: str,
        layout: Layout,
    ) -> tuple[Entry, ...]:
        """The leaves of one tensor: all alternatives of the last choice."""
        before = [place for place, _ in choices[:-1]]
        key = _key(self.key, numbers, block, before)
        assert key is not None, self
        parts = [path for path, taken in _filled(self.path, numbers) if [p for p, _ in taken[:-1]] == before]
        return tuple(
            Entry(path + ending, key + suffix, fused(layout, n, len(parts), layout.axis))
            for n, path in enumerate(parts)
        )


@cache
def rules(text: str) -> tuple[Rule, ...]:
    """Read the rules of a text, a line each; empty lines and those that begin with ``#`` are skipped.

    Raises:
        TransferlabError: a line of another form; the line is shown.
    """
    table = []
    for line in text.strip().splitlines():
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        kind = parts[0].removesuffix("?")
        if len(parts) != 3 or kind not in _KINDS:
            raise TransferlabError(
                f"'{line.strip()}' is not a name rule: expected 'KIND PATH KEY', KIND one of {', '.join(_KINDS)}."
            )
        table.append(Rule(kind, parts[1], parts[2], parts[0].endswith("?")))
    return tuple(table)


@cache
def leaves_of(config: Any) -> frozenset[str]:
    """Return the paths of the network of this config, without a head; nothing is allocated."""
    definition = trees.define(config.build())
    return frozenset({**trees.flatten(definition.params), **trees.flatten(definition.state)})


def named(text: str, paths: Iterable[str]) -> tuple[Entry, ...]:
    """Return the keys that these rules give the leaves at ``paths``.

    A leaf that no rule matches is left out: such files cannot hold it.
    """
    leaves = frozenset(paths)
    entries: dict[str, Entry] = {}
    for rule in rules(text):
        for group in rule.names(leaves):
            # All of a tensor's leaves, or none: an earlier rule may have named them.
            if not any(name.path in entries for name in group):
                entries.update((name.path, name) for name in group)
    return tuple(entries.values())


def _counted(paths: frozenset[str]) -> dict[tuple[str, ...], int]:
    """(Stage, block) → its number over all stages, from 0."""
    blocks = {match.groups() for match in map(_BLOCK.fullmatch, paths) if match is not None}
    return {block: n for n, block in enumerate(sorted(blocks, key=lambda block: [int(number) for number in block]))}


def _pattern(text: str) -> Iterator[str]:
    """A pattern's regular expression, in parts: ``{i}`` is a group, alternatives are not."""
    last = 0
    for choice in _CHOICE.finditer(text):
        yield re.escape(text[last : choice.start()])
        words = choice.group(1)
        yield r"(\d+)" if words == "i" else f"(?:{'|'.join(map(re.escape, words.split(',')))})"
        last = choice.end()
    yield re.escape(text[last:])


def _filled(text: str, numbers: tuple[str, ...]) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Each text that a pattern stands for with these numbers, with the (place, word) of its alternatives."""
    words = [list(enumerate(c.split(","))) for c in _CHOICE.findall(text) if not _NUMBER.fullmatch(c)]
    for choices in product(*words):
        yield _fill(text, numbers, 0, [word for _, word in choices]), list(choices)


def _key(text: str, numbers: tuple[str, ...], block: int, places: list[int]) -> str | None:
    """The key where each choice of the path has one in it, in order; None where the key has fewer."""
    words = [c.split(",") for c in _CHOICE.findall(text) if not _NUMBER.fullmatch(c)]
    if len(words) < len(places):
        return None
    return _fill(text, numbers, block, [those[place] for those, place in zip(words, places, strict=True)])


def _fill(text: str, numbers: tuple[str, ...], block: int, words: list[str]) -> str:
    number, word = iter(numbers), iter(words)

    def filled(choice: re.Match[str]) -> str:
        match = _NUMBER.fullmatch(choice.group(1))
        if match is None:
            return next(word)
        name, more, digits = match.groups()
        value = int(next(number)) if name == "i" else block
        return format(value + int(more or 0), (digits or ":")[1:])

    return _CHOICE.sub(filled, text)
