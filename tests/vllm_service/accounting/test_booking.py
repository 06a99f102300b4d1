"""A worker's bill is booked to whoever caused it, by the rules of accounting.py, to the last pico-dollar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.accounting.booking import RanRequest, WorkerBill, book, due
from vllm_service.domain.money import split

SECOND = 1_000_000
PRICE = 7 * SECOND  # of a second, in pico-dollars


def worker(
    start: float, ready: float | None, stop: float, *, name: str = "w", woken_by: tuple[str, ...] = ()
) -> WorkerBill:
    """Billed exactly for its seconds."""
    ready_us = None if ready is None else round(ready * SECOND)
    cost = round((stop - start) * PRICE)
    return WorkerBill(name, "own", round(start * SECOND), round(stop * SECOND), cost, ready_us, woken_by)


def ran(name: str, start: float, end: float, on: str | None = None) -> RanRequest:
    return RanRequest(name, "own", round(start * SECOND), round(end * SECOND), on)


def booked(workers: list[WorkerBill], requests: list[RanRequest]) -> dict[str | None, tuple[float, float, float]]:
    """Seconds of execution, cold start and idling that each pays for."""
    return {
        booking.request_id: (
            booking.execution_picousd / PRICE,
            booking.cold_start_picousd / PRICE,
            booking.idle_picousd / PRICE,
        )
        for booking in book(workers, requests)
    }


def test_a_lone_request_pays_for_the_cold_start_it_waited_for_its_run_and_the_idle_tail() -> None:
    assert booked([worker(10, 40, 50)], [ran("a", 10, 45)]) == {"a": (5, 30, 5)}


def test_requests_that_run_together_share_each_moment_evenly() -> None:
    requests = [ran("a", 0, 6), ran("b", 2, 6), ran("c", 4, 10)]
    shares = booked([worker(-1, 0, 10, woken_by=("a",))], requests)
    third = 2 / 3
    assert shares == {
        "a": pytest.approx((2 + 1 + third, 1, 0)),
        "b": pytest.approx((1 + third, 0, 0)),
        "c": pytest.approx((third + 4, 0, 0)),
    }


def test_the_cold_start_is_shared_by_those_that_waited_when_it_began_and_not_by_those_that_came_later() -> None:
    requests = [ran("a", 9, 41), ran("b", 10, 41), ran("late", 20, 41)]
    cold = {name: seconds[1] for name, seconds in booked([worker(10, 40, 41)], requests).items()}
    assert cold == {"a": 15, "b": 15, "late": 0}


def test_who_had_it_woken_pays_for_the_cold_start_and_the_wait_for_the_first_request() -> None:
    shares = booked([worker(0, 30, 50, woken_by=("w1", "w2"))], [ran("a", 40, 45)])
    assert shares == {"w1": (0, 15, 5), "w2": (0, 15, 5), "a": (5, 0, 5)}


def test_a_worker_that_nobody_waited_for_is_paid_by_the_first_that_it_served() -> None:
    assert booked([worker(0, 30, 50)], [ran("a", 40, 45), ran("b", 46, 47)])["a"] == (5, 30, 10 + 1)


def test_idling_between_requests_is_paid_by_the_one_that_kept_it_up() -> None:
    shares = booked([worker(0, 0, 30)], [ran("a", 0, 5), ran("long", 1, 8), ran("b", 12, 20)])
    assert [seconds[2] for seconds in shares.values()] == [0, 4, 10]


def test_what_nobody_caused_is_booked_to_nobody() -> None:
    assert booked([worker(0, 30, 35)], []) == {None: (0, 30, 5)}


def test_a_worker_that_was_never_ready_is_all_cold_start() -> None:
    assert booked([worker(0, None, 60)], [ran("a", 0, 60)]) == {"a": (0, 60, 0)}


def test_a_request_known_to_have_run_on_one_worker_pays_nothing_of_another() -> None:
    workers = [worker(0, 0, 10, name="w1"), worker(0, 0, 10, name="w2")]
    assert booked(workers, [ran("a", 0, 10, "w1"), ran("b", 0, 10, "w2")]) == {"a": (10, 0, 0), "b": (10, 0, 0)}


def test_other_endpoints_requests_pay_nothing() -> None:
    other = RanRequest("x", "other", 0, 10 * SECOND)
    assert booked([worker(0, 0, 10)], [other, ran("a", 0, 10)]) == {"a": (10, 0, 0)}


def test_a_second_billed_for_no_time_at_all_is_a_cold_start() -> None:
    billed = WorkerBill("w", "own", 0, 0, PRICE)
    (booking,) = book([billed], [])
    assert booking.cold_start_picousd == PRICE


def test_a_request_of_no_duration_in_the_middle_of_a_silence_does_not_count_the_silence_twice() -> None:
    billed = WorkerBill("w", "own", 0, 10, PRICE, ready_us=0)
    first, none = RanRequest("first", "own", 0, 2), RanRequest("none", "own", 5, 5)
    (booking,) = book([billed], [first, none])
    assert booking.request_id == "first"
    assert (booking.execution_picousd, booking.idle_picousd) == (PRICE * 2 // 10, PRICE * 8 // 10)


def test_a_worker_that_stops_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="stops before"):
        WorkerBill("w", "own", 1, 0, 1)


TIMES = st.integers(0, 200)


@st.composite
def worker_bills(draw: st.DrawFn) -> WorkerBill:
    start, stop = sorted((draw(TIMES), draw(TIMES)))
    return WorkerBill(
        draw(st.sampled_from(["w1", "w2"])),
        draw(st.sampled_from(["own", "other"])),
        start,
        stop,
        draw(st.integers(0, 10**15)),
        draw(st.none() | TIMES),
        tuple(draw(st.lists(st.sampled_from("abc"), max_size=2))),
    )


@st.composite
def ran_requests(draw: st.DrawFn) -> RanRequest:
    start, end = sorted((draw(TIMES), draw(TIMES)))
    return RanRequest(
        draw(st.sampled_from("abcdef")),
        draw(st.sampled_from(["own", "other"])),
        start,
        end,
        draw(st.sampled_from([None, None, "w1", "w2"])),
    )


@given(st.lists(worker_bills(), max_size=5), st.lists(ran_requests(), max_size=12))
def test_whatever_ran_the_bookings_are_the_bill_to_the_last_unit(
    workers: list[WorkerBill], requests: list[RanRequest]
) -> None:
    bookings = book(workers, requests)
    assert sum(booking.total_picousd for booking in bookings) == sum(bill.cost_picousd for bill in workers)
    for endpoint in ("own", "other"):
        own = sum(booking.total_picousd for booking in bookings if booking.endpoint == endpoint)
        assert own == sum(bill.cost_picousd for bill in workers if bill.endpoint == endpoint)
    assert all(
        min(booking.execution_picousd, booking.cold_start_picousd, booking.idle_picousd) >= 0 for booking in bookings
    )


@given(st.integers(0, 10**30), st.lists(st.integers(0, 10**12), min_size=1).filter(any))
def test_parts_add_up_and_each_is_its_exact_share_rounded_down_or_up(amount: int, weights: list[int]) -> None:
    parts = split(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert part in (amount * weight // sum(weights), -(-amount * weight // sum(weights)))


def test_an_amount_that_nobody_has_a_share_in_is_refused() -> None:
    assert split(0, [0, 0]) == [0, 0]
    with pytest.raises(ValueError, match="no weight"):
        split(1, [0, 0])


def test_what_is_due_covers_all_who_were_there_and_is_the_bill_less_what_nobody_caused() -> None:
    workers = [worker(0, 5, 20), worker(100, 105, 110, name="for nobody")]
    requests = [ran("a", 6, 10), ran("b", 8, 10), ran("before", -9, -5), ran("on the edge", 20, 25), ran("c", 0, 0)]
    amounts = due(workers, requests)
    assert amounts.keys() == {"a", "b", "c"}
    assert sum(amount.total_picousd for amount in amounts.values()) == workers[0].cost_picousd
    assert due([], requests) == {}
