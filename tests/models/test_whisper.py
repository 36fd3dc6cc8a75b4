"""Whisper's encoder without transformers: sizes, stages, shapes, dtype, training, bad configs; and its spectrograms."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from support.typed import as_audio

import transferlab as tl
from transferlab import trees
from transferlab.data import AudioTransform
from transferlab.data.audio import mel_filters
from transferlab.errors import TransferlabError
from transferlab.models import ClassifierConfig, WhisperConfig, run_stages
from transferlab.models.backbone import check_ownership
from transferlab.models.heads import HiddenLayer
from transferlab.pretrained.families.whisper import ctranslate2_names, read_audio, whisper_from_hf, whisper_names
from transferlab.pretrained.names import to_file

TINY = WhisperConfig(12, 2, 3, 20, num_mel_bins=5, max_source_positions=8, dropout=0.1, init_std=0.3)
RAW = {"model_type": "whisper", "d_model": 12, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 20,
       "num_mel_bins": 5, "max_source_positions": 8}  # fmt: skip
FEATURES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 5)), jnp.float32)


def leaves_of(config: WhisperConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build()).params)
    return {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}


@pytest.fixture(scope="module")
def definition():
    return trees.define(TINY.build())


@pytest.fixture(scope="module")
def params(definition):
    return trees.unflatten(definition.initialise(trees.flatten(definition.params), jax.random.key(0)))


def test_weighted_stages_are_a_mean_by_a_softmax_of_their_weights_then_projected() -> None:
    hidden = HiddenLayer("linear", size=7)
    head = ClassifierConfig(("a", "b", "c"), pooling="weighted stages", hidden=hidden)
    definition = trees.define(TINY.build(head))
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(0, 0.3, leaf.shape) for path, leaf in trees.flatten(definition.params).items()}
    assert flat["head/layer_weights"].shape == (3,) and flat["head/dense/kernel"].shape == (12, 7)
    model = definition.merge(trees.unflatten({path: jnp.asarray(x, jnp.float32) for path, x in flat.items()}))
    stages, carry = [stage.name for stage in model.backbone_stages()], {"input_features": FEATURES}
    # The embeddings, all layers but the last, and the last after the norm.
    means = [np.asarray(run_stages(model, carry, 0, stages.index(name) + 1)["hidden"]).mean(1) for name in ("embed", "layers/0", "norm")]  # fmt: skip
    weights = np.exp(flat["head/layer_weights"]) / np.exp(flat["head/layer_weights"]).sum()
    pooled = np.einsum("s,sbf->bf", weights, np.stack(means))
    want = (pooled @ flat["head/dense/kernel"] + flat["head/dense/bias"]) @ flat["head/kernel"] + flat["head/bias"]
    np.testing.assert_allclose(model(carry)["logits"], want, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (WhisperConfig.tiny(), 8_208_384),
        (WhisperConfig.base(), 20_590_592),
        (WhisperConfig.small(), 88_154_112),
        (WhisperConfig.medium(), 307_216_384),
        (WhisperConfig.large_v3(), 636_968_960),
    ],
)
def test_a_published_size_has_its_number_of_parameters(config: WhisperConfig, parameters: int) -> None:
    """As transformers' WhisperEncoder counts them, positions included."""
    assert trees.count(trees.define(config.build()).params) == parameters


@pytest.fixture(scope="module")
def hidden(definition, params):
    """The whole model, compiled once for each shape, and once for training."""
    return jax.jit(lambda features, key=None: definition.merge(params)({"input_features": features}, key)["hidden"])


def test_every_leaf_has_exactly_one_stage_and_parts_are_the_whole(definition, params, hidden) -> None:
    model = definition.merge(params)
    stages = model.all_stages()
    check_ownership(stages, trees.flatten(definition.params))
    whole = hidden(FEATURES)
    assert whole.shape == (2, 8, 12)

    @jax.jit
    def in_parts(features):
        return run_stages(model, run_stages(model, {"input_features": features}, 0, 2), 2, len(stages))["hidden"]

    np.testing.assert_allclose(in_parts(FEATURES), whole, atol=1e-6)
    assert hidden(FEATURES[:, :10]).shape == (2, 5, 12)
    for wrong in (FEATURES[..., :4], jnp.zeros((1, 18, 5))):
        with pytest.raises(TransferlabError, match="up to 16 frames and 5 bands"):
            model({"input_features": wrong})


def test_training_draws_and_bfloat16_stays_close(definition, params, hidden) -> None:
    want = np.asarray(hidden(FEATURES))
    assert np.abs(np.asarray(hidden(FEATURES, jax.random.key(0))) - want).max() > 1e-3
    low = definition.merge(trees.cast(params, jnp.bfloat16), compute=jnp.bfloat16)
    got = jax.jit(lambda x: low({"input_features": x})["hidden"])(FEATURES.astype(jnp.bfloat16))
    assert got.dtype == jnp.bfloat16 and np.abs(np.asarray(got, np.float32) - want).max() < 0.1 * np.abs(want).max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_attention_heads": 5}, "d_model 12 is not an even multiple of encoder_attention_heads 5"),
        ({"activation_function": "geluu"}, "unknown activation_function"),
        ({"num_mel_bins": 0}, "num_mel_bins is 0"),
    ],
)
def test_an_impossible_config_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        replace(TINY, **changes)
    with pytest.raises(TransferlabError, match=message):
        whisper_from_hf({**RAW, **changes})


# Directories -----------------------------------------------------------------------------------------------------


def test_a_directory_keeps_its_values_and_reports_its_unused_decoder(tmp_path: Path) -> None:
    leaves = leaves_of(replace(TINY, dropout=0.0))
    tensors = {f"model.encoder.{key}": x for key, x in to_file(whisper_names(TINY), leaves).items()}
    more = {"model.decoder.layers.0.fc1.bias": np.zeros(3, np.float32), "proj_out.weight": np.zeros((3, 3), np.float32)}
    (tmp_path / "config.json").write_text(json.dumps(RAW))
    save_file(tensors | more, str(tmp_path / "model.safetensors"))
    source = tl.load(tmp_path)
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(source.leaves[path].read(), leaf, err_msg=path)
    assert {key for key, _ in source.unused} == set(more)
    assert all("the encoder is the backbone" in why for _, why in source.unused)
    assert (source.modality, source.transform) == ("audio", AudioTransform(5, seconds=0.16))
    audio = np.random.default_rng(0).normal(size=2000)
    got = source({"input_features": as_audio(source.transform)(audio)[None]})
    assert got["pooled"].shape == (1, 12)
    with pytest.raises(TransferlabError, match="scale_embedding is true"):
        whisper_from_hf({**RAW, "scale_embedding": True})


def write_ctranslate2(path: Path, tensors: dict[str, np.ndarray], version: int = 6, extra: bytes = b"") -> bytes:
    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    out = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, x in tensors.items():
        out += text(name) + struct.pack(f"<B{x.ndim}I", x.ndim, *x.shape)
        out += struct.pack("<BI", kinds[str(x.dtype)], x.nbytes) + x.tobytes()
    out += struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight") + extra
    path.write_bytes(out)
    return out


def fused_file() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    config = replace(TINY, key_bias=True)
    leaves = leaves_of(config)
    tensors = {key: x.astype(np.float16) for key, x in to_file(ctranslate2_names(config), leaves).items()}
    more = {"decoder/embeddings/weight": np.zeros((4, 12), np.float16), "encoder/num_heads": np.array(3, np.int16)}
    return leaves, tensors | more


def test_a_ctranslate2_file_is_cut_in_its_order(tmp_path: Path) -> None:
    leaves, tensors = fused_file()
    write_ctranslate2(tmp_path / "model.bin", tensors)
    source = tl.load(tmp_path / "model.bin", config=TINY)
    assert source.config.key_bias
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(source.leaves[path].read(), leaf.astype(np.float16), err_msg=path)
    assert {key for key, _ in source.unused} == {"decoder/embeddings/weight", "decoder/projection/weight",
                                                 "encoder/num_heads"}  # fmt: skip
    made = tl.load(tmp_path / "model.bin", config=TINY).definition.module
    assert made.config.build(ClassifierConfig(("a", "b"))).head.kernel.shape == (12, 2)


def test_a_broken_ctranslate2_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    whole = write_ctranslate2(path, fused_file()[1])
    for cut in range(20, len(whole) - 1, 397):
        path.write_bytes(whole[:cut])
        with pytest.raises(TransferlabError, match="not a readable CTranslate2 file"):
            tl.load(path, config=TINY)
    name = whole.index(b"encoder/conv1/bias\0") + len(b"encoder/conv1/bias\0")
    for at, byte, said in (
        (name, 9, "has 9 axes"),
        (name + 1, 200, "takes 400 bytes, not 24"),
        (name + 5, 9, "unknown type 9"),
        (0, 5, "version 5 is not supported, expected 6"),
    ):
        path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
        with pytest.raises(TransferlabError, match=said):
            tl.load(path, config=TINY)


# Spectrograms ----------------------------------------------------------------------------------------------------


def test_a_tone_is_in_its_mel_band() -> None:
    transform = AudioTransform(seconds=1.0)
    time = np.arange(16000) / 16000
    filters = mel_filters(80, 201, 16000)
    for hertz in (200.0, 1000.0, 3000.0):
        bands = transform(np.sin(2 * np.pi * hertz * time))
        assert bands.shape == (100, 80) and bands.dtype == np.float32
        assert (bands[10:-10].argmax(1) == filters[round(hertz / 40)].argmax()).all()


def test_audio_is_padded_with_silence_and_cut_at_its_end() -> None:
    transform = AudioTransform(seconds=1.0)
    audio = np.random.default_rng(0).normal(size=20000)
    np.testing.assert_array_equal(transform(audio), transform(audio[:16000]))
    short = transform(audio[:8000])
    np.testing.assert_array_equal(short, transform(np.concatenate([audio[:8000], np.zeros(8000)])))
    assert (short[60:] == short.min()).all() and np.ptp(short) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(10), 8000, "8000 samples per second; this model reads 16000"),
        (np.zeros(0), None, "no samples"),
        (np.array([0.0, np.nan]), None, "not finite"),
    ],
)
def test_audio_that_cannot_be_read_is_refused(audio: np.ndarray, rate: int | None, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        AudioTransform()(audio, rate)


def test_a_feature_extractors_fields_are_honored(films, tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"feature_size": 128, "chunk_length": 10, "mel_filters": [[0.0]]}))
    assert read_audio(tmp_path) == AudioTransform(128, seconds=10.0)
    path.write_text(json.dumps({"dither": 0.1}))
    with pytest.raises(TransferlabError, match=r"dither 0\.1 is not supported"):
        read_audio(tmp_path)
    path.write_text(json.dumps({"feature_extractor_type": "Wav2Vec2FeatureExtractor"}))
    with pytest.raises(TransferlabError, match="'Wav2Vec2FeatureExtractor' is not"):
        read_audio(tmp_path)
    # Today's layout is read first.
    nested = {"feature_extractor": {"feature_size": 128, "chunk_length": 20}, "processor_class": "WhisperProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert read_audio(tmp_path) == AudioTransform(128, seconds=20.0)
    (tmp_path / "processor_config.json").unlink()
    path.unlink()
    (tmp_path / "config.json").write_text(json.dumps(RAW))
    save_file(to_file(whisper_names(TINY), leaves_of(TINY)), str(tmp_path / "model.safetensors"))
    with pytest.raises(TransferlabError, match="contains texts, but the source reads audio"):
        tl.adapt(tl.load(tmp_path), films)
