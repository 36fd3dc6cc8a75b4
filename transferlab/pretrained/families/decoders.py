"""What decoders share in their files: rotary positions, the tokens that end a text, the heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from transferlab.errors import TransferlabError, nearest
from transferlab.fields import given_number
from transferlab.models.causal import Rope
from transferlab.models.heads import ClassifierConfig, HeadConfig, LanguageModelConfig, TokenClassifierConfig
from transferlab.pretrained.families.hugging_face import with_base_prefix
from transferlab.pretrained.names import NameTable, token_names


def rope_from_hf(given: Mapping[str, Any], theta: float, positions: int, where: str = "rope_parameters") -> Rope:
    """Read ``rope_parameters`` (or the older ``rope_scaling``); what cannot be honoured is an error that names it.

    Args:
        given: the mapping, or one layer type's part of it.
        theta: its base, if it does not hold one.
        positions: ``max_position_embeddings``.
        where: how errors call it.
    """
    given = {key: value for key, value in given.items() if value is not None}
    kind = given.pop("rope_type", given.pop("type", "default"))
    given.pop("type", None)
    known = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
             "yarn": ()}  # fmt: skip
    if kind not in known:
        raise TransferlabError(f"config.json: {where}.rope_type '{kind}' is not supported; it can be {list(known)}.")
    if given.pop("partial_rotary_factor", 1.0) != 1.0:
        raise TransferlabError(f"config.json: {where}.partial_rotary_factor is not supported; only 1.")
    for name in known[kind]:
        if name not in given:
            raise TransferlabError(f"config.json: {where} of rope_type '{kind}' lacks '{name}'.")
    names = {field.name for field in fields(Rope)}
    if unknown := sorted(given.keys() - names):
        raise TransferlabError(f"config.json: {where} has an unknown '{unknown[0]}'.{nearest(unknown[0], names)}")
    given.setdefault("rope_theta", theta)
    if kind == "default":
        return Rope(float(given["rope_theta"]))
    if kind != "linear":
        given.setdefault("original_max_position_embeddings", positions)
        given.setdefault("factor", positions / given["original_max_position_embeddings"])
    return Rope(rope_type=kind, **given)


# ---------------------------------------------------------------------------------------------------------------
# The model


def token_ids(given: int | list[int] | None) -> tuple[int, ...]:
    """``eos_token_id`` of a ``config.json``: none, one or several."""
    return () if given is None else tuple(given) if isinstance(given, (list, tuple)) else (int(given),)


def language_model_heads(tied: bool) -> tuple[str, ...]:
    """Which heads the files of a decoder may hold, the likeliest first."""
    # A file may hold the head's kernel although its config ties it: then it is read, and seen to be the table or not.
    return ("", "lm_head", "score") if tied else ("lm_head", "score")


def decoder_token_dropout(raw: Mapping[str, Any]) -> float:
    """Return the rate before transformers' classifier of tokens."""
    return given_number(raw, "classifier_dropout", given_number(raw, "hidden_dropout", 0.1))


def decoder_to_hf(
    raw: Mapping[str, Any],
    names: Callable[[str], NameTable],
    head: HeadConfig | None,
    prefix: str,
    *,
    bare: str,
    generates: str,
    classifies: str,
    tokens: str,
) -> tuple[dict[str, Any], NameTable]:
    """Return ``config.json`` and the name table of a decoder with this head.

    Args:
        raw: the fields of ``config.json``, without ``architectures``.
        names: key of the head, empty where the embedding table is the head → the decoder's table.
        head: of its files; None for the bare decoder.
        prefix: of the keys next to the head's.
        bare: transformers' class of the decoder alone.
        generates: of the decoder with a head over tokens.
        classifies: of the decoder with a head over labels.
        tokens: key of a head over the labels of each token; empty where transformers has no such class.
    """
    if isinstance(head, TokenClassifierConfig) and tokens:
        architecture = classifies.replace("Sequence", "Token")
        return {"architectures": [architecture], **raw}, with_base_prefix(
            token_names(names("score"), tokens), prefix, head
        )
    if isinstance(head, ClassifierConfig):
        architecture, key = classifies, "score"
    elif head is None:
        architecture, key = bare, "lm_head"
    elif isinstance(head, LanguageModelConfig):
        architecture, key = generates, "" if head.tied else "lm_head"
    else:
        raise TransferlabError(
            f"transformers has no {generates.removesuffix('ForCausalLM')} with a head of the kind {type(head).__name__}."
        )
    return {"architectures": [architecture], **raw}, with_base_prefix(names(key), prefix, head)
