"""State dicts as training scripts save them: wrapped, prefixed, next to others and to settings."""

from __future__ import annotations

import argparse
import json
import shutil
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_bert
from support.pickles import Global, pickled, tensors

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.pretrained.families.bert import bert_from_hf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, np.ndarray]:
    return {key: np.array(value) for key, value in load_file(folder / "model.safetensors").items()}


@pytest.fixture(scope="module")
def config(folder: Path):
    return bert_from_hf(json.loads((folder / "config.json").read_text()))


def save(path: Path, **entries: object) -> Path:
    """As ``torch.save``; arrays by name, at any depth, become tensors of one file."""
    flat: dict[str, np.ndarray] = {}

    def collect(value: object, at: str) -> None:
        for key, inner in value.items() if isinstance(value, dict) else ():
            if isinstance(inner, np.ndarray):
                flat[f"{at}/{key}"] = inner
            collect(inner, f"{at}/{key}")

    collect(entries, "")
    made, storages = tensors(flat)

    def filled(value: object, at: str) -> object:
        if isinstance(value, np.ndarray):
            return made[at]
        return {key: filled(inner, f"{at}/{key}") for key, inner in value.items()} if isinstance(value, dict) else value

    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", pickled(filled(entries, "")))
        for i, array in enumerate(storages):
            out.writestr(f"archive/data/{i}", array.tobytes())
    return path


def under(prefix: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + key: value for key, value in weights.items()}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.net.", "my_encoder.bert."],
)
@pytest.mark.parametrize("name", ["m.ckpt", "m.pth.tar", "m.pth"])
def test_a_prefix_of_a_training_script_is_the_same_model(
    prefix: str, name: str, folder: Path, weights, config, tmp_path: Path
) -> None:
    path = save(tmp_path / name, state_dict=under(prefix, weights), epoch=3)
    source = tl.load(path, config=config)
    assert source.sha256 == tl.load(folder).sha256
    # It is written with transformers' keys.
    if name == "m.pth" and prefix:
        assert set(load_file(tl.save(source, tmp_path / "out") / "model.safetensors")) == set(weights)


def test_a_prefix_within_the_keys_is_dropped_and_a_counter_is_unused(
    folder: Path, weights, config, tmp_path: Path
) -> None:
    keys = {key.replace("layer.1.", "layer.1._orig_mod."): value for key, value in under("module.", weights).items()}
    save_file({**keys, "n_averaged": np.array(3)}, str(tmp_path / "m.safetensors"))
    source = tl.load(tmp_path / "m.safetensors", config=config)
    assert source.sha256 == tl.load(folder).sha256
    assert source.unused == (("n_averaged", "the number of models in torch's AveragedModel"),)


def test_a_key_outside_the_prefix_is_refused(weights, config, tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.ckpt", state_dict={**under("model.", weights), "criterion.weight": np.ones(2, np.float32)}
    )
    with pytest.raises(TransferlabError, match=r"the file's key 'criterion\.weight' \(2,\) matches no leaf"):
        tl.load(path, config=config)


def test_another_state_dict_is_named_and_can_be_read(folder: Path, weights, config, tmp_path: Path) -> None:
    mean = {key: value + np.float32(1) for key, value in weights.items()}
    rest = {"optimizer": {"state": {0: {"exp_avg": np.ones(3, np.float32)}}}, "model_ema": {"module": mean}, "epoch": 1}
    path = save(tmp_path / "m.pth", model=weights, **rest)
    source = tl.load(path, config=config)
    assert source.sha256 == tl.load(folder).sha256
    [(key, reason)] = source.unused
    assert key == "model_ema" and reason.endswith(f"tl.load('{path}', entry='model_ema', …) reads it")
    chosen = tl.load(path, config=config, entry="model_ema")
    assert [key for key, _ in chosen.unused] == ["model"] and chosen.recorded["entry"] == "model_ema"
    np.testing.assert_array_equal(
        chosen.leaves["embed/word/embedding"].read(), source.leaves["embed/word/embedding"].read() + 1
    )
    with pytest.raises(TransferlabError, match=r"no state dict 'model_emma'.*model_ema"):
        tl.load(path, config=config, entry="model_emma")
    with pytest.raises(TransferlabError, match="a single state dict, without an entry 'model'"):
        tl.load(save(tmp_path / "bare.pth", **weights), config=config, entry="model")
    for odd in (folder, folder / "model.safetensors"):
        with pytest.raises(TransferlabError, match="entry='model'"):
            tl.load(odd, entry="model")


def test_another_state_dict_of_a_models_directory_is_named_and_can_be_read(
    folder: Path, weights, tmp_path: Path
) -> None:
    place = shutil.copytree(folder, tmp_path / "model")
    (place / "model.safetensors").unlink()
    mean = {key: value + np.float32(1) for key, value in weights.items()}
    save(place / "pytorch_model.bin", model=weights, model_ema=mean)
    source = tl.load(place)
    assert source.sha256 == tl.load(folder).sha256
    [(key, reason)] = source.unused
    assert key == "model_ema" and reason.endswith(f"tl.load('{place}', entry='model_ema') reads it")
    chosen = tl.load(place, entry="model_ema")
    assert [key for key, _ in chosen.unused] == ["model"] and chosen.recorded["entry"] == "model_ema"
    np.testing.assert_array_equal(
        chosen.leaves["embed/word/embedding"].read(), source.leaves["embed/word/embedding"].read() + 1
    )
    with pytest.raises(TransferlabError, match=r"no state dict 'model_emma'.*model_ema"):
        tl.load(place, entry="model_emma")
    # A model written with another tokenizer does not look for the other state dict among its tensors.
    tl.save(source.with_tokenizer(add=["cheerful"]), tmp_path / "grown")


def test_weights_next_to_those_that_are_read_are_named(folder: Path, weights, tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    assert not tl.load(place).unused
    other = {key: value + np.float32(1) for key, value in weights.items()}
    save(place / "pytorch_model.bin", **other)
    save_file(other, str(place / "consolidated.safetensors"))
    save_file({"x": np.ones(1)}, str(place / "adapter_model.safetensors"))
    source = tl.load(place)
    assert source.sha256 == tl.load(folder).sha256
    reasons = dict(source.unused)
    assert reasons.keys() == {"pytorch_model.bin", "consolidated.safetensors", "adapter_model.safetensors"}
    assert f"tl.load_adapter('{place}', tl.load('{place}'))" in reasons["adapter_model.safetensors"]
    assert f"model.safetensors: tl.load('{place / 'pytorch_model.bin'}', config=" in reasons["pytorch_model.bin"]
    assert tl.load(place / "pytorch_model.bin", config=source.config).sha256 != source.sha256
    (place / "config.json").unlink()
    (place / "adapter_config.json").write_text("{}")
    with pytest.raises(TransferlabError, match="is an adapter, not a model"):
        tl.load(place)


@pytest.mark.parametrize("name", ["model_ema", "net", "network", "anything"])
def test_the_only_state_dict_of_a_file_is_found(name: str, folder: Path, weights, config, tmp_path: Path) -> None:
    source = tl.load(save(tmp_path / "m.pth", **{name: weights}, acc=93.0), config=config)
    assert source.sha256 == tl.load(folder).sha256 and not source.unused


def test_of_several_state_dicts_none_is_guessed(folder: Path, weights, config, tmp_path: Path) -> None:
    path = save(tmp_path / "m.pth", student=weights, teacher={key: -value for key, value in weights.items()})
    with pytest.raises(TransferlabError, match=r"several state dicts: student, teacher\. .*entry='student'"):
        tl.load(path, config=config)
    assert tl.load(path, config=config, entry="student").sha256 == tl.load(folder).sha256


def test_settings_next_to_the_weights_are_read_over(folder: Path, weights, config, tmp_path: Path) -> None:
    # Python 3.13 has the classes of paths in a module of its own, older and newer ones do not; a file may come from any of them.
    paths = [
        Global(module, kind, "/tmp/x")
        for module in ("pathlib", "pathlib._local")
        for kind in ("PosixPath", "PureWindowsPath")
    ]
    args = argparse.Namespace(lr=0.1, output=PurePosixPath("/tmp/x"), nested=argparse.Namespace(a=[1]), paths=paths)
    best = Global("numpy.core.multiarray", "scalar", Global("numpy", "dtype", "f8", False, True), b"12345678")
    settings = Global("omegaconf.dictconfig", "DictConfig", {"lr": 0.1})
    path = save(tmp_path / "m.pth", model=weights, args=args, best=best, config=settings)
    assert tl.load(path, config=config).sha256 == tl.load(folder).sha256
    with pytest.raises(TransferlabError, match=r"asks for 'argparse\._sys'"):
        tl.load(save(tmp_path / "evil.pth", model=weights, args=Global("argparse", "_sys", "x")), config=config)


@pytest.mark.parametrize("name", ["minilm-l6", "hf:owner/name", "gs://bucket/name", "folder"])
def test_a_config_beside_a_model_that_says_its_own_is_not_passed_over(name: str, tmp_path: Path) -> None:
    write_bert(tmp_path / "folder")
    place = tmp_path / name if name == "folder" else name
    with pytest.raises(TransferlabError, match="says its own architecture, and config= is for weights that do not"):
        tl.load(place, config=tl.models.ViTConfig())
