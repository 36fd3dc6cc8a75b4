"""Contrastive learning: what a batch is compared with, runs on pairs and on single texts, and encoders that are written."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from support.checkpoints import write_bert, write_clip
from support.typed import as_text, found

import transferlab as tl
from transferlab.cli.main import cli
from transferlab.data.columns import Classes, NoTarget
from transferlab.data.dataset import Dataset
from transferlab.errors import TransferlabError
from transferlab.measure.retrieval import per_query, retrieval_scores
from transferlab.tasks import Contrastive, task_for
from transferlab.tasks.base import StepBatch, total_loss
from transferlab.train import Settings

QUICK = Settings(learning_rate=1e-2, steps=40, batch_size=8, log_every=4)
WORDS = np.array(["good", "great", "fine", "bad", "poor", "sad", "film", "day", "very", "was"])


def pairs(count: int = 60, content: str = "pair", seed: int = 0) -> Dataset:
    """Pairs whose second text has the first's words, in another order and with one more."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(count):
        chosen = rng.choice(WORDS, 4, replace=False)
        record = {"id": f"row {i}", "text": " ".join(chosen), "text_pair": " ".join(["the", *rng.permutation(chosen)])}
        records.append(record if content == "pair" else {"id": record["id"], "text": record["text"]})
    ids, order, rest = tuple(record["id"] for record in records), np.arange(count), count // 3
    return Dataset("twins", content, NoTarget((), np.zeros((count, 0))), records, ids,  # pyright: ignore[reportArgumentType]
                   order[rest:], order[:0], order[:rest], f"twins {content} {count} {seed}")  # fmt: skip


def step(vectors: np.ndarray, ids: list[list[int]], weight: list[float], task: Contrastive) -> tuple[float, np.ndarray]:
    """The loss of a batch of interleaved vectors, and its gradient."""
    batch: StepBatch = {"inputs": {}, "targets": {"ids": jnp.array(ids)}, "weight": jnp.array(weight)}

    def loss(vectors: jax.Array) -> jax.Array:
        return total_loss(task, task.loss({"embedding": vectors}, batch), task.weights(batch))

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(vectors))
    return float(value), np.asarray(gradient)


VECTORS = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
APART = [[0, 1], [2, 3], [4, 5], [6, 7]]


def by_hand(rows: list[int], scale: float = 20.0, drop: tuple[tuple[int, int], ...] = ()) -> float:
    """The mean cross-entropy of these examples of VECTORS, without the pairs (query, document) in ``drop``."""
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    total = 0.0
    for i in rows:
        logits = {j: scale * float(unit[2 * i] @ unit[2 * j + 1]) for j in rows if (i, j) not in drop}
        total += np.log(sum(np.exp(value) for value in logits.values())) - logits[i]
    return total / len(rows)


def test_the_loss_is_the_cross_entropy_of_each_pair_among_the_batch() -> None:
    assert step(VECTORS, APART, [1, 1, 1, 1], Contrastive())[0] == pytest.approx(by_hand([0, 1, 2, 3]), rel=1e-5)
    turned = VECTORS.reshape(4, 2, 5)[:, ::-1].reshape(8, 5)
    both = [step(one, APART, [1, 1, 1, 1], Contrastive(scale=5.0))[0] for one in (VECTORS, turned)]
    symmetric = step(VECTORS, APART, [1, 1, 1, 1], Contrastive(scale=5.0, symmetric=True))[0]
    assert symmetric == pytest.approx(np.mean(both), rel=1e-5)


def test_padding_is_no_negative_and_gets_no_gradient() -> None:
    loss, gradient = step(VECTORS, [[0, 1], [2, 3], [0, 0], [0, 0]], [1, 1, 0, 0], Contrastive(symmetric=False))
    assert loss == pytest.approx(by_hand([0, 1]), rel=1e-5)
    assert np.abs(gradient[:4]).max() > 0 and not gradient[4:].any()


@pytest.mark.parametrize(
    ("ids", "drop"),
    [
        ([[0, 1], [0, 3], [4, 5], [6, 7]], ((0, 1), (1, 0))),  # the same first text
        ([[0, 1], [2, 1], [4, 5], [6, 7]], ((0, 1), (1, 0))),  # the same second text
        ([[0, 1], [2, 0], [4, 5], [6, 7]], ((0, 1),)),  # a second text that is the other's first
    ],
)
def test_equal_texts_are_no_negatives_of_each_other(ids: list[list[int]], drop) -> None:
    assert step(VECTORS, ids, [1] * 4, Contrastive())[0] == pytest.approx(by_hand([0, 1, 2, 3], drop=drop), rel=1e-5)


def test_an_example_without_a_negative_has_no_weight() -> None:
    loss, gradient = step(VECTORS, [[0, 1], [0, 0], [0, 0], [0, 0]], [1, 0, 0, 0], Contrastive())
    assert loss == 0 and not gradient.any()
    # The third and the fourth are each other's twins and see the first two, which see them: all count.
    assert step(VECTORS, [[0, 1], [0, 1], [0, 1], [6, 7]], [1] * 4, Contrastive())[0] > 0


def in_float64(ids: list[list[int]], weight: list[float], scale: float) -> float:
    """The symmetric loss of VECTORS by its definition: of each direction, the mean over the examples that have a negative in it."""
    unit = VECTORS.astype(np.float64).reshape(-1, 2, 5)
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    means = []
    for own, other in ((0, 1), (1, 0)):
        losses = []
        for i, row in enumerate(ids):
            negatives = [
                j
                for j, pair in enumerate(ids)
                if weight[j] and pair[0] != row[0] and pair[1] != row[1] and pair[other] != row[own]
            ]
            if weight[i] and negatives:
                logits = scale * unit[[i, *negatives], other] @ unit[i, own]
                losses.append(np.log(np.exp(logits).sum()) - logits[0])
        means.append(np.mean(losses))
    return float(np.mean(means))


@pytest.mark.parametrize(
    ("ids", "weight"),
    [
        (
            [[0, 1], [2, 0], [0, 0], [0, 0]],
            [1, 1, 0, 0],
        ),  # the first has a negative in one direction, the second in the other
        ([[0, 1], [2, 0], [3, 0], [0, 4]], [1, 1, 1, 1]),  # the first has none by its first text
        ([[0, 1], [0, 1], [2, 0], [5, 6]], [1, 1, 1, 0]),  # twins, of a text that is another's partner, and padding
        ([[0, 1], [2, 3], [2, 0], [5, 5]], [1, 1, 1, 1]),
    ],
)
def test_each_direction_of_a_symmetric_loss_counts_the_examples_with_a_negative_in_it(ids, weight) -> None:
    task = Contrastive(scale=5.0, symmetric=True)
    loss, gradient = step(VECTORS, ids, weight, task)
    assert loss == pytest.approx(in_float64(ids, weight, 5.0), rel=1e-5)
    assert not gradient.reshape(4, -1)[np.array(weight) == 0].any()
    # It is the mean of both losses alone.
    turned = VECTORS.reshape(4, 2, 5)[:, ::-1].reshape(8, 5)
    one, other = (
        step(v, i, weight, Contrastive(scale=5.0))[0] for v, i in ((VECTORS, ids), (turned, [p[::-1] for p in ids]))
    )
    assert loss == pytest.approx((one + other) / 2, rel=1e-5)


def test_pairs_are_found_better_than_before_and_a_finished_run_gives_vectors(source, tmp_path: Path) -> None:
    data = pairs()
    assert isinstance(task_for(data, source), Contrastive)
    before = tl.adapt(source, data, settings=replace(QUICK, learning_rate=1e-9, steps=1)).fit()
    result = tl.adapt(source, data, method=tl.methods.LoRA(rank=4), settings=QUICK, directory=tmp_path / "run").fit()
    assert result.test["cross_entropy"] < before.test["cross_entropy"]
    vectors = result.predictions["embedding"]
    assert vectors.shape == (20, 2, 16)
    records = [data.records[int(i)] for i in data.test]
    predictor = tl.open_run(tmp_path / "run")
    np.testing.assert_allclose(predictor([(r["text"], r["text_pair"]) for r in records]), vectors, atol=1e-5)
    np.testing.assert_allclose(predictor([r["text"] for r in records]), vectors[:, 0], atol=1e-5)
    # On the command line a text alone has a vector, too, and so has each line of a file.
    (tmp_path / "new.txt").write_text("good film\nbad day\n")
    for given, count in (("good film", 1), (str(tmp_path / "new.txt"), 2)):
        said = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), given], catch_exceptions=False)
        assert said.exit_code == 0 and said.output.count("\tgood film\n") == 1 and said.output.count("\n") == count
    # A finished run is read again.
    again = tl.adapt(source, data, method=tl.methods.LoRA(rank=4), settings=QUICK, directory=tmp_path / "run").fit()
    np.testing.assert_array_equal(again.predictions["embedding"], vectors)
    fields, line = predictor.task.present(vectors[0], ())
    assert line == f"cosine {fields['cosine']:.4f}"


class _Upper(tl.methods.Full):
    """Trains the last layer alone, so that what the first makes of both texts of a pair is kept."""

    def groups(self, stages):
        return (tl.transfer.Group("layers/1"),)


def test_kept_features_are_those_of_each_text_of_a_pair(tmp_path: Path) -> None:
    source = tl.load(write_bert(tmp_path / "wide", hidden_size=64, intermediate_size=256))
    settings = replace(QUICK, steps=3, learning_rate=1e-3)
    kept = tl.adapt(source, pairs(), method=_Upper(), settings=settings)
    inside = tl.adapt(source, pairs(), method=_Upper(), settings=replace(settings, cache_bytes=0))
    assert kept.decision.cached and not inside.decision.cached
    one, other = kept.fit(), inside.fit()
    assert [row["loss"] for row in one.history] == pytest.approx([row["loss"] for row in other.history], rel=1e-4)
    np.testing.assert_allclose(one.predictions["embedding"], other.predictions["embedding"], atol=1e-4)


def test_single_texts_are_compared_with_themselves_under_another_dropout(source, tmp_path: Path) -> None:
    data = pairs(content="text")
    result = tl.adapt(source, data, settings=replace(QUICK, steps=6), task=Contrastive()).fit()
    assert result.predictions["embedding"].shape == (20, 16) and result.test["recall_at_1"] == 1.0
    assert result.history[0]["loss"] > 0
    still = tl.load(write_bert(tmp_path / "still", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    with pytest.raises(TransferlabError, match=r"differ by dropout alone.* all rates in the source's config are 0"):
        tl.adapt(still, data, task=Contrastive())


def test_what_cannot_be_compared_is_refused_with_what_to_do(source, films, tmp_path: Path) -> None:
    with pytest.raises(TransferlabError, match=r"trains the head alone.*nothing would train.*tl\.methods\.LoRA\(\)"):
        tl.adapt(source, pairs(), method=tl.methods.Probe())
    with pytest.raises(TransferlabError, match=r"batch_size is 1, but Contrastive compares.*Settings\(batch_size=32\)"):
        tl.adapt(source, pairs(), settings=replace(QUICK, batch_size=1))
    with pytest.raises(TransferlabError, match=r"accumulate is 2, but the loss of Contrastive"):
        tl.adapt(source, pairs(), settings=replace(QUICK, accumulate=2))
    with pytest.raises(TransferlabError, match=r"has a target .*Open it with target=None"):
        tl.adapt(source, films, task=Contrastive())
    same = pairs()
    records = [{**record, "text": "film"} for record in same.records]
    with pytest.raises(TransferlabError, match="no two examples to train with of different texts"):
        tl.adapt(source, replace(same, records=records))
    with pytest.raises(TransferlabError, match=re.escape("scale is 0")):
        Contrastive(scale=0.0)
    write_clip(tmp_path / "clip", "clip")
    with pytest.raises(
        TransferlabError, match="several towers, which cannot train together yet, as on images with their"
    ):
        tl.adapt(tl.load(tmp_path / "clip"), pairs(), task=Contrastive())


def test_scores_are_those_of_ranks_and_ties_are_in_random_order() -> None:
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(2, 30, 4))
    ids = np.arange(60).reshape(30, 2)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, documents)]
    cosines = unit[0] @ unit[1].T
    ranks = (cosines > np.diag(cosines)[:, None]).sum(1) + 1
    scores = retrieval_scores(queries, documents, ids, 20.0)
    assert scores["recall_at_1"] == pytest.approx((ranks == 1).mean())
    assert scores["recall_at_10"] == pytest.approx((ranks <= 10).mean())
    assert scores["mrr"] == pytest.approx((1 / ranks).mean())
    logits = 20 * cosines
    assert scores["cross_entropy"] == pytest.approx((np.log(np.exp(logits).sum(1)) - np.diag(logits)).mean())
    each = per_query(queries, documents, ids, 20.0)
    assert {name: values.mean() for name, values in each.items()} == pytest.approx(scores)
    collapsed = retrieval_scores(np.ones((30, 4)), np.ones((30, 4)), ids, 20.0)
    assert collapsed["recall_at_1"] == pytest.approx(1 / 30) and collapsed["recall_at_10"] == pytest.approx(10 / 30)
    assert collapsed["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 31)))
    # Equal texts are one: whichever is found, it is right.
    assert retrieval_scores(np.ones((30, 4)), np.ones((30, 4)), np.tile([0, 1], (30, 1)), 20.0)["mrr"] == 1.0


@pytest.mark.parametrize(
    "method", [tl.methods.LoRA(rank=2), tl.methods.Full(pooling="first")], ids=lambda method: method.name
)
def test_an_encoder_is_written_as_sentence_transformers_reads_it(source, tmp_path: Path, method) -> None:
    data = pairs()
    result = tl.adapt(source, data, method=method, settings=replace(QUICK, steps=4)).fit()
    trained = found(result.source)
    for format in ("hf", "orbax"):
        tl.save(trained, tmp_path / format, format=format)
        again = tl.load(tmp_path / format)
        assert (again.pooling, again.normalise) == (method.pooling or "mean", False)
        transform = as_text(again.transform)
        records = [data.records[int(i)] for i in data.test[:5]]
        pooled = again(transform.pad(transform.encode([r["text"] for r in records]), 16, 5))["pooled"]
        np.testing.assert_allclose(pooled, result.predictions["embedding"][:5, 0], atol=1e-5)
    assert (tmp_path / "hf" / "modules.json").exists()


def test_an_encoder_of_a_fine_tuned_classifier_leaves_its_head_behind(source, films, tmp_path: Path) -> None:
    first = tl.adapt(source, films, method=tl.methods.Probe(pooling="pooler"), settings=replace(QUICK, steps=1)).fit()
    tl.save(found(first.source), tmp_path / "classifier")
    classifier = tl.load(tmp_path / "classifier")
    assert classifier.labels
    result = tl.adapt(classifier, pairs(), settings=replace(QUICK, steps=1)).fit()
    tl.save(found(result.source), tmp_path / "encoder")
    assert tl.load(tmp_path / "encoder").head is None


def test_labels_are_no_pairs(source) -> None:
    data = pairs()
    labels = Classes(("no", "yes"), np.arange(60, dtype=np.int32) % 2)
    with pytest.raises(TransferlabError, match="has a target"):
        tl.adapt(source, replace(data, target=labels), task=Contrastive())


def test_chance_finds_at_random_and_words_find_the_same_words(source) -> None:
    data, task = pairs(), Contrastive()
    chance, words = (
        task.score(task.baselines[name].predictions(task, data, source), data, data.test)
        for name in ("chance", "tfidf")
    )
    assert chance["recall_at_1"] == pytest.approx(1 / 20) and chance["cross_entropy"] == pytest.approx(np.log(20))
    assert words["recall_at_1"] > 0.5
