"""Runs: what is frozen stays, and what was asked for is checked before anything is trained."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from support.checkpoints import write_bert, write_vit
from support.runs import QUICK, fit, flat

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.train import Seeds, Settings
from transferlab.train.predictor import Predictor
from transferlab.train.run import _check_kinds


@pytest.mark.parametrize(
    "method", [tl.methods.Probe(), tl.methods.LoRA(rank=2), tl.methods.Full(), tl.methods.Scratch()]
)
def test_what_trains_moves_and_what_is_frozen_stays_bit_for_bit(source, films, method) -> None:
    data = films.subset(40, 0)
    run, result = fit(source, data, method)
    before, after = flat(run.plan.place(0)[0]), flat(result.params)
    assert before.keys() == after.keys()
    for path in before:
        moved = not np.array_equal(before[path], after[path])
        if path.endswith("attention/key/bias"):
            continue  # softmax does not see it: its gradient is 0 up to rounding
        assert moved == (path in run.plan.trainable), path


def test_no_optimizer_moment_is_kept_for_what_is_frozen(source, films) -> None:
    run = tl.adapt(source, films.subset(16, 0), method=tl.methods.LoRA(rank=2), settings=QUICK)
    params, stats = run.plan.place(0)
    state = run.program.initial(trees.split_by(params, run.program.paths)[0], stats)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state["optimizer"]))
    assert moments == 2 * run.plan.trainable_parameters + 1  # first and second moment, and a counter


def test_memory_counts_the_leaves_and_moments_that_exist(source, films) -> None:
    data = films.subset(16, 0)
    full, lora = (fit(source, data, m)[1].record["memory"] for m in (tl.methods.Full(), tl.methods.LoRA(rank=2)))
    run = tl.adapt(source, data, method=tl.methods.Full(), settings=QUICK)
    assert full["frozen"] == 0
    assert full["trainable"] == 4 * run.plan.parameters
    assert full["optimizer"] == 2 * full["trainable"] + 4  # two moments, and a counter
    assert full["activations"] > 0
    assert lora["frozen"] + lora["trainable"] > full["trainable"]  # the adapters come on top
    assert lora["optimizer"] < full["optimizer"] / 10


def test_a_run_a_source_and_a_predictor_say_what_they_are(source, films, bert_folder, tmp_path: Path) -> None:
    run = tl.adapt(source, films.subset(16, 0), method=tl.methods.LoRA(rank=2), settings=QUICK, directory=tmp_path)
    count = f"{run.plan.parameters:,}"
    lines = repr(run).splitlines()
    assert [line.split()[0] for line in lines] == [
        "Run",
        "source",
        "data",
        "task",
        "method",
        "trains",
        "steps",
        "writes",
    ]
    assert lines[1].endswith(f"{str(bert_folder)!r}: bert, 6,304 parameters, reads texts of up to 48 tokens, no head")
    assert films.name in lines[2] and "16 to train, 60 to test" in lines[2]
    assert "Classification, scored by accuracy; the last state is tested" in lines[3]
    assert f"{run.plan.trainable_parameters:,} of {count} parameters (" in lines[5] and str(tmp_path) in lines[7]
    assert (
        f"{run.steps:,}, each of {QUICK.batch_size} examples; learning rate {QUICK.learning_rate:g}, adamw" in lines[6]
    )
    held = tl.adapt(source, films.subset(16, 0).hold_out(0.25, 0), settings=QUICK)
    assert "the best validated state is tested" in repr(held) and "writes  nothing; directory=" in repr(held)
    assert (
        repr(source) == f"Source({str(bert_folder)!r}: bert, 6,304 parameters, reads texts of up to 48 tokens, no head)"
    )
    result = run.fit()
    said = f"Predictor(Classification of neg, pos, trained on {str(bert_folder)!r}: reads texts of up to 48 tokens)"
    assert repr(result.predictor).replace(", ".join(result.labels), "neg, pos") == said
    assert repr(result.adapted).endswith("head: Classifier of 2 labels) with 4 adapters)")


def test_a_run_that_would_take_no_step_is_an_error(source, films) -> None:
    with pytest.raises(TransferlabError, match="no step"):
        tl.adapt(source, replace(films, train=films.train[:0]), settings=Settings(epochs=1))


def test_a_pooler_that_was_asked_for_is_not_replaced_by_the_mean(films, tmp_path: Path) -> None:
    bare = tl.load(write_bert(tmp_path / "bare", drop=("pooler.dense.weight", "pooler.dense.bias")))
    with pytest.raises(TransferlabError, match=r"cannot pool by 'pooler'.* It can pool by mean, first, stages"):
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
def test_a_mistyped_word_in_python_is_refused(make, said: str) -> None:
    with pytest.raises(TransferlabError, match=re.escape(said)):
        make()


def test_the_seeds_of_the_head_and_of_the_order_are_independent(source, films) -> None:
    def head_and_order(initialisation: int, order: int):
        run = tl.adapt(source, films.subset(40, 0), settings=QUICK, seed=Seeds(initialisation, order))
        head = flat(run.plan.place(initialisation)[0])["head/kernel"]
        return np.asarray(head), run.order[0].indices.tolist()

    pairs = head_and_order(0, 0), head_and_order(0, 1), head_and_order(1, 0)
    (head, first), (same, other), (new, again) = pairs
    np.testing.assert_array_equal(head, same)
    assert first != other and first == again and not np.array_equal(head, new)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Settings(checkpoint_steps=-3), "checkpoint_steps is -3"),
        (lambda: Seeds(0, -1), "The seed of the order is -1"),
        (lambda: Seeds(2**32, 0), "The seed of the initialisation is 4294967296"),
    ],
)
def test_a_number_out_of_its_range_is_one_error(make, said: str) -> None:
    with pytest.raises(TransferlabError, match=re.escape(said)):
        make()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "lora"}, "pass one of tl.methods"),
        ({"settings": {"steps": 3}}, "pass a Settings"),
        ({"seed": "a"}, "pass an integer, or tl.train.Seeds"),
        ({"source": 3}, "source is .3.; pass a name or a directory, as .minilm-l6."),
    ],
)
def test_an_argument_of_the_wrong_kind_is_one_error(source, wrong: dict, said: str) -> None:
    arguments = {"source": source, "method": None, "settings": None, "seed": 0, **wrong}
    with pytest.raises(TransferlabError, match=said):
        _check_kinds(**arguments)


def test_what_follows_from_a_run_cannot_be_made_untrue_afterwards(source, films) -> None:
    run = tl.adapt(source, films.subset(40, 0), settings=QUICK)
    for name, value in (("settings", replace(QUICK, epochs=1)), ("task", tl.tasks.MultiLabel()), ("steps", 3)):
        with pytest.raises(TransferlabError, match=rf"run.{name} cannot be set: .*tl\.adapt"):
            setattr(run, name, value)
    run.memory_note = "in parts"
    assert run.settings == QUICK and run.memory_note == "in parts"


def test_runs_of_one_kind_share_a_plan_which_is_kept_once(bert_folder: Path, films) -> None:
    source = tl.load(bert_folder)
    first, second = (tl.adapt(source, films.subset(n, 0), settings=QUICK, seed=n) for n in (40, 60))
    assert first.transfer is second.transfer and list(source.plans.values()) == [first.transfer]


def test_a_source_and_data_are_opened_by_their_names(bert_folder: Path, table: Path, films) -> None:
    named = tl.adapt(str(bert_folder), table, settings=QUICK)
    assert isinstance(named.task, tl.tasks.Classification) and named.data.sha256 == films.sha256
    for wrong, said in (
        ({"source": "berd"}, "Unknown model 'berd'"),
        ({"data": "revews.csv"}, "There is no file or folder 'revews.csv'"),
        ({"data": None}, "A NoneType is data of no kind that is read"),
    ):
        with pytest.raises(TransferlabError, match=re.escape(said)):
            tl.adapt(**{"source": bert_folder, "data": table, **wrong})  # pyright: ignore[reportArgumentType]


_WRONG_CALLS = (
    ("tl.adapt(source, data, epochs=3)", "takes no 'epochs'. It is a setting: tl.adapt(source, data, settings=tl.train.Settings(epochs="),
    ("tl.adapt(source, data, lr=1e-3)", "tl.train.Settings(learning_rate="),
    ("tl.adapt(source, data).fit(epochs=3)", "tl.train.Settings(epochs="),
    ("tl.adapt(source, data, rank=8)", "method=tl.methods.LoRA(rank="),
    ("tl.adapt(source, data, class_weights='balanced')", "task=tl.tasks.Classification(class_weights="),
    ("tl.adapt(model=source, data=data)", "Did you mean 'source'"),
    ("tl.adapt(source, data, tl.methods.LoRA())", "Only source, data may be given without a name; the others are given by it, as method="),
    ("tl.adapt(data, source)", "source is a value of type Dataset; pass a name or a directory, as 'minilm-l6'"),
    ("tl.adapt(source, data, method=tl.methods.LoRA)", "method is the class LoRA; pass one of tl.methods, as tl.methods.LoRA(rank=8)"),
    ("tl.adapt(source, data, task='regression')", "task is 'regression'; pass one of tl.tasks, as tl.tasks.Regression()"),
    ("tl.adapt(source, data, directory=3)", "directory is '3'; give a folder's name, as directory='runs/mine'"),
    ("tl.methods.LoRA(r=8)", "Did you mean 'rank'"),
    ("tl.train.Settings(lr=1.0)", "Did you mean 'learning_rate'"),
    ("tl.dataset({}, label='kind')", "Did you mean 'target'"),
    ("tl.dataset(['a'], ['b'])", "Only source may be given without a name; the others are given by it, as text="),
    ("tl.adapt(source, data).fit(3)", "report is '3'; pass a function"),
    ("tl.load(None)", "name is 'None'; pass a registered name"),
    ("tl.load('owner/name')", "tl.load('hf:owner/name')"),
    ("source('a text')", "source({'input_ids': [source.tokenizer.encode('a text').ids]})"),
    ("tl.fit_together(tl.adapt(source, data))", "pass a list of runs: tl.fit_together(["),
    ("tl.fit_together([source])", "pass a list of runs: tl.fit_together(["),
    ("tl.open_run(tl.adapt(source, data))", "directory is a value of type Run; pass that of a finished run"),
    ("tl.save(tl.adapt(source, data), 'x')", "source is a value of type Run; pass a source, as tl.save(result.source, 'folder')"),
    ("tl.save(tl.methods.adapted.Adapted(source), 'x')", "pass a source, its adapters merged, as tl.save(adapted.merged(), 'folder')"),
    ("tl.run_study('tweets.py')", "tl.run_study(transferlab.config.read_config("),
    ("tl.dataset({'text': ['a b', 'c d']}, groups=('a', 'b'))", "groups is ('a', 'b'); it must be the name of one column"),
)  # fmt: skip


def test_a_first_call_that_is_wrong_is_one_error_with_the_line_that_mends_it(bert_folder: Path, table: Path) -> None:
    # In a process of its own, where no annotation is checked: users have none that is.
    code = """
import sys, transferlab as tl
source, data = tl.load(sys.argv[1]), tl.dataset(sys.argv[2]).subset(16, 0)
for call in sys.argv[3:]:
    try:
        eval(call)
    except tl.TransferlabError as error:
        print(" ".join(str(error).split()))
    else:
        print("no error")
"""
    arguments = [str(bert_folder), str(table), *(call for call, _ in _WRONG_CALLS)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line, (call, said) in zip(done.stdout.splitlines(), _WRONG_CALLS, strict=True):
        assert said in line, f"{call}: {line}"


def test_what_a_result_has_is_named_where_a_run_is_asked_for_it(source, films) -> None:
    run = tl.adapt(source, films.subset(16, 0), method=tl.methods.Probe(), settings=QUICK)
    for name in ("test", "predict", "predictions"):
        with pytest.raises(
            AttributeError, match=rf"no '{name}' before it is fitted; .*result = run\.fit\(\); result\.{name}"
        ):
            getattr(run, name)
    predictor = run.fit().predictor
    for value, name, said in (
        (run, "evaluate", "'Run' object has no attribute 'evaluate'"),
        (predictor, "predict", r"no attribute 'predict'; call it: predictor\(\['a text'\]\)"),
    ):
        with pytest.raises(AttributeError, match=said):
            getattr(value, name)


@pytest.mark.parametrize("kind", [tl.train.Run, Predictor])
def test_a_property_that_fails_says_why_and_not_that_there_is_none(kind: type) -> None:
    class Failing(kind):
        @property
        def broken(self) -> int:
            raise AttributeError("the true reason")

    with pytest.raises(AttributeError, match="the true reason"):
        _ = object.__new__(Failing).broken


def test_where_no_task_fits_those_that_the_source_can_do_are_named(source, tmp_path: Path) -> None:
    texts, pixels = [f"a good film {i}" for i in range(8)], [np.full((16, 16, 3), i, np.uint8) for i in range(8)]
    write_vit(tmp_path / "vit", "vit")
    vit = tl.load(tmp_path / "vit")
    for model, data, said in (
        (source, {"text": texts}, r"reads texts\. Pass task=tl\.tasks\.Contrastive\(\)\.$"),
        (vit, {"text": texts}, r"reads images\. Load a source that reads texts\.$"),
        (
            vit,
            {"image": pixels},
            r"Tasks on image need a target \(classes, numbers, tags\): tl\.dataset\(…, target='label'\)\.$",
        ),
        (source, {"words": [text.split() for text in texts]}, "reads texts. MaskedLanguageModel: "),
    ):
        with pytest.raises(TransferlabError, match=rf"No task fits .*{said}"):
            tl.adapt(model, tl.dataset(data, target=None))
