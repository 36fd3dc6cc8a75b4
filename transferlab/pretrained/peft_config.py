"""``adapter_config.json`` of PEFT: the fields that change what is computed; any other that would is refused by name.

The scale and the patterns: ``peft/tuners/lora``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transferlab import limits
from transferlab.bounds import Count, Rate
from transferlab.errors import FieldError, TransferlabError
from transferlab.fields import check_fields, given_fields
from transferlab.reading import read_object


@dataclass(frozen=True)
class AdapterConfig:
    """The fields of ``adapter_config.json`` that change what is computed.

    Attributes:
        r: rank, where no pattern gives another.
        lora_alpha: numerator of the scale, where no pattern gives another.
        rank_pattern: pattern of a module's name → its rank.
        alpha_pattern: pattern of a module's name → its alpha.
        use_rslora: whether the scale is alpha / √rank instead of alpha / rank.
        use_dora: whether each adapter has a magnitude.
        dropout: rate on the adapters' input in training.
        modules_to_save: names of the modules that the adapter holds as a whole.
        base: name or path of the base.
        revision: of the base on the hub.
        task: PEFT's ``task_type``; empty without one.
        tying: ``ensure_weight_tying``.
    """

    r: Count
    lora_alpha: float
    rank_pattern: Mapping[str, Count]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    use_dora: bool
    dropout: Rate
    modules_to_save: tuple[str, ...]
    base: str
    revision: str = ""
    task: str = ""
    tying: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def read(cls, path: Path) -> AdapterConfig:
        """Read the file.

        Raises:
            TransferlabError: a field has a value that is not supported, or cannot be read; it is named.
        """
        raw = read_object(path)
        if raw.get("peft_type") != "LORA":
            raise TransferlabError(f"{path}: peft_type is {raw.get('peft_type')!r}; only 'LORA' can be read.")
        for field in _NOT_READ:
            if raw.get(field):
                raise TransferlabError(
                    f"{path}: {field} is {str(raw[field])[:60]}, which is not supported. Merge the adapter with PEFT: "
                    "model.merge_and_unload()"
                )
        task = raw.get("task_type")
        if task not in _TASKS:
            raise TransferlabError(
                f"{path}: task_type is '{str(task)[:40]}', whose head cannot be read. Expected "
                f"{', '.join(str(kind) for kind in _TASKS if kind)}, or none."
            )
        start = raw.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda", "loftq")):
            raise TransferlabError(
                f"{path}: init_lora_weights is '{start}', which changed the base's own weights. Save the adapter with "
                "PEFT's path_initial_model_for_weight_conversion, or merge it with PEFT: model.merge_and_unload()"
            )
        numbers = {"lora_alpha": float, "lora_dropout": float}
        fields = given_fields({**numbers, **dict.fromkeys(_FLAGS, bool)}, raw, where=str(path))
        modules = raw.get("modules_to_save")
        for name in numbers:
            if name in raw and name not in fields:
                raise TransferlabError(f"{path}: {name} is None; it must be a number.")
        if not isinstance(modules, (list, type(None))):
            raise TransferlabError(f"{path}: modules_to_save is {str(modules)[:60]!r}; it must be a list of names.")
        try:
            read = cls(
                r=_whole(raw.get("r", 8)),
                lora_alpha=fields.get("lora_alpha", 8.0),
                rank_pattern={str(k): _whole(v) for k, v in (raw.get("rank_pattern") or {}).items()},
                alpha_pattern={str(k): float(v) for k, v in (raw.get("alpha_pattern") or {}).items()},
                use_rslora=fields.get("use_rslora", False),
                use_dora=fields.get("use_dora", False),
                dropout=fields.get("lora_dropout", 0.0),
                modules_to_save=tuple(str(name) for name in modules or ()),
                base=str(raw.get("base_model_name_or_path") or ""),
                revision=str(raw.get("revision") or ""),
                task=str(task or ""),
                tying=fields.get("ensure_weight_tying", False),
            )
            if max(len(read.rank_pattern), len(read.alpha_pattern)) > limits.PATTERNS:
                raise ValueError(f"more than {limits.PATTERNS} patterns for its ranks; see transferlab.limits")
            for pattern in (*read.rank_pattern, *read.alpha_pattern):
                _pattern(pattern)
                if len(pattern) > 300 or re.search(r"\)[*+?{]", pattern) or len(re.findall(r"[*+?{]", pattern)) > 3:
                    raise ValueError(f"the pattern '{pattern[:40]}' could take forever to match")
        except FieldError as error:
            raise TransferlabError(f"{path}: {error}") from None
        except (TypeError, ValueError, AttributeError, re.error, OverflowError, RecursionError) as error:
            raise TransferlabError(f"{path}: not a readable adapter config ({error}).") from None
        return read

    def rank(self, module: str) -> int:
        """Return the rank of a module's adapter."""
        return self.rank_pattern.get(_matching(module, self.rank_pattern), self.r)

    def scale(self, module: str) -> float:
        """Return the factor of a module's adapter."""
        alpha = self.alpha_pattern.get(_matching(module, self.alpha_pattern), self.lora_alpha)
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


_FLAGS = ("use_rslora", "use_dora", "ensure_weight_tying")
"""Fields that are true or false; a string would count as true, whatever it says."""

_TASKS = (None, "SEQ_CLS", "TOKEN_CLS", "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")
"""Values of ``task_type`` whose heads are read: over whole examples, over each token, or over the vocabulary."""

_NOT_READ = (
    "lora_bias", "layer_replication", "alora_invocation_tokens", "trainable_token_indices",
    "target_parameters", "use_qalora", "use_bdlora", "arrow_config", "velora_config", "monteclora_config",
)  # fmt: skip
"""Fields of PEFT that ask for another computation than a :class:`Pair`'s."""


def _whole(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"a rank is {value!r}, expected a positive integer")
    return value


@lru_cache(maxsize=2 * limits.PATTERNS)
def _pattern(text: str) -> re.Pattern[str]:
    # As PEFT: a pattern matches a module's whole name, or its end after a dot; one that begins with ^ only the whole.
    return re.compile(text if text.startswith("^") else rf"(.*\.)?({text})$")


def _matching(module: str, patterns: Mapping[str, Any]) -> str:
    return next((p for p in patterns if _pattern(p).match(module[:300])), "")
