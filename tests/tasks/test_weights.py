"""Weights of classes and tags: what they are, what they change, and that populations do not compile again for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.tasks import Classification, MultiLabel, task_from
from transferlab.train import Settings

QUICK = Settings(learning_rate=1e-2, steps=6, batch_size=8, log_every=1)


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory):
    """90 texts, of which one in ten is good."""
    path = tmp_path_factory.mktemp("rare") / "a.jsonl"
    rows = [{"text": f"{'good' if i % 10 == 0 else 'dull'} film {i % 7} {i}", "label": ["dull", "good"][i % 10 == 0]} for i in range(90)]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    return tl.dataset(path, test_examples=30)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("tagged") / "a.jsonl"
    rows = [{"text": f"film {i}", "label": ["a"] * (i % 2) + ["b"] * (i % 5 == 0)} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return tl.dataset(path, test_examples=20)


def probe(source, data, task, **more):
    return tl.adapt(source, data, method=tl.methods.Probe(), settings=more.pop("settings", QUICK), task=task, **more)


def test_balanced_weights_are_those_of_scikit_learn_on_the_training_split(source, rare) -> None:
    run, labels = probe(source, rare, Classification(class_weights="balanced")), rare.labels[rare.train]
    wanted = compute_class_weight("balanced", classes=np.arange(2), y=labels)
    assert list(run.fitted["class_weights"]) == ["dull", "good"]
    assert list(run.fitted["class_weights"].values()) == pytest.approx(wanted)
    np.testing.assert_allclose(run.targets(rare.train)["weight"], wanted[labels], rtol=1e-6)


def test_balanced_tags_weigh_as_much_with_as_without(source, tagged) -> None:
    run = probe(source, tagged, MultiLabel(positive_weights="balanced"))
    targets, tags = run.targets(tagged.train), tagged.target.values[tagged.train]
    for tag in range(2):
        has = tags[:, tag]
        assert targets["weight"][has, tag].sum() == pytest.approx((~has).sum(), rel=1e-5)
        assert (targets["weight"][~has, tag] == 1).all()


def test_a_label_that_the_weights_leave_out_has_the_weight_1(source, rare, tagged) -> None:
    assert probe(source, rare, Classification(class_weights={"good": 5.0})).fitted == {"class_weights": {"dull": 1.0, "good": 5.0}}  # fmt: skip
    assert probe(source, tagged, MultiLabel(positive_weights={"b": 2.0})).fitted == {"positive_weights": {"a": 1.0, "b": 2.0}}  # fmt: skip


def test_a_rare_class_is_found_where_it_weighs_as_much_as_the_others(source, rare) -> None:
    settings = replace(QUICK, steps=60)
    plain = probe(source, rare, Classification(), settings=settings).fit()
    balanced = probe(source, rare, Classification(class_weights="balanced"), settings=settings).fit()
    assert balanced.predictions["probabilities"][:, 1].mean() > 2 * plain.predictions["probabilities"][:, 1].mean()
    # The accuracy that is logged while it trains counts examples.
    assert all(row["accuracy"] * 8 == pytest.approx(round(row["accuracy"] * 8)) for row in balanced.history if "accuracy" in row)  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_runs_of_other_weights_share_a_program_and_train_as_if_alone(source, rare, smoothing: float) -> None:
    tasks = [
        Classification(label_smoothing=smoothing, class_weights=w)
        for w in (None, "balanced", {"good": 3.0}, {"good": 9.0})
    ]
    runs = [probe(source, rare, task) for task in tasks]
    assert len({id(run.program) for run in runs}) == 1
    before = runs[0].program.scanned_steps.compilations
    together = tl.fit_together(runs)
    assert [result.record["population_size"] for result in together] == [1, 3, 3, 3]
    assert runs[0].program.scanned_steps.compilations <= before + 2  # with weights and without
    for task, result in zip(tasks, together, strict=True):
        alone = probe(source, rare, task).fit()
        np.testing.assert_allclose(alone.probabilities, result.probabilities, rtol=1e-5)


@pytest.mark.parametrize(
    "task", [Classification(label_smoothing=0.1, class_weights="balanced"), MultiLabel(positive_weights={"b": 4.0})]
)
def test_a_weighted_batch_in_parts_has_the_whole_batchs_gradient(source, rare, tagged, task) -> None:
    data = (tagged if isinstance(task, MultiLabel) else rare).subset(20, 0)
    settings = [replace(QUICK, batch_size=12, accumulate=n, vectorize="never") for n in (1, 4)]
    whole, parts = (
        probe(source, data, task, settings=one).fit() for one in settings
    )  # every other batch has 8 examples
    for one, other in zip(whole.history, parts.history, strict=True):
        assert one == pytest.approx(other, rel=2e-4, abs=1e-6)
    np.testing.assert_allclose(whole.probabilities, parts.probabilities, rtol=1e-5)


def test_weights_are_recorded_and_other_weights_are_another_run(source, rare, tmp_path: Path) -> None:
    probe(source, rare, Classification(class_weights="balanced"), directory=tmp_path).fit()
    recorded = json.loads((tmp_path / "run.json").read_text())
    assert recorded["fitted"]["class_weights"]["good"] == pytest.approx(60 / (2 * 6))
    assert task_from(recorded["task"]).class_weights == "balanced"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TransferlabError, match=r"another run; these fields differ: fitted.class_weights.dull"):
        probe(source, rare, Classification(class_weights={"good": 2.0}), directory=tmp_path).fit()
    assert tl.open_run(tmp_path)(["good film"]).shape == (1, 2)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"goood": 2.0}, r"class_weights has the label 'goood', which the data lacks. Did you mean 'good'\?"),
        ({"good": -1.0}, r"class_weights\['good'\] is -1.0; it must be at least 0"),
        ("balance", r"class_weights is 'balance'. Did you mean 'balanced'\?"),
        ({"good": 0.0, "dull": 0.0}, "every training example has the weight 0, so there is nothing to learn"),
        (2.0, "class_weights is 2.0. Choose from: balanced."),
    ],
)
def test_weights_that_cannot_be_are_one_error(source, rare, weights, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        probe(source, rare, task_from({"name": "classification", "class_weights": weights}))


def test_balanced_needs_each_class_in_the_training_split(source, rare, tagged) -> None:
    only = replace(rare, train=np.array([i for i in rare.train if rare.labels[i] == 0]))
    with pytest.raises(
        TransferlabError, match=r"no training example has the label 'good'. .*class_weights=\{'good': 1.0\}"
    ):
        probe(source, only, Classification(class_weights="balanced"))
    tags = tagged.target.values
    none = replace(tagged, train=np.array([i for i in tagged.train if not tags[i, 1]]))
    with pytest.raises(TransferlabError, match="no training example has the tag 'b'"):
        probe(source, none, MultiLabel(positive_weights="balanced"))
    every = replace(tagged, train=np.array([i for i in tagged.train if tags[i, 1]]))
    with pytest.raises(TransferlabError, match="every training example has the tag 'b'"):
        probe(source, every, MultiLabel(positive_weights="balanced"))
