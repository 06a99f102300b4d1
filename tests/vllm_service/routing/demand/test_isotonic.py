"""What each further worker adds, made to fall."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.routing.demand.isotonic import isotonic_decreasing

NUMBERS = st.lists(st.floats(-10, 10), min_size=1, max_size=10)


@given(NUMBERS)
def test_it_never_rises_and_keeps_the_sum(values: list[float]) -> None:
    pooled = isotonic_decreasing(values)
    assert sum(pooled) == pytest.approx(sum(values), abs=1e-9)
    assert all(earlier >= later - 1e-9 for earlier, later in pairwise(pooled))


@given(NUMBERS)
def test_its_sums_are_the_least_that_bend_downwards_above_those_of_the_values(values: list[float]) -> None:
    sums, pooled = list(accumulate(values, initial=0.0)), list(accumulate(isotonic_decreasing(values), initial=0.0))
    for at, least in enumerate(pooled):
        chords = [
            sums[left] + (sums[right] - sums[left]) * (at - left) / max(right - left, 1)
            for left in range(at + 1)
            for right in range(at, len(sums))
        ]
        assert least == pytest.approx(max(chords), abs=1e-9)
