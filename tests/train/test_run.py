"""Runs: what is frozen stays, what resumes is the same, what was trained comes back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from support.checkpoints import write_bert
from support.typed import found

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.train import Optimizer, Seeds, Settings
from transferlab.train.checkpoints import Checkpoints
from transferlab.train.fit import prepare
from transferlab.train.loop import make_batch
from transferlab.train.run import _check_kinds
from transferlab.transfer.cache import FrontierCache

QUICK = Settings(learning_rate=1e-2, epochs=3, batch_size=8, log_every=2)


def fit(source, data, method, directory=None, settings=QUICK, **more):
    run = tl.adapt(source, data, method=method, settings=settings, directory=directory, **more)
    return run, run.fit()


def flat(tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in trees.walk(tree)}


@pytest.mark.parametrize(
    "method", [tl.methods.Probe(), tl.methods.LoRA(rank=2), tl.methods.Full(), tl.methods.Scratch()]
)
def test_what_trains_moves_and_what_is_frozen_stays_bit_for_bit(source, films, method) -> None:
    data = films.subset(40, 0)
    run, result = fit(source, data, method)
    before, after = flat(run._plan.place(0)[0]), flat(result.params)
    assert before.keys() == after.keys()
    for path in before:
        moved = not np.array_equal(before[path], after[path])
        if path.endswith("attention/key/bias"):
            continue  # softmax does not see it: its gradient is 0 up to rounding
        assert moved == (path in run._plan.trainable), path


def test_no_optimizer_moment_is_kept_for_what_is_frozen(source, films) -> None:
    run = tl.adapt(source, films.subset(16, 0), method=tl.methods.LoRA(rank=2), settings=QUICK)
    params, stats = run._plan.place(0)
    state = run.program.initial(trees.split_by(params, run.program.paths)[0], stats)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state["optimizer"]))
    assert moments == 2 * run.plan.trainable_parameters + 1  # first and second moment, and a counter


def test_memory_is_reported_for_what_is_not_there(source, films) -> None:
    data = films.subset(16, 0)
    full, lora = (fit(source, data, m)[1].record["memory"] for m in (tl.methods.Full(), tl.methods.LoRA(rank=2)))
    run = tl.adapt(source, data, method=tl.methods.Full(), settings=QUICK)
    assert full["frozen"] == 0
    assert full["trainable"] == 4 * run.plan.parameters
    assert full["optimizer"] == 2 * full["trainable"] + 4  # two moments, and a counter
    assert full["activations"] > 0
    assert lora["frozen"] + lora["trainable"] > full["trainable"]  # the adapters come on top
    assert lora["optimizer"] < full["optimizer"] / 10


def test_dropout_is_off_in_frozen_stages_and_on_where_something_trains(source, films) -> None:
    """A probe's features do not depend on the seed of dropout; full fine-tuning's losses do."""
    data = films.subset(40, 0)
    probes = [fit(source, data, tl.methods.Probe(), seed=Seeds(0, order))[0] for order in (0, 1)]
    assert all(run.plan.training == {"head"} for run in probes)
    key = probes[0].program, probes[1].program
    assert key[0] is key[1]
    losses = [fit(source, data, tl.methods.Full(), seed=Seeds(0, order))[1].history[0]["loss"] for order in (0, 1)]
    assert losses[0] != losses[1]


def test_learning_happens_and_carries_to_the_test_split(source, films) -> None:
    settings = Settings(learning_rate=1e-2, epochs=60, batch_size=16)
    _, result = fit(source, films.subset(90, 0), tl.methods.Full(), settings=settings)
    assert result.test["accuracy"] > 0.8
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2


def test_a_probe_runs_the_backbone_once_per_example(source, films) -> None:
    data = films.subset(40, 0)
    run = tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK)
    run.cache = FrontierCache()
    run.fit()
    assert run.cache.computed == len(data.train) + len(data.test)
    more = tl.adapt(source, films.subset(60, 0), method=tl.methods.Probe(), settings=QUICK)
    more.cache = run.cache
    more.fit()
    assert run.cache.computed == 60 + len(data.test)  # the 40 are among the 60


def test_cached_and_recomputed_features_give_the_same_run(source, films, monkeypatch) -> None:
    """Also for a frontier in the middle, whose carry has a length axis."""
    from dataclasses import dataclass, replace

    from transferlab.transfer.groups import Group

    @dataclass(frozen=True)
    class LastLayers(tl.methods.Full):
        def groups(self):
            return (Group("layers/1"), Group("head"))

    # So small a model would be recomputed.
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    data = films.subset(40, 0)
    # Not Adam: it scales a gradient that is rounding noise (the key's bias) up to the size of any other.
    settings = replace(QUICK, learning_rate=0.3, optimizer=Optimizer("sgd"))
    for method in (tl.methods.Probe(), LastLayers()):
        cached, first = fit(source, data, method, settings=settings)
        recomputed, second = fit(source, data, method, settings=replace(settings, cache_bytes=0))
        assert cached.decision.cached and not recomputed.decision.cached
        assert cached.program.frontier > 0 and recomputed.program.frontier == 0
        np.testing.assert_allclose(first.probabilities, second.probabilities, atol=2e-5)


def test_runs_of_another_precision_share_no_features(source, films, monkeypatch) -> None:
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    cache, data, kinds = FrontierCache(), films.subset(16, 0), []
    for precision in ("bfloat16", "float32"):
        run = tl.adapt(source, data, method=tl.methods.Probe(), settings=Settings(steps=2, precision=precision))
        run.cache = cache
        key = run.features(*run._plan.place(0))
        kinds.append(str(cache.rows(key, data.train, 0, 16, ())["pooled"].dtype))
    assert kinds == ["bfloat16", "float32"]
    assert cache.computed == 2 * (16 + len(data.test))


def test_the_cache_key_changes_with_weights_data_preprocessing_and_precision(source, films, tmp_path) -> None:
    from support.checkpoints import write_bert

    from transferlab.transfer.frontier import cache_key

    def key(source, data, precision="float32"):
        run = tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK)
        params, stats = run._plan.place(0)
        definition, frontier = run._plan.definition, run._plan.frontier
        return cache_key(params, stats, definition, frontier, source.transform, data.sha256, precision)

    first = key(source, films)
    assert first != key(source, films, "bfloat16")
    assert first == key(source, films.subset(20, 1))
    assert first != key(tl.load(write_bert(tmp_path / "other", seed=1)), films)
    from dataclasses import replace

    assert first != key(replace(source, transform=replace(source.transform, max_length=20)), films)
    assert first != key(source, replace(films, sha256="other"))


def test_the_number_of_compilations_is_one_per_padded_length(source, films) -> None:
    from transferlab.train.program import _shared

    _shared.cache_clear()
    lengths, tested = set(), set()
    for seed in (0, 1):
        run, _ = fit(source, films.subset(40, seed), tl.methods.Full(), seed=seed)
        lengths |= {run.order[step].bucket for step in range(run.steps)}
        tested |= set(run.feed.buckets(run.data.test).tolist())
    assert len(lengths) > 1
    assert run.program.step.compilations == len(lengths)  # two seeds, three epochs, partial batches: no more
    assert run.program.predict.compilations == len(tested)


def test_a_padded_batch_gives_the_loss_of_its_real_rows(source, films) -> None:
    """Five examples padded to eight weigh as five: the mean is over real rows alone."""
    from dataclasses import replace

    data = replace(films, train=films.train[:5])
    settings = [replace(QUICK, epochs=2, batch_size=size, log_every=1) for size in (5, 8)]
    first, second = (fit(source, data, tl.methods.Probe(), settings=s)[1] for s in settings)
    for a, b in zip(first.history, second.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_every_test_example_is_predicted_once_in_order(source, films, tmp_path) -> None:
    data = films.subset(40, 0)
    _, result = fit(source, data, tl.methods.Probe(), tmp_path / "run")
    with np.load(tmp_path / "run" / "predictions.npz") as saved:
        assert saved["id"].tolist() == [data.ids[i] for i in data.test]
        assert saved["label"].tolist() == data.labels[data.test].tolist()
        np.testing.assert_array_equal(saved["probabilities"], result.probabilities)
        assert saved["label_names"].tolist() == ["down", "up"]
    np.testing.assert_allclose(result.probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "method", [tl.methods.Probe(), tl.methods.LoRA(rank=2), tl.methods.Full(), tl.methods.Scratch()]
)
def test_what_fit_trained_open_run_brings_back(source, films, tmp_path, method) -> None:
    data = films.subset(40, 0)
    _, result = fit(source, data, method, tmp_path / "run")
    predictor = tl.open_run(tmp_path / "run")
    got = predictor([data.records[i]["text"] for i in data.test])
    np.testing.assert_allclose(got, result.probabilities, atol=2e-6)
    assert predictor.labels == ("down", "up")


def test_a_predictor_names_what_is_no_text_and_knows_its_column(source, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from transferlab.cli.main import cli

    rows = [f"{'good' if i % 2 else 'bad'} film {i},{i % 2}" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["sentence,class", *rows]))
    data = tl.dataset(tmp_path / "t.csv", test_examples=4, text_column="sentence", label_column="class")
    tl.adapt(source, data, method=tl.methods.Probe(), settings=Settings(max_steps=1), directory=tmp_path / "run").fit()
    predictor = tl.open_run(tmp_path / "run")
    for wrong, said in (
        ([None], r"texts\[0\]: the text is None"),
        (["a", 3], r"texts\[1\]: the text is 3"),
        (["caf\udce9"], r"texts\[0\]: the text holds half of a character"),
    ):
        with pytest.raises(TransferlabError, match=said):
            predictor(wrong)
    with pytest.raises(TransferlabError, match=r"list of one: predictor\(\['a film'\]\)"):
        predictor("a film")
    (tmp_path / "new.tsv").write_text('id\tsentence\n1\t"good film\n2\tbad film"\n')
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), str(tmp_path / "new.tsv")])
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ['"good film', 'bad film"']
    (tmp_path / "new.csv").write_text("text\ngood film\n")
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), str(tmp_path / "new.csv")])
    assert done.exit_code == 1 and "has no column 'sentence'" in done.output
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--text-column=text"])
    assert done.exit_code == 0 and "good film" in done.stdout


def test_open_run_refuses_a_base_that_is_not_the_one_it_was_trained_on(films, tmp_path) -> None:
    from support.checkpoints import write_bert

    folder = write_bert(tmp_path / "base")
    fit(tl.load(folder), films.subset(40, 0), tl.methods.Probe(), tmp_path / "run")
    write_bert(folder, seed=9)
    with pytest.raises(TransferlabError, match="its weights are others"):
        tl.open_run(tmp_path / "run")


def test_a_finished_run_is_read_not_trained_again(source, films, tmp_path) -> None:
    data = films.subset(40, 0)
    _, first = fit(source, data, tl.methods.Probe(), tmp_path / "run")
    stamp = (tmp_path / "run" / "predictions.npz").stat().st_mtime_ns
    _, again = fit(source, data, tl.methods.Probe(), tmp_path / "run")
    assert again.test == first.test and (tmp_path / "run" / "predictions.npz").stat().st_mtime_ns == stamp


def test_a_directory_of_another_run_is_refused_naming_the_fields(source, films, tmp_path) -> None:
    fit(source, films.subset(40, 0), tl.methods.LoRA(rank=2), tmp_path / "run")
    with pytest.raises(TransferlabError, match=r"method\.rank \(2 → 3\)"):
        fit(source, films.subset(40, 0), tl.methods.LoRA(rank=3), tmp_path / "run")
    with pytest.raises(TransferlabError, match=r"data\.train \(40 → 20\)"):
        fit(source, films.subset(20, 0), tl.methods.LoRA(rank=2), tmp_path / "run")


def test_a_run_that_would_take_no_step_is_an_error(source, films) -> None:
    with pytest.raises(TransferlabError, match="no step"):
        tl.adapt(source, replace(films, train=films.train[:0]), settings=Settings(epochs=1))


def test_the_last_partial_batch_is_trained_on(source, films) -> None:
    run = tl.adapt(source, films.subset(21, 0), settings=Settings(epochs=1, batch_size=8))
    seen = np.concatenate([run.order[step].indices for step in range(run.steps)])
    assert sorted(seen.tolist()) == sorted(run.data.train.tolist()) and run.steps == 3


def test_truncated_texts_are_counted(source, tmp_path) -> None:
    path = tmp_path / "long.csv"
    rows = [f"{'good' if i % 2 else 'bad'} {'film ' * (60 if i < 5 else 3)} day{i},{i % 2}" for i in range(40)]
    path.write_text("text,label\n" + "\n".join(rows))
    data = tl.dataset(path, test_examples=10)
    _, result = fit(source, data, tl.methods.Probe())
    assert result.record["truncated"] == 5


# ---------------------------------------------------------------------------------------------------------------
# Interruptions

SCRIPT = """
import sys, transferlab as tl
from transferlab.train import Settings
source = tl.load(sys.argv[1])
data = tl.dataset(sys.argv[2], test_examples=60).subset(64, 0)
settings = Settings(learning_rate=1e-2, epochs=40, batch_size=8, log_every=3, checkpoint_steps=25)
def report(done, total, row):
    print(done, flush=True)
tl.adapt(source, data, method=tl.methods.Full(), settings=settings, directory=sys.argv[3]).fit(report)
"""


def start(bert_folder: Path, table: Path, directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(bert_folder), str(table), str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return
    assert process.stderr is not None
    raise AssertionError(process.stderr.read()[-2000:])


def finish(bert_folder: Path, table: Path, directory: Path) -> None:
    process = start(bert_folder, table, directory)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]


def final(directory: Path) -> tuple[dict[str, np.ndarray], list[dict], np.ndarray]:
    checkpoints = Checkpoints(directory / "checkpoints")
    params, _ = checkpoints.weights(found(checkpoints.last))
    checkpoints.close()
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    with np.load(directory / "predictions.npz") as saved:
        return flat(params), rows, saved["probabilities"]


def test_a_killed_run_continues_and_ends_bit_equal_to_an_undisturbed_one(bert_folder, table, tmp_path) -> None:
    finish(bert_folder, table, tmp_path / "calm")
    # Killed away from a checkpoint boundary; then as soon as a checkpoint is being written; then politely.
    process = start(bert_folder, table, tmp_path / "killed")
    read_until(process, 87)
    process.kill()
    process.wait()
    process = start(bert_folder, table, tmp_path / "killed")
    folder = tmp_path / "killed" / "checkpoints"
    before = {p.name for p in folder.iterdir()}
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        new = {p.name for p in folder.iterdir()} - before
        if any("tmp" in name for name in new):
            break
    process.kill()
    process.wait()
    process = start(bert_folder, table, tmp_path / "killed")
    read_until(process, 230)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) != 0
    assert (tmp_path / "killed" / "result.json").exists() is False
    finish(bert_folder, table, tmp_path / "killed")
    calm, killed = final(tmp_path / "calm"), final(tmp_path / "killed")
    assert calm[0].keys() == killed[0].keys()
    for path, value in calm[0].items():
        np.testing.assert_array_equal(value, killed[0][path], err_msg=path)
    assert calm[1] == killed[1]
    np.testing.assert_array_equal(calm[2], killed[2])


FULL_DISK = """
import resource, signal, sys, transferlab as tl
from transferlab.train import Settings
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source = tl.load(sys.argv[1])
data = tl.dataset(sys.argv[2], test_examples=60).subset(64, 0)
settings = Settings(learning_rate=1e-2, epochs=4, batch_size=8, checkpoint_steps=10)
run = tl.adapt(source, data, method=tl.methods.Full(), settings=settings, directory=sys.argv[3])
def report(done, total, row):
    if done == 5 and sys.argv[4] == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    run.fit(report)
except tl.TransferlabError as error:
    print("said:", error)
    sys.exit(1)
"""


def test_a_full_disk_while_checkpointing_is_one_clear_error_and_the_run_continues_later(
    bert_folder, table, tmp_path
) -> None:
    """A limit on the size of files stands for the full disk: writes fail half way in the same manner."""

    def go(mode: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", FULL_DISK, str(bert_folder), str(table), str(tmp_path / "run"), mode]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    failed = go("full")
    assert failed.returncode == 1, failed.stderr[-1500:]
    assert "said: A checkpoint could not be written" in failed.stdout
    assert go("roomy").returncode == 0
    assert (tmp_path / "run" / "result.json").exists()


def test_a_pooler_that_was_asked_for_is_replaced_by_the_mean(films, tmp_path: Path) -> None:
    bare = tl.load(write_bert(tmp_path / "bare", drop=("pooler.dense.weight", "pooler.dense.bias")))
    with pytest.raises(TransferlabError, match=r"cannot pool by 'pooler'.* It can by mean, first, stages"):
        tl.adapt(bare, films.subset(16, 0), method=tl.methods.Full(pooling="pooler"), settings=QUICK)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tl.methods.Full(weights="rand"), "weights is 'rand'. Did you mean 'random'"),  # type: ignore[arg-type]
        (lambda: tl.methods.Probe(pooling="men"), "pooling is 'men'. Did you mean 'mean'"),  # type: ignore[arg-type]
        (lambda: tl.methods.Full(head_lr_scale=-1.0), "head_lr_scale is -1"),
        (lambda: tl.methods.Full(head_dropout=1.0), "head_dropout is 1"),
        (lambda: tl.methods.LoRA(dropout=1.5), "dropout is 1.5"),
        (lambda: tl.methods.LoRA(alpha=float("nan")), "alpha is nan"),
        (lambda: Settings(memory_bytes=0), "memory_bytes is 0"),
        (lambda: Settings(checkpoint_steps=0), "checkpoint_steps is 0"),
    ],
)
def test_a_mistyped_word_in_python_is_taken_for_another(make, said: str) -> None:
    with pytest.raises(TransferlabError, match=re.escape(said)):
        make()


def test_the_step_donates_what_is_frozen_or_keeps_what_it_replaces(source, films) -> None:
    run = tl.adapt(source, films.subset(16, 0), method=tl.methods.LoRA(rank=2), settings=QUICK)
    member, state = prepare(run, {})
    batch = jax.device_put(make_batch(member, run.order[0]))
    run.program.step(state, member.frozen, batch, run.hyper())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state["params"], state["optimizer"])))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(member.frozen))


def test_the_backward_pass_goes_through_what_is_frozen(source, films) -> None:
    """A probe whose features are not cached costs a forward pass and little more: full fine-tuning three."""
    data, cost = films.subset(16, 0), {}
    for name, method in (("full", tl.methods.Full()), ("probe", tl.methods.Probe())):
        run = tl.adapt(source, data, method=method, settings=replace(QUICK, cache_bytes=0))
        member, state = prepare(run, {})
        assert not run.decision.cached
        cost[name] = run.program.step.flops(state, member.frozen, make_batch(member, run.order[0]), run.hyper())
    assert cost["probe"] < 0.45 * cost["full"]


def test_the_seed_of_the_order_draws_the_head_or_that_of_the_head_the_order(source, films) -> None:
    def made(initialisation: int, order: int):
        run = tl.adapt(source, films.subset(40, 0), settings=QUICK, seed=Seeds(initialisation, order))
        head = flat(run._plan.place(initialisation)[0])["head/kernel"]
        return np.asarray(head), run.order[0].indices.tolist()

    (head, first), (same, other), (drawn, again) = made(0, 0), made(0, 1), made(1, 0)
    np.testing.assert_array_equal(head, same)
    assert first != other and first == again and not np.array_equal(head, drawn)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Settings(checkpoint_steps=-3), "checkpoint_steps is -3"),
        (lambda: Seeds(0, -1), "The seed of the order is -1"),
        (lambda: Seeds(2**32, 0), "The seed of the initialisation is 4294967296"),
    ],
)
def test_a_number_out_of_its_range_is_a_traceback(make, said: str) -> None:
    with pytest.raises(TransferlabError, match=re.escape(said)):
        make()


@pytest.mark.parametrize("method", [tl.methods.Probe(weights="random"), tl.methods.LoRA(rank=2, weights="random")])
def test_what_began_with_random_weights_is_exported_with_the_pretrained_ones(
    source, films, tmp_path: Path, method
) -> None:
    data = films.subset(24, 0)
    run, result = fit(source, data, method, tmp_path / "run", replace(QUICK, learning_rate=0.1))
    for made in (found(result.adapted).merged(), found(tl.open_run(tmp_path / "run").adapted).merged()):
        inputs = run.feed.inputs(data.test[:8], int(run.feed.buckets(data.test[:8]).max()), 8)
        answered = jax.nn.softmax(made(inputs)["logits"])
        np.testing.assert_allclose(answered, result.probabilities[:8], atol=1e-5)


def test_other_numbers_of_the_same_weights_are_the_same_model(films, tmp_path: Path, monkeypatch) -> None:
    import transferlab.transfer.frontier as frontier

    monkeypatch.setattr(frontier, "FLOPS_PER_BYTE", 0.0)
    one, other = tmp_path / "one", tmp_path / "other"
    write_bert(one), write_bert(other, hidden_act="relu")
    cache, found = FrontierCache(tmp_path / "cache"), []
    for place in (one, other, one):
        run = tl.adapt(tl.load(place), films.subset(24, 0), method=tl.methods.Probe(), settings=QUICK)
        run.cache = cache
        found.append((run.fit().probabilities, cache.computed))
    assert found[1][1] == 2 * found[0][1] == found[2][1]
    assert not np.array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][0], found[2][0])
    # A run met again, and one that is opened, on a config that was changed in its place.
    fit(tl.load(one), films.subset(24, 0), tl.methods.Full(), tmp_path / "run")
    write_bert(one, hidden_act="relu")
    with pytest.raises(TransferlabError, match=r"config.hidden_act \(gelu → relu\)"):
        fit(tl.load(one), films.subset(24, 0), tl.methods.Full(), tmp_path / "run")
    with pytest.raises(TransferlabError, match="not what this run had: hidden_act"):
        tl.open_run(tmp_path / "run")


def test_two_processes_train_one_run(source, films, tmp_path: Path) -> None:
    from transferlab.files import file_lock

    run = tl.adapt(source, films.subset(16, 0), settings=QUICK, directory=tmp_path / "run")
    with file_lock(tmp_path / "run" / ".lock"), pytest.raises(TransferlabError, match="Another process is training"):
        run.fit()
    assert run.fit().test["accuracy"] >= 0


def test_confidence_outweighs_an_example_of_a_large_validation_split(source, films) -> None:
    from transferlab.train.loop import _take_score

    run = tl.adapt(source, films.subset(40, 0).hold_out(0.5, 0), settings=QUICK)
    member, n = prepare(run, {})[0], 4000
    object.__setattr__(run.data, "labels", np.zeros(n, np.int32))
    object.__setattr__(run.data, "validation", np.arange(n))
    for step, (wrong, sure) in enumerate(((400, 0.6), (399, 0.99999), (399, 0.9)), 1):
        probabilities = np.full((n, 2), (sure, 1 - sure), np.float32)
        probabilities[:wrong] = (1 - sure, sure)
        _take_score(member, [], step, probabilities, lambda: {})
    assert member.best is not None and member.best[1] == 3
    _take_score(member, [], 4, np.full((n, 2), np.nan, np.float32), lambda: {})
    assert member.best[1] == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "lora"}, "give one of tl.methods"),
        ({"settings": {"steps": 3}}, "give a Settings"),
        ({"seed": "a"}, "give a whole number, or Seeds"),
        ({"source": "minilm-l6"}, "open it first, as tl.load"),
        ({"data": "tweets"}, "open it first, as tl.dataset"),
    ],
)
def test_a_name_in_place_of_a_thing_is_a_traceback(source, films, wrong: dict, said: str) -> None:
    given = {"source": source, "data": films, "method": None, "settings": None, "seed": 0, **wrong}
    with pytest.raises(TransferlabError, match=said):
        _check_kinds(**given)


def test_what_was_computed_before_a_stop_is_computed_again(source, films, tmp_path: Path, monkeypatch) -> None:
    run = tl.adapt(source, films.subset(40, 0), method=tl.methods.Probe(), settings=QUICK)
    run.cache = FrontierCache(tmp_path)
    params, stats = run._plan.place(0)
    whole = run._carries

    def stopped(*args):
        yield next(iter(whole(*args)))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_carries", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.features(params, stats)
    before = len(run._wanted)
    again = FrontierCache(tmp_path)
    assert 0 < len(again.missing(run._key(params, stats), run._wanted)) < before
