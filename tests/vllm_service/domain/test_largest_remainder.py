"""A whole amount, split by weights: nothing is lost, nobody gets more than a unit too much."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.money import split

WEIGHTS = st.lists(st.integers(0, 10**12), min_size=1, max_size=12).filter(any)


@pytest.mark.parametrize(
    ("amount", "weights", "parts"),
    [
        pytest.param(0, [], [], id="nothing among nobody"),
        pytest.param(0, [0, 0], [0, 0], id="nothing without weights"),
        pytest.param(0, [1, 2], [0, 0], id="nothing by weights"),
        pytest.param(7, [3], [7], id="one gets all"),
        pytest.param(7, [0, 1], [0, 7], id="a weight of 1 is a weight"),
        pytest.param(7, [0, 3, 0], [0, 7, 0], id="a weight of 0 gets nothing"),
        pytest.param(1, [1, 1, 1], [1, 0, 0], id="of equal remainders the first"),
        pytest.param(2, [1, 1, 1], [1, 1, 0], id="of equal remainders the first two"),
        # Exact shares of 10: 1.67, 3.33, 5. The one unit left goes to .67.
        pytest.param(10, [1, 2, 3], [2, 3, 5], id="the largest remainder, not the largest weight"),
        # Exact shares of 100: 47, 16, 15.8, 12, 6.1, 3.1. The classical table of seats.
        pytest.param(100, [47_000, 16_000, 15_800, 12_000, 6_100, 3_100], [47, 16, 16, 12, 6, 3], id="seats"),
        # Exact shares of -10: -1.67, -3.33, -5; rounded down -2, -4, -5, and one unit back to -3.33.
        pytest.param(-10, [1, 2, 3], [-2, -3, -5], id="a credit"),
        # Thirds of 10^30: floating point would lose fourteen digits of them.
        pytest.param(10**30, [1, 1, 1], [10**30 // 3 + 1, 10**30 // 3, 10**30 // 3], id="beyond 64 bits"),
        pytest.param(5, [10**30, 1], [5, 0], id="a weight beyond 64 bits"),
    ],
)
def test_parts_by_hand(amount: int, weights: list[int], parts: list[int]) -> None:
    assert split(amount, weights) == parts


@pytest.mark.parametrize("weights", [[], [0], [0, 0]])
@pytest.mark.parametrize("amount", [1, -1])
def test_an_amount_without_a_weight_is_refused(amount: int, weights: list[int]) -> None:
    with pytest.raises(ValueError, match=f"{amount} cannot be split"):
        split(amount, weights)


@given(st.integers(-(10**30), 10**30), WEIGHTS)
def test_parts_add_up_and_are_within_one_unit_of_the_exact_share(amount: int, weights: list[int]) -> None:
    parts = split(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(amount * weight, sum(weights))) < 1
        assert part == 0 or weight > 0


@given(st.integers(0, 10**6), WEIGHTS)
def test_none_is_rounded_up_before_one_with_a_larger_remainder(amount: int, weights: list[int]) -> None:
    total = sum(weights)
    ups = [part - amount * weight // total for part, weight in zip(split(amount, weights), weights, strict=True)]
    order = sorted(range(len(weights)), key=lambda index: (-(amount * weights[index] % total), index))
    assert [ups[index] for index in order] == sorted(ups, reverse=True)


@given(st.integers(0, 1000), st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any))
def test_another_order_of_the_weights_moves_the_parts_along_except_among_equals(
    amount: int, weights: list[int]
) -> None:
    parts = split(amount, weights)
    # Weights that differ may still have equal remainders, and then the earlier one gets the unit.
    remainders = [amount * weight % sum(weights) for weight in weights]
    is_free_of_ties = len({(weight, rest) for weight, rest in zip(weights, remainders, strict=True)}) == len(
        set(remainders)
    )
    for order in permutations(range(len(weights))):
        moved = split(amount, [weights[index] for index in order])
        if is_free_of_ties:
            expected = sorted((weights[index], parts[index]) for index in order)
            assert sorted(zip((weights[index] for index in order), moved, strict=True)) == expected
        assert sum(moved) == amount


@given(st.integers(0, 10**15), WEIGHTS, st.integers(1, 10**9))
def test_only_the_proportions_of_the_weights_matter(amount: int, weights: list[int], factor: int) -> None:
    assert split(amount, [weight * factor for weight in weights]) == split(amount, weights)
