"""Checks of a ``config.json`` for every family: how deep it may be, what is not supported, its labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from transferlab import limits
from transferlab.errors import TransferlabError


def check_layers(config: Any, tensors: int, path: Path) -> None:
    """Refuse a config of more layers than the file has tensors; a table of names for it could be endless."""
    for field_ in fields(config):
        value = getattr(config, field_.name)
        if is_dataclass(value):
            check_layers(value, tensors, path)
        elif _COUNTS.fullmatch(field_.name) and _total(value) > max(tensors, 1):
            raise TransferlabError(f"{path}: {field_.name} is {value}, but the weights are only {tensors} tensors.")


# EfficientNet's `depth` multiplies the number of layers; `layer_norm_eps` and `layer_scale` are not counts.
_COUNTS = re.compile(r"(\w+_)?(layers?|depths?)")


def check_depth(raw: Any, path: Path) -> None:
    """Refuse a config of more layers than any model's, before anything is allocated for each of them."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            check_depth(value, path)
        elif re.search(r"(layers?|depths?|block_count)$", str(key)) and _total(value) > limits.LAYERS:
            raise TransferlabError(
                f"{path}: {key} is {str(value)[:40]}, more than transferlab.limits.LAYERS = {limits.LAYERS} layers."
            )


def _total(layers: Any) -> float:
    """The layers of a number, or of one for each stage; 0 for anything else."""
    each = layers if isinstance(layers, (list, tuple)) else (layers,)
    return float(sum(min(n, 10**9) for n in each if isinstance(n, (int, float)) and n > 0))


def check_plain(raw: Mapping[str, Any], path: Path) -> None:
    """Refuse quantized weights: transformers unpacks them, or rounds as it computes, so read as they are they mean nothing."""
    quantized = raw.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise TransferlabError(
            f"{path}: quantization_config has the quant_method {str(method)[:40]!r}, which is not supported. Load the "
            "model's weights before quantization, or a GGUF file of it."
        )


def classifies(raw: Mapping[str, Any]) -> bool:
    """Whether a head in the file is over whole examples: heads of some other tasks have the same keys."""
    return not any(re.search(r"For(TokenClassification|MultipleChoice|QuestionAnswering)$", str(name))
                   for name in raw.get("architectures") or ())  # fmt: skip


def classifies_tokens(raw: Mapping[str, Any]) -> bool:
    """Whether a head in the file classifies each token."""
    return any(str(name).endswith("ForTokenClassification") for name in raw.get("architectures") or ())


def label_names(raw: Mapping[str, Any], where: str = "config.json") -> tuple[str, ...]:
    """Return the label names of Hugging Face's ``config.json``, in the order of the logits; empty without any.

    Raises:
        TransferlabError: ``id2label`` does not name each logit, or ``label2id`` has the same names in another order.
    """
    table, ids = raw.get("id2label") or {}, raw.get("label2id") or {}
    if not isinstance(table, Mapping) or not isinstance(ids, Mapping):
        raise TransferlabError(f"{where}: id2label must be {{'0': a name, …}}, and label2id {{a name: 0, …}}.")
    if not table and not all(re.fullmatch(r"LABEL_\d+", str(name)) for name in ids):
        field, table = "label2id", {str(i): name for name, i in ids.items()}
    else:
        field = "id2label"
    numbers = {int(key): name for key, name in table.items() if re.fullmatch(r"\d{1,9}", str(key))}
    if sorted(numbers) != list(range(len(table))):
        shown = [str(key)[:20] for key in table][:6]
        raise TransferlabError(
            f"{where}: {field} numbers its labels {shown}; it must number them 0 to {len(table) - 1}."
        )
    for i, name in numbers.items():
        if not isinstance(name, (str, int, float)):
            raise TransferlabError(f"{where}: {field} names the label {i} {name!r}; it must be a text.")
    names = tuple(str(numbers[i]) for i in range(len(numbers)))
    # One with other names is left from before the labels got theirs, and not read by anybody.
    if len(set(names)) == len(names) and {str(name) for name in ids} == set(names):
        for name, i in ids.items():
            if str(i) != str(names.index(str(name))):
                raise TransferlabError(
                    f"{where}: label2id has '{name}' as {i!r}, and id2label as {names.index(str(name))}; which is right is "
                    "not known. Correct the wrong one."
                )
    return names
