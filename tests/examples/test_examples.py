"""The scripts of ``examples/``, as they are, on a tiny checkpoint and table."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkpoints import write_averaging

import transferlab as tl
from transferlab.user_code import execute

EXAMPLES = Path(__file__).parents[2] / "examples"


def main_of(name: str):
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_a_table_of_ones_own_becomes_a_score_and_a_predictor(
    bert_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("own_table.py")(str(table), str(bert_folder), str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert "accuracy on 32 held-out texts: " in said  # a fifth of 160
    assert "\tWhat a wonderful day" in said
    assert (tmp_path / "run" / "result.json").exists()


def test_what_lora_trained_is_exported_for_transformers_and_peft(
    bert_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("lora_export.py")(str(table), str(bert_folder), str(tmp_path / "out"), "4")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.safetensors")}
    assert files == {"adapter/adapter_model.safetensors", "merged/model.safetensors"}
    assert (
        tl.load(tmp_path / "out" / "merged").labels == ("down", "up")
        and "parameters trained" in capsys.readouterr().out
    )


def test_many_runs_are_one_line_for_each_learning_rate(
    bert_folder: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("many_runs.py")(str(table), str(bert_folder), "4")
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [rate for rate, _ in lines] == ["0.001", "0.003", "0.01"]
    assert all(0 <= float(score) <= 1 for _, score in lines)


def test_a_module_of_ones_own_trains_alike_on_eight_devices_and_on_one() -> None:
    # In a process of its own, since the number of devices is fixed when JAX starts.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(EXAMPLES / "own_mesh.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "layers/3/kernel (64, 64): (8, 64) on each of 8 devices" in done.stdout
    lines = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("step")]
    assert len(lines) == 5
    assert all(abs(float(many) - float(one)) < 1e-5 for _, many, one in lines)
    assert float(lines[-1][1]) < float(lines[0][1]) - 0.1


def test_a_method_of_ones_own_trains_and_predicts_without_its_code(
    bert_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], registries: None
) -> None:
    execute(EXAMPLES / "own_method.py").main(str(table), str(bert_folder), str(tmp_path / "run"))
    assert "accuracy on held-out texts: " in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["method"]["name"] == "last" and not record["code"]["method"]["needed"]
    assert {path.split("/")[0] for path in record["trainable"]} == {"layers", "head"}
    assert tl.open_run(tmp_path / "run")(["a fine film"]).shape == (1, 2)


def test_a_task_of_ones_own_has_its_loss_and_its_score(
    bert_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], registries: None
) -> None:
    run = tmp_path / "run"
    execute(EXAMPLES / "own_task.py").main(str(table), str(bert_folder), str(run))
    said = capsys.readouterr().out
    assert "mean distance on held-out texts: " in said and "probabilities" not in said
    assert "mean_distance" in json.loads((run / "result.json").read_text())["test"]


def test_a_family_of_ones_own_is_loaded_trained_and_opened(
    bert_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], registries: None
) -> None:
    model, run = write_averaging(tmp_path / "averaging", bert_folder), tmp_path / "run"
    execute(EXAMPLES / "own_family.py").main(str(model), str(table), str(run))
    said = capsys.readouterr().out
    assert "embed/embedding" in said and "vectors" in said and "accuracy on held-out texts: " in said
    assert tl.open_run(run)(["a fine film"]).shape == (1, 2)


@pytest.mark.parametrize("library", ["nnx", "linen", "equinox"])
def test_a_module_of_ones_own_has_a_frozen_trunk_with_lora_within_forty_lines(
    library: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if library == "equinox":
        pytest.importorskip("equinox", reason="the extra 'parity' installs equinox")
    lines = (EXAMPLES / f"own_{library}.py").read_text("utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(("import ", "from ")))
    assert next(i for i, line in enumerate(lines) if "print(graft)" in line) - first < 40
    main_of(f"own_{library}.py")()
    said = capsys.readouterr().out
    assert "(as initialise='**/lora/** | head' allows)" in said
    assert ("no dropout on their input" in said) == (library != "nnx")
    beside, merged = (
        float(line.split()[-1]) for line in said.splitlines() if line.startswith("adapters ") and "accuracy" in line
    )
    assert beside > 0.6 and abs(beside - merged) < 0.005  # by chance a sixth
