"""What families share in reading and writing Hugging Face's ``config.json``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal

from transferlab.errors import TransferlabError
from transferlab.models.heads import HeadConfig, MaskedLanguageModelConfig, TokenClassifierConfig
from transferlab.pretrained.names import NameTable, token_names, with_prefix
from transferlab.pretrained.timm import square


def present(raw: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return those of the fields ``names`` that ``raw`` gives; ``null`` gives nothing."""
    return {name: raw[name] for name in names if raw.get(name) is not None}


def present_fields(config: type, raw: Mapping[str, Any], *, without: Collection[str]) -> dict[str, Any]:
    """Return those fields of the dataclass ``config`` that ``raw`` gives, but for ``without``, as they stand there."""
    return present(raw, (field.name for field in fields(config) if field.name not in without))


def present_tuples(raw: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return those of the lists ``names`` that ``raw`` gives, as tuples; an empty one gives nothing."""
    return {name: tuple(raw[name]) for name in names if raw.get(name)}


def squares(raw: Mapping[str, Any], defaults: Any) -> dict[str, int]:
    """Return ``image_size`` and ``patch_size``, each a side in pixels; those of the config ``defaults`` where ``raw`` has none."""
    return {name: square(raw.get(name) or getattr(defaults, name), name) for name in ("image_size", "patch_size")}


def refuse_others(raw: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raise where ``raw`` has a field of ``fixed`` with another value than the one that its family can represent."""
    for name, only in fixed.items():
        if raw.get(name, only) != only:
            raise TransferlabError(f"config.json: {name} {raw[name]!r} is not supported; only {only!r}.")


def refuse_unwritable(kind: str, config: Any, fixed: Mapping[str, Any]) -> None:
    """Raise where ``config`` has another value of a field than the one that Hugging Face's ``kind`` can have."""
    for name, only in fixed.items():
        if getattr(config, name) != only:
            raise TransferlabError(
                f"Hugging Face's {kind} cannot have {name} {getattr(config, name)!r}, only {only!r}."
            )


def with_base_prefix(names: NameTable, prefix: str, head: HeadConfig | None) -> NameTable:
    """Return the table of a model with this head: all but the head's keys carry the prefix of its base model.

    The files of a base model alone, without a head, carry none.
    """
    return names if head is None else with_prefix(names, prefix, but=("head/",))


def masked_description(
    name: str,
    raw: Mapping[str, Any],
    tables: tuple[NameTable, NameTable],
    head: MaskedLanguageModelConfig,
    *,
    prefix: str | None = None,
) -> tuple[dict[str, Any], NameTable]:
    """Return ``config.json`` and the name table of ``NAMEForMaskedLM``; ``tables`` are those of a tied head and an untied one.

    transformers holds the bias of an untied head twice, which is not written here.

    Raises:
        TransferlabError: an untied head.
    """
    if not head.tied:
        raise TransferlabError(
            f"{name}ForMaskedLM is written with its kernel tied to the table of tokens, and this head has its own. Keep the "
            "model as it is: tl.save(source, directory, format='orbax')."
        )
    return description(name, "MaskedLM", raw, tables[0], head, prefix=prefix)


def description(
    name: str,
    task: Literal["ImageClassification", "SequenceClassification", "AudioClassification", "MaskedLM"],
    raw: Mapping[str, Any],
    names: NameTable,
    head: HeadConfig | None,
    *,
    prefix: str | None = None,
) -> tuple[dict[str, Any], NameTable]:
    """Return ``config.json`` and the name table of a base model, a classifier or a masked language model.

    Args:
        name: of transformers' classes: ``NAMEModel``, and ``NAMEForTASK`` with a head.
        task: of the head.
        raw: the fields of ``config.json``, without ``architectures``.
        names: the table of the base model's files.
        head: None for the base model.
        prefix: of the base model's keys inside the model with a head; by default ``model_type`` and a dot.
    """
    architecture = f"{name}{'Model' if head is None else f'For{task}'}"
    if isinstance(head, TokenClassifierConfig):
        architecture, names = f"{name}ForTokenClassification", token_names(names, "classifier", head.hidden is not None)
    table = with_base_prefix(names, f"{raw['model_type']}." if prefix is None else prefix, head)
    return {"architectures": [architecture], **raw}, table
