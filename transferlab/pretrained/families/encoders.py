"""What BERT and its kin share in their files: layers, old suffixes, the pooler, what a ``config.json`` may not say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

from transferlab.errors import TransferlabError
from transferlab.fields import given_fields, given_number
from transferlab.models.bert import BertConfig
from transferlab.models.heads import HiddenLayer, MaskedLanguageModelConfig
from transferlab.models.mpnet import MPNetConfig
from transferlab.models.roberta import RobertaConfig
from transferlab.pretrained.names import BUFFER, OTHER_TASK, PRETRAINING_HEAD, NameTable
from transferlab.pretrained.rules import leaves_of, named

Pooled = TypeVar("Pooled", BertConfig, RobertaConfig, MPNetConfig)
"""The config of an encoder that may have a pooler."""

BERT_BODY = """
table   embed/{word,position,token_type}        embeddings.{word,position,token_type}_embeddings
norm    embed/norm                              embeddings.LayerNorm
linear  layers/{i}/attention/{query,key,value}  encoder.layer.{i}.attention.self.{query,key,value}
linear  layers/{i}/attention/output             encoder.layer.{i}.attention.output.dense
norm    layers/{i}/attention/norm               encoder.layer.{i}.attention.output.LayerNorm
linear  layers/{i}/mlp/{up,down}                encoder.layer.{i}.{intermediate,output}.dense
norm    layers/{i}/mlp/norm                     encoder.layer.{i}.output.LayerNorm
linear? pooler                                  pooler.dense
"""
"""BERT without a head, as RoBERTa has it too."""

TANH_HEAD = """
linear? head/dense                              classifier.dense
linear? head                                    classifier.out_proj
"""
"""The classifier of RoBERTa and MPNet: a layer with tanh, and the logits."""

MASKED_HEAD = """
linear? head/dense                              {prefix}.dense
norm?   head/norm                               {prefix}.{norm}
same?   head/bias                               {bias}
"""
"""The head of a masked language model, whose kernel may be the table of tokens."""

_LEGACY = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""Suffixes of old files, and what they are today."""


def encoder_names(text: str, config: Any, prefix: str, *ignored: tuple[str, str]) -> NameTable:
    """Return the table for this config, by the rules ``text``.

    Args:
        text: the rules.
        config: of the encoder.
        prefix: what may stand before every key, without its dot.
        ignored: pairs (regular expression over whole keys, reason) of what its files may hold next to the model.
    """
    return NameTable(
        named(text, leaves_of(config)),
        prefixes=(f"{prefix}.",),
        renames=_LEGACY,
        ignored=((rf"({prefix}\.)?embeddings\.position_ids", BUFFER), *ignored),
    )


def masked_tables(
    table: NameTable, head: MaskedLanguageModelConfig, text: str, decoder: str, config: Any
) -> tuple[NameTable, NameTable]:
    """Return the tables of files with the head of a masked language model: its kernel the table of tokens, or its own.

    Args:
        table: of the same files with a classifier, whose keys these may hold too.
        head: as the reference implementation has it.
        text: the rules of the head but for its kernel.
        decoder: the module of its kernel; files may hold a copy of the table there, and of the bias.
        config: of the encoder.
    """
    leaves = leaves_of(config)
    body = tuple(name for name in table.names if not name.path.startswith("head/"))
    classifier = "|".join(re.escape(name.key) for name in table.names if name.path.startswith("head/"))
    ignored = ((classifier, OTHER_TASK), *(pair for pair in table.ignored if pair[1] != PRETRAINING_HEAD))
    ignored = (*ignored, (r"cls\.seq_relationship\..*", PRETRAINING_HEAD))
    copies = ((rf"{re.escape(decoder)}\.bias", "head/bias"),)
    tied = replace(
        table, names=(*body, *named(text, leaves)), ignored=ignored, language_model=head,
        copies=((rf"{re.escape(decoder)}\.weight", "embed/word/embedding"), *copies),
    )  # fmt: skip
    kernel = named(f"matrix? head/kernel {decoder}.weight", leaves)
    return tied, replace(tied, names=(*tied.names, *kernel), copies=copies, language_model=replace(head, tied=False))


def masked_head(config: Any, activation: str = "gelu") -> MaskedLanguageModelConfig:
    """Return the head of a masked language model over this encoder in transformers."""
    return MaskedLanguageModelConfig(activation, config.layer_norm_eps, stddev=config.initializer_range)


def refuse_decoders(raw: Mapping[str, Any]) -> None:
    """Raise for fields of ``config.json`` that turn transformers' encoder into something else; each is named."""
    kind = raw.get("position_embedding_type") or "absolute"
    if kind != "absolute":
        raise TransferlabError(f"config.json: position_embedding_type '{kind}' is not supported; only 'absolute'.")
    for flag in ("is_decoder", "add_cross_attention"):
        if raw.get(flag):
            raise TransferlabError(f"config.json: {flag} is true; this model is an encoder.")


def encoder_from_hf(config: type[Pooled], raw: Mapping[str, Any], **absent: Any) -> Pooled:
    """Read ``config.json``; whether there is a pooler is seen from the keys of the weights.

    Args:
        config: the dataclass.
        raw: the contents of ``config.json``.
        absent: values of fields that the file does not give, where they are not the dataclass's defaults.
    """
    refuse_decoders(raw)
    return config(**{**absent, **given_fields(config, raw, without=("pooler",))})


def without_pooler(config: Any) -> dict[str, Any]:
    """Return the fields that ``config.json`` has too: it does not speak of the pooler."""
    return {name: value for name, value in asdict(config).items() if name != "pooler"}


def adjust_pooler(config: Pooled, found: set[str]) -> Pooled:
    """Return the config without its pooler, if the file has none."""
    return config if "pooler/kernel" in found else config.without_pooler()


def classifier_dropout(raw: Mapping[str, Any], default: float) -> float:
    """Return the rate before transformers' own classifier: ``classifier_dropout``, or else that of the hidden states."""
    return given_number(raw, "classifier_dropout", given_number(raw, "hidden_dropout_prob", default))


def tanh_layer(config: RobertaConfig | MPNetConfig) -> HiddenLayer:
    """Return the layer before the logits of RoBERTa's and MPNet's classifiers."""
    return HiddenLayer("tanh", dropout_before=True, stddevs=(config.initializer_range,) * 2)
