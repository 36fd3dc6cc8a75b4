"""Token labels: the loss over tagged sub-words, long sentences in rows, predictions of every word, runs and their errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from support.checkpoints import write_bert
from support.typed import savez
from support.words import NAMES, tagged

import transferlab as tl
from transferlab.cli.main import cli
from transferlab.data.batches import Batch
from transferlab.data.ragged import Ragged
from transferlab.data.text import Encoded
from transferlab.data.words import WordInputs, split
from transferlab.errors import TransferlabError
from transferlab.models import TokenClassifierConfig
from transferlab.tasks import TokenLabels, task_for, task_from
from transferlab.tasks.base import StepBatch
from transferlab.train import Settings

QUICK = Settings(learning_rate=1e-2, steps=60, batch_size=16, log_every=20)


def step(seed: int = 0) -> tuple[np.ndarray, StepBatch]:
    rng = np.random.default_rng(seed)
    tags = rng.integers(-1, 3, (4, 6)).astype(np.int32)
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    return rng.normal(size=(4, 6, 3)), {"inputs": {}, "targets": {"tag": jnp.asarray(tags)}, "weight": weight}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_tagged_words(smoothing: float) -> None:
    logits, batch = step()
    tags, task = np.asarray(batch["targets"]["tag"])[:3], TokenLabels(label_smoothing=smoothing)
    logp = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[:3]
    true = np.take_along_axis(logp, np.maximum(tags, 0)[..., None], -1)[..., 0]
    each = -((1 - smoothing) * true + smoothing * logp.mean(-1))[tags >= 0]
    out = {"logits": jnp.asarray(logits)}
    assert float(task.weights(batch)["loss"]) == len(each)
    assert float(task.loss(out, batch)["loss"]) == pytest.approx(each.sum(), rel=1e-5)
    hits, weight = task.metrics(out, batch)["accuracy"]
    assert (float(hits), float(weight)) == ((logits[:3].argmax(-1) == tags)[tags >= 0].sum(), len(each))
    # No gradient reaches a word that is not scored, or padding.
    grad = np.asarray(jax.grad(lambda x: task.loss({"logits": x}, batch)["loss"])(jnp.asarray(logits)))
    assert (np.abs(grad).max(-1) > 0).tolist() == [*(tags >= 0).tolist(), [False] * 6]


def test_a_long_sentence_becomes_rows_of_whole_words() -> None:
    text = Encoded((1, 10, 11, 12, 13, 14, 15, 2), (0,) * 8, 0, (-1, 0, 0, 1, 2, 2, 2, -1))
    first = split(text, 5)  # room for three tokens
    assert (first.ids, first.words) == ((1, 10, 11, 12, 2), (-1, 0, 0, 1, -1))
    assert [(one.ids, one.words, one.cut) for one in first.windows] == [((1, 13, 14, 15, 2), (-1, 2, 2, 2, -1), 0)]
    assert split(text, 8) == text
    short = split(text, 4)  # the last word is longer than a row: its end is cut, and counted
    assert [one.cut for one in (short, *short.windows)] == [0, 0, 1]


def test_every_word_has_a_prediction_whatever_the_padding_and_the_rows(source) -> None:
    data = tagged(12, longest=120, test_examples=4)
    feed = TokenLabels().inputs(data.records, source.transform, content="words")
    assert isinstance(feed, WordInputs)
    rows = feed.rows_of(np.arange(12))
    assert len(rows) > 12 and feed.truncated(np.arange(12)) == 0
    task, buckets = TokenLabels(), feed.buckets(rows)
    batch = Batch(rows, int(buckets.max()))
    tags = task.collate(task.targets(data, {}), feed, batch, len(rows) + 2)["tag"]
    assert tags.shape == (len(rows) + 2, batch.bucket) and (tags[-2:] == -1).all()
    # What is read at the first sub-words is each word's own tag, in order.
    one_hot = np.eye(len(data.target.names) + 1, dtype=np.float32)[tags]
    parts = sorted(task.gather({"probabilities": one_hot}, feed, batch), key=lambda part: part[:2])
    for i in range(12):
        joined = np.concatenate([arrays["probabilities"] for example, _, arrays in parts if example == i])
        np.testing.assert_array_equal(joined.argmax(-1), data.target.word_tags().values[i])


def test_all_sub_words_are_trained_on_where_asked(source) -> None:
    feed = TokenLabels().inputs([{"id": "a", "words": ["good-film", "bad"]}], source.transform, content="words")
    columns = {"tag": np.array([np.array([1, 0], np.int32), None], object)[:1]}
    batch = Batch(np.array([0]), 16)
    assert TokenLabels().collate(columns, feed, batch, 1)["tag"][0, :6].tolist() == [-1, 1, -1, -1, 0, -1]
    assert TokenLabels(subwords="all").collate(columns, feed, batch, 1)["tag"][0, :6].tolist() == [-1, 1, 1, 1, 0, -1]


def test_a_word_of_which_nothing_is_left_is_read_as_unknown_and_keeps_its_tag(source, caplog) -> None:
    feed = TokenLabels().inputs(
        [{"id": "a", "words": ["good", "\u200b \t".strip("\u200b"), "bad"]}], source.transform, content="words"
    )
    assert isinstance(feed, WordInputs)
    words, _ = feed.first_subwords(0, 16)
    assert words.tolist() == [0, 1, 2] and "read as unknown" in caplog.text


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """A run on sentences of which some have several rows."""
    folder = tmp_path_factory.mktemp("tagger")
    source, data = tl.load(write_bert(folder / "bert")), tagged(longest=60)
    run = tl.adapt(source, data, method=tl.methods.Scratch(), settings=QUICK, directory=folder / "run")
    return run, run.fit(), data


def test_a_run_finds_the_spans_and_is_opened_again(finished) -> None:
    run, result, data = finished
    assert (
        isinstance(task_for(data, run.source), TokenLabels)
        and run.task.scheme == "bio"
        and run.task.chooses == "span_f1"
    )
    assert data.target.names == NAMES and len(run.feed.rows_of(data.train)) > len(data.train)
    probabilities = result.predictions["probabilities"]
    assert isinstance(probabilities, Ragged)
    assert [len(one) for one in probabilities] == [len(data.records[int(i)]["words"]) for i in data.test]
    assert result.test["accuracy"] > 0.8 and result.test["span_f1"] > 0.5
    predictor = tl.open_run(run.directory)
    sentences = [data.records[int(i)]["words"] for i in data.test]
    again = predictor(sentences)
    np.testing.assert_allclose(again.values, probabilities.values, rtol=1e-4, atol=1e-6)
    assert task_from({"name": "token_labels", "scheme": "bio"}) == TokenLabels()
    fields, line = predictor.task.present(again[0], predictor.labels, sentences[0])
    assert fields["tags"] == [NAMES[i] for i in again[0].argmax(-1)]
    assert line.split()[0] == f"{sentences[0][0]}_{fields['tags'][0]}"


def test_predictions_hold_every_word_and_evaluation_reads_them(finished) -> None:
    run, result, data = finished
    arrays = np.load(run.directory / "predictions.npz")
    true = np.concatenate([data.target.word_tags().values[int(i)] for i in data.test])
    np.testing.assert_array_equal(arrays["tag"], true)
    assert (arrays["tag_offsets"] == arrays["probabilities_offsets"]).all()
    scores = tl.train.evaluate_run(run.directory).scores
    assert {name: scores[name] for name in result.test} == pytest.approx(result.test)
    record = json.loads((run.directory / "result.json").read_text())
    assert record["metric"] == "span_f1" and record["truncated"] == 0


def test_spans_are_scored_later_by_the_scheme_and_as_strictly_as_in_the_run(tmp_path: Path) -> None:
    names = ["B-bad", "I-bad", "O"]
    run = {"task": {"name": "token_labels", "scheme": "bio", "strict": True}, "labels": names}
    (tmp_path / "run.json").write_text(json.dumps(run))
    # A span that begins with I is none in the strict way, and is one in conlleval's.
    probabilities, offsets = np.eye(3, dtype=np.float32)[[1, 2]], np.array([0, 2])
    entries = {"tag": np.array([1, 2]), "tag_offsets": offsets, "label_names": np.array(names)}
    savez(
        tmp_path / "predictions.npz",
        {"probabilities": probabilities, "probabilities_offsets": offsets, **entries},
    )
    found = tl.train.evaluate_run(tmp_path)
    assert found.scores["span_f1"] == 0.0 and found.scores["accuracy"] == 1.0
    lenient = tl.train.evaluate_run(tmp_path, TokenLabels(scheme="bio"))
    assert lenient.scores["span_f1"] == 1.0


def test_a_run_that_diverged_has_no_scores(tmp_path: Path) -> None:
    predictions, _ = TokenLabels().failed(("B-bad", "O"), 2)
    values = predictions["probabilities"]
    assert isinstance(values, Ragged)
    np.savez(tmp_path / "predictions.npz", probabilities=values.values, probabilities_offsets=values.offsets,
             tag=np.zeros(5, np.int32), tag_offsets=np.array([0, 2, 5]), label_names=np.array(["B-bad", "O"]))  # fmt: skip
    found = tl.train.evaluate_run(tmp_path, TokenLabels(scheme="bio"))
    assert np.isnan(list(found.scores.values())).all() and set(found.undefined) == set(found.scores)


def test_what_is_written_is_a_token_classifier_and_keeps_rows_by_tag(finished, tmp_path: Path) -> None:
    _, result, _ = finished
    source = tl.load(tl.save(result.source, tmp_path / "tagger"))
    raw = json.loads((tmp_path / "tagger" / "config.json").read_text())
    assert raw["architectures"] == ["BertForTokenClassification"] and raw["id2label"]["0"] == "B-bad"
    assert isinstance(source.head, TokenClassifierConfig) and source.labels == NAMES
    assert "token-classification" in (tmp_path / "tagger" / "README.md").read_text()
    inputs = {"input_ids": np.arange(4, 16).reshape(2, 6)}
    np.testing.assert_allclose(source(inputs)["logits"], result.source(inputs)["logits"], atol=1e-5)
    rows = [{"words": ["good", "film"], "tags": ["B-good", "NEW"]}, {"words": ["a", "bad"], "tags": ["O", "B-bad"]}] * 4
    rows = [{**row, "words": [*row["words"], str(i)], "tags": [*row["tags"], "O"]} for i, row in enumerate(rows)]
    more = tl.adapt(source, tl.dataset(rows, words="words", target="tags"), settings=Settings(steps=1, batch_size=4))
    leaf = next(leaf for leaf in more.plan.leaves if leaf.path == "head/kernel")
    assert leaf.action == "derived"


def test_a_batch_in_parts_has_the_whole_batchs_gradient(source) -> None:
    data = tagged(30, longest=60, test_examples=8)
    whole, parts = (
        tl.adapt(
            source, data, method=tl.methods.Probe(),
            settings=Settings(learning_rate=1e-2, steps=4, batch_size=12, log_every=1, accumulate=n),
        ).fit()
        for n in (1, 4)
    )  # fmt: skip
    for one, other in zip(whole.history, parts.history, strict=True):
        assert one == pytest.approx(other, rel=2e-4)


def test_parts_of_speech_are_scored_by_words(source) -> None:
    rows = [{"words": ["the", "film", str(i)], "tags": ["DET", "NOUN", "NUM"]} for i in range(20)]
    run = tl.adapt(source, tl.dataset(rows, words="words", target="tags"), settings=Settings(steps=1, batch_size=8))
    assert isinstance(run.task, TokenLabels) and (run.task.scheme, run.task.chooses) == ("none", "accuracy")
    assert set(run.fit().test) == {"accuracy", "f1_macro", "cross_entropy"}
    with pytest.raises(TransferlabError, match="mark no spans"):
        tl.adapt(source, run.data, task=TokenLabels(metric="span_f1"))
    with pytest.raises(TransferlabError, match="the tag 'DET', which the scheme 'bio' does not have"):
        tl.adapt(source, run.data, task=TokenLabels(scheme="bio"))


def test_what_cannot_be_tagged_is_one_error(source, films) -> None:
    with pytest.raises(TransferlabError, match=r"needs lists of words with a tag for each, and .* holds text"):
        tl.adapt(source, films, task=TokenLabels())
    same = [{"words": ["a", str(i)], "tags": ["O", "O"]} for i in range(9)]
    with pytest.raises(TransferlabError, match="same tag"):
        tl.adapt(source, tl.dataset(same, words="words", target="tags"))
    with pytest.raises(TransferlabError, match="no metric 'spanf1'"):
        TokenLabels(metric="spanf1")
    feed = TokenLabels().inputs([{"id": "a", "words": []}], source.transform, content="words")
    with pytest.raises(TransferlabError, match="has no words"):
        feed.rows_of(np.arange(1))
    with pytest.raises(TransferlabError, match=r"Pass lists of words: predictor\(\[text.split\(\)\]\)"):
        TokenLabels().inputs([{"id": "a", "text": "b"}], source.transform, content="text")


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ("a good film", r"pass a list: predictor\(\['a good film'\.split\(\)\]\)"),
        (["a good film"], r"examples\[0\] is the text 'a good film'; .*predictor\(\[text\.split\(\) for text in texts\]\)"),
        (["a", "good", "film"], r"expected a list of words: predictor\(\[\['a', 'good', 'film'\]\]\)"),
        ([["good"], []], r"examples\[1\] has no words\. Leave it out"),
        ([["good", " "]], r"examples\[0\]: word 2 is empty\. Remove it"),
        ([["good", 3]], r"examples\[0\] is \['good', 3\]; expected a list of words"),
        ([["good"], "film"], r"examples\[1\] is the text 'film'"),
        ({"words": [["good"]]}, r"pass a list of lists of words\. .*predictor\(list\(table\['words'\]\)\)"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_lists_of_words_is_an_error_that_says_what_to_pass(finished, examples, said: str) -> None:
    run, _, _ = finished
    for predict in (run.fit().predict, tl.open_run(run.directory).present):
        with pytest.raises(TransferlabError, match=said):
            predict(examples)


def test_lists_of_words_may_be_tuples_and_arrays_and_none_at_all(finished) -> None:
    run, _, _ = finished
    predictor = tl.open_run(run.directory)
    for same in ([("good", "film")], [np.array(["good", "film"])]):
        np.testing.assert_array_equal(predictor(same)[0], predictor([["good", "film"]])[0])
    none = predictor([])
    assert len(none) == 0 and none.values.shape == (0, len(predictor.labels)) and predictor.present([]).lines == ()


def test_a_text_of_the_command_line_is_split_at_white_space(finished) -> None:
    run, _, _ = finished
    done = CliRunner().invoke(cli, ["predict", str(run.directory), "a good  film", "the bad day"])
    lines = done.output.splitlines()
    assert done.exit_code == 0 and [len(line.split("\t")[0].split()) for line in lines] == [3, 3]
    assert re.fullmatch(r"a_\S+ good_\S+ film_\S+\ta good  film", lines[0])


def test_the_baseline_gives_each_word_the_tag_that_it_had_most_often() -> None:
    rows = [
        {"words": ["a", "b"], "tags": ["X", "Y"]},
        {"words": ["a", "a", "b"], "tags": ["X", "Z", "Y"]},
        {"words": ["b", "b"], "tags": ["Y", "Y"]},
    ]
    test = [{"words": ["a", "b", "new"], "tags": ["X", "Y", "Z"]}]
    data = tl.dataset({"train": rows, "test": test}, words="words", target="tags")
    task = TokenLabels(scheme="none")
    each = task.baselines["frequent_tag"].predictions(task, data, None)["probabilities"]
    assert [data.target.names[i] for i in each[0].argmax(-1)] == ["X", "Y", "Y"]
    np.testing.assert_allclose(each.values.sum(-1), 1, rtol=1e-6)
    chance = task.baselines["majority"].predictions(task, data, None)
    assert task.scored(chance, data, data.test)["accuracy"] == pytest.approx(1 / 3)
