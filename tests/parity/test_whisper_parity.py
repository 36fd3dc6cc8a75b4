"""Whisper's encoder and its spectrograms against transformers' own, and tiny.en's real weights put into both."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.comparison import compare
from support.typed import as_audio
from test_bert_parity import randomised

import transferlab as tl
from transferlab import trees
from transferlab.data import AudioTransform
from transferlab.models import WhisperConfig
from transferlab.pretrained.families.whisper import whisper_names
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")


near = partial(compare, family="Whisper encoder", form="transformers", what="hidden", tolerance=1e-5, floor=0.0)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


SIZES = {
    "twelve layers": {"d_model": 24, "encoder_layers": 12, "encoder_attention_heads": 3, "encoder_ffn_dim": 40,
                      "num_mel_bins": 80, "max_source_positions": 50},
    "one head, 128 bands, tanh gelu": {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 1,
                                       "encoder_ffn_dim": 70, "num_mel_bins": 128, "max_source_positions": 31,
                                       "activation_function": "gelu_new"},
}  # fmt: skip
DECODER = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 8, "vocab_size": 30, "pad_token_id": 0,
           "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip


def encoded(model, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.get_encoder()(torch.tensor(features).transpose(1, 2)).last_hidden_state.numpy()


@pytest.mark.parametrize("size", SIZES)
def test_encoder_states_equal_transformers_in_both_directions(size: str, tmp_path: Path) -> None:
    config = transformers.WhisperConfig(**SIZES[size], **DECODER)
    model = randomised(transformers.WhisperForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    source = tl.load(tmp_path)
    assert source.unused and all("the encoder is the backbone" in why for _, why in source.unused)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 2 * config.max_source_positions, config.num_mel_bins)).astype(np.float32)
    near(source({"input_features": features})["hidden"], encoded(model, features))
    leaves = {path: leaf.read() + np.float32(0.01) for path, leaf in source.leaves.items()}
    mine = {f"model.encoder.{key}": tensor for key, tensor in to_file(whisper_names(source.config), leaves).items()}
    rest = {
        key: x.numpy() for key, x in model.state_dict().items() if ".encoder." not in key and key != "proj_out.weight"
    }
    save_file(mine | rest, tmp_path / "model.safetensors", {"format": "pt"})
    again = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    near(encoded(again, features), tl.load(tmp_path)({"input_features": features})["hidden"], way="written")


@pytest.mark.parametrize("weighted", [True, False])
def test_the_encoder_of_transformers_classifier_is_read(weighted: bool, tmp_path: Path) -> None:
    size = SIZES["one head, 128 bands, tanh gelu"]
    config = transformers.WhisperConfig(**size, **DECODER, classifier_proj_size=6, use_weighted_layer_sum=weighted)
    model = randomised(transformers.WhisperForAudioClassification(config))
    model.save_pretrained(tmp_path)
    source = tl.load(tmp_path)
    heads = {f"{name}.{part}" for name in ("projector", "classifier") for part in ("weight", "bias")}
    assert {key for key, _ in source.unused} == heads | ({"layer_weights"} if weighted else set())
    features = np.random.default_rng(0).normal(size=(2, 62, 128)).astype(np.float32)
    near(source({"input_features": features})["hidden"], encoded(model, features))


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("seconds", [0.3, 7.7, 30.0, 41.0])
def test_spectrograms_equal_those_of_transformers_frame_by_frame(bands: int, seconds: float, tmp_path: Path) -> None:
    extractor = transformers.WhisperFeatureExtractor(feature_size=bands)
    rng, time = np.random.default_rng(int(seconds)), np.arange(int(seconds * 16000)) / 16000
    audio = 0.3 * np.sin(2 * np.pi * (200 + 40 * time) * time) + 0.01 * rng.normal(size=len(time))
    audio = audio.astype(np.float32)
    got = AudioTransform(bands)(audio)
    theirs = extractor(audio, sampling_rate=16000, return_tensors="np")["input_features"][0].T
    assert got.shape == theirs.shape == (3000, bands)
    # transformers computes in float32 where it has torch, to 1e-5 by its own word; its numpy path equals ours up to rounding.
    near(got, theirs, what="input", tolerance=1e-4)
    padded = np.zeros((1, 480000), np.float32)
    padded[0, : len(audio)] = audio[:480000]
    plain = extractor._np_extract_fbank_features(padded, "cpu")[0].T
    near(got, plain, what="input", tolerance=5e-6)


def test_a_saved_feature_extractor_is_read(tmp_path: Path) -> None:
    from transferlab.pretrained.families.whisper import read_audio

    transformers.WhisperFeatureExtractor(feature_size=128, chunk_length=10).save_pretrained(tmp_path)
    assert read_audio(tmp_path) == AudioTransform(128, seconds=10.0)


@pytest.mark.network
def test_tiny_en_from_ctranslate2_equals_transformers_with_the_same_weights() -> None:
    """Half-precision weights, in float32 in both; the key's bias, which transformers lacks, is zero."""
    source = tl.load("whisper-tiny.en")
    leaves = {path: leaf.read().astype(np.float32) for path, leaf in source.leaves.items()}
    assert all(not x.any() for path, x in leaves.items() if path.endswith("attention/key/bias"))
    assert trees.count(source.params) == 8_208_384 + 4 * 384
    config = transformers.WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536,
                                        **DECODER)  # fmt: skip
    model = transformers.WhisperModel(config).eval()
    state = to_file(whisper_names(WhisperConfig.tiny()), leaves)
    missing = model.encoder.load_state_dict({key: torch.tensor(x) for key, x in state.items()}, strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    time = np.arange(480000) / 16000
    audio = 0.2 * np.sin(2 * np.pi * 220 * time) * (np.sin(2 * np.pi * 3 * time) > 0)
    features = as_audio(source.transform)(audio)[None]
    got, want = np.asarray(source({"input_features": features})["hidden"]), encoded(model, features)
    near(got, want, family="Whisper encoder (published weights)", form="CTranslate2", tolerance=1e-4)
    assert np.isfinite(got).all() and 0.1 < got.std() < 10
