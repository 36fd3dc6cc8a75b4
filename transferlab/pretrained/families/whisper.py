"""Whisper's encoder: its names in Hugging Face's and CTranslate2's files, its config, its preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transferlab.data.audio import AudioTransform
from transferlab.errors import TransferlabError
from transferlab.models.whisper import WhisperConfig
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import present_fields
from transferlab.pretrained.names import LINEAR, SAME, Entry, Layout, NameTable, fused
from transferlab.pretrained.preprocessing import processor_settings

CONV1D = Layout(
    "OIW to WIO",
    lambda x: x.transpose(2, 1, 0),
    lambda x: x.transpose(2, 1, 0),
    lambda shape: shape[::-1],
)
"""torch's 1-D convolution (out, in, width) ↔ (width, in, out)."""

_DECODER = "of the decoder, which is not built: the encoder is the backbone"


def whisper_names(config: WhisperConfig) -> NameTable:
    """Return the table for Hugging Face's files."""
    names = [
        Entry("embed/conv1/kernel", "conv1.weight", CONV1D),
        Entry("embed/conv1/bias", "conv1.bias"),
        Entry("embed/conv2/kernel", "conv2.weight", CONV1D),
        Entry("embed/conv2/bias", "conv2.bias"),
        Entry("embed/position", "embed_positions.weight"),
    ]
    for i in range(config.encoder_layers):
        here, there = f"layers/{i}", f"layers.{i}"
        for ours, key in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj")):
            names.append(Entry(f"{here}/attention/{ours}/kernel", f"{there}.self_attn.{key}.weight", LINEAR))
            if ours != "key":
                names.append(Entry(f"{here}/attention/{ours}/bias", f"{there}.self_attn.{key}.bias"))
        names += _norm(f"{here}/attention/norm", f"{there}.self_attn_layer_norm", "weight", "bias")
        for ours, key in (("up", "fc1"), ("down", "fc2")):
            names.append(Entry(f"{here}/mlp/{ours}/kernel", f"{there}.{key}.weight", LINEAR))
            names.append(Entry(f"{here}/mlp/{ours}/bias", f"{there}.{key}.bias"))
        names += _norm(f"{here}/mlp/norm", f"{there}.final_layer_norm", "weight", "bias")
    names += _norm("norm", "layer_norm", "weight", "bias")
    ignored = (
        (r"(model\.)?decoder\..*", _DECODER),
        (r"proj_out\.weight", _DECODER),
        (
            r"(projector|classifier)\.(weight|bias)|layer_weights",
            "the origin's classifier, which has a projection of its own and is not built",
        ),
    )
    return NameTable(tuple(names), ("model.encoder.", "encoder."), ignored=ignored)


def ctranslate2_names(config: WhisperConfig) -> NameTable:
    """Return the table for CTranslate2's files: query, key and value fused, and with them a key's bias, of zeros."""
    names = [
        Entry("embed/conv1/kernel", "encoder/conv1/weight", CONV1D),
        Entry("embed/conv1/bias", "encoder/conv1/bias"),
        Entry("embed/conv2/kernel", "encoder/conv2/weight", CONV1D),
        Entry("embed/conv2/bias", "encoder/conv2/bias"),
        Entry("embed/position", "encoder/position_encodings/encodings"),
    ]
    for i in range(config.encoder_layers):
        here, there = f"layers/{i}", f"encoder/layer_{i}"
        attention = f"{there}/self_attention"
        for n, ours in enumerate(("query", "key", "value")):
            names.append(Entry(f"{here}/attention/{ours}/kernel", f"{attention}/linear_0/weight", fused(LINEAR, n, 3)))
            names.append(Entry(f"{here}/attention/{ours}/bias", f"{attention}/linear_0/bias", fused(SAME, n, 3)))
        for ours, key in (
            ("attention/output", f"{attention}/linear_1"),
            ("mlp/up", f"{there}/ffn/linear_0"),
            ("mlp/down", f"{there}/ffn/linear_1"),
        ):
            names.append(Entry(f"{here}/{ours}/kernel", f"{key}/weight", LINEAR))
            names.append(Entry(f"{here}/{ours}/bias", f"{key}/bias"))
        names += _norm(f"{here}/attention/norm", f"{attention}/layer_norm", "gamma", "beta")
        names += _norm(f"{here}/mlp/norm", f"{there}/ffn/layer_norm", "gamma", "beta")
    names += _norm("norm", "encoder/layer_norm", "gamma", "beta")
    ignored = (
        (r"decoder/.*", _DECODER),
        (r"encoder/(layer_\d+/self_attention/)?num_heads", "a number of the config"),
        (r"(alignment_heads|lang_ids|suppress_ids).*", "settings of decoding"),
    )
    return NameTable(tuple(names), ignored=ignored)


def _norm(path: str, key: str, scale: str, bias: str) -> list[Entry]:
    return [Entry(f"{path}/scale", f"{key}.{scale}"), Entry(f"{path}/bias", f"{key}.{bias}")] if "/" not in key else [
        Entry(f"{path}/scale", f"{key}/{scale}"), Entry(f"{path}/bias", f"{key}/{bias}"),
    ]  # fmt: skip


def whisper_from_hf(raw: Mapping[str, Any]) -> WhisperConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    if raw.get("scale_embedding"):
        raise TransferlabError("config.json: scale_embedding is true; Whisper's published files have it false.")
    return WhisperConfig(**present_fields(WhisperConfig, raw, without=("key_bias",)))


def read_audio(directory: Path) -> AudioTransform | None:
    """Return the transform that the directory's feature extractor describes; None without any.

    Raises:
        TransferlabError: a feature extractor of another kind, or a field that this one cannot honour.
    """
    found = processor_settings(directory, "feature_extractor", "audio_processor")
    if found is None:
        return None
    path, raw = found
    kind = raw.get("feature_extractor_type", "WhisperFeatureExtractor")
    if kind != "WhisperFeatureExtractor":
        raise TransferlabError(f"{path}: feature_extractor_type '{kind}' is not 'WhisperFeatureExtractor'.")
    for field in ("dither", "do_normalize", "padding_value"):
        if raw.get(field):
            raise TransferlabError(f"{path}: {field} {raw[field]!r} is not supported.")
    plain = AudioTransform()
    return AudioTransform(
        raw.get("feature_size", plain.bands), raw.get("sampling_rate", plain.rate), raw.get("n_fft", plain.window),
        raw.get("hop_length", plain.hop), float(raw.get("chunk_length", plain.seconds)),
    )  # fmt: skip


def _adjust(config: WhisperConfig, found: set[str]) -> WhisperConfig:
    return replace(config, key_bias="layers/0/attention/key/bias" in found)


WHISPER = Family(
    name="whisper",
    config=WhisperConfig,
    modality="audio",
    inputs=("input_features",),
    model_types=("whisper",),
    names=lambda config: (whisper_names(config), ctranslate2_names(config)),
    from_hf=whisper_from_hf,
    adjust=_adjust,
    transform=lambda config: AudioTransform(config.num_mel_bins, seconds=config.max_source_positions / 50),
)
