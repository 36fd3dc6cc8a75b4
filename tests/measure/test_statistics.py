"""Intervals and paired tests against values worked out by hand or by enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from transferlab.measure import bootstrap_interval, mcnemar_exact, paired_difference, t_interval, wilson_interval


def test_t_interval_of_five_seeds_is_the_textbook_one():
    # mean 3, sd √2.5, t(.975, 4) = 2.776445
    low, high = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert low == pytest.approx(3 - half, abs=1e-6)
    assert high == pytest.approx(3 + half, abs=1e-6)


def test_one_seed_has_no_interval_over_seeds():
    assert all(math.isnan(edge) for edge in t_interval([0.8]))


def test_wilson_stays_within_zero_and_one_when_every_prediction_is_right():
    low, high = wilson_interval(10, 10)
    # n / (n + z²) at p = 1
    assert low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-5)
    assert high == pytest.approx(1.0)


def test_wilson_of_an_empty_test_set_is_unknown():
    assert all(math.isnan(edge) for edge in wilson_interval(0, 0))


def test_five_seeds_that_all_gain_cannot_reach_p_below_two_in_thirty_two():
    found = paired_difference([0.9, 0.8, 0.85, 0.7, 0.95], [0.5, 0.6, 0.55, 0.5, 0.6])
    assert found.p_sign_flip == pytest.approx(2 / 32)
    assert found.mean == pytest.approx(0.29)
    assert found.low < found.mean < found.high
    assert found.p_t < 0.05


def test_sign_flip_counts_every_flip_at_least_as_far_from_zero():
    a, b = np.array([0.3, -0.1, 0.2, 0.05]), np.zeros(4)
    means = [np.mean(np.array(flip) * a) for flip in itertools.product((1, -1), repeat=4)]
    expected = np.mean([abs(m) >= abs(a.mean()) - 1e-12 for m in means])
    assert paired_difference(a.tolist(), b.tolist()).p_sign_flip == pytest.approx(expected)


def test_arms_that_agree_on_every_seed_do_not_differ():
    found = paired_difference([0.7, 0.8], [0.7, 0.8])
    assert (found.mean, found.p_t, found.p_sign_flip) == (0.0, 1.0, 1.0)


def test_one_pair_gives_a_difference_but_no_interval():
    found = paired_difference([0.9], [0.5])
    assert found.mean == pytest.approx(0.4)
    assert math.isnan(found.low) and math.isnan(found.p_t)


def test_mcnemar_looks_only_at_examples_on_which_the_models_disagree():
    a = np.array([1] * 8 + [0] * 1 + [1] * 50, bool)
    b = np.array([0] * 8 + [1] * 1 + [1] * 50, bool)
    # two-sided binomial, 8 of 9: 2 (1 + 9) / 2^9
    assert mcnemar_exact(a, b) == pytest.approx(20 / 512)
    assert mcnemar_exact(a, a) == 1.0


def test_bootstrap_interval_is_repeatable_and_contains_the_mean():
    values = np.random.default_rng(0).normal(5.0, 1.0, 40)
    first = bootstrap_interval(values, draws=500)
    assert first == bootstrap_interval(values, draws=500)
    assert first[0] < values.mean() < first[1]
    assert first[1] - first[0] == pytest.approx(2 * 1.96 * values.std() / math.sqrt(40), rel=0.2)


def test_arms_with_different_numbers_of_seeds_are_not_paired_silently():
    with pytest.raises(ValueError, match="got 3 and 1"):
        paired_difference([0.7, 0.8, 0.9], [0.5])


def test_sign_flips_of_many_pairs_give_a_p_above_zero():
    differences = np.full(30, 0.5) + np.arange(30) * 1e-3
    p = paired_difference(differences.tolist(), [0.0] * 30).p_sign_flip
    assert 0 < p <= 2 / 65536
