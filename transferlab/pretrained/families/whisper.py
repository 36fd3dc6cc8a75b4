"""Whisper's encoder: its names in Hugging Face's and CTranslate2's files, its config, its preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transferlab.data.audio import AudioTransform
from transferlab.errors import TransferlabError
from transferlab.models.heads import HeadConfig, HiddenLayer
from transferlab.models.whisper import WhisperConfig
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.hugging_face import description, present_fields
from transferlab.pretrained.names import NameTable
from transferlab.pretrained.preprocessing import processor_settings
from transferlab.pretrained.rules import leaves_of, named

_DECODER = "of the decoder, which is not built: the encoder is the backbone"

_RULES = """
conv1d  embed/{conv1,conv2}                             {conv1,conv2}
same    embed/position                                  embed_positions.weight
linear  layers/{i}/attention/{query,key,value,output}   layers.{i}.self_attn.{q,k,v,out}_proj
norm    layers/{i}/attention/norm                       layers.{i}.self_attn_layer_norm
linear  layers/{i}/mlp/{up,down}                        layers.{i}.{fc1,fc2}
norm    layers/{i}/mlp/norm                             layers.{i}.final_layer_norm
norm    norm                                            layer_norm
linear? head/dense                                      projector
same?   head/layer_weights                              layer_weights
linear? head                                            classifier
"""

# With dots for the slashes of its keys.
_CTRANSLATE2 = """
conv1d  embed/{conv1,conv2}                             encoder.{conv1,conv2}
same    embed/position                                  encoder.position_encodings.encodings
linear  layers/{i}/attention/{query,key,value}          encoder.layer_{i}.self_attention.linear_0
linear  layers/{i}/attention/output                     encoder.layer_{i}.self_attention.linear_1
same    layers/{i}/attention/norm/{scale,bias}          encoder.layer_{i}.self_attention.layer_norm.{gamma,beta}
linear  layers/{i}/mlp/{up,down}                        encoder.layer_{i}.ffn.{linear_0,linear_1}
same    layers/{i}/mlp/norm/{scale,bias}                encoder.layer_{i}.ffn.layer_norm.{gamma,beta}
same    norm/{scale,bias}                               encoder.layer_norm.{gamma,beta}
"""


def whisper_names(config: WhisperConfig) -> NameTable:
    """Return the table for Hugging Face's files."""
    ignored = (
        (r"(model\.)?decoder\..*", _DECODER),
        (r"proj_out\.weight", _DECODER),
    )
    leaves = leaves_of(replace(config, key_bias=False))
    return NameTable(named(_RULES, leaves), ("model.encoder.", "encoder."), ignored=ignored)


def ctranslate2_names(config: WhisperConfig) -> NameTable:
    """Return the table for CTranslate2's files: query, key and value fused, and with them a key's bias, of zeros."""
    dotted = named(_CTRANSLATE2, leaves_of(replace(config, key_bias=True)))
    names = tuple(replace(name, key=name.key.replace(".", "/")) for name in dotted)
    ignored = (
        (r"decoder/.*", _DECODER),
        (r"encoder/(layer_\d+/self_attention/)?num_heads", "a number of the config"),
        (r"(alignment_heads|lang_ids|suppress_ids).*", "settings of decoding"),
    )
    return NameTable(names, ignored=ignored)


def whisper_from_hf(raw: Mapping[str, Any]) -> WhisperConfig:
    """Read Hugging Face's ``config.json``; what this family cannot represent is an error that names the field."""
    if raw.get("scale_embedding"):
        raise TransferlabError("config.json: scale_embedding is true; Whisper's published files have it false.")
    return WhisperConfig(**present_fields(WhisperConfig, raw, without=("key_bias",)))


def _to_hf(config: WhisperConfig, head: HeadConfig | None) -> tuple[dict[str, Any], NameTable]:
    """What ``WhisperForAudioClassification`` is; of the encoder alone transformers has no class."""
    if head is None:
        raise TransferlabError(
            "transformers has no class of Whisper's encoder alone. Keep it as it is: tl.save(source, directory, format='orbax')."
        )
    raw = {"model_type": "whisper", **asdict(config)}
    del raw["key_bias"]
    return description("Whisper", "AudioClassification", raw, whisper_names(config), head, prefix="encoder.")


def _projection(config: WhisperConfig) -> HiddenLayer:
    """The projection of transformers' classifier. It projects before it pools; the mean of what is projected is the same."""
    return HiddenLayer("linear", stddevs=(config.init_std,) * 2, size=config.classifier_proj_size)


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
    head_pooling=lambda config: "weighted stages" if config.use_weighted_layer_sum else "mean",
    head_hidden=_projection,
    head_fields=("classifier_proj_size", "use_weighted_layer_sum"),
    to_hf=_to_hf,
)
