"""A distribution answers quantiles within its documented error, in a size that does not grow."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.observability.histogram import BOUNDS_MS, LARGEST_RELATIVE_ERROR, Distribution

LATENCIES = st.lists(st.floats(1.0, 3_600_000.0), min_size=1, max_size=60)


def spread_of(values: list[float]) -> Distribution:
    distribution = Distribution()
    distribution.add_all(values)
    return distribution


@given(LATENCIES, st.floats(0.0, 1.0))
def test_a_quantile_is_the_ranked_value_within_the_documented_error(values: list[float], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert spread_of(values).quantile_ms(share) == pytest.approx(exact, rel=LARGEST_RELATIVE_ERROR)


@given(LATENCIES, LATENCIES)
def test_merging_is_the_same_as_having_seen_both(first: list[float], second: list[float]) -> None:
    merged, together = spread_of(first), spread_of(first + second)
    merged.merge(spread_of(second))
    assert merged.counts == together.counts
    assert merged.sum_ms == pytest.approx(together.sum_ms)
    assert (merged.least_ms, merged.greatest_ms) == (together.least_ms, together.greatest_ms)


@given(LATENCIES, st.sampled_from(BOUNDS_MS))
def test_cumulative_counts_are_exact_for_the_histograms_own_bounds(values: list[float], bound: float) -> None:
    assert spread_of(values).cumulative([bound]) == [sum(value <= bound for value in values)]


@pytest.mark.parametrize(("value", "error"), [(0.0, 0.0), (0.3, 0.0), (10_000_000.0, 0.0)])
def test_what_is_outside_of_all_bounds_is_kept_within_what_was_seen(value: float, error: float) -> None:
    assert spread_of([value]).quantile_ms(0.99) == pytest.approx(value, abs=error)


def test_nothing_has_no_quantile_and_no_mean() -> None:
    assert (Distribution().quantile_ms(0.5), Distribution().mean_ms) == (None, None)


def test_the_largest_gap_between_bounds_is_what_the_documented_error_says() -> None:
    halves = [math.sqrt(upper / lower) - 1 for lower, upper in pairwise(BOUNDS_MS)]
    assert max(halves) <= LARGEST_RELATIVE_ERROR


@pytest.mark.parametrize(
    ("values", "share", "exact"),
    [
        pytest.param([7.0], 0.0, 7.0, id="the least of one"),
        pytest.param([7.0], 1.0, 7.0, id="the greatest of one"),
        pytest.param([10.0, 1000.0], 0.5, 10.0, id="half of two do not exceed the first"),
        pytest.param([10.0, 1000.0], 0.500001, 1000.0, id="more than half of two do"),
        pytest.param([float(value) for value in range(1, 101)], 0.95, 95.0, id="the 95th of a hundred"),
        pytest.param([float(value) for value in range(1, 101)], 0.99, 99.0, id="the 99th of a hundred"),
        pytest.param([5.0] * 99 + [5000.0], 0.99, 5.0, id="one in a hundred is not seen at 99 %"),
        pytest.param([5.0] * 99 + [5000.0], 1.0, 5000.0, id="and is the greatest"),
    ],
)
def test_quantiles_by_hand(values: list[float], share: float, exact: float) -> None:
    for order in (values, values[::-1]):
        assert spread_of(order).quantile_ms(share) == pytest.approx(exact, rel=LARGEST_RELATIVE_ERROR)


def test_sum_and_mean_and_extremes_are_exact() -> None:
    distribution = spread_of([0.25, 4.0, 1.75])
    distribution.add_all([])
    distribution.add_all([1024.0])
    assert (distribution.count, distribution.sum_ms, distribution.mean_ms) == (4, 1030.0, 257.5)
    assert (distribution.least_ms, distribution.greatest_ms) == (0.25, 1024.0)


def test_a_bound_is_inclusive_and_the_next_value_is_not() -> None:
    for bound in BOUNDS_MS[:: len(BOUNDS_MS) // 20]:
        values = [math.nextafter(bound, 0), bound, math.nextafter(bound, math.inf)]
        assert spread_of(values).cumulative([bound]) == [2]


@pytest.mark.parametrize("bound", [1.0, 2.0, 2.5, 3.0, 5.0, 10.0, 25.0, 50.0, 250.0, 2500.0, 30_000.0, 3_000_000.0])
def test_bounds_that_dashboards_ask_for_are_among_its_own(bound: float) -> None:
    assert bound in BOUNDS_MS


def test_a_bound_beyond_all_others_counts_everything() -> None:
    distribution = spread_of([0.0, 1.0, 10_000_000.0])
    assert distribution.cumulative([0.5, BOUNDS_MS[-1], 1e12]) == [2, 2, 3]  # below 1 ms all values are one


def test_a_clock_that_went_back_is_below_everything() -> None:
    distribution = spread_of([-5.0, 10.0])
    assert (distribution.quantile_ms(0.0), distribution.least_ms) == (0.5, -5.0)
    assert distribution.cumulative([1.0, 10.0]) == [1, 2]


def test_what_is_merged_is_not_changed_and_nothing_changes_nothing() -> None:
    one, other = spread_of([1.0, 2.0]), spread_of([4.0])
    one.merge(other)
    one.merge(Distribution())
    assert (one.count, one.sum_ms, other.count, other.sum_ms) == (3, 7.0, 1, 4.0)
    empty = Distribution()
    empty.merge(other)
    assert (empty.counts, empty.sum_ms, empty.least_ms, empty.greatest_ms) == (other.counts, 4.0, 4.0, 4.0)
    other.add_all([8.0])
    assert empty.count == 1


def test_its_size_does_not_grow() -> None:
    distribution = Distribution()
    before = len(distribution.counts)
    assert before == len(BOUNDS_MS) + 1
    distribution.add_all([float(value) for value in range(100_000)])
    assert (len(distribution.counts), distribution.count) == (before, 100_000)
