"""Costs of time are divided into buckets of UTC to the last digit, and what has been billed never changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runpod_emulator.billing.bill import Meter, Phase, bill_line
from runpod_emulator.billing.buckets import (
    MOST_BUCKETS,
    SIZES,
    BucketSize,
    beginning,
    following,
    last_buckets,
    microseconds,
    moment,
    window,
)
from runpod_emulator.billing.metered import MeteredCost, Span, exact_usd, total, whole_picodollars, worker_cost
from runpod_emulator.billing.rates import SECONDS_PER_MONTH, BillingRates
from runpod_emulator.errors import BadRequest

PRICES = ("0.00019", "0.00116", "0.000000000001", "0.0000000000000003", "1", "0")
HOUR_US = 3_600_000_000


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_worker_over_midnight_is_on_both_days_and_the_rounding_up_is_on_the_day_of_its_end() -> None:
    begin = microseconds(at("2026-11-28T23:59:58.25"))
    cost = worker_cost([(begin, begin + 4_500_000)], Fraction(Decimal("0.00019")))
    midnight = microseconds(at("2026-11-29"))
    days = [cost.between(midnight - 24 * HOUR_US, midnight), cost.between(midnight, midnight + 24 * HOUR_US)]
    assert days == [Decimal("0.0003325"), Decimal("0.0006175")]
    assert sum(days) == 5 * Decimal("0.00019")


@given(
    spans=st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**9)), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 10**10), max_size=20),
    price=st.sampled_from(PRICES),
)
def test_the_buckets_add_up_to_the_bill_to_the_last_digit(
    spans: list[tuple[int, int]], cuts: list[int], price: str
) -> None:
    times, end = [], 0
    for gap, length in spans:
        times.append((end + gap, end + gap + length))
        end += gap + length
    cost = worker_cost(times, Fraction(Decimal(price)))
    borders = [0, *sorted(min(cut, end) for cut in cuts), end]
    buckets = [cost.between(begin, border) for begin, border in pairwise(borders)]
    seconds = -(-sum(length for _, length in spans) // 1_000_000)
    assert total(buckets) == seconds * Decimal(price)
    assert min(buckets) >= 0


@given(stop=st.integers(1, 10**8), look=st.integers(1, 10**8))
def test_what_was_billed_before_a_moment_does_not_change_while_the_worker_runs_on(stop: int, look: int) -> None:
    border, price = min(stop, look) // 2, Fraction(Decimal("0.00031"))
    assert worker_cost([(0, look)], price).until(border) == worker_cost([(0, stop)], price).until(border)


def test_the_meter_has_the_billed_times_and_the_bill_has_their_seconds() -> None:
    meter = Meter(10.0)
    meter.enter(Phase.IDLE, 12.5)
    meter.enter(Phase.RUNNING, 12.5)
    meter.enter(Phase.UNHEALTHY, 14.0)
    assert meter.billed_spans(99) == [(10_000_000, 14_000_000)]
    meter.enter(Phase.IDLE, 20.0)
    assert meter.billed_spans(21.25) == [(10_000_000, 14_000_000), (20_000_000, 21_250_000)]
    meter.stop(22.5)
    assert meter.billed_spans(99) == [(10_000_000, 14_000_000), (20_000_000, 22_500_000)]
    cost = worker_cost(meter.billed_spans(99), Fraction(Decimal("0.00019")))
    assert cost.until(10**9) == bill_line("w", meter, 99, Decimal("0.00019")).usd


def test_a_worker_without_billed_time_costs_nothing() -> None:
    assert worker_cost([], Fraction(1)).between(0, 10**15) == 0


@pytest.mark.parametrize(
    ("usd", "expected"),
    [(Fraction(19, 100_000), "0.00019"), (Fraction(1, 3), "0.333333333333"), (Fraction(3, 10**16), "3E-16")],
)
def test_an_amount_has_all_its_digits_or_is_rounded_down_to_a_picodollar(usd: Fraction, expected: str) -> None:
    assert exact_usd(usd) == Decimal(expected)
    assert whole_picodollars(usd) <= exact_usd(usd)


@pytest.mark.parametrize(
    ("size_gb", "high_performance", "a_month"),
    [(100, False, "7"), (1000, False, "70"), (4096, False, "224.8"), (100, True, "14"), (10, False, "0.7")],
)
def test_a_months_price_of_a_volume(size_gb: int, high_performance: bool, a_month: str) -> None:
    rate = BillingRates().volume_usd_per_second(size_gb, high_performance=high_performance)
    cost = MeteredCost((Span(0, SECONDS_PER_MONTH * 1_000_000, rate),))
    assert cost.until(10**18) == Decimal(a_month)
    assert BillingRates().disk_usd_per_second(20) * SECONDS_PER_MONTH == 2


@pytest.mark.parametrize("rate", [Decimal("-1"), Decimal("NaN"), Decimal("Infinity"), 0.1, None])
def test_a_rate_that_is_no_amount_is_refused(rate: Decimal) -> None:
    with pytest.raises(ValueError, match="fee_share"):
        BillingRates(fee_share=rate)


@pytest.mark.parametrize(
    ("size", "start", "end"),
    [
        ("hour", "2028-02-29T13", "2028-02-29T14"),
        ("day", "2028-02-29", "2028-03-01"),
        ("week", "2028-02-28", "2028-03-06"),
        ("month", "2028-02-01", "2028-03-01"),
        ("year", "2028-01-01", "2029-01-01"),
    ],
)
def test_a_bucket_begins_and_ends_at_a_border_of_utc(size: BucketSize, start: str, end: str) -> None:
    moment_within = at("2028-02-29T13:14:15.000016")
    assert beginning(moment_within, size) == at(start)
    assert following(at(start), size) == at(end)
    assert beginning(at(end), size) == at(end)


def test_a_window_is_widened_to_whole_buckets_and_touches_its_neighbours() -> None:
    asked = window(at("2026-11-29T10"), "day", at("2026-11-27T05"), at("2026-11-28T00:00:01"))
    assert (asked.start, asked.end) == (at("2026-11-27"), at("2026-11-29"))
    assert [begin for begin, _ in asked.buckets()] == [at("2026-11-27"), at("2026-11-28")]
    on_borders = window(at("2026-11-29T10"), "day", at("2026-11-27"), at("2026-11-28"))
    assert (on_borders.start, on_borders.end) == (at("2026-11-27"), at("2026-11-28"))
    thirty_days = window(at("2026-11-29T10"), "day")
    assert (thirty_days.start, thirty_days.end) == (at("2026-10-30"), at("2026-11-30"))


@pytest.mark.parametrize("size", SIZES)
def test_the_last_buckets_end_with_the_present_one(size: BucketSize) -> None:
    now = at("2026-11-29T10:11:12")
    asked = last_buckets(now, size, 3)
    buckets = list(asked.buckets())
    assert len(buckets) == 3
    assert buckets[-1][0] <= now < buckets[-1][1]


@pytest.mark.parametrize(
    ("start", "end", "named"),
    [
        ("2026-11-29", "2026-11-28", "before"),
        ("2020-01-01", "2026-11-28", str(MOST_BUCKETS)),
        ("0001-01-01", "9999-12-31T23:30", "9998"),
    ],
)
def test_a_window_that_cannot_be_is_refused(start: str, end: str, named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        window(at("2026-11-29"), "hour", at(start), at(end))


@pytest.mark.parametrize(("size", "number"), [("hour", MOST_BUCKETS + 1), ("year", 5000)])
def test_last_buckets_before_all_time_are_refused(size: BucketSize, number: int) -> None:
    with pytest.raises(BadRequest, match="lastN"):
        last_buckets(at("2026-11-29"), size, number)


def test_times_are_exact_to_the_microsecond() -> None:
    odd = at("2026-11-29T10:11:12") + timedelta(microseconds=1)
    assert moment(microseconds(odd)) == odd
