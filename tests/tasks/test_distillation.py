"""Distillation: the loss, the teacher's logits that are computed once, and what cannot teach."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.checkpoints import write_bert
from support.typed import found

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.tasks import Classification, Distillation
from transferlab.train import Settings
from transferlab.transfer import features

SETTINGS = Settings(steps=20, batch_size=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def teacher(bert_folder, films):
    """A classifier of the films, and the probabilities that it gives."""
    return found(tl.adapt(tl.load(bert_folder), films.subset(64, 0), settings=SETTINGS).fit().adapted).merged()


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """Another network: one layer, other weights."""
    return tl.load(write_bert(tmp_path_factory.mktemp("student"), num_hidden_layers=1, seed=5))


def test_the_loss_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    logits, taught = (jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for _ in range(2))
    labels, t = jnp.array([1, 3, 0]), 3.0
    task = Distillation("teacher", temperature=t, weight=0.25)
    batch = {"targets": {"label": labels, "teacher": taught}, "weight": jnp.array([1.0, 1.0, 0.0]), "inputs": {}}
    sums, weights = task.loss({"logits": logits}, batch), task.weights(batch)  # type: ignore[arg-type]
    p, q = jax.nn.softmax(taught / t), jax.nn.softmax(logits / t)
    divergence = (p * (jnp.log(p) - jnp.log(q))).sum(-1)
    hard = -jax.nn.log_softmax(logits)[jnp.arange(3), labels]
    total = sum(task.terms[name] * sums[name] / weights[name] for name in sums)
    np.testing.assert_allclose(total, 0.75 * hard[:2].mean() + 0.25 * t**2 * divergence[:2].mean(), rtol=1e-5)


def test_a_student_learns_what_the_teacher_says_and_not_the_labels_where_these_weigh_nothing(
    student, teacher, films
) -> None:
    data = films.subset(64, 0)
    taught = tl.extract_features(teacher, data, "head")
    run = tl.adapt(student, data, task=Distillation(teacher, weight=1.0, temperature=1.0), settings=SETTINGS)
    loss = [row["distillation"] for row in run.fit().history]
    assert loss[-1] < 0.5 * loss[0] and taught["head"].shape == (len(taught.examples), 2)
    assert run.fitted["teacher"]["sha256"] == teacher.sha256


def test_logits_of_a_head_are_those_of_the_classifier_itself(teacher, films) -> None:
    data = films.subset(20, 0)
    out = tl.extract_features(teacher, data, "head")
    texts = [data.records[i]["text"] for i in out.examples]
    feed = Classification().inputs([{"text": text} for text in texts], teacher.transform, content="text")
    rows = np.arange(len(texts))
    bucket = int(feed.buckets(rows).max())
    np.testing.assert_allclose(out["head"], teacher(feed.inputs(rows, bucket, len(rows)))["logits"], atol=1e-5)
    with pytest.raises(TransferlabError, match="Logits are not pooled"):
        tl.extract_features(teacher, data, "head", pool=None)


def test_the_teacher_is_run_once_for_all_runs(student, teacher, films, monkeypatch) -> None:
    counted = []
    batches = features.feature_batches
    monkeypatch.setattr(features, "feature_batches", lambda *a: counted.append(a[1]) or batches(*a))
    data = films.subset(48, 1)
    for seed in (0, 1):
        tl.adapt(
            student, data, method=tl.methods.LoRA(rank=1), task=Distillation(teacher), settings=SETTINGS, seed=seed
        ).fit()
    assert len([rows for rows in counted if len(rows)]) == 1


def test_a_distilled_run_is_resumed_and_opened_by_the_name_of_its_teacher(student, teacher, films, tmp_path) -> None:
    tl.save(teacher, tmp_path / "teacher")
    data, task = films.subset(32, 0), Distillation(str(tmp_path / "teacher"))
    result = tl.adapt(student, data, task=task, settings=SETTINGS, directory=tmp_path / "run").fit()
    again = tl.adapt(student, data, task=task, settings=SETTINGS, directory=tmp_path / "run").fit()
    assert again.test == result.test
    texts = [data.records[i]["text"] for i in data.test]
    opened = tl.open_run(tmp_path / "run")
    assert isinstance(opened.task, Distillation)
    np.testing.assert_allclose(opened(texts), result.predictions["probabilities"], atol=1e-6)
    with pytest.raises(TransferlabError, match=r"task\.temperature \(2\.0 → 3\.0\)"):
        other = Distillation(str(tmp_path / "teacher"), temperature=3.0)
        tl.adapt(student, data, task=other, settings=SETTINGS, directory=tmp_path / "run").fit()


def test_what_cannot_teach_is_refused(student, teacher, films, source) -> None:
    with pytest.raises(TransferlabError, match="has 0 labels, and the data 2"):
        tl.adapt(student, films, task=Distillation(source))
    with pytest.raises(TransferlabError, match="teacher is ''; pass a classifier"):
        Distillation("")
    frame = {"text": ["a", "b", "c", "d"] * 5, "label": ["up", "down", "sideways", "up"] * 5}
    with pytest.raises(TransferlabError, match=r"it lacks 'sideways'"):
        tl.adapt(student, tl.dataset(frame, test_examples=4), task=Distillation(teacher))
