"""Text to text: few shapes for many pairs of lengths, likelihoods of targets, and texts that are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from support.checkpoints import WORDS, write_decoder, write_t5
from support.typed import as_text, found

import transferlab as tl
from transferlab.data.columns import Texts
from transferlab.data.dataset import Dataset
from transferlab.data.sequences import SequenceInputs
from transferlab.errors import TransferlabError
from transferlab.measure.texts import exact_match, token_f1
from transferlab.models import shift_right
from transferlab.tasks import SequenceToSequence, task_for
from transferlab.train import Settings

QUICK = Settings(learning_rate=1e-2, steps=30, batch_size=8, log_every=5)


def written(count: int = 48, longest: int = 6, seed: int = 0) -> Dataset:
    """Texts, and the first two words of each as its target; some texts and targets are long."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, longest))) for _ in range(count)]
    targets = np.array([" ".join(text.split()[:2]) for text in texts], object)
    texts[3], targets[4] = "good " * 30, "bad " * 22
    records = [{"id": f"row {i}", "text": texts[i], "target_text": targets[i]} for i in range(count)]
    ids, order, rest = tuple(record["id"] for record in records), np.arange(count), count // 4
    return Dataset("first words", "text", Texts(("answer",), targets), records, ids,
                   order[:-rest], order[:0], order[-rest:], f"{count} {longest} {seed}")  # fmt: skip


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5") / "tiny-t5")


def test_targets_follow_the_padded_length_of_their_texts_in_few_shapes(t5: Path) -> None:
    data, rng = written(200, 50, 1), np.random.default_rng(2)
    targets = np.array([" ".join(rng.choice(WORDS, rng.integers(1, 40))) for _ in range(200)], object)
    records = [{**record, "target_text": text} for record, text in zip(data.records, targets, strict=True)]
    feed = SequenceToSequence().inputs(records, tl.load(t5).transform, content="text")  # pyright: ignore[reportArgumentType]
    assert isinstance(feed, SequenceInputs)
    rows = np.arange(200)
    buckets = feed.buckets(rows)
    shapes = {(int(bucket), feed.lengths[int(bucket)]) for bucket in buckets}
    pairs = {
        (feed.texts.transform.bucket(feed.texts.length(i)), feed.texts.transform.bucket(len(feed.target(i))))
        for i in range(200)
    }
    assert len(shapes) <= len({bucket for bucket, _ in pairs}) < len(pairs)
    lengths = list(feed.lengths.values())
    assert lengths == sorted(lengths)
    # The longest of any batch covers all its rows.
    labels = feed.labels(rows, int(buckets.max()), 200)
    assert [(row >= 0).sum() for row in labels] == [len(feed.target(i)) for i in range(200)]
    for i in range(200):
        assert feed.texts.length(i) <= buckets[i] and len(feed.target(i)) <= feed.lengths[int(buckets[i])]


def test_a_text_is_written_after_training_and_a_finished_run_writes_the_same(t5: Path, tmp_path: Path) -> None:
    source, data = tl.load(t5), written()
    assert isinstance(task_for(data, source), SequenceToSequence)
    run = tl.adapt(source, data, settings=QUICK, task=SequenceToSequence(longest_target=8), directory=tmp_path / "run")
    result = run.fit()
    assert result.history[-1]["loss"] < 0.97 * result.history[0]["loss"]
    assert result.test["perplexity"] == pytest.approx(np.exp(result.test["cross_entropy"]))
    texts = result.predictions["text"]
    assert len(texts) == 12 and 0 <= result.test["token_f1"] <= 1 and 0 <= result.test["exact_match"] <= 1
    # Of 48 examples, one has a target longer than 8 tokens.
    assert result.record["truncated"] == 1
    assert result.record["compilations"] == len({run.order[step].bucket for step in range(30)})
    inputs = [data.records[int(i)]["text"] for i in data.test]
    assert tl.open_run(tmp_path / "run")(inputs) == texts.tolist()
    again = tl.adapt(
        source, data, settings=QUICK, task=SequenceToSequence(longest_target=8), directory=tmp_path / "run"
    )
    read = again.fit().predictions
    assert read["text"].tolist() == texts.tolist()
    np.testing.assert_allclose(read["log_likelihood"], result.predictions["log_likelihood"])
    with np.load(tmp_path / "run" / "predictions.npz") as arrays:
        assert arrays["target"][0] == data.records[int(data.test[0])]["target_text"]


def test_the_cached_decoder_writes_what_the_whole_decoder_finds_likeliest(t5: Path) -> None:
    source, data = tl.load(t5), written()
    result = tl.adapt(source, data, settings=replace(QUICK, steps=2), task=SequenceToSequence(longest_target=6)).fit()
    trained, transform = found(result.source), as_text(source.transform)
    for i, text in zip(data.test[:4], result.predictions["text"][:4], strict=True):
        inputs = transform.pad(transform.encode([data.records[int(i)]["text"]]), 16, 1)
        ids = [0]
        while len(ids) <= 6 and (len(ids) == 1 or ids[-1] != 1):
            logits = trained({**inputs, "decoder_input_ids": np.array([ids], np.int32)})["logits"]
            ids.append(int(logits[0, -1].argmax()))
        assert text == transform.tokenizer.decode([id for id in ids[1:] if id != 1])


def test_a_source_writes_texts_as_its_run_does(t5: Path, source) -> None:
    data = written()
    result = tl.adapt(
        tl.load(t5), data, settings=replace(QUICK, steps=2), task=SequenceToSequence(longest_target=6)
    ).fit()
    texts = [data.records[int(i)]["text"] for i in data.test]
    made = tl.generate(found(result.source), texts, max_new_tokens=6)
    assert list(made.texts) == result.predictions["text"].tolist()
    assert all((row[-1] == 1) == ended and len(row) <= 6 for row, ended in zip(made.tokens, made.stopped, strict=True))
    # Neither padding nor the side of padding changes what is written.
    alone = tl.generate(found(result.source), texts[0], max_new_tokens=6)
    ids = as_text(tl.load(t5).transform).encode(texts[:1])[0].ids
    padded = {"input_ids": np.array([[*ids, 0, 0]]), "attention_mask": np.array([[1] * len(ids) + [0, 0]])}
    assert alone.tokens[0] == made.tokens[0] == tl.generate(found(result.source), padded, max_new_tokens=6).tokens[0]
    with pytest.raises(TransferlabError, match=r"temperature is 1, .*Leave it out"):
        tl.generate(tl.load(t5), "a film", temperature=1.0)
    with pytest.raises(TransferlabError, match=r"stop is \(1, 2\)"):
        tl.generate(tl.load(t5), "a film", stop=(1, 2))
    for other in (source, tl.load(t5).encoder()):
        with pytest.raises(TransferlabError, match=r"cannot generate text: .*Load a decoder"):
            tl.generate(other, "a film")


def test_adapters_and_a_frozen_encoder_write_too(t5: Path) -> None:
    class Decoder(tl.methods.Full):
        def groups(self, stages):
            return (tl.transfer.Group("decoder"),)

    source, data = tl.load(t5), written()
    for method in (tl.methods.LoRA(rank=2), Decoder()):
        settings = replace(QUICK, steps=8)
        result = tl.adapt(
            source, data, method=method, settings=settings, task=SequenceToSequence(longest_target=6)
        ).fit()
        assert result.history[-1]["loss"] < result.history[0]["loss"] and len(result.predictions["text"]) == 12


def test_a_batch_in_parts_has_the_whole_batchs_loss(t5: Path) -> None:
    source, data = tl.load(t5), written()
    whole, parts = (
        tl.adapt(source, data, settings=replace(QUICK, steps=4, log_every=1, accumulate=n, learning_rate=1e-3)).fit()
        for n in (1, 4)
    )
    for one, other in zip(whole.history, parts.history, strict=True):
        assert one == pytest.approx(other, rel=2e-4)


def test_decoder_inputs_are_the_labels_shifted_and_padding_is_padding(t5: Path) -> None:
    config = tl.load(t5).config
    assert shift_right(jnp.array([[7, 1, -1, -1], [7, -100, -100, -100]]), config).tolist() == [
        [0, 7, 1, 0],
        [0, 7, 0, 0],
    ]


def test_a_source_that_cannot_write_is_refused(t5: Path, source, films, tmp_path: Path) -> None:
    write_decoder(tmp_path / "gpt2", "gpt2")
    for other in (source, tl.load(t5).encoder()):
        with pytest.raises(TransferlabError, match="needs an encoder and a decoder, as T5 has"):
            tl.adapt(other, written(), task=SequenceToSequence())
    with pytest.raises(TransferlabError, match="not a text"):
        tl.adapt(tl.load(t5), films, task=SequenceToSequence())


def test_scores_of_texts() -> None:
    assert exact_match(["a  fine day", "a"], ["a fine day", "A"]) == 0.5
    assert token_f1(["the the cat", ""], ["the cat", ""]) == pytest.approx((0.8 + 1.0) / 2)


def test_the_baseline_knows_how_frequent_tokens_and_targets_are(t5: Path) -> None:
    data, task, source = written(), SequenceToSequence(), tl.load(t5)
    scores = task.score(task.baselines["frequent"].predictions(task, data, source), data, data.test)
    transform = as_text(source.transform)
    tokens = [token for i in data.train for token in transform(data.records[int(i)]["target_text"]).ids]
    counts = np.bincount(tokens, minlength=24) + 1.0
    tested = [token for i in data.test for token in transform(data.records[int(i)]["target_text"]).ids]
    assert scores["cross_entropy"] == pytest.approx(-np.log(counts / counts.sum())[tested].mean())
    assert scores["token_accuracy"] == pytest.approx(np.mean(np.array(tested) == counts.argmax()))


def test_runs_on_data_of_other_lengths_train_as_they_would_alone(t5: Path) -> None:
    """A program of many runs has one shape of targets for each padded length of texts."""
    source, data = tl.load(t5), [written(), written(longest=30, seed=1)]

    def fitted(vectorize: str) -> list[np.ndarray]:
        settings = replace(QUICK, steps=10, vectorize=vectorize)  # pyright: ignore[reportArgumentType]
        runs = [tl.adapt(source, one, settings=settings) for one in data]
        return [np.asarray(result.predictions["log_likelihood"]) for result in tl.fit_together(runs)]

    for together, alone in zip(fitted("always"), fitted("never"), strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-4)


@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
def test_a_score_of_what_is_written_cannot_choose_and_the_error_says_why(metric: str) -> None:
    with pytest.raises(
        TransferlabError,
        match=rf"'{metric}', .*test split alone.* Choose from: cross_entropy, perplexity, token_accuracy",
    ):
        SequenceToSequence(metric=metric)
