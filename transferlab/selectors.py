"""Selectors: a small language for choosing leaves of a parameter tree, in which nothing matches silently.

``layers/*/attention``     a glob over the path, for a leaf or all below a folder: ``*`` within a name, ``**`` across
                           names, ``?`` one character, ``{a,b}`` either
``bias``                   a single name: leaves and folders of that name, anywhere in the tree
``depth < 6``              leaves owned by the first six stages of the backbone (counted from the input, from 0)
``depth >= -4``            by its last four (-1 is the last); a head has no depth: it is ``head``
``a | b``, ``a & b``, ``~a``, ``(…)``   union, intersection, complement
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from transferlab.errors import FieldError, TransferlabError, check_arguments, nearest

_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
_TOKEN = re.compile(
    r"\s*(?:(depth)\s*(<=|>=|==|<|>)\s*(-?\d+)|([|&~()])|([A-Za-z0-9_.*/?\[\]-][^\s|&~()]*|\{[^\s|&~()]*))"
)


@dataclass(frozen=True)
class Selector:
    """A parsed selector. ``str(selector)`` is what the user wrote."""

    text: str
    tree: tuple = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.text

    def match(self, paths: Iterable[str], stages: Sequence[Sequence[str]] = ()) -> set[str]:
        """Return the matching paths; every pattern in the selector must match at least one.

        Args:
            paths: all leaves of the tree.
            stages: for each stage from the input on, the path prefixes it owns. ``depth`` needs them; stages from the
                head on have none.

        Raises:
            TransferlabError: a pattern that matches no leaf (the nearest path is named), or a depth that no stage has
                (the valid ones are named).
        """
        everything = set(paths)
        head = next((number for number, stage in enumerate(stages) if owns(("head",), next(iter(stage), ""))), None)
        backbone = stages[:head]
        depths = {path: _depth(path, backbone) for path in everything}
        return _evaluate(self.tree, everything, depths, self.text, len(backbone))

    def mask(self, tree: Any, stages: Sequence[Sequence[str]] | None = None) -> Any:
        """Return the tree with True at the leaves that match and False elsewhere, for ``optax.masked`` and its like.

        ``optax.masked(tx, mask)`` alone passes the gradients of the other leaves on as their updates, so that they move:
        chain it with ``optax.masked(optax.set_to_zero(), …)`` of the complement, or take :func:`labels` and ``optax.partition``.

        Args:
            tree: any pytree of parameters: nested dicts, an ``nnx.State``, Linen's ``params``, an Equinox module.
            stages: as for :meth:`match`; by default those of the tree, if it is a source or a network.

        Raises:
            TransferlabError: a pattern that matches no leaf, or a depth that no stage has.

        Example:
            >>> tl.select("head").mask({"head": {"bias": 0}, "trunk": {"bias": 0}})
            {'head': {'bias': True}, 'trunk': {'bias': False}}
        """
        leaves, rebuild = _named(tree)
        matches = self.match(leaves, stages_of(tree) if stages is None else stages)
        return rebuild({path: path in matches for path in leaves})


@check_arguments
def select(text: str | Selector) -> Selector:
    """Parse a selector; the language is described in :mod:`transferlab.selectors`.

    Raises:
        TransferlabError: text that does not parse; the message names the first part at fault.

    Example:
        >>> sorted(tl.select("bias & ~head").match(["head/bias", "embed/bias", "embed/kernel"]))
        ['embed/bias']
    """
    if isinstance(text, Selector):
        return text
    if not isinstance(text, str):
        raise TransferlabError(f"A selector must be a string, such as 'layers/*/attention | head'; got {text!r}.")
    tokens = _tokens(text)
    tree, rest = _union(tokens, text)
    if rest:
        raise TransferlabError(f"Selector '{text}': unexpected '{_show(rest[0])}'.")
    return Selector(text, tree)


@check_arguments
def labels(tree: Any, groups: Mapping[str, str | Selector], rest: str | None = None) -> Any:
    """Return the tree with the name of a group at each leaf, for ``optax.partition``.

    Args:
        tree: any pytree of parameters: nested dicts, an ``nnx.State``, Linen's ``params``, an Equinox module.
        groups: name → selector of its leaves; a leaf may be in one of them.
        rest: the name of all other leaves; None where every leaf must be in a group.

    Raises:
        TransferlabError: a selector that matches no leaf, a leaf in two groups, or one in none where ``rest`` is None.

    Example:
        >>> params = {"lora": {"a": 1.0}, "head": {"bias": 2.0}, "kernel": 3.0}
        >>> names = tl.labels(params, {"adapter": "lora", "head": "head"}, rest="frozen")
        >>> names
        {'head': {'bias': 'head'}, 'kernel': 'frozen', 'lora': {'a': 'adapter'}}
        >>> rules = {"adapter": optax.adam(1e-3), "head": optax.adam(1e-2), "frozen": optax.set_to_zero()}
        >>> optimizer = optax.partition(rules, names)
    """
    leaves, rebuild = _named(tree)
    stages, names = stages_of(tree), {}
    for name, selector in groups.items():
        for path in sorted(select(selector).match(leaves, stages)):
            if path in names:
                raise TransferlabError(
                    f"'{path}' is in two groups, '{names[path]}' and '{name}'. Exclude it from one: "
                    f"'({groups[names[path]]}) & ~({selector})'."
                )
            names[path] = name
    lost = [path for path in leaves if path not in names]
    if rest is None and lost:
        raise TransferlabError(
            f"{len(lost)} of {len(leaves)} leaves are in no group, as '{lost[0]}'. Say what they are, as rest='frozen'."
        )
    return rebuild({path: names.get(path, rest) for path in leaves})


def stages_of(tree: Any) -> tuple[Sequence[str], ...]:
    """Return what each stage of a network owns, from the input to its head's; nothing of another tree."""
    return tuple(stage.owns for stage in getattr(tree, "stages", ())[: getattr(tree, "backbone", None)])


def _named(tree: Any) -> tuple[dict[str, Any], Any]:
    from transferlab.pytrees import named_leaves

    leaves, rebuild = named_leaves(tree)
    if not leaves:
        raise TransferlabError(f"The tree, {str(tree)[:60]!r}, has no leaves to select.")
    return leaves, rebuild


Selectable: TypeAlias = str | Selector | Sequence[str] | AbstractSet[str]
"""What a field accepts as a selector: its text, a :class:`Selector`, or names, of which it is the union."""


def selector_text(selector: Selectable, where: str) -> str:
    """Return a field's selector as text. A sequence of names, as PEFT's users write them, becomes their union.

    Args:
        selector: text, a :class:`Selector`, or a sequence or set of text.
        where: the field's name, for the error.

    Raises:
        FieldError: anything else, or an empty sequence.
        TransferlabError: text that cannot be parsed.
    """
    names = selector if isinstance(selector, (list, tuple, set, frozenset)) else ()
    if names and all(isinstance(name, str) for name in names):
        selector = " | ".join(sorted(names) if isinstance(names, (set, frozenset)) else names)
    if not isinstance(selector, (str, Selector)):
        raise FieldError(f"{where} is {selector!r}; give a selector, such as 'query | value', or a list of names.")
    return str(select(selector))


def union_parts(selector: Selector) -> list[Selector]:
    """Return the parts of a selector that ``|`` joins, each as a selector of its own."""

    def parts(tree: tuple) -> list[tuple]:
        return parts(tree[1]) + parts(tree[2]) if tree[0] == "or" else [tree]

    return [Selector(selector.text, tree) for tree in parts(selector.tree)]


def _tokens(text: str) -> list[tuple]:
    tokens, position = [], 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise TransferlabError(f"Selector '{text}': cannot read '{text[position:].strip()}'.")
        depth, comparison, number, sign, glob = match.groups()
        if depth:
            tokens.append(("depth", comparison, int(number)))
        elif sign:
            tokens.append((sign,))
        else:
            tokens.append(("glob", glob))
        position = match.end()
    return tokens


def _union(tokens: list[tuple], text: str) -> tuple[tuple, list[tuple]]:
    left, tokens = _intersection(tokens, text)
    while tokens and tokens[0] == ("|",):
        right, tokens = _intersection(tokens[1:], text)
        left = ("or", left, right)
    return left, tokens


def _intersection(tokens: list[tuple], text: str) -> tuple[tuple, list[tuple]]:
    left, tokens = _factor(tokens, text)
    while tokens and tokens[0] == ("&",):
        right, tokens = _factor(tokens[1:], text)
        left = ("and", left, right)
    return left, tokens


def _factor(tokens: list[tuple], text: str) -> tuple[tuple, list[tuple]]:
    if not tokens:
        raise TransferlabError(f"Selector '{text}' ends where a pattern is expected.")
    head, rest = tokens[0], tokens[1:]
    if head == ("~",):
        inner, rest = _factor(rest, text)
        return ("not", inner), rest
    if head == ("(",):
        inner, rest = _union(rest, text)
        if not rest or rest[0] != (")",):
            raise TransferlabError(f"Selector '{text}': a '(' is not closed.")
        return inner, rest[1:]
    if head[0] in ("glob", "depth"):
        return head, rest
    raise TransferlabError(f"Selector '{text}': unexpected '{_show(head)}'.")


def _show(token: tuple) -> str:
    return " ".join(str(part) for part in token if part != "glob")


def _evaluate(tree: tuple, everything: set[str], depths: Mapping[str, int | None], text: str, count: int) -> set[str]:
    kind = tree[0]
    if kind == "or":
        return _evaluate(tree[1], everything, depths, text, count) | _evaluate(tree[2], everything, depths, text, count)
    if kind == "and":
        return _evaluate(tree[1], everything, depths, text, count) & _evaluate(tree[2], everything, depths, text, count)
    if kind == "not":
        return everything - _evaluate(tree[1], everything, depths, text, count)
    if kind == "depth":
        return _at_depth(tree[1], tree[2], depths, text, count)
    pattern = _compile(tree[1])
    matches = {path for path in everything if pattern.fullmatch(path)}
    if not matches:
        raise TransferlabError(f"Selector '{text}': '{tree[1]}' matches no leaf.{nearest(tree[1], everything)}")
    return matches


def _at_depth(comparison: str, number: int, depths: Mapping[str, int | None], text: str, count: int) -> set[str]:
    """Leaves of the stages for which the comparison holds; a number that none of ``count`` stages has is an error."""
    if not count:
        raise TransferlabError(f"Selector '{text}' uses depth, but no stages were given.")
    choices = (
        f"the backbone's stages are 0 to {count - 1} from the input, or -{count} to -1 from its end; the head has no "
        "depth, select it as 'head'."
    )
    # `depth < count` is every stage, as a range is written.
    if not -count <= number < count + (comparison == "<"):
        raise TransferlabError(f"Selector '{text}': there is no depth {number}: {choices}")
    compare, stage = _COMPARE[comparison], number + count if number < 0 else number
    matches = {path for path, depth in depths.items() if depth is not None and compare(depth, stage)}
    if not matches:
        raise TransferlabError(f"Selector '{text}': 'depth {comparison} {number}' matches no leaf: {choices}")
    return matches


def _compile(glob: str) -> re.Pattern[str]:
    """A pattern matches a leaf, or everything below a folder; a bare name does so anywhere in the tree."""
    anywhere = "(?:.*/)?" if "/" not in glob else ""
    return re.compile(rf"{anywhere}{_regex(glob)}(?:/.*)?")


def _regex(glob: str) -> str:
    out, i = "", 0
    while i < len(glob):
        if glob.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
        elif glob.startswith("/**", i) and i + 3 == len(glob):
            out, i = out + "(?:/.*)?", i + 3
        elif glob.startswith("**", i):
            out, i = out + ".*", i + 2
        elif glob[i] == "*":
            out, i = out + "[^/]*", i + 1
        elif glob[i] == "?":
            out, i = out + "[^/]", i + 1
        elif glob[i] == "{":
            close = glob.find("}", i)
            if close < 0:
                raise TransferlabError(f"Pattern '{glob}': a '{{' is not closed.")
            out += "(?:" + "|".join(_regex(part) for part in glob[i + 1 : close].split(",")) + ")"
            i = close + 1
        else:
            out, i = out + re.escape(glob[i]), i + 1
    return out


def _depth(path: str, stages: Sequence[Sequence[str]]) -> int | None:
    for number, prefixes in enumerate(stages):
        if owns(prefixes, path):
            return number
    return None


def owns(prefixes: Iterable[str], path: str) -> bool:
    """Return whether ``path`` is one of the prefixes or is below one."""
    return any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)
