"""T5's names and configs in Hugging Face checkpoints: T5 1.0 and 1.1, Flan-T5, mT5, and their encoders alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.fields import given_number
from transferlab.models.t5 import T5Config
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import present_fields
from transferlab.pretrained.names import OTHER_TASK, NameTable, with_prefix
from transferlab.pretrained.rules import leaves_of, named

_TABLE = "encoder/embed/word/embedding"

_RULES = """
linear {encoder,decoder}/layers/{i}/attention/{query,key,value,output}  {encoder,decoder}.block.{i}.layer.0.SelfAttention.{q,k,v,o}
table  {encoder,decoder}/layers/{i}/attention/relative      {encoder,decoder}.block.{i}.layer.0.SelfAttention.relative_attention_bias
norm   {encoder,decoder}/layers/{i}/attention/norm          {encoder,decoder}.block.{i}.layer.0.layer_norm
linear decoder/layers/{i}/cross_attention/{query,key,value,output}  decoder.block.{i}.layer.1.EncDecAttention.{q,k,v,o}
norm   decoder/layers/{i}/cross_attention/norm              decoder.block.{i}.layer.1.layer_norm
norm   encoder/layers/{i}/mlp/norm                          encoder.block.{i}.layer.1.layer_norm
norm   decoder/layers/{i}/mlp/norm                          decoder.block.{i}.layer.2.layer_norm
norm   {encoder,decoder}/norm                               {encoder,decoder}.final_layer_norm
"""

_PLAIN_MLP = """
linear encoder/layers/{i}/mlp/{up,down}         encoder.block.{i}.layer.1.DenseReluDense.{wi,wo}
linear decoder/layers/{i}/mlp/{up,down}         decoder.block.{i}.layer.2.DenseReluDense.{wi,wo}
"""

_GATED_MLP = """
linear encoder/layers/{i}/mlp/{gate,up,down}    encoder.block.{i}.layer.1.DenseReluDense.{wi_0,wi_1,wo}
linear decoder/layers/{i}/mlp/{gate,up,down}    decoder.block.{i}.layer.2.DenseReluDense.{wi_0,wi_1,wo}
"""

_IGNORED = (
    (
        r"(transformer\.)?decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
        "read by no version of T5",
    ),
    (r"(qa_outputs|classifier)\.(weight|bias)", OTHER_TASK),
    (
        r"classification_head\.(dense|out_proj)\.(weight|bias)",
        "transformers' classifier, which reads the decoder and is not built",
    ),
)


def t5_names(config: T5Config, tied: bool, table: str = "shared") -> NameTable:
    """Return the table for this config.

    Args:
        config: with ``num_decoder_layers`` 0, of an encoder alone.
        tied: whether the logits come from the table of tokens.
        table: key of that table; some files say ``encoder.embed_tokens``.
    """
    decoder = config.num_decoder_layers > 0
    gated = config.feed_forward_proj.startswith("gated-")
    text = f"table encoder/embed/word {table}\n{_RULES}{_GATED_MLP if gated else _PLAIN_MLP}"
    if decoder and not tied:
        text += "matrix? head/kernel lm_head.weight"
    copies = ((r"(transformer\.)?((encoder|decoder)\.embed_tokens|shared)\.weight", _TABLE),)
    head = config.language_model(tied) if decoder else None
    return NameTable(named(text, leaves_of(config)), ignored=_IGNORED, copies=copies, language_model=head)


def _tables(config: T5Config) -> tuple[NameTable, ...]:
    """What a file may be: the encoder alone, the whole tied, or the whole with a head of its own.

    Each with either key of the table of tokens, and without or with the prefix that transformers' classifiers have; of those
    that fit equally well the first is taken.
    """
    kinds = [(config.encoder_only(), True)]
    if config.num_decoder_layers:
        kinds += [(config, True), (config, False)]
    plain = [t5_names(kind, tied, key) for kind, tied in kinds for key in ("shared", "encoder.embed_tokens")]
    return (*plain, *(with_prefix(table, "transformer.", but=("head/",)) for table in plain))


def t5_from_hf(raw: Mapping[str, Any]) -> T5Config:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    mt5 = raw.get("model_type") == "mt5"
    config = T5Config(feed_forward_proj="gated-gelu" if mt5 else "relu", scale_decoder_outputs=not mt5)
    if raw.get("is_decoder"):
        raise TransferlabError("config.json: is_decoder is true; a decoder without its encoder is not supported.")
    act = str(raw.get("feed_forward_proj") or config.feed_forward_proj)
    values = present_fields(T5Config, raw, without=("scale_decoder_outputs",))
    values.setdefault("num_decoder_layers", values.get("num_layers", config.num_layers))
    if not mt5:
        # T5 1.1 says so by not tying; what transformers 5 writes names the scale itself, and ties in either case.
        scaled = raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings") is not False)
        values["scale_decoder_outputs"] = bool(scaled)
    written, known = raw.get("dense_act_fn"), {"gated-gelu": "gelu_new"}.get(act, act.removeprefix("gated-"))
    if written is not None and written != known:
        raise TransferlabError(
            f"config.json: dense_act_fn '{written}' is not '{known}', which feed_forward_proj '{act}' means."
        )
    return replace(config, **values)


def _adjust(config: T5Config, found: set[str]) -> T5Config:
    if not any(path.startswith("decoder/") for path in found):
        return config.encoder_only()
    return config


T5 = Family(
    name="t5",
    config=T5Config,
    modality="text",
    inputs=("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"),
    model_types=("t5", "mt5"),
    names=_tables,
    from_hf=t5_from_hf,
    adjust=_adjust,
    encoder=T5Config.encoder_only,
    vocabulary=_TABLE,
    token_classifier="classifier",
    token_prefix="transformer.",
    token_dropout=lambda raw: given_number(raw, "classifier_dropout", 0.0),
)
