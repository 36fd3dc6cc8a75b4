"""Data multipliers and areas on curves whose inverse is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transferlab.measure import area_under_learning_curve, data_multiplier

SCRATCH = {16: [0.5], 64: [0.6], 256: [0.7], 1024: [0.8]}


def test_multiplier_interpolates_scratch_in_the_logarithm_of_the_labels():
    # .65 lies half-way from 64 to 256 on the log axis: at 128 labels.
    assert data_multiplier(SCRATCH, [0.65], 16).value == pytest.approx(128 / 16)


def test_an_arm_that_scratch_never_reaches_gets_a_bound_and_no_extrapolation():
    found = data_multiplier(SCRATCH, [0.95], 16)
    assert (found.value, found.censored, str(found)) == (64.0, "above", ">64×")


def test_an_arm_below_all_of_scratch_gets_an_upper_bound():
    found = data_multiplier(SCRATCH, [0.4], 64)
    assert (found.value, found.censored, str(found)) == (0.25, "below", "<0.25×")


def test_scratch_against_its_own_score_is_worth_one():
    for budget, (score,) in SCRATCH.items():
        assert data_multiplier(SCRATCH, [score], budget).value == pytest.approx(1.0)


def test_an_arm_that_does_as_well_as_a_level_scratch_curve_is_worth_one_at_every_budget():
    level = {16: [0.66, 0.68], 64: [0.67, 0.67], 256: [0.671, 0.669]}
    for budget in level:
        assert data_multiplier(level, [0.67], budget).value == 1.0
    assert data_multiplier(level, [0.67], 1024).value == 0.25
    # Means of the same numbers differ in their last bit, which must not give a bound.
    noisy = {16: [0.1 + 0.2], 64: [0.1 + 0.2]}
    assert data_multiplier(noisy, [0.3], 64).censored is None
    assert data_multiplier({16: [0.3], 64: [0.3]}, [0.1 + 0.2], 64).censored is None


def test_a_scratch_curve_that_dips_is_made_monotone_before_it_is_inverted():
    dipping = {16: [0.5], 64: [0.7], 256: [0.6], 1024: [0.8]}
    # 64 and 256 pool to .65, so .64 lies before 64.
    assert data_multiplier(dipping, [0.64], 16).value == pytest.approx(4 ** (0.14 / 0.15))


def test_interval_contains_the_value_and_is_repeatable():
    rng = np.random.default_rng(0)
    scratch = {n: (s + rng.normal(0, 0.01, 5)).tolist() for n, (s,) in SCRATCH.items()}
    arm = (0.65 + rng.normal(0, 0.01, 5)).tolist()
    found = data_multiplier(scratch, arm, 16, draws=200)
    assert found.low < found.value < found.high < 64
    assert found == data_multiplier(scratch, arm, 16, draws=200)
    assert str(found).startswith(f"{found.value:.1f}× [")


def test_one_seed_gives_a_multiplier_without_an_interval():
    found = data_multiplier(SCRATCH, [0.65], 16)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert str(found) == "8.0×"


def test_a_study_of_one_budget_gives_bounds_only():
    assert str(data_multiplier({64: [0.6]}, [0.7], 64)) == ">1.0×"
    assert str(data_multiplier({64: [0.6]}, [0.5], 64)) == "<1.0×"


def test_area_weighs_budgets_by_their_doublings():
    # One doubling at mean .5, three at mean .7: (.5 + 3 × .7) / 4
    curve = {1: [0.4, 0.4], 2: [0.6, 0.6], 16: [0.8, 0.8]}
    assert area_under_learning_curve(curve) == pytest.approx((0.5 + 3 * 0.7) / 4)
    assert area_under_learning_curve({8: [0.5, 0.7]}) == pytest.approx(0.6)


def test_an_interval_that_leaves_the_range_is_bounded_by_the_range():
    scratch = {16: [0.5, 0.5], 64: [0.6, 0.6], 256: [0.7, 0.7]}
    found = data_multiplier(scratch, [0.45, 0.9], 16)
    assert found.censored is None
    assert str(found) == f"{found.value:.1f}× [<1.0, >16.0]"


def test_an_interval_beyond_the_largest_budget_is_bounded_by_its_ratio():
    scratch = {16: [0.5, 0.5], 1024: [0.8, 0.8]}
    found = data_multiplier(scratch, [0.6, 0.9], 16)
    assert found.high == np.inf
    assert str(found).endswith(", >64]")


def test_a_score_that_scratch_reached_before_it_dipped_counts_as_reached() -> None:
    dipping = {16: [0.51], 64: [0.80], 256: [0.70]}
    found = data_multiplier(dipping, [0.77], 256)
    assert found.censored is None and found.value == 0.25
    assert data_multiplier(dipping, [0.81], 256).censored == "above"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_of_a_few_seeds_is_as_wide_as_it_says(seeds: int) -> None:
    """Of 100 simulated studies, at least 90 cover the truth, a multiplier of 8."""
    covered = 0
    for number in range(100):
        rng = np.random.default_rng(number)
        scratch = {
            n: rng.normal(mean, 0.02, seeds).tolist() for n, mean in ((16, 0.5), (64, 0.6), (256, 0.7), (1024, 0.8))
        }
        found = data_multiplier(scratch, rng.normal(0.65, 0.02, seeds).tolist(), 16, draws=200, seed=number)
        covered += found.low <= 8 <= found.high
    assert covered >= 90


def test_a_small_bound_is_not_printed_as_zero() -> None:
    assert str(data_multiplier(SCRATCH, [0.1], 4096)).startswith("<0.0039")
