"""Baselines of language models for which nothing is trained: tokens by their frequency, and the source as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from transferlab import trees
from transferlab.data.batches import Batch
from transferlab.errors import TransferlabError
from transferlab.evaluate.baselines import Baseline, Predictions
from transferlab.models.backbone import Carry
from transferlab.models.heads import LanguageModelConfig
from transferlab.tasks.prediction import predict_rows

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.data.inputs import TextInputs
    from transferlab.pretrained.source import Source

ROWS = 8
"""Rows of a batch."""


def _feed(task: Any, data: Dataset, source: Source) -> TextInputs:
    return task.inputs(data.records, source.transform, content=data.content, ids=data.ids, sha256=data.sha256)


def _predictions(
    task: Any, data: Dataset, feed: TextInputs, predict: Callable[[Carry, dict[str, Any]], Carry]
) -> Predictions:
    """What ``predict`` says of the test split; it takes inputs and targets, as evaluation sees them."""

    def call(batch: Batch) -> dict[str, np.ndarray]:
        targets = task.collate({}, feed, batch, ROWS)
        return jax.device_get(predict(feed.inputs(batch.indices, batch.bucket, ROWS), targets))

    return predict_rows(task, (), feed, data.test, ROWS, call)


def _unigram(task: Any, data: Dataset, source: Source) -> Predictions:
    """Add-one frequencies of the training split's tokens, special ones left out, over the source's vocabulary."""
    feed = _feed(task, data, source)
    counts, special = np.ones(feed.transform.vocabulary), list(feed.transform.special_ids)
    for row in feed.rows_of(data.train):
        ids = np.array(feed.window(int(row)).ids, np.int64)
        np.add.at(counts, ids[~np.isin(ids, special)], 1.0)
    log_frequency, likeliest = np.log(counts / counts.sum()).astype(np.float32), int(counts.argmax())
    evaluation = jax.jit(task.evaluation)

    def predict(inputs: Carry, targets: dict[str, Any]) -> Carry:
        hidden = evaluation(inputs, targets)
        labels, position = np.asarray(hidden["labels"]), np.asarray(hidden["selected"])
        correct = (labels == likeliest).astype(np.float32)
        return {"log_likelihood": log_frequency[labels], "correct": correct, "position": position}

    return _predictions(task, data, feed, predict)


def _zero_shot(task: Any, data: Dataset, source: Source) -> Predictions:
    if not isinstance(source.head, LanguageModelConfig):
        raise TransferlabError(
            f"The baseline zero_shot is what the source says before it trains, and {source.name} has no head that continues texts. "
            "Remove it from config.baselines."
        )
    params, state = source.arrays

    @jax.jit
    def program(params: trees.Tree, state: trees.Tree, inputs: Carry, targets: dict[str, Any]) -> Carry:
        return task.predict(source.network.run(params, state, task.evaluation(inputs, targets))[0])

    return _predictions(
        task, data, _feed(task, data, source), lambda inputs, targets: program(params, state, inputs, targets)
    )


UNIGRAM = Baseline("predicting each token with its frequency", _unigram, "text", constant=True, of_source=True)
ZERO_SHOT = Baseline("the source as it is, without any training", _zero_shot, "text", of_source=True)
