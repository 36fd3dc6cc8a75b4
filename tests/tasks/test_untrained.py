"""Baselines of language models that train nothing: frequencies counted by hand, the source's own likelihoods."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.corpora import corpus, decoder_source, masked_source, sentences

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.tasks import CausalLanguageModel, MaskedLanguageModel


def test_hidden_tokens_have_the_frequencies_of_the_training_texts(tmp_path: Path) -> None:
    source = masked_source(tmp_path / "bert")
    tests = ["good film", "film day good unheard", "bad"] * 5
    data, task = corpus(["good good film", "good unheard", "day", *tests], test=15), MaskedLanguageModel()
    predictions = task.baselines["unigram"].predictions(task, data, source)
    # A trained run hides the same tokens at the same places.
    run = tl.adapt(source, data, task=task, settings=tl.train.Settings(steps=1)).fit()
    np.testing.assert_array_equal(predictions["position"].values, run.predictions["position"].values)
    counts = {"good": 3, "film": 1, "day": 1}
    assert source.transform is not None
    total = sum(counts.values()) + source.transform.vocabulary
    for text, places, likelihood, correct in zip(
        tests, predictions["position"], predictions["log_likelihood"], predictions["correct"], strict=True
    ):
        word = text.split()[int(places[0]) - 1]
        assert likelihood.tolist() == pytest.approx([np.log((counts.get(word, 0) + 1) / total)])
        assert correct.tolist() == [float(word == "good")]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_source_as_it_is_has_the_likelihoods_of_each_document_alone(kind: str, tmp_path: Path) -> None:
    source, data = decoder_source(tmp_path / "model", kind), corpus(sentences(30, longest=20), test=20)
    task = CausalLanguageModel(32)
    predictions = task.baselines["zero_shot"].predictions(task, data, source)
    assert source.transform is not None
    feed = task.inputs(data.records, source.transform, ids=data.ids)
    for index, own in zip(data.test, predictions["log_likelihood"], strict=True):
        tokens = feed.document(int(index))
        logits = np.asarray(source({"input_ids": tokens[None, :-1]})["logits"])[0].astype(np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(own, logp[np.arange(len(tokens) - 1), tokens[1:]], atol=1e-5)
    assert task.scored(predictions, data, data.test)["bits_per_byte"] > 0


def test_a_source_without_a_head_says_nothing_before_it_trains(tmp_path: Path) -> None:
    source, task = replace(decoder_source(tmp_path / "model"), head=None), CausalLanguageModel(32)
    with pytest.raises(TransferlabError, match=re.escape("has no head that continues texts. Remove it from config.")):
        task.baselines["zero_shot"].predictions(task, corpus(sentences(8), test=2), source)
