"""The ledger against a bill: per UTC day, exact, and unknown where one side says nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from vllm_service.accounting.reconciliation import DAY_US, BilledAmount, DayLine, Days, total
from vllm_service.domain.requests import Outcome, RequestRecord

MONDAY = 20_000 * DAY_US  # 2024-10-04, days since 1970


def row(seconds: float, cost: int | None) -> RequestRecord:
    started = MONDAY / 1e6 + seconds
    return RequestRecord(
        request_id="r", started_at=started, key_id="k", organisation="o", operation="chat", model="m",
        outcome=Outcome.COMPLETED, status=200, provider="own", cost_picousd=cost,
    )  # fmt: skip


def per_day(bill: Iterable[BilledAmount], rows: Iterable[RequestRecord]) -> list[DayLine]:
    days = Days(bill)
    for one in rows:
        days.add(one)
    return days.in_order()


def test_each_day_has_what_was_billed_and_what_was_booked_on_it() -> None:
    bill = [BilledAmount(1000, None, MONDAY), BilledAmount(300, None, MONDAY + DAY_US)]
    lines = per_day(bill, [row(0, 600), row(86_399.9, 500), row(86_400, 300)])
    assert [(line.day, line.difference_picousd, line.difference_percentage, line.requests) for line in lines] == [
        (date(2024, 10, 4), 100, 10.0, 2),
        (date(2024, 10, 5), 0, 0.0, 1),
    ]
    assert (total(lines).difference_picousd, total(lines).requests) == (100, 3)


def test_a_worker_that_ran_over_midnight_is_billed_on_both_days_by_time() -> None:
    over = BilledAmount(1000, None, MONDAY + DAY_US - 30_000_000, MONDAY + DAY_US + 10_000_000)
    assert [line.billed_picousd for line in per_day([over], [])] == [750, 250]


def test_a_day_of_which_only_one_side_knows_and_an_undated_line_are_not_compared() -> None:
    lines = per_day([BilledAmount(5)], [row(0, 3)])
    assert [(line.day, line.billed_picousd, line.booked_picousd, line.difference_picousd) for line in lines] == [
        (date(2024, 10, 4), None, 3, None),
        (None, 5, None, None),
    ]
    assert total(lines).difference_picousd == -2


def test_a_request_of_unknown_cost_is_counted_and_never_taken_for_free() -> None:
    (line,) = per_day([], [row(0, None), row(1, None)])
    assert (line.booked_picousd, line.requests, line.unpriced_requests) == (None, 2, 2)


@given(
    st.lists(
        st.builds(BilledAmount, st.integers(0, 10**15), st.none(), st.none() | st.integers(0, 10**15), st.none()),
        max_size=10,
    ),
    st.integers(0, 5 * DAY_US),
)
def test_cut_into_days_a_bill_stays_the_same_amount(bill: list[BilledAmount], length: int) -> None:
    lasting = [
        BilledAmount(line.picousd, None, line.started_us, None if line.started_us is None else line.started_us + length)
        for line in bill
    ]
    assert sum(line.billed_picousd or 0 for line in per_day(lasting, [])) == sum(line.picousd for line in bill)
