"""The ledger against a bill: per UTC day, exact, and unknown where one side says nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from vllm_service.accounting.reconciliation import DayLine, Days, total
from vllm_service.domain.bill import DAY_US, BilledAmount, BillPart
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
    assert [line.billed.total_picousd for line in per_day([over], [])] == [750, 250]


def test_a_day_of_which_only_one_side_knows_and_an_undated_line_are_not_compared() -> None:
    lines = per_day([BilledAmount(5)], [row(0, 3)])
    assert [(line.day, line.billed.total_picousd, line.booked_picousd, line.difference_picousd) for line in lines] == [
        (date(2024, 10, 4), None, 3, None),
        (None, 5, None, None),
    ]
    assert total(lines).difference_picousd == -2


def test_a_request_of_unknown_cost_is_counted_and_never_taken_for_free() -> None:
    (line,) = per_day([], [row(0, None), row(1, None)])
    assert (line.booked_picousd, line.requests, line.unpriced_requests) == (None, 2, 2)


def test_only_what_was_billed_for_workers_is_compared_and_the_other_parts_stay_lines_of_their_own() -> None:
    amounts = {BillPart.GPU: 700, BillPart.CPU: 50, BillPart.DISK: 40, BillPart.FEE: 110}
    bill = [
        BilledAmount(900, "ep", MONDAY, None, amounts),
        BilledAmount(80, None, MONDAY, None, {BillPart.VOLUME: 80}, "volume"),
    ]
    (line,) = per_day(bill, [row(0, 600)])
    assert (line.billed.total_picousd, line.billed.compute_picousd, line.billed.beyond_parts_picousd) == (980, 750, 0)
    assert [line.billed.of(part) for part in BillPart] == [700, 50, 40, 110, 80]
    assert (line.difference_picousd, line.difference_percentage) == (-150, -20.0)


def test_a_part_that_one_line_lacks_is_unknown_and_what_needs_it_too() -> None:
    whole = BilledAmount(10, "ep", MONDAY, None, {BillPart.GPU: 7, BillPart.DISK: 3})
    lacking = BilledAmount(9, "ep", MONDAY + 1, None, {BillPart.GPU: None, BillPart.DISK: 3})
    (line,) = per_day([whole, lacking], [row(0, 7)])
    assert [line.billed.of(part) for part in BillPart] == [None, None, 6, None, None]
    assert (line.billed.compute_picousd, line.billed.beyond_parts_picousd, line.difference_picousd) == (
        None,
        None,
        None,
    )
    assert total([line]).billed.of(BillPart.GPU) is None


def test_a_total_that_is_not_the_sum_of_its_parts_is_seen() -> None:
    lines = per_day([BilledAmount(100, "ep", MONDAY, None, {BillPart.GPU: 70, BillPart.DISK: 20})], [])
    assert lines[0].billed.beyond_parts_picousd == total(lines).billed.beyond_parts_picousd == 10


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
    assert sum(line.billed.total_picousd or 0 for line in per_day(lasting, [])) == sum(line.picousd for line in bill)
