"""A day's bill divided among what was booked: exact, in proportion, and without a guess about what was not seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.accounting.scaling import TOLERANCE_PERCENT, BilledShares, RunningSplit, SeenDay, shares

AMOUNTS = st.integers(0, 10**17)
SEEN = SeenDay(requests_picousd=700, earlier_picousd=100, nobody_picousd=200)


@pytest.mark.parametrize(
    ("billed", "seen", "expected"),
    [
        (1000, SEEN, BilledShares(700, 100, 200, 0)),  # the bill is what was seen
        (500, SEEN, BilledShares(350, 50, 100, 0)),  # a discount, or a price set too high
        (1030, SEEN, BilledShares(721, 103, 206, 0)),  # the tolerance itself: rounded seconds
        (1031, SEEN, BilledShares(700, 100, 200, 31)),  # more than that was not seen
        (5000, SEEN, BilledShares(700, 100, 200, 4000)),  # no gateway looked for most of the day
        (0, SEEN, BilledShares(0, 0, 0, 0)),  # paid by a credit
        (-30, SEEN, BilledShares(0, 0, 0, -30)),  # money given back
        (40, SeenDay(), BilledShares(0, 0, 0, 40)),  # no worker was seen
        (0, SeenDay(), BilledShares(0, 0, 0, 0)),
        (40, SeenDay(nobody_picousd=40), BilledShares(0, 0, 40, 0)),  # no request
    ],
)
def test_a_bill_scales_what_was_seen_and_keeps_the_rest_apart(
    billed: int, seen: SeenDay, expected: BilledShares
) -> None:
    assert shares(billed, seen) == expected


@given(st.integers(-(10**17), 10**17), st.builds(SeenDay, AMOUNTS, AMOUNTS, AMOUNTS))
def test_the_shares_are_exactly_the_bill_and_no_request_pays_more_than_the_tolerance(
    billed: int, seen: SeenDay
) -> None:
    found = shares(billed, seen)
    assert found.explained_picousd + found.unexplained_picousd == billed
    assert min(found.requests_picousd, found.earlier_picousd, found.nobody_picousd) >= 0
    assert 100 * found.explained_picousd <= (100 + TOLERANCE_PERCENT) * seen.total_picousd
    # Within a unit of rounding, each is in the proportion in which it was seen.
    assert abs(found.requests_picousd * seen.total_picousd - found.explained_picousd * seen.requests_picousd) <= (
        seen.total_picousd
    )


@given(AMOUNTS, st.lists(AMOUNTS, min_size=1).filter(any))
def test_an_amount_that_is_split_row_by_row_stays_the_same_amount(amount: int, weights: list[int]) -> None:
    total = sum(weights)
    running = RunningSplit(amount, total)
    parts = [running.part(weight) for weight in weights]
    assert sum(parts) == amount
    assert all(abs(part * total - amount * weight) < total for part, weight in zip(parts, weights, strict=True))
