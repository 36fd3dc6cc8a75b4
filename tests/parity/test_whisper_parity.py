"""Whisper's encoder and its spectrograms against transformers' own, and tiny.en's real weights put into both."""

from __future__ import annotations

from dataclasses import replace
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
from transferlab.methods.adapted import Adapted
from transferlab.models import ClassifierConfig, WhisperConfig
from transferlab.pretrained.families.whisper import whisper_names
from transferlab.pretrained.names import to_file
from transferlab.pretrained.peft import Pair
from transferlab.train.setup import plan_for

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


LABELS = ("bark", "meow", "moo")
SMALL = SIZES["one head, 128 bands, tanh gelu"]
three = partial(near, what="logits")


def classifier(folder: Path, **changes):
    """transformers' classifier with random weights, in a directory."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    config = transformers.WhisperConfig(**SMALL, **DECODER, **labels, **changes)
    model = randomised(transformers.WhisperForAudioClassification(config))
    if changes.get("use_weighted_layer_sum"):
        torch.nn.init.normal_(model.layer_weights)
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=128, chunk_length=1).save_pretrained(folder)
    return model


def logits_of(model, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(features).transpose(1, 2)).logits.numpy()


def batch() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 62, 128)).astype(np.float32)


@pytest.mark.parametrize("weighted", [True, False])
def test_transformers_classifier_is_read_with_its_head_and_written_back(weighted: bool, tmp_path: Path) -> None:
    model = classifier(tmp_path / "theirs", classifier_proj_size=6, use_weighted_layer_sum=weighted)
    source = tl.load(tmp_path / "theirs")
    assert not source.unused and source.labels == LABELS
    near(source({"input_features": batch()})["hidden"], encoded(model, batch()))
    three(source({"input_features": batch()})["logits"], logits_of(model, batch()))
    # With other weights, in both directions.
    leaves = {path: leaf.read() + np.float32(0.01) for path, leaf in source.leaves.items()}
    changed = source.with_params(trees.unflatten(leaves))
    kind = transformers.WhisperForAudioClassification
    again, said = kind.from_pretrained(tl.save(changed, tmp_path / "ours"), output_loading_info=True)
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    three(logits_of(again, batch()), changed({"input_features": batch()})["logits"], way="written")


@pytest.mark.parametrize("method", [tl.methods.LoRA(), tl.methods.Probe()], ids=lambda method: method.name)
@pytest.mark.parametrize("base", ["generation", "model", "classifier", "weighted classifier", "CTranslate2"])
def test_a_classifier_of_sounds_has_the_same_logits_in_transformers(base: str, method, tmp_path: Path) -> None:
    config = transformers.WhisperConfig(**SMALL, **DECODER)
    if "classifier" in base:
        classifier(tmp_path / "base", use_weighted_layer_sum=base.startswith("weighted"))
    elif base == "model":
        randomised(transformers.WhisperModel(config)).save_pretrained(tmp_path / "base")
    else:
        randomised(transformers.WhisperForConditionalGeneration(config)).save_pretrained(tmp_path / "base")
    source = tl.load(tmp_path / "base")
    if base == "CTranslate2":
        # Whose keys have a bias, and which comes without a config of transformers.
        rng = np.random.default_rng(1)
        module = trees.define(replace(source.config, key_bias=True).build())
        leaves = {path: leaf.read() for path, leaf in source.leaves.items()}
        leaves |= {path: rng.normal(size=leaf.shape).astype(np.float32)
                   for path, leaf in trees.flatten(module.params).items() if path not in leaves}  # fmt: skip
        file = tl.save(tl.load(tmp_path / "base"), tmp_path / "orbax", format="orbax")
        made = tl.load(file)
        config = replace(source.config, key_bias=True)
        source = replace(made, config=config, raw=None, names=None, tensors={}).with_params(trees.unflatten(leaves))
    made, rng = plan_for(source, ("no", "yes", "perhaps"), method), np.random.default_rng(0)
    head = {path: rng.normal(size=leaf.shape).astype(np.float32) * 0.3
            for path, leaf in trees.flatten(made.network.params).items() if path.startswith("head/")}  # fmt: skip
    source = source.with_params(trees.unflatten(head), head=made.head)
    hidden = made.head.hidden if isinstance(made.head, ClassifierConfig) else None
    assert hidden is None if method.linear_head else hidden is not None and hidden.size == 256
    out = tl.save(source, tmp_path / "out", format="hf")
    kind = transformers.AutoModelForAudioClassification
    model, said = kind.from_pretrained(out, output_loading_info=True)
    assert type(model) is transformers.WhisperForAudioClassification
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    assert model.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
    three(logits_of(model, batch()), source({"input_features": batch()})["logits"], way="written")
    assert tl.load(out).labels == ("no", "yes", "perhaps")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(out)
    assert extractor.feature_size == 128 and as_audio(tl.load(out).transform) == as_audio(source.transform)


def test_an_adapter_with_its_classifier_of_sounds_is_the_same_in_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    classifier(tmp_path / "base")
    source, rng = tl.load(tmp_path / "base"), np.random.default_rng(0)
    made = plan_for(source, LABELS[:2], tl.methods.LoRA())
    head = {path: rng.normal(size=leaf.shape).astype(np.float32) * 0.3
            for path, leaf in trees.flatten(made.network.params).items() if path.startswith("head/")}  # fmt: skip
    path = "layers/1/attention/query/kernel"
    pair = Pair(rng.normal(size=(16, 2)).astype(np.float32), rng.normal(size=(2, 16)).astype(np.float32), 0.5)
    adapted = Adapted(source.with_params(trees.unflatten(head), head=made.head), {path: pair})
    adapted.save_adapter(tmp_path / "adapter")
    kind = transformers.WhisperForAudioClassification
    theirs = peft.PeftModel.from_pretrained(kind.from_pretrained(tmp_path / "base", num_labels=2, ignore_mismatched_sizes=True), tmp_path / "adapter")  # fmt: skip
    want = adapted({"input_features": batch()})["logits"]
    three(logits_of(theirs.get_base_model(), batch()), want, form="PEFT", way="written")
    three(tl.load_adapter(tmp_path / "adapter")({"input_features": batch()})["logits"], want, form="PEFT")


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
