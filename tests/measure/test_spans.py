"""Spans are found and counted as seqeval counts them: values of its documentation and of its source, worked out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from transferlab.measure.named import metric_named
from transferlab.measure.spans import misfit, scheme_of, span_scores, spans_of


def test_the_example_of_seqevals_documentation_has_its_score() -> None:
    true = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    predicted = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert span_scores(predicted, true) == {"span_f1": 0.5, "span_precision": 0.5, "span_recall": 0.5}
    # And its example of the strict mode: the default forgives a span that begins with I.
    true, predicted = [["B-NP", "I-NP", "O"]], [["I-NP", "I-NP", "O"]]
    assert span_scores(predicted, true)["span_f1"] == 1.0
    assert span_scores(predicted, true, strict=True)["span_f1"] == 0.0


@pytest.mark.parametrize(
    ("tags", "scheme", "lenient", "strict"),
    [
        ("I-X O I-X", "bio", [("X", 0, 0), ("X", 2, 2)], []),
        ("B-X I-Y", "bio", [("X", 0, 0), ("Y", 1, 1)], [("X", 0, 0)]),
        ("B-X B-X I-X", "bio", [("X", 0, 0), ("X", 1, 2)], [("X", 0, 0), ("X", 1, 2)]),
        ("B-X I-X O", "iobes", [("X", 0, 1)], []),
        ("S-X B-X E-X", "iobes", [("X", 0, 0), ("X", 1, 2)], [("X", 0, 0), ("X", 1, 2)]),
        ("E-X E-X", "iobes", [("X", 0, 0), ("X", 1, 1)], []),
        (
            "U-X U-X B-X I-X L-X",
            "bilou",
            [("X", 0, 0), ("X", 1, 1), ("X", 2, 4)],
            [("X", 0, 0), ("X", 1, 1), ("X", 2, 4)],
        ),
        ("B-X L-Y L-X", "bilou", [], []),
    ],
)
def test_ill_formed_sequences_have_seqevals_spans(tags: str, scheme, lenient: list, strict: list) -> None:
    assert spans_of(tags.split(), scheme) == lenient
    assert spans_of(tags.split(), scheme, strict=True) == strict


def test_without_spans_scores_are_zero_and_examples_are_kept_apart() -> None:
    assert span_scores([["O"]], [["O"]]) == dict.fromkeys(("span_f1", "span_precision", "span_recall"), 0)
    assert span_scores([["B-X"], ["I-X"]], [["B-X"], ["I-X"]])["span_f1"] == 1  # two spans, not one over both


def test_the_scheme_follows_from_the_tags_and_parts_of_speech_have_none() -> None:
    assert scheme_of(["O", "B-a", "I-a"]) == scheme_of(["I-a", "O"]) == "bio"
    assert scheme_of(["O", "B-a", "E-a", "S-b"]) == "iobes" and scheme_of(["B-a", "L-a", "U-a"]) == "bilou"
    for tags in (["IN", "BE", "O"], ["O"], ["B-a", "L-a", "S-a"], ["B-", "O"]):
        assert scheme_of(tags) is None
    assert (
        misfit(["O", "B-a", "E-a"], "bio") == "E-a"
        and misfit(["O", "IN"], "bio") == "IN"
        and misfit(["B"], "bio") is None
    )


def test_words_that_are_not_scored_are_left_out_and_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(5), n) for n in (4, 7, 1)]
    true = [rng.integers(-1, 4, len(one)) for one in p]
    flat, tags = np.concatenate(p).argmax(-1), np.concatenate(true)
    chosen, names = tags >= 0, ("O", "B-a", "I-a", "B-b", "I-b")
    score = lambda name: metric_named(name, "word_tags")(p, true, names)  # noqa: E731
    assert score("accuracy") == pytest.approx((flat == tags)[chosen].mean())
    for average in ("macro", "weighted"):
        assert score(f"f1_{average}") == pytest.approx(f1_score(tags[chosen], flat[chosen], average=average))
    kept = [
        ([names[i] for i in a.argmax(-1)[t >= 0]], [names[i] for i in t[t >= 0]]) for a, t in zip(p, true, strict=True)
    ]
    assert score("span_f1") == pytest.approx(span_scores([one for one, _ in kept], [one for _, one in kept])["span_f1"])
    value, reason = metric_named("span_f1", "word_tags").explained(p, true, ("NOUN", "VERB", "X", "Y", "Z"))
    assert np.isnan(value) and "no spans" in reason
