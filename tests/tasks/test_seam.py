"""What a task may say about its rows, its loss and its predictions, on toy tasks: the engine keeps to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

import transferlab as tl
from transferlab.data.batches import Batch
from transferlab.data.inputs import TextInputs, inputs_for
from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError
from transferlab.models.backbone import Carry
from transferlab.tasks import Classification
from transferlab.tasks.base import Predictions
from transferlab.train import Settings


@dataclass(frozen=True)
class Whole(Classification):
    """A loss that compares the examples of a batch."""

    name: ClassVar[str] = ""
    additive: ClassVar[bool] = False


@dataclass(frozen=True)
class Drawn(Classification):
    """Its inputs are changed in each step."""

    name: ClassVar[str] = ""
    fixed_inputs: ClassVar[bool] = False


@dataclass(frozen=True)
class Lengths(Classification):
    """As many numbers for an example as it has tokens."""

    name: ClassVar[str] = ""
    ragged: ClassVar[bool] = True
    predicted: ClassVar[str] = "token"

    def predict(self, out: Carry) -> dict[str, Any]:
        length = jnp.broadcast_to(out["logits"].argmax(-1)[:, None], (len(out["logits"]), 64))
        return {"token": length.astype(jnp.float32)}

    def gather(
        self, predictions: Mapping[str, np.ndarray], feed: Any, batch: Batch
    ) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        for row, values in zip(batch.indices.tolist(), predictions["token"], strict=False):
            yield row, 0, {"token": values[: feed.length(row)]}

    def score(self, predictions: Predictions, data: Any, indices: np.ndarray) -> dict[str, float]:
        tokens = predictions["token"]
        assert isinstance(tokens, Ragged) and len(tokens) == len(indices)
        hits = [float(part.mean() == label) for part, label in zip(tokens, data.labels[indices], strict=True)]
        return dict.fromkeys(self.scores, float(np.mean(hits)))


QUICK = Settings(learning_rate=1e-2, steps=6, batch_size=8)


def test_a_loss_that_is_no_sum_is_never_computed_in_parts(source, films) -> None:
    with pytest.raises(
        TransferlabError, match=r"settings.accumulate is 2, but the loss of Whole compares the examples"
    ):
        tl.adapt(source, films, task=Whole(), settings=replace(QUICK, accumulate=2))
    run = tl.adapt(source, films, task=Whole(), settings=replace(QUICK, memory_bytes=1000))
    with pytest.raises(TransferlabError, match="the whole batch at once, which this task needs"):
        run.fit()


def test_inputs_that_change_are_not_kept_at_the_frontier(source, films) -> None:
    kept = tl.adapt(source, films, method=tl.methods.Probe(), settings=QUICK)
    drawn = tl.adapt(source, films, method=tl.methods.Probe(), settings=QUICK, task=Drawn())
    assert kept.decision.cached and not drawn.decision.cached
    assert "changes its inputs in each step" in drawn.decision.sentence


def test_predictions_of_different_lengths_are_written_and_read(source, films, tmp_path: Path) -> None:
    result = tl.adapt(source, films, task=Lengths(), settings=QUICK, directory=tmp_path / "run").fit()
    again = tl.adapt(source, films, task=Lengths(), settings=QUICK, directory=tmp_path / "run").fit()
    for one in (result, again):
        tokens = one.predictions["token"]
        assert isinstance(tokens, Ragged)
        feed = inputs_for(films.records, source.transform, content="text")
        assert isinstance(feed, TextInputs)
        feed.prepare(films.test)
        assert [len(part) for part in tokens] == [feed.length(int(i)) for i in films.test]
    np.testing.assert_array_equal(result.predictions["token"].values, again.predictions["token"].values)


def test_a_task_says_what_its_examples_may_hold(source, films) -> None:
    with pytest.raises(
        TransferlabError, match=r"Classification reads text or pair or image or audio or array, and .* holds words"
    ):
        tl.adapt(source, replace(films, content="words"))


def windows(texts: list[str], source: tl.Source) -> TextInputs:
    feed = inputs_for([{"text": text} for text in texts], source.transform, content="text")
    assert isinstance(feed, TextInputs)
    return feed


def test_windows_cover_a_long_text_and_neighbors_overlap(source) -> None:
    limit = source.transform.max_length
    text = " ".join(["good", "bad", "film"] * limit)
    whole = windows([text], source)
    assert whole.truncated(np.array([0])) == 1
    wide = source.with_windows(overlap=4)
    feed = windows(["good film", text], wide)
    rows = feed.rows_of(np.array([0, 1]))
    assert feed.examples_of(rows).tolist() == [0] + [1] * (len(rows) - 1) and feed.truncated(np.array([1])) == 0
    parts = [feed.window(int(row)).ids[1:-1] for row in rows[1:]]
    joined = list(parts[0])
    for part in parts[1:]:
        assert tuple(joined[-4:]) == part[:4]
        joined += part[4:]
    tokenizer = source.transform.tokenizer
    assert joined == [tokenizer.token_to_id(word) for word in ["good", "bad", "film"] * limit]
    with pytest.raises(TransferlabError, match=r"overlap is \d+; a window has"):
        source.with_windows(overlap=limit)


def test_the_prediction_of_a_long_text_is_the_mean_over_its_windows(source, tmp_path: Path) -> None:
    words = {0: "bad", 1: "good"}
    rows = [f"{' '.join([words[i % 2], 'film'] * (1 + 20 * (i % 3)))} {i},{words[i % 2]}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))
    data = tl.dataset(tmp_path / "t.csv", test_examples=12)
    wide = source.with_windows(overlap=2)
    run = tl.adapt(wide, data, method=tl.methods.Full(), settings=QUICK, directory=tmp_path / "run")
    assert len(run.order.indices) > len(data.train)
    result = run.fit()
    assert result.record["truncated"] == 0 and result.probabilities.shape == (12, 2)
    predictor = tl.open_run(tmp_path / "run")
    assert predictor.transform.describe()["overlap"] == 2
    texts = [data.records[int(i)]["text"] for i in data.test]
    np.testing.assert_allclose(predictor(texts), result.probabilities, atol=1e-6)
    longest = max(texts, key=len)
    feed = windows([longest], wide)
    row_texts = [feed.window(int(row)) for row in feed.rows_of(np.array([0]))]
    inputs = wide.transform.pad(row_texts, max(len(one.ids) for one in row_texts), len(row_texts))
    each = predictor._predict(predictor.params, predictor.state, inputs, {})["probabilities"]
    np.testing.assert_allclose(predictor([longest])[0], np.asarray(each).mean(0), atol=1e-6)


@pytest.mark.parametrize("long", ["every split", "the test split alone"])
def test_a_probe_on_windows_reads_all_of_them_however_it_is_computed(source, tmp_path: Path, long: str) -> None:
    """Its features are one vector a window, which a program of many runs would take for one an example."""
    texts = [f"{'good' if i % 2 else 'bad'} film {i}" for i in range(40)]
    splits = ["test" if i < 10 else "train" for i in range(40)]
    rows = [
        {"text": f"{text} {'film day ' * 40}" if long == "every split" or split == "test" else text, "label": text.split()[0], "split": split}
        for text, split in zip(texts, splits, strict=True)
    ]  # fmt: skip
    data = tl.dataset(rows, splits="split")
    wide = source.with_windows(overlap=2)
    assert len(tl.adapt(wide, data).feed.rows_of(data.test)) > len(data.test)
    together, alone = (
        tl.adapt(wide, data, method=tl.methods.Probe(), settings=replace(QUICK, vectorize=how)).fit()
        for how in ("auto", "never")
    )
    np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-6)
    read = [data.records[int(i)]["text"] for i in data.test]
    np.testing.assert_allclose(together.predict(read), together.probabilities, atol=1e-6)
