"""The command line as a person types it: a study from config to report, killed and continued, and its errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from transferlab.errors import TransferlabError


def transferlab(*words: str | Path, timeout: float = 400, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "transferlab", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, **variables},
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("studies") / "films"
    done = transferlab("run", config, "--profile", f"--config.workdir={directory}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"\d [kMGT]?FLOP/s", done.stdout)) == 8
    return directory


def test_a_study_runs_to_its_table_report_and_result(study: Path) -> None:
    result = json.loads((study / "result.json").read_text())
    cells = {(row["name"], row["budget"], row["seed"]) for row in result["arms"]}
    both = {(n, b, s) for n in ("majority", "tfidf", "probe", "probe-random") for b in (12, 40) for s in (0, 1)}
    assert cells == both | {("full", 12, 0), ("full", 40, 0), ("scratch", 12, 0), ("scratch", 12, 1)}
    for row in result["arms"]:
        assert 0 <= row["test"]["accuracy"] <= 1 and row["trainable_parameters"] >= 0 and row["seconds"] >= 0
        assert (row["flops"] > 0) == (row["kind"] == "method")
        # Probes on the same features trained in one program; on random weights, those of one seed. Others go in pairs.
        assert row["population_size"] == {"majority": 1, "tfidf": 1, "probe": 4}.get(row["name"], 2)
    assert (study / "report.html").read_text().count("<svg") >= 1
    assert len((study / "results.csv").read_text().splitlines()) == 1 + len(cells)
    assert (study / "table.md").read_text().count("| full |") == 5
    assert "</svg>" in (study / "learning_curves.svg").read_text()
    for arm in ("probe", "full"):
        assert "backward" in (study / "profile" / arm / "profile.txt").read_text()
        assert (study / "profile" / arm / "profile.svg").read_text().startswith("<svg")
    for name in ("plan.json", "metrics.jsonl", "predictions.npz"):
        assert (study / "runs" / "full" / "40" / "0" / name).exists()
    assert list((study / "runs" / "full" / "40" / "0" / "events").iterdir())


def test_a_study_opens_its_report_in_the_browser(study: Path, config: Path, tmp_path: Path) -> None:
    (tmp_path / "browser.py").write_text(f"import sys; open({str(tmp_path / 'opened')!r}, 'w').write(sys.argv[1])")
    browser = f"{sys.executable} {tmp_path / 'browser.py'} %s"
    done = transferlab("run", config, "--open", f"--config.workdir={study}", BROWSER=browser)
    assert done.returncode == 0 and (tmp_path / "opened").read_text() == (study / "report.html").as_uri(), done.stderr
    assert f"{study / 'report.html'}  " in done.stdout and "browser" not in done.stdout


def test_where_no_browser_can_be_opened_the_reports_address_is_printed(study: Path) -> None:
    done = transferlab("report", study, "--open", BROWSER="", DISPLAY="", PATH="")
    said = f"No browser could be opened here. The report: {(study / 'report.html').as_uri()}"
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == said, done.stderr


def test_subsets_are_nested_and_shared_by_all_arms(study: Path) -> None:
    ids = [
        np.load(study / "runs" / arm / "12" / "0" / "predictions.npz")["id"].tolist()
        for arm in ("full", "tfidf", "probe")
    ]
    assert ids[0] == ids[1] == ids[2] and len(ids[0]) == 40


def test_weights_are_kept_for_the_best_run_of_each_arm_and_predict_uses_them(study: Path) -> None:
    kept = sorted(path.relative_to(study / "runs").parts[0] for path in study.glob("runs/*/*/*/checkpoints"))
    assert kept == ["full", "probe", "probe-random", "scratch"]
    run = next(study.glob("runs/full/*/*/checkpoints")).parent
    done = transferlab("predict", run, "a good day", "the film was bad", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["input"] for line in lines] == ["a good day", "the film was bad"], done.stderr
    for line in lines:
        assert set(line["probabilities"]) == {"down", "up"} and abs(sum(line["probabilities"].values()) - 1) < 1e-5
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)


def test_predict_reads_files_of_texts_and_takes_a_studys_best_run(study: Path, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("a good day\n\nthe film was bad\n")
    (tmp_path / "many.csv").write_text("id,text\n1,great\n2,\n")
    done = transferlab("predict", study, tmp_path / "many.txt", tmp_path / "many.csv", "--json")
    assert len(done.stdout.splitlines()) == 4, done.stderr


def test_predict_takes_any_text_and_says_what_was_cut(study: Path, tmp_path: Path) -> None:
    (tmp_path / "MANY.CSV").write_bytes(b'\xef\xbb\xbftext\n"two\nlines"\n')
    long = "good day " * 300
    done = transferlab("predict", study, long, "", "\U0001f600", tmp_path / "MANY.CSV", "--json")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4, done.stderr
    assert re.search(
        r"^Run: \S+/runs/\S+ \(test accuracy \d\.\d{3}, the best of 4 that kept their weights\)\.$", done.stderr, re.M
    )
    assert json.loads(done.stdout.splitlines()[-1])["input"] == "two\nlines"
    assert "1 of 4 texts are longer than 48 tokens" in done.stderr
    (tmp_path / "number.jsonl").write_text('{"text": 3}\n')
    done = transferlab("predict", study, tmp_path / "number.jsonl")
    assert done.returncode == 1 and "row 1: the text is 3" in done.stderr


def test_predict_refuses_a_file_without_readable_text_with_one_line(study: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    (tmp_path / "ragged.csv").write_text("text,id\na,1\nb\n")
    for given, said in (
        (b"caf\xe9", "Input 1: the text holds half of a character, or bytes that are not UTF-8."),
        (tmp_path / "latin.txt", "latin.txt, line 2: not UTF-8"),
        (tmp_path / "ragged.csv", "ragged.csv, row 2: 1 fields, where the header has 2"),
    ):
        command = [sys.executable, "-m", "transferlab", "predict", study, given]
        done = subprocess.run(command, capture_output=True, check=False, timeout=400)
        errors = done.stderr.decode(errors="replace")
        assert done.returncode == 1 and said in errors and "Traceback" not in errors, errors


def test_predict_refuses_another_tokenizer_than_the_run_had(study: Path, tmp_path: Path) -> None:
    from transferlab.cli.predict import best_run
    from transferlab.train.predictor import open_run

    run = tmp_path / "run"
    shutil.copytree(best_run(study), run)
    identity = json.loads((run / "run.json").read_text())
    identity["transform"]["tokenizer"] = "0" * 64
    (run / "run.json").write_text(json.dumps(identity))
    with pytest.raises(TransferlabError, match="not what this run had: tokenizer"):
        open_run(run)


def test_an_arm_without_a_run_is_reported_as_skipped(config: Path) -> None:
    done = transferlab("plan", config, "--config.methods.probe.largest_budget=2")
    assert done.returncode == 0 and "Skipped: probe" in done.stdout, done.stderr


def test_typing_the_same_line_again_changes_nothing_and_added_seeds_continue(study: Path, config: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in study.glob("runs/**/predictions.npz")}
    seeds = "--config.seeds=(0,1,2)"
    done = transferlab("run", config, f"--config.workdir={study}", seeds)
    assert done.returncode == 0 and "are finished" in done.stdout, done.stderr
    after = {p: p.stat().st_mtime_ns for p in study.glob("runs/**/predictions.npz")}
    assert {p: after[p] for p in before} == before
    assert {p.parent.name for p in after.keys() - before.keys()} == {"2"}
    done = transferlab("run", config, f"--config.workdir={study}", seeds, "--config.baselines=majority")
    assert done.returncode == 0 and "Not in the table: tfidf" in done.stdout, done.stderr
    assert done.stdout.count("Not in the table") == 1 and any(study.glob("runs/tfidf/**/record.json"))


def test_two_processes_do_not_run_one_study_at_the_same_time(study: Path, config: Path) -> None:
    from transferlab.files import file_lock

    with file_lock(study / ".lock"):
        done = transferlab("run", config, f"--config.workdir={study}", "--config.seeds=(0,1,2)")
    assert done.returncode == 1 and "Another process is running the study" in done.stderr, done.stderr


def test_a_changed_config_is_refused_naming_the_fields(study: Path, config: Path) -> None:
    done = transferlab(
        "run", config, f"--config.workdir={study}", "--config.seeds=(0,1,2)", "--config.test_examples=30"
    )
    assert done.returncode == 1 and "test_examples" in done.stderr
    done = transferlab(
        "run", config, f"--config.workdir={study}", "--config.seeds=(0,1,2)", "--config.methods.probe.train.steps=21"
    )
    assert done.returncode == 1 and "methods.probe" in done.stderr


def test_the_full_grid_tunes_on_a_fifth_and_runs_scratch_on_every_label(config: Path, tmp_path: Path) -> None:
    done = transferlab(
        "run",
        config,
        f"--config.workdir={tmp_path / 's'}",
        "--config.grid=full",
        "--config.seeds=(0,)",
        "--config.budgets=(20,)",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "s" / "result.json").read_text())
    full = next(row for row in result["arms"] if row["name"] == "full")
    assert full["tuning"]["trials"] == 2 and full["tuning"]["validation_examples"] == 4
    assert full["settings"]["learning_rate"] == full["tuning"]["chosen"]["learning_rate"]
    assert {row["budget"] for row in result["arms"] if row["name"] == "scratch"} == {20, 120}
    probe = next(row for row in result["arms"] if row["name"] == "probe")
    assert [trial["settings"] for trial in probe["tuning"]["validation"]][1]["optimizer"]["name"] == "sgd"
    assert "optimizer" in (tmp_path / "s" / "report.html").read_text()


def test_a_study_killed_in_the_middle_continues_with_the_same_line(config: Path, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "transferlab",
        "run",
        str(config),
        f"--config.workdir={tmp_path / 's'}",
        "--config.seeds=(0,)",
        "--config.budgets=(12,)",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "full" in line and "accuracy" in line:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(list((tmp_path / "s").glob("runs/*/*/*/record.json")))
    assert finished >= 3 and not (tmp_path / "s" / "result.json").exists()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"Continuing: {finished} of" in done.stdout, done.stderr[-1500:]
    assert (tmp_path / "s" / "result.json").exists()


def test_plan_stops_before_training_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    done = transferlab("plan", config, f"--config.workdir={tmp_path / 's'}")
    assert "160 texts of 2 labels (down: 54, up: 106): 120 to train, 40 to test, stratified." in done.stdout.replace(
        "\n", ""
    )
    assert done.returncode == 0 and "Plan: full" in done.stdout and "Plan: scratch" in done.stdout, done.stderr
    assert not (tmp_path / "s").exists()


def test_inspect_prints_readable_paths_of_models_files_and_runs(study: Path, bert_folder: Path) -> None:
    of_model = transferlab("inspect", bert_folder).stdout
    assert "layers/1/attention/query/kernel" in of_model and "encoder.layer.1.attention.self.query.weight" in of_model
    assert "embeddings.word_embeddings.weight" in transferlab("inspect", bert_folder / "model.safetensors").stdout
    run = next(study.glob("runs/full/*/*/checkpoints")).parent
    found = json.loads(transferlab("inspect", run, "--json").stdout)
    assert {"params/head/kernel", "step"} <= {row["path"] for row in found["tensors"]}


def test_errors_are_one_line_with_a_non_zero_status(config: Path, tmp_path: Path) -> None:
    for words, said in (
        (("run", tmp_path / "none.py"), "There is no config"),
        (("runn", config), "Did you mean 'run'"),
        (("predict", tmp_path, "x"), "neither a run nor a study"),
        (("inspect", "minilm-l7"), "Did you mean 'minilm-l6'"),
    ):
        done = transferlab(*words)
        assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("where", ["gc.collect()", "Dying()"])
def test_ctrl_c_stops_the_program_wherever_it_arrives(where: str) -> None:
    code = f"""
import gc, signal, sys, time
from transferlab.cli.main import catch_interrupts

class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def _xla_gc_callback(*args):
    gc.callbacks.remove(_xla_gc_callback)
    signal.raise_signal(signal.SIGINT)

# A shell that put the tests in the background has SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
catch_interrupts()
gc.disable()
try:
    gc.callbacks.append(_xla_gc_callback)
    {where}
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 130


def test_help_does_not_import_jax() -> None:
    code = "import sys; from transferlab.cli.main import cli\ntry: cli(['--help'])\nexcept SystemExit: pass\nprint('jax' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_the_models_are_listed_with_their_sizes_and_an_unknown_family_is_refused() -> None:
    listed = transferlab("models").stdout
    for name in ("minilm-l6", "Apache-2.0", "s16", "dinov2", "resnext50_32x4d", "gemma3_270m"):
        assert name in listed, name
    sizes = transferlab("models", "bert").stdout
    assert "109,482,240" in sizes and "tl.models.BertConfig.base()" in sizes and "from_hf" not in sizes
    unknown = transferlab("models", "berd")
    assert unknown.returncode and "Unknown family 'berd'." in unknown.stderr and "'bert'" in unknown.stderr


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path / "file" / "cache"))
    done = transferlab("inspect", "minilm-l6")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"The cache is {tmp_path / 'file' / 'cache'}; set TRANSFERLAB_CACHE" in done.stderr


def test_a_file_of_another_kind_is_refused_rather_than_read_as_a_text(study: Path, tmp_path: Path) -> None:
    (tmp_path / "data.xml").write_text("<x/>")
    for place in (tmp_path / "data.xml", tmp_path):
        done = transferlab("predict", study, place)
        assert done.returncode == 1 and "exists, but is not a file of texts" in done.stderr, done.stderr


def test_a_terminal_of_ascii_letters_gets_its_output(config: Path) -> None:
    command = [sys.executable, "-m", "transferlab", "plan", str(config)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-500:]
