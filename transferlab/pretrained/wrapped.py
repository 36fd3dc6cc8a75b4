"""Keys as training scripts and wrappers of modules leave them: ``module.`` of data parallelism, ``_orig_mod.`` of torch.compile."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.names import NameTable

_WORDS = ("module", "model", "net", "network", "backbone", "encoder")
"""What scripts call a model in what they save; a prefix that all keys share is tried too."""

_DEEPEST = 8
"""Parts of the longest prefix that is tried."""

_ANYWHERE = re.compile(r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Wrappers that any module can have: torch.compile, fully sharded data parallelism, activation checkpointing."""

AVERAGED = (("n_averaged", "the number of models in torch's AveragedModel"),)
"""What such a wrapper keeps besides the weights: pairs of a regular expression over whole keys and a reason."""


def unwrapped(tables: Sequence[NameTable], tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Return the tensors by the keys that the tables know, without the prefix of the model's own.

    The prefix is the one under which most keys are known, the shortest of those; if none is better than no prefix, the
    keys stay as they are. Of two keys that would become one, the plain one gets the name and the other keeps its own.
    """
    plain = {key: _ANYWHERE.sub("", key) for key in tensors}
    known = {name.key for table in tables for name in table.names}
    renames = {rename for table in tables for rename in table.renames}
    before = ("", *{prefix for table in tables for prefix in table.prefixes})

    def fits(key: str) -> bool:
        for old, new in renames:
            key = key[: -len(old)] + new if key.endswith(old) else key
        return any(key.startswith(prefix) and key[len(prefix) :] in known for prefix in before)

    shared = 0
    for parts in zip(*(key.split(".")[:-1] for key in plain.values()), strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    hits: Counter[str] = Counter()
    for key in plain.values():
        rest, prefix = key, ""
        hits[prefix] += fits(rest)
        for depth in range(_DEEPEST):
            part, dot, after = rest.partition(".")
            if not dot or (part not in _WORDS and depth >= shared):
                break
            rest, prefix = after, f"{prefix}{part}."
            hits[prefix] += fits(rest)
    best = max(sorted(hits, key=len), key=hits.__getitem__, default="")
    renamed: dict[str, LazyTensor] = {}
    for key, tensor in sorted(tensors.items(), key=lambda item: len(item[0])):
        short = plain[key].removeprefix(best)
        renamed[short if short not in renamed else key] = tensor
    return renamed if any(key not in tensors for key in renamed) else dict(tensors)
