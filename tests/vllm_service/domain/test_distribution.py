"""A distribution answers quantiles within its documented error, in a size that does not grow."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.distribution import BOUNDS_MS, LARGEST_RELATIVE_ERROR, Distribution

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
