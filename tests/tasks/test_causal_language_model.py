"""Causal language modelling: documents share rows and do not see each other, no token is lost, scores are over all of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from support.corpora import corpus, decoder_source, masked_source, sentences

import transferlab as tl
from transferlab.cli.main import cli
from transferlab.data.batches import Batch
from transferlab.data.documents import Documents
from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError
from transferlab.tasks import CausalLanguageModel, task_for
from transferlab.train import Settings
from transferlab.transfer.cache import FrontierCache
from transferlab.transfer.groups import Group

QUICK = Settings(learning_rate=3e-2, steps=80, batch_size=8, log_every=20, evaluations=2)


def documents(source: tl.Source, texts: list[str], length: int) -> Documents:
    data = corpus(texts)
    assert source.transform is not None
    return CausalLanguageModel(length).inputs(data.records, source.transform, ids=data.ids)


def likelihoods(source: tl.Source, feed: Documents) -> dict[int, np.ndarray]:
    """Of each document's tokens, from rows that documents share."""
    task, rows = CausalLanguageModel(), feed.rows_of(np.arange(len(feed.examples)))
    bucket = int(feed.buckets(rows)[0])
    batch = Batch(rows, bucket)
    made = feed.inputs(rows, bucket, len(rows) + 1), task.collate({}, feed, batch, len(rows) + 1)
    inputs = task.evaluation(*jax.tree.map(jnp.asarray, made))
    out = {name: np.asarray(values) for name, values in task.predict(source.module()(inputs)).items()}
    parts: dict[int, list] = {}
    for example, start, arrays in task.gather(out, feed, batch):
        parts.setdefault(example, []).append((start, arrays["log_likelihood"]))
    return {example: np.concatenate([a for _, a in sorted(p, key=lambda p: p[0])]) for example, p in parts.items()}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma"])
def test_packed_documents_have_the_likelihoods_of_each_alone(kind: str, tmp_path: Path) -> None:
    source = decoder_source(tmp_path / "model", kind)
    feed = documents(source, sentences(7, longest=20), 32)
    assert len(feed.rows_of(np.arange(7))) < 7
    for example, packed in likelihoods(source, feed).items():
        tokens = feed.document(example)
        logits = np.asarray(source({"input_ids": tokens[None, :-1]})["logits"])[0].astype(np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(packed, logp[np.arange(len(tokens) - 1), tokens[1:]], atol=1e-5)


def test_a_document_begins_and_ends_as_its_source_was_trained(tmp_path: Path) -> None:
    bare = documents(decoder_source(tmp_path / "gpt2"), ["good film"], 16)
    begun = documents(decoder_source(tmp_path / "llama", "llama"), ["good film"], 16)
    assert bare.document(0).tolist() == [3, 4, 11, 3] and begun.document(0).tolist() == [2, 4, 11, 3]


def test_long_documents_are_split_and_no_token_is_lost(tmp_path: Path) -> None:
    source, texts = decoder_source(tmp_path / "model"), sentences(20, longest=60)
    feed = documents(source, texts, 16)
    rows = feed.rows_of(np.arange(20))
    parts = [part for row in rows for part in feed.parts(int(row))]
    assert all(feed.length(int(row)) <= 16 for row in rows)
    assert max(len(text.split()) for text in texts) > 48  # beyond what the source itself reads
    for example, text in enumerate(texts):
        own = sorted((part for part in parts if part.example == example), key=lambda part: part.start)
        assert [part.start for part in own] == list(range(0, len(text.split()) + 1, 16))
        assert np.concatenate([own[0].tokens[:1], *(part.tokens[1:] for part in own)]).tolist() == feed.document(example).tolist()  # fmt: skip
    assert sum(map(len, parts)) == sum(len(text.split()) + 1 for text in texts)


def test_a_run_learns_is_opened_generates_and_predicts_each_text(tmp_path: Path) -> None:
    source, texts = decoder_source(tmp_path / "model"), sentences(230)
    data = corpus(texts, test=20, validation=10)
    task = task_for(data, source)
    assert isinstance(task, CausalLanguageModel)
    result = tl.adapt(source, data, settings=QUICK, task=CausalLanguageModel(32), directory=tmp_path / "run").fit()
    predicted = result.predictions["log_likelihood"]
    tokens = [len(text.split()) + 1 for text in texts[-20:]]
    assert isinstance(predicted, Ragged) and np.diff(predicted.offsets).tolist() == tokens
    entropy = -predicted.values.mean()
    assert result.test["cross_entropy"] == pytest.approx(entropy) and entropy < 1.8 < np.log(18)
    assert result.test["perplexity"] == pytest.approx(np.exp(entropy))
    size = sum(len(text.encode()) for text in texts[-20:])
    assert result.test["bits_per_byte"] == pytest.approx(entropy * sum(tokens) / np.log(2) / size)
    for row in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines()):
        assert "loss" not in row or row["perplexity"] == pytest.approx(np.exp(row["loss"]))
    again = tl.open_run(tmp_path / "run")(texts[-20:])
    np.testing.assert_allclose(again.values, predicted.values, atol=1e-5)
    assert result.source is not None and tl.generate(result.source, "good great", max_new_tokens=3).tokens
    tl.save(result.source, tmp_path / "saved")
    assert tl.load(tmp_path / "saved").head == source.head


def test_a_file_of_texts_is_read_trained_on_and_predicted_on_the_command_line(tmp_path: Path) -> None:
    texts = sentences(40)
    (tmp_path / "corpus.txt").write_text("\n".join(texts))
    source, data = decoder_source(tmp_path / "model"), tl.dataset(tmp_path / "corpus.txt", documents="line")
    tl.adapt(source, data, settings=replace(QUICK, steps=2), directory=tmp_path / "run").fit()
    out = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), "good film the day", " ".join(texts)])
    assert out.exit_code == 0, out.output
    first, second = out.output.splitlines()
    assert first.startswith("perplexity ") and "of 5 tokens" in first and "truncated" not in out.output
    assert f"of {sum(len(text.split()) for text in texts) + 1} tokens" in second


def test_lora_and_a_tied_head_train_the_adapters_alone(tmp_path: Path) -> None:
    source, data = decoder_source(tmp_path / "model"), corpus(sentences(40), test=10)
    settings = replace(QUICK, steps=4)
    run = tl.adapt(source, data, method=tl.methods.LoRA(rank=2), settings=settings, task=CausalLanguageModel(32))
    assert run.plan.trainable and all("/lora/" in path for path in run.plan.trainable)
    assert np.isfinite(run.fit().test["cross_entropy"])


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["good film", ""], "row 1 is empty"),
        (["good film", "<s>"], "row 1 is empty"),
    ],
)
def test_texts_without_a_token_are_named(texts: list[str], says: str, tmp_path: Path) -> None:
    source = decoder_source(tmp_path / "model")
    with pytest.raises(TransferlabError, match=says):
        tl.adapt(source, corpus([*texts, "a film"], test=1), task=CausalLanguageModel())


def test_a_text_of_one_token_needs_one_that_ends_it(tmp_path: Path) -> None:
    source = decoder_source(tmp_path / "model", eos_token_id=None)
    with pytest.raises(
        TransferlabError, match=r"row 0 is a single token, which nothing follows.*Leave out texts of one token"
    ):
        tl.adapt(source, corpus(["good", "a film"], test=1), task=CausalLanguageModel())
    tl.adapt(decoder_source(tmp_path / "other"), corpus(["good", "a film"], test=1), task=CausalLanguageModel())


def test_sources_that_do_not_continue_text_are_refused(tmp_path: Path) -> None:
    data = corpus(sentences(6), test=2)
    with pytest.raises(TransferlabError, match=r"is an encoder.*task=tl.tasks.MaskedLanguageModel\(\)"):
        tl.adapt(masked_source(tmp_path / "bert"), data, task=CausalLanguageModel())
    with pytest.raises(TransferlabError, match=r"at most 48 tokens. Pass tl.tasks.CausalLanguageModel\(length=48\)"):
        tl.adapt(decoder_source(tmp_path / "gpt2"), data, task=CausalLanguageModel(length=64))


@dataclass(frozen=True)
class LastLayer(tl.methods.Full):
    def groups(self, stages) -> tuple[Group, ...]:
        return (Group("layers/1"),)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma"])
def test_frozen_layers_of_packed_rows_are_computed_once_and_the_run_is_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of another subset in the same cache: its rows have the same numbers, and hold other texts."""
    # So small a model would be recomputed.
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    source, cache, texts = decoder_source(tmp_path / "model", kind), FrontierCache(), corpus(sentences(60), test=8)
    # Not Adam: it scales a gradient that is rounding noise up to the size of any other.
    settings = replace(QUICK, learning_rate=0.1, steps=10, optimizer=tl.train.Optimizer("sgd"))
    for method in (LastLayer(), tl.methods.LoRA(rank=2, targets="layers/1/attention/{query,value}/kernel")):
        for data in (texts.subset(20, 0), texts.subset(20, 1)):
            runs = [
                tl.adapt(
                    source, data, method=method, settings=replace(settings, **changes), task=CausalLanguageModel(32)
                )
                for changes in ({}, {"cache_bytes": 0})
            ]
            runs[0].cache = cache
            cached, recomputed = (run.fit() for run in runs)
            assert runs[0].decision.cached and not runs[1].decision.cached
            assert runs[0].program.frontier > 0 and runs[1].program.frontier == 0
            for name in ("log_likelihood", "correct"):
                one, other = cached.predictions[name], recomputed.predictions[name]
                np.testing.assert_array_equal(one.offsets, other.offsets)
                np.testing.assert_allclose(one.values, other.values, atol=2e-5)
            one, other = ([row["loss"] for row in r.history if "loss" in row] for r in (cached, recomputed))
            np.testing.assert_allclose(one, other, atol=1e-5)
