"""Numbers of fields: one out of bounds is refused wherever it comes from, and the error names its file, field and bounds."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_decoder, write_vit

import transferlab as tl
from transferlab.bounds import Bounds
from transferlab.data.audio import AudioTransform
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError
from transferlab.evaluate.generation import Sampling
from transferlab.fields import _declared, _item, _number
from transferlab.methods import METHODS
from transferlab.models.causal import Rope
from transferlab.models.heads import ClassifierConfig, HiddenLayer, LanguageModelConfig
from transferlab.pretrained.families import FAMILIES
from transferlab.train import Optimizer, Settings
from transferlab.transfer.groups import Group

NAN, INF = float("nan"), float("inf")
MADE = (
    *(family.config.base() if hasattr(family.config, "base") else next(iter(family.sizes.values()))()
      for family in FAMILIES.values()),
    ClassifierConfig(("a", "b")), HiddenLayer("gelu", norm=1e-5), LanguageModelConfig(), Rope(), Settings(), Optimizer(),
    Sampling(), Group("head"), ImageTransform(8, (0.5,), (0.5,)), AudioTransform(),
    *(method() for method in METHODS.values()),
)  # fmt: skip


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_a_value_that_is_not_a_number_is_refused_in_every_number_field(made: Any) -> None:
    declared = _declared(type(made))
    assert len(declared) >= len(fields(made))  # every field's type is known, so none is passed over
    for name, parts, _ in declared:
        for part in parts:
            if (number := _number(part)) is not None:
                # What is of another type is found in tests/test_errors.py: here annotations are checked before.
                least = number[1].least
                wrongs = [NAN, INF, -INF] if number[0] is float else [int(least) - 1] if least > -INF else []
            elif (number := _item(part)) is not None:
                wrongs = [(NAN,)] if number[0] is float else [(0,)] if number[1].least == 1 else []
            else:
                continue
            for wrong in wrongs:
                with pytest.raises(TransferlabError, match=rf"{name}(\[0\])? is .*; it must be "):
                    replace(made, **{name: wrong})


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "said"),
    [
        (Bounds(1.0), (1, 2.5), (0, 0.9, INF, NAN), "at least 1"),
        (Bounds(0.0, above=True), (1e-300,), (0.0, -0.0, INF), "greater than 0"),
        (Bounds(0.0, 1.0, below=True), (0, 0.999), (1.0, -1e-9), "from 0 to below 1"),
        (Bounds(0.0, 1.0), (0, 1), (1.0001,), "from 0 to 1"),
        (Bounds(0.0, 1.0, above=True), (1,), (0, 2), "greater than 0 and at most 1"),
        (Bounds(0.0, 1.0, above=True, below=True), (0.5,), (0, 1), "greater than 0 and below 1"),
        (Bounds(), (-1e300,), (-INF,), "a finite number"),
    ],
)
def test_bounds_contain_the_numbers_that_they_state(bounds: Bounds, inside: tuple, outside: tuple, said: str) -> None:
    assert all(map(bounds.holds, inside)) and not any(map(bounds.holds, outside))
    assert str(bounds) == said


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tl.models.BertConfig(layer_norm_eps=0.0), "BertConfig: layer_norm_eps is 0.0; it must be greater than 0"),
        (lambda: tl.models.BertConfig(hidden_dropout_prob=2.0), "hidden_dropout_prob is 2.0; it must be from 0 to below 1"),
        (lambda: tl.models.BertConfig(initializer_range=-0.1), "initializer_range is -0.1; it must be at least 0"),
        (lambda: tl.models.EfficientNetConfig(width=0.0), "width is 0.0; it must be greater than 0"),
        (lambda: Rope(rope_theta=-1.0), "Rope: rope_theta is -1.0; it must be greater than 0"),
        (lambda: Rope(500000.0, "llama3", 8.0, 4.0, 4.0), "low_freq_factor 4.0 must be below high_freq_factor 4.0"),
        (lambda: tl.models.LlamaConfig(final_logit_softcapping=0.0), "final_logit_softcapping is 0.0"),
        (lambda: ImageTransform(8, (0.5,), (0.5, 0.0, 0.5)), "std[1] is 0.0; it must be greater than 0"),
        (lambda: ImageTransform(8, (NAN,), (1.0,)), "mean[0] is nan; it must be a finite number"),
        (lambda: tl.methods.LoRA(rank=0), "rank is 0; it must be at least 1"),
        (lambda: Settings(epochs=0), "epochs is 0; it must be at least 1"),
        (lambda: Settings(steps=0), "steps is 0; it must be at least 1"),
        (lambda: Settings(learning_rate=NAN), "learning_rate is nan; it must be greater than 0"),
        (lambda: Settings(checkpoint_seconds=INF), "checkpoint_seconds is inf; it must be at least 0 and finite"),
        (lambda: Settings(ema=1.0), "ema is 1.0; it must be greater than 0 and below 1"),
        (lambda: Settings(warmup=1.5), "warmup is 1.5; it must be from 0 to 1"),
        (lambda: Settings(label_smoothing=1.0), "label_smoothing is 1.0; it must be from 0 to below 1"),
        (lambda: Optimizer(clip_norm=-1.0), "clip_norm is -1.0; it must be greater than 0"),
        (lambda: Group("head", lr_scale=-1.0), "The group 'head': lr_scale is -1.0; it must be at least 0"),
        (lambda: Sampling(temperature=NAN), "temperature is nan; it must be at least 0"),
    ],
)  # fmt: skip
def test_a_number_out_of_its_bounds_is_refused_in_python(make: Any, said: str) -> None:
    with pytest.raises(TransferlabError) as error:
        make()
    assert said in str(error.value)


def _with(folder: Path, file: str, **changes: Any) -> Path:
    path = folder / file
    raw = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**raw, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_norm_eps": NAN}, "layer_norm_eps is nan; it must be greater than 0"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps is -1e-12; it must be greater than 0"),
        ({"hidden_dropout_prob": 2}, "hidden_dropout_prob is 2.0; it must be from 0 to below 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be at least 1"),
    ],
)
def test_a_number_of_config_json_out_of_its_bounds_is_refused(
    changes: dict, said: str, bert_folder: Path, tmp_path: Path
) -> None:
    folder = _with(shutil.copytree(bert_folder, tmp_path / "bert"), "config.json", **changes)
    with pytest.raises(TransferlabError) as error:
        tl.load(folder)
    assert str(error.value).startswith(f"{folder / 'config.json'}: BertConfig: {said}")


def test_a_number_of_a_decoder_out_of_its_bounds_is_refused(tmp_path: Path) -> None:
    for kind, changes, said in (
        ("llama", {"rope_theta": -1.0}, "rope_theta is -1.0"),
        ("gemma", {"attn_logit_softcapping": INF}, "attn_logit_softcapping is inf"),
        ("gpt2", {"layer_norm_epsilon": 0.0}, "layer_norm_epsilon is 0"),
    ):
        write_decoder(tmp_path / kind, kind)
        folder = _with(tmp_path / kind, "config.json", **changes)
        with pytest.raises(TransferlabError, match=rf"config\.json: .*{said}.*; it must be greater than 0"):
            tl.load(folder)


def test_a_number_of_preprocessing_out_of_its_bounds_is_refused(tmp_path: Path) -> None:
    write_vit(tmp_path / "vit", "vit")
    for changes, said in (
        ({"image_std": [0.5, 0.0, 0.5]}, r"std\[1\] is 0"), ({"image_mean": [NAN, 0, 0]}, r"mean\[0\] is nan"),
        ({"rescale_factor": -1}, "rescale_factor is -1"),
    ):  # fmt: skip
        size = {"height": 16, "width": 16}
        folder = _with(
            shutil.copytree(tmp_path / "vit", tmp_path / said[:4]), "preprocessor_config.json", size=size, **changes
        )
        with pytest.raises(TransferlabError, match=rf"preprocessor_config\.json: .*{said}.*; it must be"):
            tl.load(folder)
    write_vit(tmp_path / "timm", "timm")
    raw = json.loads((tmp_path / "timm" / "config.json").read_text())
    folder = _with(tmp_path / "timm", "config.json", pretrained_cfg={**raw["pretrained_cfg"], "std": [0.0, 0.5, 0.5]})
    with pytest.raises(TransferlabError, match=r"/config\.json: ImageTransform: std\[0\] is 0\.0; it must be greater"):
        tl.load(folder)


def test_a_number_of_our_own_description_out_of_its_bounds_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    saved = tl.save(tl.load(bert_folder), tmp_path / "saved", format="orbax")
    path = Path(saved) / "transferlab.json"
    raw = json.loads(path.read_text())
    raw["config"]["layer_norm_eps"] = -1.0
    path.write_text(json.dumps(raw))
    with pytest.raises(TransferlabError, match=r"transferlab\.json: BertConfig: layer_norm_eps is -1\.0"):
        tl.load(saved)


def test_an_out_of_bounds_number_of_a_config_file_is_named_by_its_path() -> None:
    from transferlab.config import parse_config

    raw = {"source": "minilm-l6", "data": "tweets", "methods": {"lora": {"rank": 0}}, "budgets": (8,), "seeds": (0,)}
    with pytest.raises(TransferlabError, match=r"config\.methods\.lora\.rank is 0; it must be at least 1"):
        parse_config(raw)
    raw["methods"] = {"lora": {}}
    with pytest.raises(
        TransferlabError, match=r"config\.methods\.lora\.train\.learning_rate is nan; it must be greater"
    ):
        parse_config({**raw, "train": {"learning_rate": NAN}})


def test_an_infinite_weight_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    source = tl.load(bert_folder)
    bias = np.zeros(16, np.float32)
    bias[3] = -np.inf
    with pytest.raises(
        TransferlabError, match=r"'pooler\.dense\.bias' holds an infinity; every weight must be a finite"
    ):
        source.with_params({"pooler": {"bias": bias}}).module()
    folder = shutil.copytree(bert_folder, tmp_path / "infinite")
    tensors = load_file(str(folder / "model.safetensors"))
    tensors["encoder.layer.0.output.dense.bias"][0] = np.inf
    save_file(tensors, str(folder / "model.safetensors"))
    with pytest.raises(TransferlabError, match=r"model\.safetensors: 'encoder\.layer\.0.* holds an infinity"):
        tl.load(folder).module()


def test_a_weight_beyond_float16_is_refused(source, bert_folder: Path) -> None:
    wide = source.with_params({"pooler": {"bias": np.full(16, 1e6, np.float32)}})
    with pytest.raises(TransferlabError, match=r"'pooler\.dense\.bias' has values beyond the range of float16"):
        wide.module("float16")


def test_a_float64_beyond_float32_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(bert_folder, tmp_path / "wide")
    tensors = load_file(str(folder / "model.safetensors"))
    key = "encoder.layer.0.output.dense.bias"
    tensors[key] = np.full(tensors[key].shape, 1e300)
    save_file(tensors, str(folder / "model.safetensors"))
    wide = tl.load(folder)
    with pytest.raises(
        TransferlabError, match=rf"model\.safetensors: '{key}' has values beyond the range of float32\."
    ):
        wide.module()
    with pytest.raises(TransferlabError, match=r"bias' has values beyond the range of float32\."):
        tl.save(wide, tmp_path / "saved", dtype="float32")
    # Nor is an infinity written to a float16 file; the dtype that the error names can hold the value.
    tl.save(tl.load(bert_folder), tmp_path / "half", dtype="float16")
    bias = {"pooler": {"bias": np.full(16, 1e6, np.float32)}}
    with pytest.raises(TransferlabError, match=r"beyond the range of float16; write it with dtype='bfloat16'"):
        tl.save(tl.load(tmp_path / "half"), tmp_path / "saved", params=bias)
    out = tl.save(tl.load(tmp_path / "half"), tmp_path / "saved", params=bias, dtype="bfloat16")
    assert tl.load(out).leaves["pooler/bias"].read()[0] == np.float32(999424)


def test_a_nan_weight_is_not_saved(bert_folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(bert_folder, tmp_path / "nan")
    tensors = load_file(str(folder / "model.safetensors"))
    tensors["encoder.layer.0.output.dense.bias"][0] = np.nan
    save_file(tensors, str(folder / "model.safetensors"))
    with pytest.raises(TransferlabError, match=r"model\.safetensors: 'encoder\.layer\.0.* holds NaN; every weight"):
        tl.save(tl.load(folder), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("scale", [np.inf, np.nan])
def test_an_impossible_scale_of_quantized_weights_is_refused(scale: float, tmp_path: Path) -> None:
    from transferlab.pretrained.formats.gguf import read_gguf
    from transferlab.pretrained.leaves import LazyLeaf
    from transferlab.pretrained.names import SAME

    name = b"q8"
    block = np.float16(scale).tobytes() + bytes(range(1, 33))
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", len(name)) + name
    head += struct.pack("<IQIQ", 1, 32, 8, 0)
    path = tmp_path / "model.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + block + bytes(-len(block) % 32))
    leaf = LazyLeaf("q8", read_gguf(path).tensors["q8"], SAME)
    with pytest.raises(TransferlabError, match=r"model\.gguf: 'q8' holds "):
        leaf.read()


def test_a_length_of_zero_is_refused(source) -> None:
    with pytest.raises(TransferlabError, match="max_length is 0; it must be at least 1"):
        TextTransform(source.tokenizer, 0)


@pytest.mark.parametrize("form", ["hf", "orbax"])
def test_a_weight_beyond_float16_is_not_written_as_an_infinity(form: str, source, tmp_path: Path) -> None:
    wide = source.with_params({"pooler": {"bias": np.full(16, 1e6, np.float32)}})
    with pytest.raises(TransferlabError, match=r"'pooler\.dense\.bias' has values beyond the range of float16"):
        tl.save(wide, tmp_path / "saved", format=form, dtype="float16")
    assert not (tmp_path / "saved").exists()
