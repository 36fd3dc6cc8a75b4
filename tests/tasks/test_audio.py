"""Audio: Whisper's encoder trains on sounds, hears each once where it is frozen, and a run of it predicts from files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from threading import current_thread

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.io import wavfile
from support.families import write_family

import transferlab as tl
from transferlab.cli.main import cli
from transferlab.data.columns import Classes
from transferlab.data.dataset import Dataset
from transferlab.errors import TransferlabError
from transferlab.train import Settings

QUICK = Settings(learning_rate=0.1, steps=200, batch_size=8, log_every=100)
RATE = 8000


def tone(high: bool, seed: int, seconds: float = 1.8) -> np.ndarray:
    """A noisy tone of 300 or 1500 Hz."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.05, len(time))
    return (0.5 * np.sin(2 * np.pi * (1500 if high else 300) * time) + noise).astype(np.float32)


class Counted(list):
    """Records that count how often they are read to be heard; checks of types look at some, too."""

    reads = 0

    def __getitem__(self, index):
        type(self).reads += current_thread().name.startswith("prefetch")
        return super().__getitem__(index)


def sounds(count: int = 24) -> Dataset:
    """Two kinds of tones; one is longer than what the model hears."""
    high = np.arange(count, dtype=np.int32) % 2
    records = Counted({"id": f"{i}.wav", "audio": tone(bool(high[i]), i, 2.5 if i == 3 else 1.8), "rate": RATE} for i in range(count))  # fmt: skip
    ids, order = tuple(f"{i}.wav" for i in range(count)), np.arange(count)
    return Dataset(
        "tones", "audio", Classes(("low", "high"), high), records, ids, order[:16], order[:0], order[16:], "tones"
    )


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that hears two seconds."""
    folder = write_family(tmp_path_factory.mktemp("whisper") / "tiny", "whisper")
    raw = json.loads((folder / "config.json").read_text())
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    key = next(key for key in tensors if key.endswith("embed_positions.weight"))
    save_file({**tensors, key: np.ascontiguousarray(tensors[key][:100])}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**raw, "max_source_positions": 100}))
    return folder


def test_a_frozen_encoder_hears_each_sound_once_and_a_finished_run_hears_the_same(
    whisper: Path, tmp_path: Path
) -> None:
    source, data = tl.load(whisper), sounds()
    Counted.reads = 0
    run = tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK, directory=tmp_path / "run")
    result = run.fit()
    assert run.decision.cached and result.test["accuracy"] == 1.0 and result.record["truncated"] == 1
    # Once for its features; the first also tells how long a carry is.
    assert Counted.reads == len(data.ids) + 1
    heard = [(data.records[int(i)]["audio"], RATE) for i in data.test]
    np.testing.assert_allclose(tl.open_run(tmp_path / "run")(heard), result.probabilities, atol=1e-5)
    for name, high in (("low.wav", False), ("high.wav", True)):
        (tmp_path / "new").mkdir(exist_ok=True)
        wavfile.write(tmp_path / "new" / name, RATE, tone(high, 99))
    shown = CliRunner().invoke(
        cli, ["predict", str(tmp_path / "run"), str(tmp_path / "new"), "--json"], catch_exceptions=False
    )
    labels = {Path(row["input"]).name: row["label"] for row in map(json.loads, shown.output.splitlines())}
    assert labels == {"low.wav": "low", "high.wav": "high"}
    missing = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), "none.wav"])
    assert "There is no sound file 'none.wav'" in missing.output


def test_an_encoder_trains_whole_and_an_interrupted_run_ends_as_if_it_were_not(whisper: Path, tmp_path: Path) -> None:
    source, data = tl.load(whisper), sounds()
    settings = replace(QUICK, learning_rate=1e-3, steps=4, log_every=1, checkpoint_steps=2)
    whole = tl.adapt(source, data, settings=settings, directory=tmp_path / "whole").fit()

    def stop(step: int, total: int, metrics) -> None:
        if step >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tl.adapt(source, data, settings=settings, directory=tmp_path / "parts").fit(stop)
    resumed = tl.adapt(source, data, settings=settings, directory=tmp_path / "parts").fit()
    np.testing.assert_array_equal(resumed.probabilities, whole.probabilities)


def test_a_sound_without_samples_is_named(whisper: Path) -> None:
    data = replace(sounds(), sha256="a broken one")
    data.records[5] = {**data.records[5], "audio": np.zeros(0, np.float32)}  # pyright: ignore[reportIndexIssue]
    with pytest.raises(TransferlabError, match=r"5\.wav: audio: the sound has no samples"):
        tl.adapt(tl.load(whisper), data, method=tl.methods.Probe(), settings=QUICK).fit()
